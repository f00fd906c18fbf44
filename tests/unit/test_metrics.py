"""Metrics against plain loops and, where it is installed, against fev itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stmp.errors import ConfigError
from stmp.evaluation.calibration import Reliability, reliability
from stmp.evaluation.metrics import (
    METRICS,
    SUMS,
    Points,
    from_sums,
    interval,
    median_column,
    point_sums,
    resample,
    seasonal_scale,
    summary,
)

pytestmark = pytest.mark.unit

LEVELS = (0.1, 0.5, 0.9)


def draw(n=200, series=5, seed=0):
    """Points of some series with their forecasts."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, series, n)
    actual = rng.gamma(2.0, 10.0, n)
    scale = (rng.random(series) * 5 + 1)[ids]
    quantiles = np.sort(actual[:, None] + rng.normal(0, 5, (n, len(LEVELS))), axis=1)
    return ids, actual, scale, Points(actual + rng.normal(1, 3, n), quantiles)


def plain_loop(actual, scale, points):
    """The definitions, one point at a time."""
    squared, absolute, error, pinball, inside, mase, sql = ([] for _ in range(7))
    for y, s, mean, q in zip(actual, scale, points.mean, points.quantiles, strict=True):
        loss = np.mean(
            [2 * (level * (y - x) if y >= x else (level - 1) * (y - x)) for level, x in zip(LEVELS, q, strict=True)]
        )
        squared.append((mean - y) ** 2)
        absolute.append(abs(q[1] - y))
        error.append(mean - y)
        pinball.append(loss)
        inside.append(q[0] <= y <= q[2])
        if np.isfinite(s):
            mase.append(abs(q[1] - y) / s)
            sql.append(loss / s)
    return {
        "mse": np.mean(squared),
        "rmse": np.sqrt(np.mean(squared)),
        "mae": np.mean(absolute),
        "wape": np.sum(absolute) / np.sum(np.abs(actual)),
        "bias": np.sum(error) / np.sum(actual),
        "mase": np.mean(mase),
        "wql": np.sum(pinball) / np.sum(np.abs(actual)),
        "sql": np.mean(sql),
        "coverage_80": np.mean(inside),
    }


def test_all_metrics_are_those_of_a_plain_loop_however_points_are_grouped():
    ids, actual, scale, points = draw()
    scale[ids == 2] = np.nan  # a series without a scale
    groups, sums = point_sums(ids, actual, scale, {"m": points}, LEVELS)["m"]
    expected = plain_loop(actual, scale, points)
    pooled = from_sums(sums.sum(axis=0))
    assert set(pooled) == set(METRICS) == set(expected)
    for key, value in expected.items():
        assert pooled[key] == pytest.approx(value, rel=1e-9), key
    assert list(groups) == [0, 1, 2, 3, 4]
    assert summary(sums.sum(axis=0))["unscaled"] == (ids == 2).sum()
    one = ids == 3
    assert from_sums(sums)["wql"][3] == pytest.approx(
        plain_loop(actual[one], scale[one], Points(points.mean[one], points.quantiles[one]))["wql"]
    )


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 199), seed=st.integers(0, 99))
def test_sums_of_shards_add_up(cut, seed):
    ids, actual, scale, points = draw(seed=seed)
    whole = point_sums(ids, actual, scale, {"m": points}, LEVELS)["m"][1].sum(axis=0)
    parts = np.zeros(len(SUMS))
    for part in (slice(0, cut), slice(cut, None)):
        shard = {"m": Points(points.mean[part], points.quantiles[part])}
        parts += point_sums(ids[part], actual[part], scale[part], shard, LEVELS)["m"][1].sum(axis=0)
    np.testing.assert_allclose(parts, whole, rtol=1e-9)


def test_points_that_a_model_did_not_forecast_are_not_scored():
    ids, actual, scale, points = draw()
    missing = ids == 1
    partial = Points(np.where(missing, np.nan, points.mean), points.quantiles)
    result = point_sums(ids, actual, scale, {"full": points, "partial": partial}, LEVELS)
    assert list(result) == ["full", "partial"]
    assert list(result["partial"][0]) == [0, 2, 3, 4]
    np.testing.assert_array_equal(result["partial"][1], result["full"][1][[0, 2, 3, 4]])


def test_ratios_over_zero_are_none_and_never_infinite():
    nothing_sold = Points(np.ones(3), np.ones((3, 3)))
    sums = point_sums(np.zeros(3, int), np.zeros(3), np.full(3, np.nan), {"m": nothing_sold}, LEVELS)["m"][1][0]
    values = summary(sums)
    assert values["n"] == 3
    assert values["mse"] == values["mae"] == 1.0
    assert values["wape"] is values["wql"] is values["bias"] is values["mase"] is values["sql"] is None
    assert values["unscaled"] == 3
    assert summary(np.zeros(len(SUMS)))["mse"] is None


