"""Forecasts on demand are the batch's, for every kind of model, whatever data came meanwhile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stmp.data.episodes import full_episode
from stmp.data.panel import Panel, base_name
from stmp.errors import ConfigError, DataError
from stmp.forecaster import Forecaster
from stmp.learning.lean import Leaning
from stmp.learning.validation import history_of
from stmp.online import Change, Decoded, Online
from tests.training import make_trainer, small_config, small_panel

HORIZON = 10
ORIGIN = 480
KINDS = {
    "product": {},
    "two series": {"series": ("a", "b")},
    "paper": {"paper": True, "settings": ("model.instances=window",)},
    "own extractor": {"paper": True, "settings": ("model.share_extractor=false", "train.supports_forecast=20")},
    "leaning": {"lean": 0.4},
    "ensemble": {"settings": ("model.members=2",)},
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
    if "lean" in kind:
        trainer.leaning = Leaning(kind["lean"], 0.6, trainer.validator.group)
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


def test_networks_forecast_from_their_memory_what_they_do_without(model: tuple[Forecaster, tuple[str, ...]]) -> None:
    forecaster, series = model
    panel = forecaster.rows_of(panel_until(np.full(14, ORIGIN), series))
    history = history_of(panel, forecaster.schema, forecaster.config)
    supports, noise = forecaster.config.train.supports_forecast, forecaster.noise(panel.shape[0])
    episode = full_episode(panel, ORIGIN, HORIZON, supports, noise)
    rows = history.rows(episode.region, episode.start, episode.end)
    with torch.no_grad():
        whole = forecaster.model(history, episode, rows)
        memory = forecaster.model.remember(history, episode, rows)
        remembered = forecaster.model(history, episode, rows, memory)
    torch.testing.assert_close(remembered.values, whole.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(remembered.level, whole.level)


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


def test_festivals_of_two_years_before_are_within_reach() -> None:
    torch.set_num_threads(1)
    panel = small_panel(regions=6, years=3.5)
    trainer = make_trainer(panel, small_config(), until=1100)
    trainer.train_step()
    trainer.leaning = Leaning(festivals=0.35)
    forecaster = Forecaster.from_trainer(
        trainer, regions=tuple(panel.regions), until=str(panel.dates[1099]), fingerprint="x"
    )
    held = np.flatnonzero((panel.calendar.event[0] > 0) & (panel.calendar.offset[0] == 0))
    origin = int(held[held > 1150][0]) - 5
    online = Online(forecaster, panel, np.full(6, origin))
    every = np.arange(6)
    found = online.predict(every, HORIZON)
    mean, quantiles = batch(forecaster, panel, origin, every)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.quantiles, quantiles, rtol=1e-4, atol=1e-4)
    trainer.leaning = Leaning()
    without = Forecaster.from_trainer(trainer, regions=(), until=str(panel.dates[1099]), fingerprint="x")
    moved = np.abs(batch(without, panel, origin, every)[0] - mean).max(axis=(0, 2)) > 1e-3
    assert moved.any() and not moved.all(), "near the festival alone"


def test_a_forecast_is_decoded_once(product: Forecaster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it was asked for, until its region has new data."""
    origin = np.full(14, ORIGIN)
    panel = panel_until(origin)
    online = Online(product, panel, origin)
    decoded: list[list[int]] = []
    decode = online.decode

    def watched(regions: np.ndarray, horizon: int, change: Change | None = None) -> Decoded:
        decoded.append(regions.tolist())
        return decode(regions, horizon, change)

    monkeypatch.setattr(online, "decode", watched)
    first = online.predict(np.array([3, 1]), 5)
    again = online.predict(np.array([1, 2, 3]), 4)
    assert decoded == [[3, 1], [2]]
    np.testing.assert_array_equal(again.mean[[2, 0]], first.mean[:, :4])
    np.testing.assert_array_equal(again.quantiles[[2, 0]], first.quantiles[:, :4])
    online.predict(np.array([1]), HORIZON)
    assert decoded[2:] == [[1]], "further than before"
    later = origin.copy()
    later[3] += 1
    online.update(panel_until(later), later, np.array([3]))
    online.predict(np.array([1, 2, 3]), 4)
    assert decoded[3:] == [[3]], "new data of a region"
    online.predict(np.array([1]), product.horizon + 1)
    online.predict(np.array([1]), product.horizon + 1)
    assert decoded[4:] == [[1], [1]], "beyond what the model has learned nothing is kept"


def with_promotions(panel: Panel, first: int) -> Panel:
    """The panel with a promotion on every day from one on."""
    known = panel.known.clone()
    known[:, first:, [base_name(name, panel.series) == "promo" for name in panel.known_names]] = 1.0
    return replace(panel, known=known)


@pytest.fixture(scope="module")
def product() -> Forecaster:
    """Return a model of the usual kind, trained until it minds promotions."""
    torch.set_num_threads(1)
    panel = small_panel()
    trainer = make_trainer(panel, small_config(), until=460)
    for _ in range(24):
        trainer.train_step()
    return Forecaster.from_trainer(trainer, regions=tuple(panel.regions), until=str(panel.dates[459]), fingerprint="x")


