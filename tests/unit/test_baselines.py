"""Baselines against plain loops, and the proof that none looks past its origin."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import torch

from stmp.data.calendar import DayRule
from stmp.data.panel import Panel
from stmp.errors import ConfigError, DataError
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import (
    ETS,
    LEVELS,
    NEURAL,
    LightGBM,
    Recurrent,
    SameFestivalLastYear,
    SeasonalNaive,
    make_baselines,
)
from stmp.evaluation.baselines.base import Rows
from stmp.evaluation.baselines.features import build_features, from_ratio, to_ratio
from stmp.evaluation.baselines.statistical import fill_by_season, sample_of
from stmp.evaluation.leak import assert_no_leak
from stmp.evaluation.metrics import from_sums

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


# --- the baselines that need a library ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def promoted():
    """Two years of six regions whose sales double on promotions, known ahead, and triple at a yearly fair."""
    rng = np.random.default_rng(5)
    dates = pd.date_range("2022-01-01", periods=600)
    frame = pd.DataFrame([(f"r{r}", d) for r in range(6) for d in dates], columns=["unique_id", "ds"])
    frame["promo"] = (rng.random(len(frame)) < 0.3).astype(float)
    fair = frame["ds"].isin(dates[[150, 515]])
    frame["y"] = 100.0 * (1 + frame["promo"]) * np.where(fair, 3.0, 1.0) * rng.lognormal(0, 0.05, len(frame))
    events = pd.DataFrame({"date": dates[[150, 515]], "event": "Fair"})
    return Panel.from_frame(frame, known=["promo"], events=events, rules=RULES)


@pytest.fixture(scope="module")
def boosted(promoted):
    """LightGBM as small as it gets."""
    pytest.importorskip("lightgbm")
    learner = LightGBM(trials=1, max_rows=4000, origins=25, threads=1)
    return learner.fit(promoted, promoted.dates[500], 14)


def error_of(baseline, panel, origin, horizon=14):
    """WAPE of the median."""
    forecast = baseline.predict(panel, panel.dates[origin], horizon)
    actual = panel.sales[:, origin + 1 : origin + 1 + horizon].numpy()
    return np.abs(forecast.median - actual).sum() / actual.sum()


def test_lightgbm_uses_what_is_known_of_the_future(promoted, boosted):
    assert error_of(boosted, promoted, 530) < 0.1 < 0.3 < error_of(SeasonalNaive(), promoted, 530)
    mean, promo = boosted.predict(promoted, promoted.dates[530], 14).mean[:, :, 0], promoted.known[:, 531:545, 0] > 0.5
    assert mean[promo.numpy()].mean() / mean[~promo.numpy()].mean() == pytest.approx(2.0, rel=0.1)
    assert boosted.settings["rounds"] >= 1


def test_lightgbm_learns_nothing_after_the_last_training_day(promoted, boosted):
    later = torch.as_tensor(promoted.dates > promoted.dates[500])[None, :, None]
    changed = replace(promoted, sales=torch.where(later, 7.0, promoted.sales))
    again = LightGBM(trials=1, max_rows=4000, origins=25, threads=1).fit(changed, promoted.dates[500], 14)
    left, right = (m.predict(promoted, promoted.dates[490], 14) for m in (boosted, again))
    np.testing.assert_array_equal(left.quantiles, right.quantiles)
    np.testing.assert_array_equal(left.mean, right.mean)


def test_lightgbm_looks_not_past_the_origin_and_serves_new_and_short_regions(promoted, boosted):
    assert_no_leak(boosted, promoted, promoted.dates[530], 14)
    young = promoted.with_history(promoted.dates[530], 7)
    forecast = boosted.predict(young, promoted.dates[530], 14)
    assert np.isfinite(forecast.quantiles).all()
    assert (np.diff(forecast.quantiles, axis=-1) >= 0).all()
    empty = promoted.with_history(promoted.dates[530], 0)
    assert (boosted.predict(empty, promoted.dates[530], 14).mean == 0).all()


def test_lightgbm_must_be_fitted_on_enough_days(promoted):
    pytest.importorskip("lightgbm")
    with pytest.raises(ConfigError, match="fit"):
        LightGBM().predict(promoted, promoted.dates[530], 14)
    with pytest.raises(DataError, match="more days"):
        LightGBM().fit(promoted.select([0]), promoted.dates[20], 14)


def test_features_of_the_matched_days_are_means_of_a_plain_loop(promoted):
    origin = 540
    rows = Rows.of(promoted, promoted.dates[origin], 7)
    features = build_features(rows, (0,))
    assert features.values.shape == (6, 7, len(features.names))
    matched = features.values[:, :, features.names.index("matched_weekday_mean")]
    lag = features.values[:, :, features.names.index("lag_2")]
    weekdays = pd.DatetimeIndex(promoted.dates).weekday
    event = promoted.calendar.event[0] > 0
    for r in (0, 4):
        sales, promo = promoted.sales[r, :, 0].numpy(), promoted.known[r, :, 0].numpy()
        level = sales[origin - 62 : origin + 1].mean()
        assert features.level[r] == pytest.approx(level)
        for h in range(7):
            t = origin + 1 + h
            same = [
                np.log(sales[s] / level + 0.05)
                for s in range(origin - 181, origin + 1)
                if weekdays[s] == weekdays[t] and promo[s] == promo[t] and event[s] == event[t]
            ]
            assert matched[r, h] == pytest.approx(np.mean(same), rel=1e-4)
            assert lag[r, h] == pytest.approx(np.log(sales[t - 14] / level + 0.05), rel=1e-4)


def test_the_ratio_goes_there_and_back():
    sales, level = np.array([0.0, 50.0, 1000.0]), np.array([100.0])
    np.testing.assert_allclose(from_ratio(to_ratio(sales, level), level), sales, atol=1e-9)


def test_ets_follows_the_week_and_leaves_a_sample_of_the_rest_unforecast():
    pytest.importorskip("statsforecast")
    panel = make(days=120, missing=0.0, fairs=(5,))
    forecast = ETS(sample_of(panel, series=2)).predict(panel, panel.dates[100], 14)
    assert np.isnan(forecast.mean[1:3]).all()
    done = np.isfinite(forecast.mean[:, 0, 0])
    assert done.tolist() == [True, False, False, True]
    actual, seen = panel.sales[done, 101:115, 0].numpy(), panel.observed[done, 101:115, 0].numpy()
    assert (np.abs(forecast.mean[done, :, 0] - actual)[seen].sum() / actual[seen].sum()) < 0.15
    low, high = forecast.quantiles[done, :, 0, 0][seen], forecast.quantiles[done, :, 0, -1][seen]
    assert 0.6 < ((actual[seen] >= low) & (actual[seen] <= high)).mean() <= 1.0
    young = panel.with_history(panel.dates[100], 10)
    np.testing.assert_array_equal(
        ETS().predict(young, panel.dates[100], 14).mean,
        SeasonalNaive().predict(young, panel.dates[100], 14).mean,
    )


def test_gaps_take_the_last_observed_day_of_their_place_in_the_season():
    sales = np.array([[1.0, 2, 3, 0, 5, 0, 7, 8]])
    observed = np.array([[False, True, True, False, True, False, True, True]])
    filled = fill_by_season(sales, observed, 3)
    mean = (2 + 3 + 5 + 7 + 8) / 5
    np.testing.assert_allclose(filled[0], [mean, 2, 3, mean, 5, 3, 7, 8])


def test_baselines_are_made_by_name_and_unknown_ones_refused(promoted):
    made = make_baselines(promoted, promoted.dates[500], 14, names=["seasonal_naive", "same_festival_last_year", "ets"])
    assert [(name, baseline.name) for name, baseline in made.items()] == [
        (name, name) for name in ("seasonal_naive", "same_festival_last_year", "ets")
    ]
    with pytest.raises(ConfigError, match="prophet"):
        make_baselines(promoted, promoted.dates[500], 14, names=["prophet"])


def test_a_missing_library_is_named_with_how_to_install_it(promoted, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"stmp-platform\[baselines\]"):
        LightGBM().fit(promoted, promoted.dates[500], 14)


# --- against published figures ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_seasonal_naive_has_the_published_figures_of_fev_bench(real_data):
    """fev-bench's rossmann_1D: closed days count as 0, missing days are not scored, windows weigh the same."""
    folder = real_data / "rossmann"
    sales = pd.read_parquet(folder / "sales.parquet", columns=["region_id", "date", "sales", "open"])
    sales["closed"] = (sales["open"] == 0).astype(int)
    panel = Panel.from_frame(sales, region="region_id", date="date", target="sales", closed="closed")
    result = backtest(
        {"naive": SeasonalNaive(plain=True)}, panel, "2014-04-07", "2015-07-31", 48, score_closed=True, draws=0
    )
    windows = [from_sums(sums) for sums in result.by_origin["naive"]]
    assert len(windows) == 10
    published = {"sql": 0.9137, "mase": 0.7886, "wape": 0.2692, "wql": 0.3140}
    for name, value in published.items():
        assert np.mean([w[name] for w in windows]) == pytest.approx(value, abs=5e-5), name


