"""Sales that training makes grow more or less: the same lesson as data that did."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stmp.data.growth import YEAR, grown
from stmp.learning.validation import history_of
from tests.training import trainer_of


def test_growth_is_an_exponential_of_time_around_a_period() -> None:
    sales = torch.tensor([[[3.0], [5.0], [7.0]], [[2.0], [2.0], [2.0]]])
    years = torch.tensor([[-2.0, 0.0, 1.0], [-1.0, 0.0, 0.5]])
    factor = torch.tensor([[-0.2, 0.0, 0.1], [0.4, 0.0, -0.2]]).exp()
    torch.testing.assert_close(grown(sales, years, torch.tensor([0.1, -0.4])), sales * factor[..., None])


def test_a_row_that_grows_teaches_what_data_that_grew_would() -> None:
    trainer = trainer_of(("train.growth=0.5",))
    trainer.model.eval()
    episode = trainer.sampler.draw(0)
    assert episode is not None and episode.growth is not None
    history, panel = trainer.history, trainer.history.panel
    row = 2
    years = (torch.arange(panel.shape[1]) - episode.end[row]) * (panel.period_days / YEAR)
    data = replace(panel, sales=panel.sales * (episode.growth[row] * years).exp()[None, :, None])
    with torch.no_grad():
        found, _, _ = trainer.model.loss(history, episode)
        wanted, _, _ = trainer.model.loss(
            history_of(data, trainer.schema, trainer.config, None), replace(episode, growth=None)
        )
        plain, _, _ = trainer.model.loss(history, replace(episode, growth=None))
    torch.testing.assert_close(found[row], wanted[row], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[row], plain[row], rtol=1e-2)


def test_growth_has_the_spread_that_is_asked_for_and_the_paper_has_none() -> None:
    trainer = trainer_of(("train.growth=0.2",))
    episodes = [trainer.sampler.draw(step) for step in range(200)]
    drawn = torch.cat([e.growth for e in episodes if e is not None and e.growth is not None])
    assert float(drawn.std()) == pytest.approx(0.2, rel=0.1) and abs(float(drawn.mean())) < 0.02
    none = trainer_of(paper=True).sampler.draw(0)
    assert none is not None and none.growth is None
