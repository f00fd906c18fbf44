"""Series that start late, end early, hardly sell, have a year's gap or closed days: each is learned and forecast."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

import stmp
from stmp.data.panel import Panel
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import SameFestivalLastYear, SeasonalNaive
from stmp.forecast import Forecast
from stmp.forecaster import Forecaster
from stmp.online import Online

PERIODS, HORIZON = {"D": 500, "W": 130}, {"D": 14, "W": 6}
LEVEL = 100.0
FREQUENCIES = ("D", "W")


def make(frequency: str) -> Panel:
    """Twelve ordinary regions, of which some close on Sundays and one for a long while, and one of each odd kind."""
    periods, step = PERIODS[frequency], {"D": 1, "W": 7}[frequency]
    days = pd.date_range("2022-01-02", periods=periods + HORIZON[frequency], freq=f"{step}D")
    t, year, rng = np.arange(len(days)), 365 // step, np.random.default_rng(0)
    week = np.asarray([1, 0.9, 1, 1.1, 1.3, 1.5, 0.7])[days.weekday] if step == 1 else 1.0

    def ordinary(level: float = LEVEL) -> np.ndarray:
        return level * week * rng.lognormal(0, 0.15, len(days))

    def without(begin: int, end: int) -> np.ndarray:
        return np.where((t >= begin) & (t < end), np.nan, ordinary())

    rows = {f"ordinary {i:02d}": ordinary(10 ** rng.uniform(0.5, 3.5)) for i in range(12)}
    rows |= {
        "late: three weeks": without(0, periods - 21 // step),
        "late: one period": without(0, periods - 1),
        "zeros, then sales": np.where(t < periods - 60 // step, 0.0, ordinary()),
        "ended a year ago": without(periods - year, periods),
        "gap of a year": without(periods - year - 30 // step, periods - 30 // step),
        "mostly zero": np.where(rng.random(len(days)) < 0.15, rng.integers(1, 8, len(days)), 0.0),
        "always zero": np.zeros(len(days)),
        "never observed": np.full(len(days), np.nan),
        "tiny": ordinary(1e-3),
        "huge": ordinary(1e8),
    }
    frame = pd.concat([pd.DataFrame({"unique_id": name, "ds": days, "y": y}) for name, y in rows.items()])
    region = frame["unique_id"]
    shut = (region.str.startswith("ordinary 0") & (frame["ds"].dt.weekday == 6) & (step == 1)) | (
        (region == "ordinary 11")
        & (frame["ds"] > days[periods - 90 // step])
        & (frame["ds"] < days[periods - 20 // step])
    )
    frame["shut"] = (shut | ((region == "ordinary 10") & (frame["ds"] >= days[periods]))).astype(int)
    return Panel.from_frame(frame, closed="shut", frequency=frequency)


@cache
def learned(frequency: str) -> tuple[Panel, Forecaster]:
    """The city, and a small model of all of its past."""
    torch.set_num_threads(1)
    settings = ["train.max_steps=300", "train.validate_every=50", "train.warmup=5", "train.learning_rate=0.005",
                "train.batch_regions=16", "train.queries=12", "train.supports=40", "train.ema=0.8",
                "model.hidden=8", "model.psi_size=4", f"model.horizon={HORIZON[frequency]}",
                f"model.context={56 if frequency == 'D' else 16}"]  # fmt: skip
    panel = make(frequency)
    last = panel.dates[PERIODS[frequency] - 1]
    return panel, stmp.train(panel.until(last), stmp.Config.from_mapping({}, settings), until=last)


def forecast_of(frequency: str) -> tuple[Panel, Forecast, dict[str, int]]:
    panel, model = learned(frequency)
    forecast = model.predict(panel, panel.dates[PERIODS[frequency] - 1], HORIZON[frequency])
    return panel, forecast, {str(name): row for row, name in enumerate(panel.regions)}


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_every_forecast_is_finite_in_order_and_not_negative_and_0_on_closed_days(frequency: str) -> None:
    panel, forecast, row = forecast_of(frequency)
    assert np.isfinite(forecast.mean).all() and np.isfinite(forecast.quantiles).all()
    assert (forecast.quantiles >= 0).all() and (forecast.mean >= 0).all()
    assert (np.diff(forecast.quantiles, axis=-1) >= 0).all()
    closed = panel.closed[:, PERIODS[frequency] :].numpy()
    assert closed[row["ordinary 10"]].all() and (frequency == "W" or closed[row["ordinary 00"]].any())
    assert (forecast.mean[closed] == 0).all() and (forecast.quantiles[closed] == 0).all()
    assert (forecast.mean[row["ordinary 11"]] > 0).all(), "it has opened again"


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_whoever_sells_is_forecast_on_the_scale_of_its_own_sales(frequency: str) -> None:
    panel, forecast, row = forecast_of(frequency)
    scales = dict.fromkeys(("late: three weeks", "late: one period", "zeros, then sales", "gap of a year"), LEVEL)
    scales |= {"ended a year ago": LEVEL, "tiny": 1e-3, "huge": 1e8}
    sales, observed = (
        panel.sales[:, : PERIODS[frequency], 0].numpy(),
        panel.observed[:, : PERIODS[frequency], 0].numpy(),
    )
    scales |= {name: sales[r][observed[r]].mean() for name, r in row.items() if name.startswith("ordinary")}
    open_days = ~panel.closed[:, PERIODS[frequency] :].numpy()
    for name, scale in scales.items():
        if open_days[row[name]].any():
            assert forecast.mean[row[name]][open_days[row[name]]].mean() == pytest.approx(scale, rel=0.5), name


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_who_hardly_sells_has_a_median_of_0_and_a_mean_near_its_own_rate(frequency: str) -> None:
    panel, forecast, row = forecast_of(frequency)
    rate = panel.sales[row["mostly zero"], : PERIODS[frequency], 0].mean().item()
    assert (forecast.median[row["mostly zero"]] == 0).all()
    assert rate / 2 < forecast.mean[row["mostly zero"]].mean() < 2 * rate
    assert (forecast.mean[row["always zero"]] == 0).all() and (forecast.quantiles[row["always zero"]] == 0).all()


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_the_backtest_scores_them_beside_the_baselines(frequency: str) -> None:
    panel, model = learned(frequency)
    start = panel.dates[PERIODS[frequency] - 1 - 3 * HORIZON[frequency]]
    end = panel.dates[PERIODS[frequency] - 1]
    predictors = {"stmp": model, "naive": SeasonalNaive(), "festival": SameFestivalLastYear()}
    result = backtest(predictors, panel, start, end, HORIZON[frequency], draws=0, cold_histories=()).to_dict()
    for slices in (result["slices"], *result["baselines"].values()):
        assert slices["all"]["n"] > 0
        assert all(np.isfinite(slices["all"][name]) for name in ("mse", "wape", "bias", "wql", "mase"))


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_online_forecasts_are_the_same(frequency: str) -> None:
    panel, forecast, _ = forecast_of(frequency)
    _, model = learned(frequency)
    everyone = np.arange(len(panel.regions))
    online = Online(model, panel, np.full(len(everyone), PERIODS[frequency] - 1))
    found = online.predict(everyone, HORIZON[frequency])
    np.testing.assert_allclose(found.mean, forecast.mean, rtol=1e-3, atol=1e-4)