def test_scale_counts_pairs_of_observed_days_only():
    sales = np.array([[1.0, 2, 4, 8, 16], [1, 2, 4, 8, 16], [3, 3, 3, 3, 3], [1, 2, 3, 4, 5]])
    observed = np.ones((4, 5), dtype=bool)
    observed[1, 2] = False  # leaves the pairs (1, 3) only
    observed[3, :4] = False
    np.testing.assert_allclose(seasonal_scale(sales, observed, 2), [(3 + 6 + 12) / 3, 6.0, np.nan, np.nan])
    assert np.isnan(seasonal_scale(sales, observed, 5)).all()


def test_levels_without_the_median_are_refused():
    assert median_column(LEVELS) == 1
    with pytest.raises(ConfigError, match=r"lack 0\.5"):
        median_column((0.1, 0.9))


def test_coverage_is_unknown_without_its_two_levels():
    sums = point_sums(np.zeros(2, int), np.ones(2), np.ones(2), {"m": Points(np.ones(2), np.ones((2, 1)))}, (0.5,))[
        "m"
    ][1][0]
    assert summary(sums)["coverage_80"] is None


def test_bootstrap_has_the_standard_error_of_the_mean():
    rng = np.random.default_rng(3)
    values = rng.normal(10.0, 2.0, 400)
    draws = resample(np.stack([values, np.ones(400)], axis=1), 2000, seed=1)
    means = draws[:, 0] / draws[:, 1]
    assert means.std() == pytest.approx(2.0 / np.sqrt(400), rel=0.15)
    low, high = interval(means)
    assert low < values.mean() < high
    np.testing.assert_array_equal(draws, resample(np.stack([values, np.ones(400)], axis=1), 2000, seed=1))
    assert interval(np.full(10, np.nan)) is None


def test_reliability_counts_actuals_below_each_level():
    group = np.array([0, 0, 1, 1, 1])
    actual = np.array([1.0, 5, 1, 5, 9])
    quantiles = np.tile([2.0, 6.0], (5, 1))
    quantiles[4] = np.nan  # not forecast
    part = reliability(group, ("weekday", "festival", "fair"), actual, quantiles, (0.2, 0.8))
    both = part + part
    assert both.n.tolist() == [4, 4, 0]
    np.testing.assert_allclose(both.observed()[:2], [[0.5, 1.0], [0.5, 1.0]])
    assert set(both.table()) == {"all", "weekday", "festival"}
    assert Reliability.empty(("a",), (0.5,)).table() == {}


def test_actuals_on_their_quantile_count_as_below_as_far_as_the_level_asks():
    """A tenth of the days may lie below a quantile that 0 sales touch on every third day."""
    actual = np.array([0.0, 0, 0, 1, 2, 3, 4, 5, 6])
    quantiles = np.tile([0.0, 3.5], (9, 1))
    found = reliability(np.zeros(9, int), ("day",), actual, quantiles, (0.1, 0.5))
    np.testing.assert_allclose(found.observed(), [[0.1, 6 / 9]])
    higher = reliability(np.zeros(9, int), ("day",), actual, quantiles, (0.4, 0.5))
    np.testing.assert_allclose(higher.observed(), [[3 / 9, 6 / 9]])


def test_scaled_and_weighted_losses_are_those_of_fev():
    metrics = pytest.importorskip("fev.metrics")
    rng = np.random.default_rng(7)
    series, history, horizon, levels = 6, 60, 14, [0.1, 0.2, 0.5, 0.9]
    past, actual = rng.gamma(2, 10, (series, history)), rng.gamma(2, 10, (series, horizon))
    past[rng.random(past.shape) < 0.1] = np.nan
    actual[rng.random(actual.shape) < 0.1] = np.nan
    past[4] = 5.0  # no seasonal error: fev leaves it out too
    quantiles = np.sort(rng.gamma(2, 10, (series, horizon, len(levels))), axis=2)
    arguments = {
        "y_true": actual[:, :, None],
        "y_pred": quantiles[:, :, 2, None],
        "y_past": past.reshape(-1, 1),
        "y_past_lengths": np.full(series, history),
        "q_pred": quantiles[:, :, None, :],
        "seasonality": 7,
        "quantile_levels": levels,
    }
    row, step = np.nonzero(np.isfinite(actual))
    scale = seasonal_scale(np.nan_to_num(past), np.isfinite(past), 7)
    points = Points(quantiles[row, step, 2], quantiles[row, step])
    ours = from_sums(point_sums(row, actual[row, step], scale[row], {"m": points}, levels)["m"][1].sum(axis=0))
    for name, metric in {"sql": metrics.SQL, "mase": metrics.MASE, "wape": metrics.WAPE, "wql": metrics.WQL}.items():
        with np.errstate(all="ignore"):
            assert ours[name] == pytest.approx(metric().compute(**arguments), rel=1e-9), name
