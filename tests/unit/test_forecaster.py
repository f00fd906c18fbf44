"""A trained model as its users meet it: no leak, scales with sales, closed days, and clear refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import stmp
from stmp.config import Config
from stmp.data.panel import Panel
from stmp.errors import CheckpointError, ConfigError, DataError
from stmp.evaluation.leak import assert_no_leak
from stmp.forecaster import RECORDS, mean_of_quantiles
from stmp.learning.conformal import Conformal
from stmp.online import Online

TINY = ["model.hidden=8", "model.psi_size=4", "model.horizon=10", "model.context=28", "train.max_steps=6"]
TINY += ["train.batch_regions=6", "train.queries=8", "train.supports=20", "train.validate_every=3", "train.log_every=3"]


def table(regions: int = 12, periods: int = 150, series: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (f"r{r:02d}", f"s{g}", day)
        for r in range(regions)
        for g in range(series)
        for day in pd.date_range("2024-01-01", periods=periods)
    ]
    frame = pd.DataFrame(rows, columns=["unique_id", "item", "ds"])
    frame["promo"] = rng.integers(0, 2, len(frame)).astype(float)
    frame["visitors"] = rng.poisson(30, len(frame)).astype(float)
    frame["shut"] = (frame.ds.dt.dayofweek == 6).astype(int)
    frame["y"] = (rng.lognormal(4, 0.3, len(frame)) * (1 + frame.promo)).round(2) * (1 - frame.shut)
    return frame


def panel_of(frame: pd.DataFrame, series: str | None = None) -> Panel:
    events = pd.DataFrame({"date": ["2024-02-14", "2024-03-29"], "event": ["love", "spring"]})
    return Panel.from_frame(frame, known=["promo"], past=["visitors"], closed="shut", events=events, series=series)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(table())


PAPER = {
    "model": {
        "instances": "window",
        "known": False,
        "pooling": "mean",
        "last_year": False,
        "trend_periods": [],
        "transform": "linear",
        "head": "normal",
        "series": "joint",
    }
}


@pytest.fixture(scope="module", params=[{}, PAPER], ids=["product", "paper"])
def model(request: pytest.FixtureRequest, panel: Panel) -> stmp.Forecaster:
    return stmp.train(panel, Config.from_mapping(request.param, TINY), until="2024-04-30")


def test_training_lowers_the_loss(panel: Panel) -> None:
    losses: list[float] = []

    def report(step: int, rows: list[dict[str, object]]) -> None:
        losses.extend(float(str(r["value"])) for r in rows if r["phase"] == "validation" and r["name"] == "all")

    faster = [
        "train.max_steps=150",
        "train.validate_every=30",
        "train.warmup=5",
        "train.ema=0.9",
        "train.learning_rate=0.01",
    ]
    config = Config.from_mapping({}, [*TINY, *faster])
    stmp.train(panel, config, until="2024-04-30", report=report)
    assert losses[-1] < 0.8 * losses[0]


def test_the_same_seed_gives_the_same_model(panel: Panel) -> None:
    config = Config.from_mapping({}, TINY)
    a, b, c = (stmp.train(panel, config, seed=seed) for seed in (3, 3, 4))
    weights = [torch.cat([p.flatten() for p in model.model.parameters()]) for model in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_no_leak(model: stmp.Forecaster, panel: Panel) -> None:
    assert_no_leak(model, panel, "2024-05-10", 7)


def test_a_forecast_does_not_depend_on_how_far_the_panel_reaches(model: stmp.Forecaster) -> None:
    frame = table()
    short = frame[frame.ds <= "2024-05-10"]
    # A day is read with its neighbours: what is known of the day after the last one belongs to it.
    future = frame[(frame.ds > "2024-05-10") & (frame.ds <= "2024-05-18")].assign(y=np.nan, visitors=np.nan)
    cut = model.predict(panel_of(pd.concat([short, future])), "2024-05-10", 7)
    whole = model.predict(panel_of(frame), "2024-05-10", 7)
    np.testing.assert_allclose(cut.mean, whole.mean, rtol=1e-5)
    np.testing.assert_allclose(cut.quantiles, whole.quantiles, rtol=1e-5)


def test_forecasts_scale_with_sales(model: stmp.Forecaster, panel: Panel) -> None:
    large = replace(panel, sales=panel.sales * 1000)
    base, scaled = (model.predict(p, "2024-05-10", 7) for p in (panel, large))
    np.testing.assert_allclose(scaled.mean, base.mean * 1000, rtol=2e-3)
    np.testing.assert_allclose(scaled.quantiles, base.quantiles * 1000, rtol=2e-3)


def test_no_quantile_lies_far_beyond_what_ever_sold(model: stmp.Forecaster, panel: Panel) -> None:
    """A series that has hardly sold lately, and has a long past: its ratios to that past may be anything."""
    at = panel.index_of("2024-05-10")
    asleep = panel.sales.clone()
    asleep[:, at - 40 : at + 1] = 0.0
    wild = stmp.Forecaster(
        model.config, model.schema, model.feature_size, model.model.state_dict(), model.provenance,
        Conformal(((4.0,) * 4 + (1.0,) + (40.0,) * 4,) * len(model.schema.day_types)),
    )  # fmt: skip
    forecast = wild.predict(replace(panel, sales=asleep), "2024-05-10", 7)
    record = asleep[:, : at + 1].amax(dim=1).numpy()
    assert (forecast.quantiles.max(axis=(1, 3)) <= RECORDS * record * (1 + 1e-6)).all()
    assert forecast.quantiles.max() > record.min()


def test_the_mean_is_of_what_was_learned_however_wide_the_intervals_are(model: stmp.Forecaster, panel: Panel) -> None:
    weights, days = model.model.state_dict(), len(model.schema.day_types)
    narrow, wide = (
        stmp.Forecaster(
            model.config, model.schema, model.feature_size, weights, model.provenance,
            Conformal(((factor,) * 4 + (1.0,) + (factor,) * 4,) * days),
        ).predict(panel, "2024-05-10", 7)
        for factor in (1.0, 3.0)
    )  # fmt: skip
    np.testing.assert_array_equal(narrow.mean, wide.mean)
    assert (np.ptp(wide.quantiles, axis=-1) > 1.5 * np.ptp(narrow.quantiles, axis=-1))[narrow.mean > 0].all()


def test_forecasts_are_finite_ordered_and_zero_on_closed_days(model: stmp.Forecaster, panel: Panel) -> None:
    forecast = model.predict(panel, "2024-05-10", 7)
    assert np.isfinite(forecast.mean).all() and (forecast.mean >= 0).all()
    assert (np.diff(forecast.quantiles, axis=-1) >= 0).all()
    sundays = pd.DatetimeIndex(forecast.dates).dayofweek == 6
    assert sundays.sum() == 1
    assert (forecast.mean[:, sundays] == 0).all() and (forecast.quantiles[:, sundays] == 0).all()
    assert (forecast.mean[:, ~sundays] > 0).all()


def test_a_region_without_any_history_gets_a_forecast(model: stmp.Forecaster, panel: Panel) -> None:
    nothing = panel.with_history("2024-05-10", 0)
    forecast = model.predict(nothing, "2024-05-10", 5)
    assert np.isfinite(forecast.quantiles).all()


@pytest.mark.parametrize("handling", ["split", "joint"])
def test_several_series_keep_their_places(handling: str) -> None:
    frame = table(regions=12, periods=100, series=3)
    frame = frame[~((frame.unique_id == "r01") & (frame.item == "s2"))]  # never sold there
    panel = panel_of(frame, series="item")
    assert "promo@s0" in panel.known_names
    model = stmp.train(panel, Config.from_mapping({}, [*TINY, f"model.series={handling}"]), until="2024-03-20")
    forecast = model.predict(panel, "2024-03-27", 4)
    assert forecast.mean.shape == (12, 4, 3)
    if handling == "split":
        assert (forecast.mean[1, :, 2] == 0).all()
        assert panel.split_series().shape == (35, 100, 1)
    large = replace(panel, sales=panel.sales * torch.tensor([1.0, 100.0, 1.0]))
    scaled = model.predict(large, "2024-03-27", 4)
    np.testing.assert_allclose(scaled.mean, forecast.mean * [1, 100, 1], rtol=2e-3)
    known = panel.known.clone()
    known[3, panel.index_of("2024-03-29"), panel.known_names.index("promo@s1")] = float("nan")
    assert list(model.without_future(replace(panel, known=known), "2024-03-27", 4)) == ["r03"], "of one of its series"


def test_a_saved_model_forecasts_the_same(model: stmp.Forecaster, panel: Panel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = stmp.Forecaster.load(tmp_path / "model")
    assert np.array_equal(
        loaded.predict(panel, "2024-05-10", 7).quantiles, model.predict(panel, "2024-05-10", 7).quantiles
    )
    assert loaded.provenance == model.provenance
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["forecaster.json", "weights.safetensors"]


def test_a_model_from_before_some_settings_is_read_as_it_was(panel: Panel, tmp_path: Path) -> None:
    earlier = {
        "model": {"trend_periods": [], "turn_of_month": False, "dropout": 0.0},
        "train": {"hide_last_year": 0.0, "level_step": 0.0},
    }
    without = stmp.train(panel, Config.from_mapping(earlier, TINY), until="2024-04-30")
    without.save(tmp_path)
    file = tmp_path / "forecaster.json"
    description = json.loads(file.read_text())
    for section, settings in earlier.items():
        for name in settings:
            del description["config"][section][name]
    file.write_text(json.dumps(description))
    loaded = stmp.Forecaster.load(tmp_path)
    assert loaded.config == without.config
    assert np.array_equal(loaded.predict(panel, "2024-05-10", 7).mean, without.predict(panel, "2024-05-10", 7).mean)


def test_damaged_models_are_refused(model: stmp.Forecaster, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable model"):
        stmp.Forecaster.load(tmp_path)
    model.save(tmp_path / "model")
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="no readable model"):
        stmp.Forecaster.load(tmp_path / "model")
    model.save(tmp_path / "model")
    description = tmp_path / "model" / "forecaster.json"
    values = json.loads(description.read_text())
    description.write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        stmp.Forecaster.load(tmp_path / "model")


def test_refusals_say_what_and_where(model: stmp.Forecaster, panel: Panel) -> None:
    with pytest.raises(DataError, match="2031-01-01 is not in the data"):
        model.predict(panel, "2031-01-01", 7)
    with pytest.raises(DataError, match="calendar beyond"):
        model.predict(panel, panel.last_observed, 90)
    with pytest.raises(ConfigError, match="horizon is 0"):
        model.predict(panel, "2024-05-10", 0)
    with pytest.raises(DataError, match="past covariates: lacks"):
        model.predict(replace(panel, past=panel.past[..., :0], past_names=()), "2024-05-10", 7)


def test_kinds_of_regions_that_come_and_go_change_nothing_for_the_others(panel: Panel) -> None:
    kinds = torch.eye(3)[torch.arange(panel.shape[0]) % 2]
    kinded = replace(panel, static=kinds, static_names=("kind=a", "kind=b", "kind=c"))
    model = stmp.train(kinded, Config.from_mapping({}, [*TINY, "train.max_steps=2"]))
    expected = model.predict(kinded, "2024-04-20", 7)
    others = replace(kinded, static=kinds[:, [1, 2, 0]], static_names=("kind=b", "kind=new", "kind=a"))
    np.testing.assert_array_equal(model.predict(others, "2024-04-20", 7).mean, expected.mean)
    online = Online(model, others, np.full(panel.shape[0], panel.index_of("2024-04-20")))
    decoded = online.predict(np.arange(panel.shape[0]), 7)
    np.testing.assert_allclose(decoded.mean, expected.mean, rtol=1e-4)
    named = replace(kinded, static_names=("kind=a", "kind=b", "size"))
    with pytest.raises(DataError, match="static features: lacks"):
        model.predict(named, "2024-04-20", 7)


def test_unknown_future_covariates_are_an_error(panel: Panel) -> None:
    model = stmp.train(panel, Config.from_mapping({}, TINY), until="2024-04-30")
    known = panel.known.clone()
    known[3, panel.index_of("2024-05-12")] = float("nan")
    gappy = replace(panel, known=known)
    with pytest.raises(
        DataError, match=r"no value of promo for 1 days from 2024-05-12 .* in 1 of 12 rows, such as r03"
    ):
        model.predict(gappy, "2024-05-10", 7)
    missing = model.without_future(gappy, "2024-05-10", 7)
    assert missing == {"r03": "no value of promo for 1 days from 2024-05-12 to 2024-05-12"}
    others = np.delete(np.arange(12), 3)
    expected = model.predict(panel, "2024-05-10", 7).mean[others]
    np.testing.assert_allclose(model.predict(gappy.select(others), "2024-05-10", 7).mean, expected, rtol=1e-5)


def test_ranges_hold_and_the_mean_lies_by_the_median_whatever_the_head(model: stmp.Forecaster, panel: Panel) -> None:
    forecast = model.predict(panel, "2024-05-01", 14)
    first = panel.index_of("2024-05-02")
    truth = panel.sales[:, first : first + 14].numpy()
    levels = model.config.model.levels
    low, median, high = (forecast.quantiles[..., levels.index(level)] for level in (0.1, 0.5, 0.9))
    sold = truth > 0
    assert sold.any()
    assert 0.7 < ((truth >= low) & (truth <= high))[sold].mean() < 0.95
    assert 0.95 < (forecast.mean[sold] / median[sold]).mean() < 1.08


def test_no_region_is_no_forecast_and_no_error(model: stmp.Forecaster, panel: Panel) -> None:
    assert model.predict(panel.select([]), "2024-05-10", 7).mean.shape == (0, 7, 1)


def test_the_mean_of_quantiles() -> None:
    levels = tuple(k / 10 for k in range(1, 10))
    exponential = -torch.log(1 - torch.tensor(levels))
    assert float(mean_of_quantiles(exponential, levels)) == pytest.approx(1.0, rel=0.02)
    lognormal = torch.exp(0.3 * torch.special.ndtri(torch.tensor(levels)))
    assert float(mean_of_quantiles(lognormal, levels)) == pytest.approx(np.exp(0.3**2 / 2), rel=0.01)
    certain = torch.full((9,), 7.0)
    assert float(mean_of_quantiles(certain, levels)) == pytest.approx(7.0)
    assert float(mean_of_quantiles(torch.zeros(9), levels)) == 0.0


def test_a_forecast_as_a_table_and_as_a_plot(model: stmp.Forecaster, panel: Panel) -> None:
    forecast = model.predict(panel, "2024-05-10", 7)
    frame = forecast.to_frame()
    assert list(frame.columns[:4]) == ["region", "series", "date", "mean"] and len(frame) == 12 * 7
    third = frame[(frame.region == "r02") & (frame.date == "2024-05-13")]
    assert third["mean"].item() == pytest.approx(float(forecast.mean[2, 2, 0]))
    figure = forecast.plot(panel, regions=["r00", "r05"])
    assert len(figure.data) == 6
    with pytest.raises(DataError, match="no regions"):
        forecast.plot(regions=["nowhere"])
