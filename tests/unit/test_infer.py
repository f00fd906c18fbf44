"""One long table becomes a dataset.yaml: roles, frequency, what is known ahead, closed days, holidays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from stmp.errors import ConfigError, DataError
from stmp_platform.dataset.sources.country import country_calendar
from stmp_platform.dataset.sources.infer import infer_spec
from stmp_platform.dataset.spec import load_spec


def long_table(
    days: int = 30, freq: str = "D", start: str = "2024-12-01", regions: int = 3, **columns: Any
) -> pd.DataFrame:
    dates = pd.date_range(start, periods=days, freq=freq)
    index = pd.MultiIndex.from_product([[f"s{i}" for i in range(regions)], dates], names=["unique_id", "ds"])
    frame = index.to_frame(index=False)
    frame["y"] = np.arange(len(frame)) % 17 + 1.0
    return frame.assign(**columns)


def infer(folder: Path, frame: pd.DataFrame, name: str = "sales.csv", country: str | None = None) -> dict[str, Any]:
    path = folder / name
    frame.to_parquet(path) if name.endswith(".parquet") else frame.to_csv(path, index=False)
    result = infer_spec(path, country=country)
    load_spec(str(result))  # what is inferred must be what ingest accepts
    content: dict[str, Any] = yaml.safe_load(result.read_text())
    return content


@pytest.mark.parametrize("name", ["sales.csv", "sales.parquet"])
def test_forecasters_long_format_with_country(tmp_path: Path, name: str) -> None:
    spec = infer(tmp_path, long_table(), name, country="DE-BE")
    sales = spec["tables"]["sales"]
    assert (spec["name"], spec["frequency"]) == ("sales", "D")
    assert sales == {"path": name, "region": "unique_id", "date": "ds", "target": "y"}
    assert spec["day_types"]["weekend"] == ["saturday", "sunday"]
    assert spec["day_types"]["festival"] == [
        {"event": "any", "before": 2, "after": 1},
        {"event": ["Christmas Day"], "before": 10, "after": 1},
    ]
    calendar = pd.read_csv(tmp_path / "calendar.csv")
    assert "2024-12-26" in set(calendar["date"])
    assert "Women's Day" in set(calendar["holiday"]), "a holiday of Berlin and not of all Germany"
    assert calendar["date"].max().startswith("2025"), "the year to be forecast is there too"


def test_store_and_item_are_region_and_series_whatever_their_spelling(tmp_path: Path) -> None:
    one = long_table().rename(columns={"unique_id": "Store ID", "ds": "Date", "y": "UnitSales"})
    frame = pd.concat([one.assign(Item_Nbr=1), one.assign(Item_Nbr=2)])
    sales = infer(tmp_path, frame)["tables"]["sales"]
    assert sales["region"] == "Store ID"
    assert sales["series"] == "Item_Nbr"
    assert sales["date"] == "Date"
    assert sales["target"] == "UnitSales"


def test_a_number_of_each_row_is_no_region(tmp_path: Path) -> None:
    frame = long_table().rename(columns={"unique_id": "warehouse", "y": "orders"})
    sales = infer(tmp_path, frame.assign(id=[f"row {i}" for i in range(len(frame))]))["tables"]["sales"]
    assert (sales["region"], sales["target"]) == ("warehouse", "orders")
    other = tmp_path / "other"
    other.mkdir()
    frame["country"] = frame.pop("warehouse")
    assert infer(other, frame.assign(store_id=range(len(frame))))["tables"]["sales"]["region"] == "country"


def test_a_name_with_words_before_it_is_taken_where_it_is_the_only_one(tmp_path: Path) -> None:
    frame = long_table().rename(columns={"unique_id": "air_store_id", "ds": "visit_date", "y": "num_visitors"})
    sales = infer(tmp_path, frame)["tables"]["sales"]
    assert (sales["region"], sales["date"], sales["target"]) == ("air_store_id", "visit_date", "num_visitors")
    with pytest.raises(DataError, match="no column for date"):
        infer(tmp_path, frame.assign(end_date=frame["visit_date"]), "two.csv")


def test_products_alone_are_the_regions(tmp_path: Path) -> None:
    sales = infer(tmp_path, long_table().rename(columns={"unique_id": "item"}))["tables"]["sales"]
    assert sales["region"] == "item"
    assert "series" not in sales


def test_rows_after_the_last_sales_show_what_is_known_ahead(tmp_path: Path) -> None:
    frame = long_table(footfall=np.arange(90) % 7.0, temperature=np.arange(90) % 5)
    last = frame["ds"] > frame["ds"].max() - pd.Timedelta(days=5)
    frame.loc[last, ["y", "footfall"]] = np.nan
    sales = infer(tmp_path, frame)["tables"]["sales"]
    assert sales["known"] == ["temperature"], "its name says nothing, its future rows do"
    assert sales["past"] == ["footfall"]


def test_without_future_rows_names_decide_and_the_file_says_so(tmp_path: Path) -> None:
    values = np.arange(90) % 3.0
    frame = long_table(customers=values, PromoType=values, shelf_price=values, school_holiday=values % 2 == 0)
    frame["event_name"] = np.where(values == 0, "fair", None)
    frame.loc[3, "PromoType"] = np.nan
    frame.loc[5, "shelf_price"] = np.nan
    spec = infer(tmp_path, frame)
    assert spec["tables"]["sales"]["known"] == ["PromoType", "shelf_price", "school_holiday", "event_name"]
    assert spec["tables"]["sales"]["past"] == ["customers"]
    assert spec["fill"] == {"PromoType": 0, "event_name": "none"}
    text = (tmp_path / "dataset.yaml").read_text()
    assert "- customers   # guess" in text
    assert "- shelf_price   # guess, by its name; 1 rows lack it" in text, "an empty price is no price of 0"


def test_a_column_that_names_holidays_is_the_calendar(tmp_path: Path) -> None:
    frame = long_table(days=40)
    feast, fair = frame["ds"] == "2024-12-25", frame["ds"] == "2025-01-03"
    frame["event_name"] = np.select([feast, fair], ["Christmas", "Fair"], default=None)
    frame["event_type"] = np.select([feast, fair], ["feast", "market"], default=None)
    spec = infer(tmp_path, frame)
    assert spec["tables"]["calendar"] == {"path": "calendar.csv", "date": "date", "events": ["event_name"]}
    assert (tmp_path / "calendar.csv").read_text() == "date,event_name\n2024-12-25,Christmas\n2025-01-03,Fair\n"
    assert spec["day_types"]["festival"][1] == {"event": ["Christmas"], "before": 10, "after": 1}
    assert spec["tables"]["sales"]["known"] == ["event_type"], "a kind of event is no name"

    frame.loc[fair & (frame["unique_id"] == "s1"), "event_name"] = None
    other = tmp_path / "other"
    other.mkdir()
    assert infer(other, frame)["tables"]["calendar"]["scope"] == "region"
    days = pd.read_csv(other / "calendar.csv").groupby("event_name")["region"].agg(list)
    assert days.to_dict() == {"Christmas": ["s0", "s1", "s2"], "Fair": ["s0", "s2"]}

    later = pd.concat([frame, frame[fair].assign(ds=pd.Timestamp("2025-01-10"))])
    infer(other, later)  # days at its end are added, others are not touched
    assert "2025-01-10" in (other / "calendar.csv").read_text()
    with pytest.raises(ConfigError, match="is there already"):
        infer(other, frame.assign(event_name=np.where(feast, "Easter", None)))


def test_a_country_calendar_comes_before_a_column_that_names_holidays(tmp_path: Path) -> None:
    frame = long_table()
    frame["holiday"] = np.where(frame["ds"] == "2024-12-25", "Feast", None)
    spec = infer(tmp_path, frame, country="DE")
    assert spec["tables"]["calendar"]["events"] == ["holiday"]
    assert "Feast" not in (tmp_path / "calendar.csv").read_text()
    assert spec["tables"]["sales"]["known"] == ["holiday"]


@pytest.mark.parametrize(("column", "closed_value"), [("open", 0), ("is_closed", 1)])
def test_closed_days_are_found_where_flag_and_sales_agree(tmp_path: Path, column: str, closed_value: int) -> None:
    frame = long_table()
    closed = frame["ds"].dt.day_of_week == 6
    frame["y"] = frame["y"].where(~closed, 0.0)
    frame[column] = np.where(closed, closed_value, 1 - closed_value)
    spec = infer(tmp_path, frame)
    assert spec["closed"] == {"column": column, "equals": closed_value}
    frame.loc[frame.index[closed][0], "y"] = 4.0
    other = tmp_path / "other"
    other.mkdir()
    assert "closed" not in infer(other, frame)
    assert "1 rows have sales on days that it calls closed" in (other / "dataset.yaml").read_text()


def test_columns_that_never_change_in_a_region_become_static_features(tmp_path: Path) -> None:
    frame = long_table(always=1)
    number = frame["unique_id"].str[1:].astype(int)
    frame = frame.assign(
        size_sqm=100.0 + number, kind=number.map({0: "a", 1: "b", 2: "b"}), note=[f"n{i}" for i in range(90)]
    )
    spec = infer(tmp_path, frame)
    assert spec["tables"]["regions"] == {
        "path": "regions.csv", "region": "unique_id", "numeric": ["size_sqm"], "categorical": ["kind"],
    }  # fmt: skip
    assert pd.read_csv(tmp_path / "regions.csv")["size_sqm"].tolist() == [100.0, 101.0, 102.0]
    text = (tmp_path / "dataset.yaml").read_text()
    assert "# note: left out, it is text with 90 values that change over time" in text
    assert "# always: left out, it has one value in all rows" in text


def test_weeks_are_found_with_their_weekday(tmp_path: Path) -> None:
    spec = infer(tmp_path, long_table(20, "W-SAT", "2024-01-06"), country="US")
    assert spec["frequency"] == "W"
    assert spec["day_types"] == {
        "festival": [
            {"event": "any", "before": 0, "after": 0},
            {"event": ["Christmas Day"], "before": 2, "after": 0},
        ]
    }
    assert "Saturday" in (tmp_path / "dataset.yaml").read_text()


def test_gaps_and_business_days_are_still_daily(tmp_path: Path) -> None:
    frame = long_table(60)
    assert infer(tmp_path, frame[frame["ds"].dt.day_of_week < 5].drop(index=[3, 4, 8]))["frequency"] == "D"


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (long_table(12, "MS"), "neither daily nor weekly.*31 days apart \\(monthly\\)"),
        (long_table(48, "h"), "times of day in 138 of 144 rows.*sum it to days"),
        (long_table(1), "one date a region"),
        (long_table().rename(columns={"y": "foo"}), "no column for sales among its 3 columns"),
        (long_table().rename(columns={"y": "foo", "ds": "bar"}), "no column for date, sales"),
        (
            pd.DataFrame({"date": ["2024-01-01"], "B1": [1], "B2": [2], "B3": [3], "B4": [4]}),
            "one series each: turn it",
        ),
        (long_table().astype({"ds": str}).replace({"ds": {"2024-12-03": "soon"}}), "no date in 3 of 90 rows.*'soon'"),
        (long_table().astype({"y": str}).replace({"y": {"2.0": "1.234,5"}}), "holds no number in .*1.234,5"),
        (long_table().assign(y=np.nan), "the sales.* is empty in all rows"),
        (long_table().iloc[:0], "no rows"),
        (
            pd.DataFrame({"store": ["a"], "2024-01-01": [1], "2024-01-02": [1], "2024-01-03": [2], "2024-01-04": [2]}),
            "columns seem to be dates: turn it into rows",
        ),
    ],
)
def test_bad_tables_end_with_one_clear_error(tmp_path: Path, frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(DataError, match=f"(?s){says}"):
        infer(tmp_path, frame)
    assert not (tmp_path / "dataset.yaml").exists()


def test_weeks_on_several_days_of_the_week_are_refused(tmp_path: Path) -> None:
    odd = long_table(10, "W-MON").assign(unique_id=lambda f: "t" + f["unique_id"])
    with pytest.raises(DataError, match=r"several days of the week \(Sunday 30, Monday 30\)"):
        infer(tmp_path, pd.concat([long_table(10, "W-SUN"), odd]))


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*none\.csv"):
        infer_spec(tmp_path / "none.csv")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"bad\.parquet cannot be read"):
        infer_spec(tmp_path / "bad.parquet")


def test_unknown_countries_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="country 'XX' is not known"):
        infer(tmp_path, long_table(), country="XX")
    with pytest.raises(ConfigError, match="DE has no subdivision 'ZZ'; known are: BB, BE"):
        infer(tmp_path, long_table(), country="de-zz")
    assert country_calendar("IL", [2024]).weekend == (4, 5), "Friday and Saturday"
    with pytest.raises(ConfigError, match="names no Festivus in US"):
        country_calendar("US", [2024], keep=["Festivus"])


def test_an_edited_file_is_never_overwritten(tmp_path: Path) -> None:
    infer(tmp_path, long_table(), country="DE")
    infer(tmp_path, long_table(), country="DE")  # the same again is no harm
    infer(tmp_path, long_table(400), country="DE")  # more days: the same dataset.yaml, more years of holidays
    calendar = tmp_path / "calendar.csv"
    assert "2026" in calendar.read_text()
    spec = tmp_path / "dataset.yaml"
    edited = spec.read_text().replace("before: 2", "before: 3")
    spec.write_text(edited)
    with pytest.raises(ConfigError, match=r"dataset\.yaml is there already and differs.*stmp ingest"):
        infer(tmp_path, long_table(400), country="DE")
    assert spec.read_text() == edited

    spec.unlink()
    lines = calendar.read_text().splitlines(keepends=True)
    calendar.write_text("".join(lines[:2] + lines[3:]))  # a holiday taken out is an edit, not an older calendar
    with pytest.raises(ConfigError, match=r"calendar\.csv is there already"):
        infer(tmp_path, long_table(400), country="DE")
    assert not spec.exists(), "nothing is written where one file is refused"