@pytest.mark.parametrize("first", [ORIGIN + 1, ORIGIN + 4], ids=["from tomorrow", "later"])
def test_a_what_if_is_the_batch_with_another_future(product: Forecaster, first: int) -> None:
    """Tomorrow counts twice: the last day known looks one day ahead."""
    origin = np.full(14, ORIGIN)
    panel = panel_until(origin)
    online = Online(product, panel, origin)
    some = np.array([1, 2, 7])
    plain = online.predict(some, HORIZON).mean
    changed = online.predict(some, HORIZON, lambda p: with_promotions(p, first))
    mean, quantiles = batch(product, with_promotions(panel, first), ORIGIN, some)
    np.testing.assert_allclose(changed.mean, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(changed.quantiles, quantiles, rtol=1e-4, atol=1e-4)
    assert np.abs(changed.mean - plain).max() > 1e-3
    np.testing.assert_array_equal(online.predict(some, HORIZON).mean, plain)  # nothing of it stays


def test_an_unknown_future_is_refused(product: Forecaster) -> None:
    origin = np.full(14, ORIGIN)
    online = Online(product, panel_until(origin), origin)
    gone = torch.arange(online.panel.shape[1])[None, :, None] > ORIGIN + 5
    with pytest.raises(DataError, match="promo"):
        online.predict(np.array([0]), HORIZON, lambda p: replace(p, known=p.known.masked_fill(gone, float("nan"))))


@pytest.mark.parametrize("days", [0, 9])
def test_a_cold_region_is_the_batch_with_a_short_history(product: Forecaster, days: int) -> None:
    origin = np.full(14, ORIGIN)
    panel = panel_until(origin)
    short = panel.select([3]).with_history(panel.dates[ORIGIN], days)
    decoded = Online(product, panel, origin).cold(short, ORIGIN, HORIZON)
    mean, _ = batch(product, short, ORIGIN, np.array([0]))
    np.testing.assert_allclose(decoded.mean, mean, rtol=1e-4, atol=1e-4)


def test_series_without_a_past_are_forecast_when_cold() -> None:
    panel = small_panel(series=("a", "b"))
    trainer = make_trainer(panel, small_config(), until=460)
    forecaster = Forecaster.from_trainer(trainer, regions=(), until=str(panel.dates[459]), fingerprint="x")
    until = panel_until(np.full(14, ORIGIN), ("a", "b"))
    online = Online(forecaster, until, np.full(14, ORIGIN))
    nothing = until.select([3]).with_history(panel.dates[ORIGIN], 0)
    decoded = online.cold(nothing, ORIGIN, HORIZON)
    assert decoded.mean.shape == (1, HORIZON, 2)
    assert (decoded.mean[:, :, 0].max() > 0) and (decoded.mean[:, :, 1].max() > 0)


@pytest.fixture(scope="module")
def two_series() -> Forecaster:
    """Return a model of two series, a row each."""
    torch.set_num_threads(1)
    trainer = make_trainer(small_panel(series=("a", "b")), small_config(), until=460)
    for _ in range(4):
        trainer.train_step()
    return Forecaster.from_trainer(trainer, regions=(), until="2024-01-01", fingerprint="x")


def never_sold(panel: Panel, regions: np.ndarray) -> Panel:
    """The panel, of which some regions have not been seen to sell anything."""
    gone = torch.zeros(panel.shape[0], dtype=torch.bool)
    gone[torch.from_numpy(regions)] = True
    return replace(
        panel,
        sales=panel.sales.masked_fill(gone[:, None, None], 0.0),
        observed=panel.observed & ~gone[:, None, None],
        past=panel.past.masked_fill(gone[:, None, None], float("nan")),
    )


@pytest.mark.parametrize("sellers", [10, 1, 0], ids=["some regions", "all but one", "all regions"])
def test_regions_that_never_sold_are_the_batchs_zeros(
    two_series: Forecaster, sellers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be they some, all of a chunk, or all there are; later they close for a day, and one sells for the first time."""
    monkeypatch.setattr("stmp.online.CHUNK", 2)
    monkeypatch.setattr("stmp.online.AT_ONCE", 2)
    origin, unsold = np.full(14, ORIGIN), np.arange(sellers, 14)
    panel = never_sold(panel_until(origin, ("a", "b")), unsold)
    online = Online(two_series, panel, origin)
    assert_equal(online, panel, origin)
    assert not online.predict(unsold, HORIZON).quantiles.any()
    what_if = online.predict(unsold, HORIZON, lambda p: with_promotions(p, ORIGIN + 1))
    assert not what_if.mean.any() and what_if.quantiles.shape == online.predict(unsold, HORIZON).quantiles.shape

    later = origin.copy()
    later[-1] += 1
    closed = panel.closed.clone()
    closed[-1, ORIGIN + 1] = True
    shut = replace(panel, closed=closed)
    online.update(shut, later, np.array([13]))
    assert_equal(online, shut, later)

    later[-1] += 1
    observed, sales = shut.observed.clone(), shut.sales.clone()
    observed[-1, ORIGIN + 2], sales[-1, ORIGIN + 2] = True, 7.0
    opened = replace(shut, observed=observed, sales=sales)
    online.update(opened, later, np.array([13]))
    assert_equal(online, opened, later)
    assert online.predict(np.array([13]), HORIZON).mean.any()


def test_columns_are_checked_where_nothing_ever_sold(two_series: Forecaster) -> None:
    panel = never_sold(panel_until(np.full(14, ORIGIN), ("a", "b")), np.arange(14))
    with pytest.raises(DataError, match="price"):
        Online(two_series, replace(panel, known=panel.known[..., :1], known_names=("promo",)), np.full(14, ORIGIN))


def test_pooled_tasks_cannot_be_forecast_alone() -> None:
    panel = small_panel()
    trainer = make_trainer(panel, small_config("train.view_mode=pooled", "train.batch_regions=12"), until=460)
    forecaster = Forecaster.from_trainer(trainer, regions=(), until=str(panel.dates[459]), fingerprint="x")
    with pytest.raises(ConfigError, match="view_mode=cell"):
        Online(forecaster, panel, np.full(14, ORIGIN))
