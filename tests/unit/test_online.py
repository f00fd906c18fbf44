"""Forecasts on demand are the batch's, for every kind of model, whatever data came meanwhile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stmp.data.panel import Panel
from stmp.forecaster import Forecaster
from stmp.online import Online
from tests.training import make_trainer, small_config, small_panel

HORIZON = 10
ORIGIN = 480
KINDS = {
    "product": {},
    "two series": {"series": ("a", "b")},
    "paper": {"paper": True, "settings": ("model.instances=window",)},
    "own extractor": {"paper": True, "settings": ("model.share_extractor=false", "train.supports_forecast=20")},
    "samples": {"settings": ("model.samples=3", "model.skip_periods=[]")},
    "no psi, few supports": {"settings": ("model.psi=none", "train.supports_forecast=30")},
}


def panel_until(origin: np.ndarray, series: tuple[str, ...] = ("sales",)) -> Panel:
    """The small city, of which each region is known up to an origin of its own."""
    panel = small_panel(series=series)
    after = torch.arange(panel.shape[1]) > torch.from_numpy(origin)[:, None]
    return replace(
        panel,
        sales=panel.sales.masked_fill(after[..., None], 0.0),
        observed=panel.observed & ~after[..., None],
        past=panel.past.masked_fill(after[..., None], float("nan")),
    )


@pytest.fixture(scope="module", params=KINDS, ids=KINDS)
def model(request: pytest.FixtureRequest) -> tuple[Forecaster, tuple[str, ...]]:
    """Return a model of some kind, trained for a few steps, and its series."""
    torch.set_num_threads(1)
    kind = KINDS[request.param]
    series = kind.get("series", ("sales",))
    panel = small_panel(series=series)
    trainer = make_trainer(panel, small_config(*kind.get("settings", ()), paper=kind.get("paper", False)), until=460)
    for _ in range(4):
        trainer.train_step()
    until = str(panel.dates[459])
    return Forecaster.from_trainer(trainer, regions=tuple(panel.regions), until=until, fingerprint="x"), series


def batch(forecaster: Forecaster, panel: Panel, origin: int, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    forecast = forecaster.predict(panel.select(regions), panel.dates[origin], HORIZON)
    return forecast.mean, forecast.quantiles


def assert_equal(online: Online, panel: Panel, origin: np.ndarray) -> None:
    every = np.arange(panel.shape[0])
    together = online.predict(every, HORIZON)
    for day in np.unique(origin):
        some = np.flatnonzero(origin == day)
        mean, quantiles = batch(online.forecaster, panel, int(day), some)
        np.testing.assert_allclose(together.mean[some], mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(together.quantiles[some], quantiles, rtol=1e-4, atol=1e-4)
    odd = every[::-3]
    np.testing.assert_allclose(online.predict(odd, HORIZON).mean, together.mean[odd], rtol=1e-4, atol=1e-4)
    alone = online.predict(every[5:6], HORIZON)
    np.testing.assert_allclose(alone.quantiles[0], together.quantiles[5], rtol=1e-4, atol=1e-4)


def test_online_forecasts_are_those_of_the_batch(model: tuple[Forecaster, tuple[str, ...]]) -> None:
    forecaster, series = model
    origin = np.full(14, ORIGIN)
    panel = panel_until(origin, series)
    online = Online(forecaster, panel, origin)
    assert_equal(online, panel, origin)

    # new days of some regions
    later = origin.copy()
    later[[2, 5, 11]] += [1, 3, 1]
    grown = panel_until(later, series)
    before = online.predict(np.arange(14), HORIZON).mean
    online.update(grown, later, np.array([2, 5, 11]))
    assert_equal(online, grown, later)
    after = online.predict(np.arange(14), HORIZON).mean
    assert (np.abs(after - before).max(axis=(1, 2)) > 1e-3).sum() == 3

    # more days than there was room for
    much_later = origin + 40
    online.update(panel_until(much_later, series), much_later, np.arange(14))
    assert_equal(online, panel_until(much_later, series), much_later)
