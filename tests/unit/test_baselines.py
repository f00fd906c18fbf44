"""Baselines against plain loops, and the proof that none looks past its origin."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import torch

from stmp.data.calendar import DayRule
from stmp.data.panel import Panel
from stmp.errors import DataError
from stmp.evaluation.baselines import LEVELS, SameFestivalLastYear, SeasonalNaive
from stmp.evaluation.leak import assert_no_leak

pytestmark = pytest.mark.unit

RULES = (DayRule("festival", event=("*",), before=1, after=1), DayRule("weekend", weekdays=(5, 6)))


def make(days=60, regions=4, start="2024-01-01", seed=0, fairs=(45,), missing=0.1):
    """Daily sales with gaps, closed days, a promotion known ahead and a cart known after the fact."""
    rng = np.random.default_rng(seed)
    dates = pd.date_range(start, periods=days)
    frame = pd.DataFrame([(f"r{r}", d) for r in range(regions) for d in dates], columns=["unique_id", "ds"])
    weekly = np.array([1.0, 1.1, 1.2, 1.0, 1.4, 1.8, 0.6])[frame["ds"].dt.weekday]
    frame["y"] = 100 * weekly * rng.lognormal(0, 0.1, len(frame))
    frame["shut"] = (rng.random(len(frame)) < 0.05).astype(int)
    frame.loc[rng.random(len(frame)) < missing, "y"] = np.nan
    frame["cart"] = rng.random(len(frame))
    frame["promo"] = (rng.random(len(frame)) < 0.3).astype(float)
    events = pd.DataFrame({"date": [dates[i] for i in fairs], "event": "Fair"})
    return Panel.from_frame(frame, past=["cart"], known=["promo"], events=events, rules=RULES, closed="shut")


def two_series(panel):
    """The same regions with a second series, twice as large, that the first region does not have."""
    sales = torch.cat([panel.sales, 2 * panel.sales], dim=2)
    observed = torch.cat([panel.observed, panel.observed.clone()], dim=2)
    observed[0, :, 1] = False
    return replace(panel, series=("one", "two"), sales=torch.where(observed, sales, 0.0), observed=observed)


ALL = [SeasonalNaive(), SeasonalNaive(plain=True), SameFestivalLastYear()]


@pytest.mark.parametrize("baseline", ALL, ids=lambda b: b.name)
def test_no_baseline_looks_past_the_origin(baseline):
    panel = make(days=420, fairs=(40, 404))
    origin = panel.dates[399]
    assert_no_leak(baseline, panel, origin, 14)
    assert_no_leak(baseline, two_series(panel), origin, 14)


def test_the_leak_check_finds_a_leak():
    class Cheat(SeasonalNaive):
        def predict(self, panel, origin, horizon):
            forecast = super().predict(panel, origin, horizon)
            at = panel.index_of(origin)
            return replace(forecast, mean=panel.sales[:, at + 1 : at + 1 + horizon].numpy())

    panel = make()
    with pytest.raises(AssertionError, match="mean moved"):
        assert_no_leak(Cheat(), panel, panel.dates[40], 7)


@pytest.mark.parametrize("baseline", ALL, ids=lambda b: b.name)
def test_forecasts_have_the_panels_shape_and_closed_days_are_exactly_0(baseline):
    panel = two_series(make())
    forecast = baseline.predict(panel, panel.dates[45], 14)
    assert forecast.mean.shape == (4, 14, 2)
    assert forecast.quantiles.shape == (4, 14, 2, len(LEVELS))
    assert list(forecast.dates) == list(panel.dates[46:60])
    assert (np.diff(forecast.quantiles, axis=-1) >= 0).all()
    assert (forecast.mean[0, :, 1] == 0).all()  # a series that this region does not have
    closed = panel.closed[:, 46:60].numpy()
    assert closed.any()
    if baseline.closed_as_zero:
        assert (forecast.mean[closed] == 0).all()
        assert (forecast.quantiles[closed] == 0).all()
    one = baseline.predict(make(), panel.dates[45], 14)
    np.testing.assert_array_equal(forecast.mean[:, :, :1], one.mean)


def test_seasonal_naive_is_the_last_observed_weekday():
    panel = make()
    origin = 45
    forecast = SeasonalNaive().predict(panel, panel.dates[origin], 10)
    for r in range(4):
        sales, observed = panel.sales[r, :, 0].numpy(), panel.observed[r, :, 0].numpy()
        differences = [sales[t] - sales[t - 7] for t in range(7, origin + 1) if observed[t] and observed[t - 7]]
        sigma = np.sqrt(np.mean(np.square(differences)))
        for h in range(1, 11):
            target = origin + h
            if panel.closed[r, target]:
                continue
            source = target - 7 * int(np.ceil(h / 7))
            while not observed[source]:
                source -= 7
            assert forecast.mean[r, h - 1, 0] == pytest.approx(sales[source], rel=1e-6)
            expected = [sales[source] + NormalDist().inv_cdf(q) * sigma * np.sqrt(np.ceil(h / 7)) for q in LEVELS]
            np.testing.assert_allclose(forecast.quantiles[r, h - 1, 0], expected, rtol=1e-4)


def test_plain_seasonal_naive_takes_closed_days_as_0_and_holds_gaps():
    frame = pd.DataFrame({"unique_id": "r", "ds": pd.date_range("2024-01-01", periods=21), "y": np.arange(21.0) + 1})
    frame["shut"] = 0
    frame.loc[15, ["y", "shut"]] = [0.0, 1]
    frame.loc[17, "y"] = np.nan
    frame = pd.concat(
        [frame, pd.DataFrame({"unique_id": "r", "ds": pd.date_range("2024-01-22", periods=7), "y": 1.0, "shut": 0})]
    )
    panel = Panel.from_frame(frame, closed="shut")
    mean = SeasonalNaive(plain=True).predict(panel, "2024-01-21", 7).mean[0, :, 0]
    assert mean.tolist() == [15, 0, 17, 17, 19, 20, 21]
    assert SeasonalNaive().predict(panel, "2024-01-21", 7).mean[0, :, 0].tolist() == [15, 9, 17, 11, 19, 20, 21]


def test_a_region_with_a_few_days_of_history_is_still_forecast():
    panel = make(missing=0.0)
    young = panel.with_history(panel.dates[45], 3)
    for baseline in (SeasonalNaive(), SameFestivalLastYear()):
        forecast = baseline.predict(young, panel.dates[45], 14)
        assert np.isfinite(forecast.mean).all()
        assert np.isfinite(forecast.quantiles).all()
        assert (forecast.mean[~panel.closed[:, 46:60].numpy()] > 0).all()


def test_last_years_festival_is_copied_at_this_years_level():
    """Sales double from one year to the next; the fair sells three times a normal day and moves by three days."""
    dates = pd.date_range("2023-01-01", periods=430)
    fairs = [50, 50 + 361]
    y = np.where(np.arange(430) < 365, 100.0, 200.0)
    for fair in fairs:
        y[fair - 1 : fair + 2] *= [1.5, 3.0, 0.5]
    frame = pd.DataFrame({"unique_id": "r", "ds": dates, "y": y})
    events = pd.DataFrame({"date": dates[fairs], "event": "Fair"})
    panel = Panel.from_frame(frame, events=events, rules=RULES)
    forecast = SameFestivalLastYear().predict(panel, dates[404], 14)  # the fair is 7 days ahead
    expected = np.full(14, 200.0)
    expected[5:8] = [300, 600, 100]
    np.testing.assert_allclose(forecast.mean[0, :, 0], expected, rtol=1e-5)
    naive = SeasonalNaive().predict(panel, dates[404], 14)
    np.testing.assert_allclose(naive.mean[0, :, 0], 200.0)


def test_days_that_were_a_festival_a_year_before_are_not_copied():
    dates = pd.date_range("2023-01-01", periods=430)
    y = np.full(430, 100.0)
    y[50] = 1000.0
    events = pd.DataFrame({"date": dates[[50]], "event": "Once"})
    panel = Panel.from_frame(pd.DataFrame({"unique_id": "r", "ds": dates, "y": y}), events=events, rules=RULES)
    forecast = SameFestivalLastYear().predict(panel, dates[410], 14)  # 364 days after the event lies within
    np.testing.assert_allclose(forecast.mean[0, :, 0], 100.0, rtol=1e-5)


def test_weekly_data_repeat_last_year_once_there_are_two():
    dates = pd.date_range("2020-01-03", periods=130, freq="7D")
    frame = pd.DataFrame({"unique_id": "r", "ds": dates, "y": np.arange(130) % 52 + 1.0})
    panel = Panel.from_frame(frame, rules=())
    assert SeasonalNaive().predict(panel, dates[119], 4).mean[0, :, 0].tolist() == [17, 18, 19, 20]
    assert SeasonalNaive().predict(panel, dates[60], 2).mean[0, :, 0].tolist() == [9, 9]
    assert SeasonalNaive(season=1).predict(panel, dates[119], 2).mean[0, :, 0].tolist() == [16, 16]


def test_a_horizon_past_the_calendar_is_refused():
    panel = make()
    with pytest.raises(DataError, match="dates end on"):
        SeasonalNaive().predict(panel, panel.dates[55], 14)
