"""A past at another level, in training: the same lesson as data whose past was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stmp.data.steps import LevelStep
from stmp.learning.validation import history_of
from tests.training import trainer_of


def test_a_step_multiplies_what_lies_before_it_and_nothing_else() -> None:
    sales = torch.tensor([[[3.0], [5.0], [7.0]], [[2.0], [2.0], [2.0]]])
    step = LevelStep(begin=torch.tensor([2, 0]), size=torch.tensor([0.1, -0.4]))
    factor = torch.tensor([[0.1, 0.1, 0.0], [0.0, 0.0, 0.0]]).exp()
    torch.testing.assert_close(step(sales), sales * factor[..., None])


def test_a_row_with_a_step_teaches_what_data_with_that_past_would() -> None:
    trainer = trainer_of(("train.level_step=0.5",))
    trainer.model.eval()
    history, panel = trainer.history, trainer.history.panel
    episode = trainer.sampler.draw(0)
    assert episode is not None and episode.step is not None
    known = (episode.step.begin - episode.start).clamp(min=0)  # a history that was cut short has no such past
    row = int((episode.step.size.abs() * known).argmax())
    begin, size = int(episode.step.begin[row]), float(episode.step.size[row])
    assert size != 0 and int(episode.start[row]) < begin <= int(episode.origin[row].min())
    sales = panel.sales.clone()
    sales[:, :begin] *= torch.tensor(size).exp()
    data = replace(panel, sales=sales)
    with torch.no_grad():
        found, _, _ = trainer.model.loss(history, episode)
        there = history_of(data, trainer.schema, trainer.config)
        wanted, _, _ = trainer.model.loss(there, replace(episode, step=None))
        plain, _, _ = trainer.model.loss(history, replace(episode, step=None))
    torch.testing.assert_close(found[row], wanted[row], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[row], plain[row], rtol=1e-2)


def test_half_of_the_rows_have_steps_of_the_size_asked_for_and_the_paper_has_none() -> None:
    sampler = trainer_of(("train.level_step=0.2",)).sampler
    episodes = [sampler.draw(step) for step in range(200)]
    sizes = torch.cat([e.step.size for e in episodes if e is not None and e.step is not None])
    assert float((sizes != 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(sizes[sizes != 0].std()) == pytest.approx(0.2, rel=0.1) and abs(float(sizes.mean())) < 0.01
    none = trainer_of(paper=True).sampler.draw(0)
    assert none is not None and none.step is None
