"""The synthetic city: repeatable, independent of chunks, and with a truth that can be found again in the tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from stmp.data.synthetic import generate, generate_chunks
from stmp.data.synthetic_files import expected_frame, write
from stmp.data.synthetic_settings import (
    FEATURES,
    FESTIVALS,
    OFFSETS,
    RESPONSE,
    SHAPE,
    TOWN_FAIR,
    TYPES,
    WEEKLY,
    SyntheticConfig,
    festival_effects,
)
from stmp.errors import ConfigError

SMALL = SyntheticConfig(regions=12, years=0.5, seed=3)


def test_same_settings_same_city_and_another_seed_another() -> None:
    first, again, other = generate(SMALL), generate(SMALL), generate(SMALL, seed=4)
    pd.testing.assert_frame_equal(first.sales, again.sales)
    pd.testing.assert_frame_equal(first.regions, again.regions)
    assert not first.sales["sales"].equals(other.sales["sales"])


def test_chunks_do_not_depend_on_their_size() -> None:
    whole = generate(SMALL)
    parts = list(generate_chunks(SMALL, chunk=5))
    assert [len(part.regions) for part in parts] == [5, 5, 2]
    pd.testing.assert_frame_equal(pd.concat([p.sales for p in parts], ignore_index=True), whole.sales)
    np.testing.assert_array_equal(np.concatenate([p.truth.gain for p in parts]), whole.truth.gain)


def test_expected_sales_are_the_mean_of_the_sales() -> None:
    city = generate(regions=40, years=1, seed=0, shock_sigma=0.0)
    rows = expected_frame(city).merge(city.sales)
    assert len(rows) == len(city.sales)
    assert rows["sales"].sum() / rows["expected"].sum() == pytest.approx(1, abs=0.01)
    error = (rows["sales"] - rows["expected"]).abs().sum() / rows["sales"].sum()
    assert 0.05 < error < 0.2, "the irreducible error of one day's sales"


@pytest.mark.parametrize("noise", ["none", "lognormal"])
def test_other_noise(noise: str) -> None:
    city = generate(SMALL, noise=noise, shock_sigma=0.0)
    rows = expected_frame(city).merge(city.sales)
    open_rows = rows[rows["open"] == 1]
    ratio = np.log(open_rows["sales"] / open_rows["expected"])
    assert ratio.std() == pytest.approx(0.0 if noise == "none" else SMALL.noise_level, abs=0.01)


def test_weekly_profile_and_promotion_lift_are_in_the_sales() -> None:
    city = generate(regions=80, years=2, seed=1, gain_sigma=0.0, trend_sigma=0.0)
    rows = city.sales[city.sales["open"] == 1].assign(weekday=lambda f: f["date"].dt.day_of_week)
    kind = pd.Series(city.truth.region_type, index=city.regions["region_id"])
    rows["type"] = rows["region_id"].map(kind)
    plain = rows[rows["promo"] == 0]
    profile = plain.groupby(["type", "weekday"])["sales"].mean().unstack()
    profile = profile.div(profile.mean(axis=1), axis=0)
    np.testing.assert_allclose(profile.to_numpy(), WEEKLY / WEEKLY.mean(axis=1, keepdims=True), atol=0.12)
    lift = np.log(rows[rows["promo"] == 1].groupby("type")["sales"].mean() / plain.groupby("type")["sales"].mean())
    assert lift[2] > lift[0] > 0, "a campus answers promotions more than an office district"


def test_festivals_lift_some_types_and_empty_others() -> None:
    effects = festival_effects().set_index(["type", "festival", "offset"])["log_effect"]
    assert set(effects.index.get_level_values("festival")) == set(FESTIVALS)
    assert effects["residential", "spring_feast", 0] > 0.5 > 0 > -0.5 > effects["office", "spring_feast", 0]
    assert effects["campus", "singles_day", 1] < 0, "a slump after a day of gifts"

    quiet = generate(regions=60, years=1, seed=2, gain_sigma=0.0, taste_sigma=0.0, noise="none", shock_sigma=0.0)
    day = quiet.calendar.loc[quiet.calendar["event"] == "labour_day", "date"].iloc[0]
    sales = quiet.sales.merge(quiet.regions[["region_id", "district"]])
    festive = sales[sales["date"] == day].set_index("region_id")
    normal = sales[sales["date"] == day - pd.Timedelta(days=7)].set_index("region_id").reindex(festive.index)
    same = (normal["price"] == festive["price"]) & (normal["open"] == 1) & (festive["open"] == 1)
    ratio = np.log(festive["sales"] / normal["sales"])[same]
    kind = pd.Series(quiet.truth.region_type, index=quiet.regions["region_id"])[ratio.index]
    peak = int(np.flatnonzero(OFFSETS == 0)[0])
    expected = RESPONSE[kind] @ (np.asarray(FESTIVALS["labour_day"]) * SHAPE[:, peak])
    np.testing.assert_allclose(ratio, expected, atol=0.1)  # a week of yearly cycle and trend is the rest


def test_local_festivals_hold_in_their_district_only() -> None:
    settings = {"noise": "none", "shock_sigma": 0.0, "promo_rate": 0.0, "gain_sigma": 0.0, "taste_sigma": 0.0}
    city = generate(regions=40, years=1, seed=0, districts=3, sunday_closed_share=0, works_share=0, **settings)
    fairs = city.calendar[city.calendar["event"] == TOWN_FAIR].drop_duplicates("scope")
    assert len(fairs) == 3
    sales = city.sales.pivot(index="date", columns="region_id", values="sales")
    ordinary = fairs["date"].min() - pd.Timedelta(days=14)  # the same weekday, before any fair
    tourist = city.regions[city.truth.region_type == TYPES.index("tourist")]
    for fair in fairs.itertuples():
        lift = np.log(sales.loc[fair.date] / sales.loc[ordinary])
        far = fairs.loc[(fairs["date"] - fair.date).abs() > pd.Timedelta(days=3), "scope"]
        there = tourist.loc[tourist["district"] == fair.scope, "region_id"]
        elsewhere = tourist.loc[tourist["district"].isin(far), "region_id"]
        assert lift[there].mean() - lift[elsewhere].mean() > 0.7


def test_late_openers_closed_days_and_missing_static_values() -> None:
    city = generate(regions=60, years=1, seed=0, late_share=0.5, works_share=0.5, static_missing=0.1)
    first = city.sales.groupby("region_id")["date"].min()
    opened = pd.Series(pd.to_datetime(city.truth.opened), index=city.regions["region_id"])
    pd.testing.assert_series_equal(first, opened, check_names=False, check_dtype=False)
    assert 0.3 < (opened > opened.min()).mean() < 0.7
    closed = city.sales["open"] == 0
    assert 0 < closed.mean() < 0.2
    assert (city.sales.loc[closed, ["sales", "customers"]] == 0).all(axis=None)
    assert city.regions[list(FEATURES)].isna().any(axis=None)


def test_several_series_and_future_rows() -> None:
    city = generate(SMALL, series=("food", "drinks", "home"), future_days=14)
    assert not city.sales.duplicated(["region_id", "date", "series_id"]).any()
    future = city.sales["date"] > pd.Timestamp(city.config.dates[-1])
    assert future.sum() == 14 * 3 * 12
    assert city.sales.loc[future, ["sales", "customers"]].isna().all(axis=None)
    assert city.sales[["promo", "price", "open"]].notna().all(axis=None)
    assert city.sales.loc[~future, "sales"].notna().all()


def test_written_files_are_the_city(tmp_path) -> None:
    path = write(SMALL, tmp_path / "city", chunk=5)
    spec = yaml.safe_load(path.read_text())
    assert spec["tables"]["sales"]["target"] == "sales"
    assert "series" not in spec["tables"]["sales"]
    city = generate(SMALL)
    sales = pd.read_parquet(tmp_path / "city" / "sales.parquet")
    assert len(sales) == len(city.sales)
    np.testing.assert_array_equal(sales["sales"], city.sales["sales"])
    truth = pd.read_parquet(tmp_path / "city" / "truth.parquet")
    assert truth["type"].isin(TYPES).all()
    assert len(truth) == 12
    assert len(pd.read_parquet(tmp_path / "city" / "expected.parquet")) == len(sales)
    write(SMALL, tmp_path / "bare", truth=False)
    names = sorted(p.name for p in (tmp_path / "bare").iterdir())
    assert names == ["calendar.parquet", "dataset.yaml", "regions.parquet", "sales.parquet"]


def test_bad_settings_are_named_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"regions is 0.*noise is 'x'"):
        SyntheticConfig(regions=0, noise="x")
    with pytest.raises(ConfigError, match="unknown setting region; settings are regions"):
        generate(region=5)
    with pytest.raises(ConfigError, match="chunk is 0"):
        list(generate_chunks(SMALL, chunk=0))
