"""Networks that are used as one: each learns as it would alone, and the forecast is their mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import stmp
from stmp.learning.meta import MetaTrainer
from stmp.learning.similarity import tasks_of
from stmp.nets.ensemble import Ensemble
from tests.training import small_config, small_panel, trainer_of


@pytest.fixture(scope="module", params=[False, True], ids=["product", "paper"])
def trainer(request: pytest.FixtureRequest) -> MetaTrainer:
    return trainer_of(("model.members=3",), paper=request.param)


def test_members_start_apart_and_learn_by_themselves(trainer: MetaTrainer) -> None:
    ensemble = trainer.model
    assert isinstance(ensemble, Ensemble)
    episode = trainer.sampler.draw(0)
    assert episode is not None
    losses, points, _ = ensemble.loss(trainer.history, episode)
    losses.sum().backward()
    together = {name: p.grad.clone() for name, p in ensemble.named_parameters() if p.grad is not None}
    assert len(together) == len(list(ensemble.parameters()))
    alone = []
    for k, network in enumerate(ensemble.networks):
        ensemble.zero_grad()
        own, counted, _ = network.loss(trainer.history, episode)
        own.sum().backward()
        assert torch.equal(counted, points)
        alone.append(own.detach())
        for name, p in network.named_parameters():
            assert p.grad is not None
            torch.testing.assert_close(together[f"members.{k}.{name}"], p.grad / 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.detach(), torch.stack(alone).mean(dim=0))
    assert len({float(own.sum()) for own in alone}) == 3


def test_the_forecast_is_the_mean_of_the_members(trainer: MetaTrainer) -> None:
    ensemble = trainer.model
    assert isinstance(ensemble, Ensemble)
    episode = trainer.sampler.draw(1)
    assert episode is not None
    rows = trainer.history.rows(episode.region, episode.start)
    levels = trainer.config.model.levels
    with torch.no_grad():
        found = ensemble.head.quantiles(ensemble(trainer.history, episode, rows).values, levels)
        each = [n.head.quantiles(n(trainer.history, episode, rows).values, levels) for n in ensemble.networks]
    torch.testing.assert_close(found, torch.stack(each).mean(dim=0), rtol=1e-5, atol=1e-5)
    assert (each[0] - each[1]).abs().max() > 1e-3


def test_the_first_member_is_the_network_of_that_seed() -> None:
    one, three = trainer_of(seed=5), trainer_of(("model.members=3",), seed=5)
    weights = dict(three.model.named_parameters())
    assert all(torch.equal(weights[f"members.0.{name}"], p) for name, p in one.model.named_parameters())


def test_an_ensemble_is_saved_adapted_and_compared(tmp_path: Path) -> None:
    panel = small_panel()
    model = stmp.train(panel, small_config("train.max_steps=4", "model.members=2"), until=str(panel.dates[460]))
    model.save(tmp_path / "model")
    loaded = stmp.Forecaster.load(tmp_path / "model")
    origin = str(panel.dates[460])
    assert np.array_equal(loaded.predict(panel, origin, 7).quantiles, model.predict(panel, origin, 7).quantiles)
    assert tasks_of(loaded, panel).vectors.shape[-1] == 2 * 2 * model.config.model.psi_size
