"""Totals of groups: means that add up, quantiles that hold whatever the regions share, and groups that cannot be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from stmp.data.panel import Panel
from stmp.errors import ConfigError, DataError
from stmp.evaluation.baselines import SeasonalNaive
from stmp.forecast import Forecast
from stmp.forecaster import mean_of_quantiles
from stmp.hierarchy import Dependence, Groups, Totals, fit_shares, level_of, quantile_at

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
REGIONS, DAYS = 24, 400


def table(regions: int = REGIONS) -> pd.DataFrame:
    """Regions in four states and twelve cities, two cities a state and more; all cities have two regions."""
    index = [f"r{r:03d}" for r in range(regions)]
    return pd.DataFrame({"state": [f"s{r % 4}" for r in range(regions)], "city": [f"c{r % 12}" for r in range(regions)],
                         "lat": np.arange(regions, dtype=float)}, index=index)  # fmt: skip


def scores(shares: tuple[float, float, float], days: int, seed: int = 0) -> np.ndarray:
    """Normal scores [R, M, 1] of regions that share some luck."""
    rng = np.random.default_rng(seed)
    groups = Groups.by(table(), ["state", "city"])
    z = np.sqrt(1 - sum(shares)) * rng.standard_normal((REGIONS, days))
    for share, group in zip(shares, groups.of, strict=True):
        z += np.sqrt(share) * rng.standard_normal((len(groups.names), days))[group]
    return z[:, :, None]


def normal_forecast(sigma: float = 10.0, mean: float = 100.0, regions: int = REGIONS, horizon: int = 6) -> Forecast:
    z = torch.special.ndtri(torch.tensor(LEVELS)).numpy()
    shape = (regions, horizon, 1)
    quantiles = np.broadcast_to(mean + sigma * z, (*shape, len(LEVELS))).astype(np.float32)
    dates = np.arange("2024-03-01", "2024-03-07", dtype="datetime64[D]")[:horizon]
    return Forecast(table(regions).index.to_numpy(dtype=object), ("sales",), dates, LEVELS,
                    np.full(shape, mean, dtype=np.float32), quantiles, "m/1")  # fmt: skip


@pytest.mark.parametrize("shares", [(0.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.2, 0.1, 0.3)])
def test_what_regions_share_is_found_again_and_nested_columns_are_told_apart(shares):
    found = fit_shares(scores(shares, days=3000), Groups.by(table(), ["state", "city"]).of)
    np.testing.assert_allclose(found, shares, atol=0.03)


def test_unknown_scores_and_rows_with_few_of_them_count_for_nothing():
    z = scores((0.3, 0.0, 0.0), days=2000)
    z[np.random.default_rng(1).random(z.shape) < 0.4] = np.nan
    z[3, 5:] = np.nan  # too few left
    z[4] = 0.0  # never errs
    found = fit_shares(z, Groups.by(table(), ["state"]).of)
    np.testing.assert_allclose(found, (0.3, 0.0), atol=0.04)
    assert fit_shares(np.full_like(z, np.nan), Groups.by(table(), []).of) == (0.0,)


@pytest.mark.parametrize(("shares", "width"), [((0.0, 0.0), 24**0.5), ((0.5, 0.0), (24 * (1 + 23 * 0.5)) ** 0.5)])
def test_the_spread_of_a_total_is_that_of_the_sum(shares, width):
    totals = Totals(Groups.by(table(), ["state"]), Dependence(shares))
    totals.add(normal_forecast())
    found = totals.forecast()
    assert found.regions.tolist() == ["total", "state=s0", "state=s1", "state=s2", "state=s3"]
    np.testing.assert_allclose(found.mean[0], 2400.0)
    np.testing.assert_allclose(found.mean[1:], 600.0)
    spread = (found.quantiles[0, :, 0, -1] - found.quantiles[0, :, 0, 0]).mean() / (2 * 1.2816)
    assert spread == pytest.approx(10.0 * width, rel=0.07)


def test_shares_of_one_give_the_sum_of_the_quantiles_and_one_region_keeps_its_own():
    totals = Totals(Groups.by(table(), []), Dependence((1.0,)))
    totals.add(normal_forecast())
    np.testing.assert_allclose(
        totals.forecast().quantiles[0, 0, 0], normal_forecast().quantiles.sum(0)[0, 0], rtol=0.02
    )
    alone = Totals(Groups.by(table(1), ["state"]), Dependence((0.0, 0.4)))
    alone.add(normal_forecast(regions=1))
    np.testing.assert_array_equal(alone.forecast().quantiles[1, 0], normal_forecast().quantiles[0, 0])


def test_regions_may_come_in_parts_and_closed_days_add_nothing():
    whole, one = normal_forecast(), table().index
    closed = whole.mean.copy(), whole.quantiles.copy()
    for part in closed:
        part[:, 2] = 0.0
    whole = Forecast(whole.regions, whole.series, whole.dates, LEVELS, *closed)
    totals = Totals(Groups.by(table(), ["state"]), Dependence((0.2, 0.1)))
    for part in (slice(0, 7), slice(7, 24)):
        totals.add(Forecast(one[part].to_numpy(), whole.series, whole.dates, LEVELS, whole.mean[part],
                            whole.quantiles[part]))  # fmt: skip
    found = totals.forecast()
    expected = [whole.mean.sum(axis=0), *(whole.mean[state::4].sum(axis=0) for state in range(4))]
    np.testing.assert_allclose(found.mean, np.stack(expected), rtol=1e-6)
    assert (found.quantiles[:, 2] == 0).all()
    assert (np.diff(found.quantiles, axis=-1) >= 0).all()


def test_one_region_keeps_its_quantiles_wherever_its_mean_lies():
    """A mean is of what was learned, and calibration moved the quantiles; so does a day with one seller."""
    usual = normal_forecast(regions=3)
    mean, quantiles = usual.mean * 1.3, usual.quantiles.copy()
    quantiles[..., 5:] *= 1.5
    mean[2, 4], quantiles[2, 4] = 0.0, 0.0  # r002 is closed on the fifth day
    places = pd.DataFrame({"state": ["a", "b", "b"]}, index=usual.regions)
    totals = Totals(Groups.by(places, ["state"]), Dependence((0.3, 0.1)))
    for part in (slice(0, 2), slice(2, 3)):
        totals.add(Forecast(usual.regions[part], usual.series, usual.dates, LEVELS, mean[part], quantiles[part]))
    found = totals.forecast()
    assert found.regions.tolist() == ["total", "state=a", "state=b"]
    np.testing.assert_array_equal(found.quantiles[1], quantiles[0])
    np.testing.assert_array_equal(found.quantiles[2, 4], quantiles[1, 4])
    np.testing.assert_allclose(found.mean[[0, 2]], [mean.sum(axis=0), mean[1:].sum(axis=0)], rtol=1e-6)
    assert (found.quantiles[2, :4, 0, 0] > quantiles[1:, :4, 0, 0].sum(axis=0)).all(), (
        "two do not have bad luck together"
    )


def test_many_regions_that_hardly_sell_make_a_total_that_does():
    """Each sells on one day in five: its median is 0; the median of their total must not be."""
    forecast = normal_forecast()
    quantiles = np.zeros_like(forecast.quantiles)
    quantiles[..., -1] = 2.0
    mean = mean_of_quantiles(torch.from_numpy(quantiles), LEVELS).numpy()
    totals = Totals(Groups.by(table(), []), Dependence((0.0,)))
    totals.add(Forecast(forecast.regions, forecast.series, forecast.dates, LEVELS, mean, quantiles))
    found = totals.forecast()
    np.testing.assert_allclose(found.mean, mean.sum(axis=0, keepdims=True), rtol=1e-5)
    assert (found.median > 0.6 * found.mean).all()


def test_levels_are_the_inverse_of_quantiles_and_their_mean_is_the_forecasts():
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.gamma(2.0, 50.0, (40, len(LEVELS))), axis=-1).astype(np.float32)
    level = rng.random((40, 300)).clip(0.02, 0.995)
    sold = quantile_at(quantiles, LEVELS, level)
    wide = np.repeat(quantiles[:, None], 300, axis=1)
    back = level_of(wide, LEVELS, sold, rng)
    np.testing.assert_allclose(back[sold > 0], level[sold > 0], atol=2e-3)
    even = np.broadcast_to((np.arange(4000) + 0.5) / 4000, (40, 4000))
    means = mean_of_quantiles(torch.from_numpy(quantiles), LEVELS).numpy()
    np.testing.assert_allclose(quantile_at(quantiles, LEVELS, even).mean(axis=-1), means, rtol=0.02)


def test_a_day_without_sales_lies_anywhere_among_the_quantiles_that_are_0():
    quantiles = np.broadcast_to(np.asarray([0, 0, 0, 0, 0, 0, 1, 2, 5.0]), (20_000, 9))
    level = level_of(quantiles, LEVELS, np.zeros(20_000), np.random.default_rng(0))
    assert level.max() <= 0.6
    np.testing.assert_allclose(np.quantile(level, [0.25, 0.5, 0.75]), [0.15, 0.3, 0.45], atol=0.01)


def shared_panel() -> Panel:
    """Regions whose days are good and bad together: half of the variance is that of all."""
    rng = np.random.default_rng(4)
    days = pd.date_range("2023-01-01", periods=DAYS)
    common = rng.standard_normal(DAYS)
    frame = pd.concat(
        pd.DataFrame({"unique_id": r, "ds": days, "y": 100 + 8 * (common + rng.standard_normal(DAYS))})
        for r in table().index
    )
    return Panel.from_frame(frame)


def test_measured_on_the_past_the_range_of_a_total_holds():
    panel, groups = shared_panel(), Groups.by(table(), ["state"])
    model = SeasonalNaive()
    measured = Dependence.measure(model, panel, panel.dates[200], 14, groups)
    assert measured.shares[0] == pytest.approx(0.5, abs=0.12)
    assert measured.shares[1] < 0.06
    inside = {measured: [], Dependence((0.0, 0.0)): []}
    for origin in range(200, DAYS - 14, 14):
        forecast = model.predict(panel.until(panel.dates[origin]), panel.dates[origin], 14)
        actual = panel.sales[:, origin + 1 : origin + 15].numpy().sum(axis=0)
        for dependence, found in inside.items():
            totals = Totals(groups, dependence)
            totals.add(forecast)
            quantiles = totals.forecast().quantiles[0]
            found.append((actual >= quantiles[..., 0]) & (actual <= quantiles[..., -1]))
    held, narrow = (np.mean(found) for found in inside.values())
    assert held == pytest.approx(0.8, abs=0.08)
    assert narrow < 0.5


def test_nothing_after_the_origin_is_read():
    panel, groups = shared_panel(), Groups.by(table(), ["state"])
    cut = panel.until(panel.dates[300])
    assert Dependence.measure(SeasonalNaive(), panel, panel.dates[300], 7, groups) == Dependence.measure(
        SeasonalNaive(), cut, panel.dates[300], 7, groups
    )


def test_too_short_a_past_is_refused():
    panel = shared_panel()
    with pytest.raises(DataError, match="Totals need 48 periods before"):
        Dependence.measure(SeasonalNaive(), panel, panel.dates[30], 14, Groups.by(table(), []))


def test_groups_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"no columns \['country'\].*'state', 'city'"):
        Groups.by(table(), ["country"])
    with pytest.raises(ConfigError, match=r"\['lat'\] hold numbers"):
        Groups.by(table(), ["state", "lat"])
    lacking = table()
    lacking.loc["r003", "city"] = None
    with pytest.raises(DataError, match=r"1 of 24 regions have no city, such as \['r003'\]"):
        Groups.by(lacking, ["city"])
    with pytest.raises(ConfigError, match="'total'"):
        Groups.by(table().rename(index={"r000": "total"}), ["city"])


def test_a_single_quantile_is_no_range():
    forecast = normal_forecast()
    lone = Forecast(forecast.regions, forecast.series, forecast.dates, (0.5,), forecast.mean, forecast.mean[..., None])
    with pytest.raises(ConfigError, match="two quantiles"):
        Totals(Groups.by(table(), []), Dependence((0.0,))).add(lone)


def test_a_forecast_is_its_table():
    forecast = normal_forecast()
    again = Forecast.from_frame(forecast.to_frame().assign(origin="2024-02-29", forecast_id="x"))
    for name in ("regions", "dates", "mean", "quantiles"):
        np.testing.assert_array_equal(getattr(again, name), getattr(forecast, name))
    assert (again.series, again.levels, again.model_version) == (forecast.series, LEVELS, "m/1")
