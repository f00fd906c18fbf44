"""Bad input: every fault is found, told with its table, column, rows and count, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stmp.errors import ConfigError, DataError
from stmp_platform.dataset import ingest, load_spec, read_panel
from stmp_platform.dataset.checks import FaultyData
from tests.raw_tables import RawTables, shops

Change = Callable[[RawTables], None]


def _set(table: str, rows: object, column: str, value: object) -> Change:
    def change(raw: RawTables) -> None:
        frame = raw.tables[table]
        if isinstance(value, str):
            frame[column] = frame[column].astype(object)
        frame.loc[rows, column] = value

    return change


def _add(table: str, count: int, **values: object) -> Change:
    def change(raw: RawTables) -> None:
        frame = raw.tables[table]
        raw.tables[table] = pd.concat([frame, frame.head(count).assign(**values)], ignore_index=True)

    return change


def _drop(table: str, column: str) -> Change:
    def change(raw: RawTables) -> None:
        raw.tables[table] = raw.tables[table].drop(columns=column)

    return change


def _times(raw: RawTables) -> None:
    raw.tables["sales"].loc[[4, 9], "day"] += pd.Timedelta(hours=5)


def _wrong_century(raw: RawTables) -> None:
    raw.tables["sales"].loc[3, "day"] = pd.Timestamp("2121-01-23")


ERRORS: dict[str, tuple[Change, list[str]]] = {
    "no numbers": (_set("sales", [3, 5, 8], "units", "many"), ["sales.units: 3 values are no numbers", "units: many"]),
    "infinite": (_set("sales", [3], "price", np.inf), ["sales.price: 1 values are infinite"]),
    "bad date": (_set("sales", [3, 4], "day", "the 3rd"), ["sales.day: 2 values are no dates", "day: the 3rd"]),
    "no date": (_set("sales", [3], "day", pd.NaT), ["sales.day: 1 rows have no day"]),
    "no region": (_set("sales", [3, 4], "shop", None), ["sales.shop: 2 rows have no shop"]),
    "no series": (_set("sales", [3], "item", None), ["sales.item: 1 rows have no item"]),
    "duplicates": (_add("sales", 2), ["sales: ", "share their keys and date", "shop: 1"]),
    "unknown regions": (
        _set("sales", [0, 1, 2], "shop", "77"),
        ["sales.shop: 1 regions (3 rows) are not in the regions table: 77", "item: apples"],
    ),
    "missing column": (_drop("sales", "price"), ["sales.price: there is no such column", "tables.sales.known"]),
    "missing key": (_drop("weather", "state"), ["covariates[0].state: there is no such column"]),
    "duplicate regions": (_add("regions", 1), ["regions: 2 rows share their keys", "shop: 1, rows: 2"]),
    "empty region id": (_set("regions", 4, "shop", None), ["regions.shop: 1 rows have no shop", "not in the regions"]),
    "text in a static number": (
        _set("regions", 1, "area", "big"),
        ["regions.area: 1 values are no numbers", "area: big"],
    ),
    "duplicate covariates": (_add("weather", 3), ["covariates[0]: 6 rows share", "state: north"]),
    "duplicate region covariates": (_add("plans", 1), ["covariates[1]: ", "share their keys"]),
    "bad calendar date": (_set("calendar", 1, "day", "Easter"), ["calendar.day: 1 values are no dates"]),
    "times of day": (_times, ["sales.day: 2 dates have a time of day", "05:00"]),
    "mistyped year": (_wrong_century, ["sales.day: the dates run from 2021-01-20 to 2121-01-23", "2121-01-23"]),
    "empty": (lambda raw: raw.tables.update(sales=raw.tables["sales"].head(0)), ["sales: the table is empty"]),
    "no sales at all": (_set("sales", slice(None), "units", np.nan), ["sales.units: holds no value at all"]),
    "missing file": (
        lambda raw: raw.spec["tables"]["calendar"].update(path="nowhere.parquet"),
        ["calendar: there is no file", "nowhere.parquet"],
    ),
    "text that is filled by a number's name": (
        lambda raw: raw.spec["fill"].update(budget="much"),
        ["covariates[1].budget: holds numbers, but dataset.yaml fills it by 'much'"],
    ),
}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("fault", ERRORS)
def test_each_fault_is_told(fault: str, suffix: str, tmp_path: Path) -> None:
    change, expected = ERRORS[fault]
    raw = shops()
    change(raw)
    if suffix == "parquet":
        for frame in raw.tables.values():
            for name in frame.columns:
                if frame[name].dtype == object:
                    frame[name] = frame[name].map(lambda item: item if item is None or item is pd.NaT else str(item))
    with pytest.raises(FaultyData) as caught:
        ingest(raw.write(tmp_path / "raw", suffix), str(tmp_path / "data"))
    for text in expected:
        assert text in str(caught.value)
    assert not (tmp_path / "data").exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["raw"]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    raw = shops()
    names = ["no numbers", "infinite", "no series", "duplicate covariates", "bad calendar date",
             "text in a static number", "unknown regions", "duplicates"]  # fmt: skip
    for name in names:
        ERRORS[name][0](raw)
    raw.tables["plans"] = raw.tables["plans"].drop(columns="budget")
    with pytest.raises(DataError) as caught:
        ingest(raw.write(tmp_path / "raw", "csv"), str(tmp_path / "data"))
    told = str(caught.value)
    for table in ("sales.units", "sales.price", "sales.item", "sales.shop", "sales: ", "covariates[0]: ",
                  "calendar.day", "regions.area", "covariates[1].budget"):  # fmt: skip
        assert table in told, table
    faults = caught.value.faults  # type: ignore[attr-defined]
    assert all(len(fault.examples) <= 5 for fault in faults)
    assert f"{len(faults)} faults" in told


@pytest.mark.parametrize(
    "how", ["truncated parquet", "damaged parquet", "no parquet", "ragged csv", "latin csv", "empty csv"]
)
def test_corrupt_files_are_named(how: str, tmp_path: Path) -> None:
    suffix = how.split()[-1]
    path = shops().write(tmp_path / "raw", suffix)
    sales = tmp_path / "raw" / f"sales.{suffix}"
    content = sales.read_bytes()
    if how == "truncated parquet":
        sales.write_bytes(content[: len(content) // 2])
    elif how == "damaged parquet":
        sales.write_bytes(content[:20] + bytes(300) + content[320:])
    elif how == "no parquet":
        sales.write_bytes(b"this is no parquet file")
    elif how == "ragged csv":
        lines = content.splitlines(keepends=True)
        lines[7] = b"1,apples\n"
        sales.write_bytes(b"".join(lines))
    elif how == "latin csv":
        sales.write_bytes(content.replace(b"leaflet", "Bl\u00e4ttchen".encode("latin-1")))
    else:
        sales.write_bytes(b"")
    with pytest.raises(DataError, match=r"sales\.(csv|parquet)") as caught:
        ingest(path, str(tmp_path / "data"))
    assert "cannot be read" in str(caught.value)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["raw"]


def test_weekly_dates_on_mixed_weekdays(tmp_path: Path) -> None:
    weeks = pd.date_range("2022-01-07", periods=20, freq="7D").to_series(index=range(20))
    weeks.loc[3] += pd.Timedelta(days=1)
    raw = RawTables(
        {"sales": pd.DataFrame({"r": "a", "d": weeks, "y": 1.0})},
        {"frequency": "W", "tables": {"sales": {"path": "sales", "region": "r", "date": "d", "target": "y"}}},
    )
    with pytest.raises(DataError, match=r"1 dates are off the weekly grid: most weeks end on Friday.*2022-01-29"):
        ingest(raw.write(tmp_path / "raw"), str(tmp_path / "data"))


def _warnings(raw: RawTables, tmp_path: Path) -> list[str]:
    return [str(fault) for fault in ingest(raw.write(tmp_path / "raw"), str(tmp_path / "data")).warnings]


def test_usable_data_is_used_with_warnings(tmp_path: Path) -> None:
    raw = shops()
    sales = raw.tables["sales"]
    sales.loc[sales.index[:3], "units"] = -4
    sold = sales["units"].notna()
    sales.loc[sold & (sales["shop"] == "3"), "units"] = 0
    sales.loc[sold & (sales["shop"] == "1") & (sales["open"] == 0), "units"] = 9
    raw.tables["sales"] = sales[~((sales["shop"] == "20") & (sales["day"] > "2021-02-20"))]
    raw.tables["calendar"].loc[2, "where"] = "atlantis"
    raw.tables["regions"] = pd.concat(
        [raw.tables["regions"], pd.DataFrame({"shop": ["500"], "state": ["north"]})], ignore_index=True
    )
    raw.spec["day_types"]["festival"].append({"event": ["Karneval"], "before": 3})
    told = "\n".join(_warnings(raw, tmp_path))
    for text in (
        "sales.units: 3 values are negative; they are kept as they are; e.g. {shop: 1, item: apples, day: 2021-01-20",
        "3 gaps between the first and the last row of 1 regions; e.g. {region: 2, gaps: 3}",
        "1 regions begin after 2021-01-20; e.g. {region: 10, first: 2021-02-01}",
        "1 regions end before 2021-02-28; e.g. {region: 20, last: 2021-02-20}",
        "1 regions never sold anything; e.g. {region: 3}",
        "12 values on closed days are not 0",
        "1 scopes belong to no region: atlantis",
        "1 regions have no row in the sales table and are left out",
        "day_types name events that no row has: Karneval",
        "sales.price: ",
    ):
        assert text in told, text
    panel = read_panel(str(tmp_path / "data"))
    assert panel.regions.tolist() == ["1", "2", "3", "10", "20"]
    assert (panel.sales < 0).sum() == 3
    assert panel.sales[0][panel.closed[0]].sum() == 0


def test_empty_sales_are_not_observed(tmp_path: Path) -> None:
    raw = shops()
    raw.tables["sales"].loc[[1, 2], "units"] = np.nan
    assert any("2 values are empty: not observed" in text for text in _warnings(raw, tmp_path))
    panel = read_panel(str(tmp_path / "data"))
    assert panel.observed[0, :4, 0].tolist() == [True, False, False, True]


def test_a_bad_spec_lists_all_its_faults(tmp_path: Path) -> None:
    raw = shops()
    raw.spec["tables"]["sales"]["targett"] = "units"
    raw.spec["tables"]["covariates"][0]["keys"] = []
    raw.spec["day_types"]["festival"][0]["dates"] = ["2020-01-01"]
    raw.spec["frequency"] = "hourly"
    with pytest.raises(ConfigError) as caught:
        load_spec(raw.write(tmp_path))
    for text in (
        "tables.sales.targett: unknown key",
        "tables.covariates.0.keys",
        "exactly one of",
        "'hourly' is not known",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda spec: spec["tables"]["sales"]["known"].append("visitors"), "'visitors' is named as known and as past"),
        (lambda spec: spec["closed"].update(column="shut"), "closed.column 'shut' is no past or known column"),
        (lambda spec: spec["fill"].update(area=1), "fill names 'area'"),
        (lambda spec: spec["tables"]["covariates"][0].update(keys=["state"]), "keys lacks the date 'day'"),
        (lambda spec: spec["tables"].pop("regions"), "only a regions table could hold"),
        (lambda spec: spec["day_types"].update(weekend=["caturday"]), "'caturday' is no day of the week"),
        (lambda spec: spec.update(frequency="W"), "have no meaning at frequency W"),
        (lambda spec: spec["tables"]["regions"]["numeric"].append("state"), "'state' is numeric"),
        (lambda spec: spec["day_types"]["festival"].append({"every": "02-30"}), "'02-30' is no month-day"),
        (lambda spec: spec["tables"]["calendar"].pop("events"), None),
    ],
)
def test_contradictions_in_the_spec(change: Callable[[dict], object], expected: str | None, tmp_path: Path) -> None:
    raw = shops()
    change(raw.spec)
    path = raw.write(tmp_path)
    if expected is None:
        load_spec(path)
        return
    with pytest.raises(ConfigError) as caught:
        load_spec(path)
    assert expected in str(caught.value)


def test_unreadable_specs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_spec(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("tables: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_spec(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="must hold keys"):
        load_spec(tmp_path / "list.yaml")