def test_ets_leaves_short_weekly_histories_to_seasonal_naive() -> None:
    """The library refuses series of a few periods; a new region on weekly data has four."""
    weeks = pd.date_range("2024-01-05", periods=30, freq="7D")
    frame = pd.DataFrame({"unique_id": "a", "ds": weeks, "y": np.arange(30.0) + 5})
    panel = Panel.from_frame(frame, rules=())
    for periods in (1, 4, 9, 15, 20):
        cut = panel.with_history(panel.dates[24], 7 * periods)
        forecast = ETS().predict(cut, panel.dates[24], 3)
        assert np.isfinite(forecast.quantiles).all(), periods


@pytest.mark.parametrize("kind", NEURAL)
def test_neural_baselines_learn_a_week_and_a_promotion_and_see_no_future(kind):
    panel = make(days=200, regions=6, fairs=(), missing=0.0)
    promoted = panel.known[:, :, panel.known_names.index("promo")] > 0
    panel = replace(panel, sales=torch.where(promoted[:, :, None], 2 * panel.sales, panel.sales))
    origin = panel.dates[170]
    learner = Recurrent(kind, steps=60, context=28).fit(panel, origin, 14)
    forecast, naive = (p.predict(panel, origin, 14) for p in (learner, SeasonalNaive()))
    seen = panel.observed[:, 171:185].numpy()
    errors = [((f.mean - panel.sales[:, 171:185].numpy()) ** 2)[seen].mean() for f in (forecast, naive)]
    assert errors[0] < 0.5 * errors[1]
    assert (np.diff(forecast.quantiles, axis=-1) >= 0).all()
    assert_no_leak(learner, panel, origin, 14)


def test_the_head_of_the_meta_learner_moves_towards_the_rows_own_past():
    panel = make(days=200, regions=6, fairs=(), missing=0.0)
    learner = Recurrent("maml", steps=30, context=28).fit(panel, panel.dates[170], 7)
    history = learner._history(panel)
    batch = learner._own_windows(history, np.arange(6), 170)
    with torch.no_grad():
        found, added = learner._net(batch)
        errors = []
        for weights in (learner._net.weights().expand(6, -1), learner._net.adapted(batch)):
            miss = ((found @ weights[:, None, :, None])[..., 0] + added - batch.target) * batch.seen
            errors.append((miss**2).sum())
    assert errors[1] < errors[0]


def test_unknown_neural_baselines_and_too_short_histories_are_refused():
    with pytest.raises(ConfigError, match="lstm"):
        Recurrent("transformer")
    panel = make()
    with pytest.raises(DataError, match="needs more history"):
        Recurrent("lstm").fit(panel, panel.dates[4], 7)
