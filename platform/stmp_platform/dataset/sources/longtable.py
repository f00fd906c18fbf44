"""What one long table holds: which column is the region, date, series and sales, and its frequency.

The table is never loaded: it is read as `ingest` reads it, by DuckDB, and only counts by column and by date, and the
dates of a sample of regions, come back.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from stmp.errors import DataError
from stmp_platform.dataset.manifest import Fault
from stmp_platform.dataset.raw import Engine, RawTable, name_sql, open_table

# Names as they are compared: lower case, anything but letters and digits as "_". Earlier names win.
REGION = (
    "unique_id", "region_id", "region", "store_id", "store", "store_nbr", "store_number", "store_code", "shop_id",
    "shop", "branch_id", "branch", "outlet_id", "outlet", "warehouse_id", "warehouse", "location_id", "location",
    "site_id", "site", "market", "district", "country", "state", "city", "series_id", "id",
)  # fmt: skip
SERIES = (
    "series_id", "series", "item_id", "item", "item_nbr", "sku_id", "sku", "product_id", "product", "article",
    "category_id", "category", "department_id", "department", "dept_id", "dept", "family", "brand",
)  # fmt: skip
DATE = (
    "ds", "date", "day", "timestamp", "datetime", "time", "week", "week_ending", "week_end", "week_start", "period",
    "business_date", "order_date", "sales_date",
)  # fmt: skip
TARGET = (
    "y", "sales", "target", "value", "sales_value", "unit_sales", "weekly_sales", "daily_sales", "net_sales", "revenue",
    "turnover", "quantity", "qty", "demand", "units", "units_sold", "num_sold", "volume", "amount", "orders",
    "transactions", "visitors", "count",
)  # fmt: skip
_EVENT = re.compile(r"(^|_)(holiday|event|festival)")
_SELDOM = 0.2
"""Share of the rows, at most, that a column fills that names events."""
_SAMPLE = 300  # regions whose dates are looked at one by one


@dataclass(frozen=True)
class Column:
    """One column, counted: rows with a value, with a number, with a date; different values of a text."""

    name: str
    filled: int
    numbers: int
    dates: int
    low: float | None
    high: float | None
    values: int = 0

    @property
    def numeric(self) -> bool:
        return self.filled > 0 and self.numbers == self.filled


@dataclass(frozen=True)
class LongTable:
    """A long table and the roles of its key columns.

    Attributes
    ----------
    by_date : one row a date: date, rows, sold (rows with sales) and, by covariate, rows with a value
    frequency, weekday : "D" or "W", and for weeks the day on which they end (Monday = 0)
    closed : flags named open or closed that agree with the sales, and their value on closed days
    disagree : flags that do not, and the number of rows with sales on "closed" days
    static : covariates that never change within a region, one row a region
    event_names : texts that name the holiday or event of a few days
    events : those days: date, region unless it is the same for all, and the names
    """

    source: str
    rows: int
    columns: dict[str, Column]
    region: str
    series: str | None
    date: str
    target: str
    covariates: tuple[str, ...]
    by_date: pd.DataFrame
    frequency: str
    weekday: int | None
    closed: dict[str, float]
    disagree: dict[str, int]
    static: pd.DataFrame
    event_names: tuple[str, ...]
    events: pd.DataFrame

    @property
    def last_sold(self) -> pd.Timestamp:
        """The last date with sales."""
        return pd.Timestamp(self.by_date.loc[self.by_date["sold"] > 0, "date"].max())

    @property
    def constant(self) -> tuple[str, ...]:
        """Covariates that never change within a region but do between regions."""
        return tuple(str(name) for name in self.static.columns if name != self.region)

    @property
    def future(self) -> pd.DataFrame:
        """Rows of `by_date` after the last sales."""
        return self.by_date[self.by_date["date"] > self.last_sold]


def read_long_table(source: str | os.PathLike[str]) -> LongTable:
    """Scan a CSV or Parquet file and find the roles of its columns.

    Raises
    ------
    DataError
        The file cannot be read, a role cannot be found, dates are no dates, sales are no numbers, or the dates are
        neither daily nor weekly.
    """
    source = os.fspath(source)
    with tempfile.TemporaryDirectory(prefix="stmp-infer-") as work:
        engine = Engine(Path(work), memory_limit="1GB")
        try:
            table = open_table(engine, "sales", source)
            if isinstance(table, Fault):
                raise DataError(f"{table.what} {table.remedy}")
            return _Scan(engine, table, source).read()
        except duckdb.Error as error:
            raise DataError(f"{source} cannot be read as a table: {str(error).splitlines()[0]}") from error
        finally:
            engine.close()


def normal(name: str) -> str:
    """A column's name as it is compared."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip()).lower()).strip("_")


# --- inside ---------------------------------------------------------------------------------------------------------


class _Scan:
    """The queries of one table."""

    def __init__(self, engine: Engine, table: RawTable, source: str) -> None:
        self.engine, self.table, self.source = engine, table, source
        self.booleans: set[str] = set()

    def read(self) -> LongTable:
        columns = self.profile()
        rows = int(self.query("count(*)")[0][0])
        if rows == 0:
            raise DataError(f"{self.source} has no rows; a long table has one row a region and date")
        region, series, date, target = _roles(self.source, columns, self.names_rows)
        self.check_date(columns[date], rows)
        self.check_target(columns[target])
        covariates = tuple(name for name in columns if name not in (region, series, date, target))
        by_date = self.by_date(date, target, covariates)
        keys = [region] if series is None else [region, series]
        frequency, weekday = _frequency(f"{self.source}: column {date!r}", self.steps(keys, date))
        static = self.constant(region, [columns[c] for c in covariates if columns[c].filled])
        closed, disagree = self.closed(target, [columns[c] for c in covariates])
        events = [c for c in covariates if _names_events(columns[c], rows) and c not in static]
        return LongTable(
            self.source, rows, columns, region, series, date, target, covariates, by_date, frequency, weekday, closed,
            disagree, static, tuple(events), self.events(region, date, events),
        )  # fmt: skip

    def query(self, select: str, rest: str = "") -> list[tuple[Any, ...]]:
        return self.engine.run(f"SELECT {select} FROM {self.table.source} {rest}")

    def frame(self, select: str, rest: str = "") -> pd.DataFrame:
        frame: pd.DataFrame = self.engine.arrow(f"SELECT {select} FROM {self.table.source} {rest}").to_pandas()
        return frame

    def number(self, name: str) -> str:
        if self.table.is_date(name) or self.table.is_nested(name):
            return "CAST(NULL AS DOUBLE)"
        return self.table.number(name, name in self.booleans)

    def text(self, name: str) -> str:
        return self.table.text(name)

    def profile(self) -> dict[str, Column]:
        names = list(self.table.types)
        # CSV holds booleans as words; they are numbers where the whole column is such words.
        words = [n for n in names if self.table.types[n] == "VARCHAR"]
        if words:
            tests = [(self.text(n), self.table.number(n), self.table.number(n, True)) for n in words]
            row = self.query(", ".join(f"count({sql})" for test in tests for sql in test))[0]
            for i, name in enumerate(words):
                filled, numbers, booleans = row[3 * i : 3 * i + 3]
                if filled and not numbers and booleans == filled:
                    self.booleans.add(name)
        parts = []
        for name in names:
            number = self.number(name)
            # Trying to read dates is slow, so only columns that are called like one are tried.
            dates = f"count({self.table.stamp(name)})" if _called(name, DATE) else "0"
            parts += [f"count({self.text(name)})", f"count({number})", dates, f"min({number})", f"max({number})"]
        row = self.query(", ".join(parts))[0]
        found = {name: Column(name, *row[5 * i : 5 * i + 5]) for i, name in enumerate(names)}
        texts = [name for name, column in found.items() if not column.numeric]
        row = self.query(", ".join(f"count(DISTINCT {self.text(name)})" for name in texts) or "0")[0]
        return found | {name: replace(found[name], values=row[i]) for i, name in enumerate(texts)}

    def names_rows(self, name: str) -> bool:
        """Whether each row has a value of its own, as a row's number has and no region."""
        rows, values = self.query(f"count(*), count(DISTINCT {self.text(name)})")[0]
        return bool(values == rows > 1)

    def check_date(self, column: Column, rows: int) -> None:
        place = f"{self.source}: column {column.name!r} (the date)"
        stamp, text = self.table.stamp(column.name), self.text(column.name)
        if column.filled < rows:
            raise DataError(f"{place} is empty in {rows - column.filled} of {rows} rows; fill or remove these rows")
        if column.dates < rows:
            bad = self.query(f"DISTINCT {text}", f"WHERE {stamp} IS NULL ORDER BY 1 LIMIT 3")
            examples = ", ".join(repr(value) for (value,) in bad)
            raise DataError(
                f"{place} holds no date in {rows - column.dates} of {rows} rows, e.g. {examples}; write YYYY-MM-DD"
            )
        within, example = self.query(f"count(*), min({stamp})", f"WHERE {stamp} <> date_trunc('day', {stamp})")[0]
        if within:
            raise DataError(
                f"{place} has times of day in {within} of {rows} rows, e.g. {example}; "
                "the data must be daily or weekly: sum it to days first"
            )

    def check_target(self, column: Column) -> None:
        place = f"{self.source}: column {column.name!r} (the sales)"
        if column.filled == 0:
            raise DataError(f"{place} is empty in all rows")
        if not column.numeric:
            number, text = self.number(column.name), self.text(column.name)
            bad = self.query(f"DISTINCT {text}", f"WHERE {text} IS NOT NULL AND {number} IS NULL ORDER BY 1 LIMIT 3")
            examples = ", ".join(repr(value) for (value,) in bad)
            raise DataError(
                f"{place} holds no number in {column.filled - column.numbers} rows, e.g. {examples}; "
                "write numbers with a decimal point and no thousands separator, and leave unknown sales empty"
            )

    def by_date(self, date: str, target: str, covariates: Sequence[str]) -> pd.DataFrame:
        counts = "".join(f", count({self.text(c)}) AS {name_sql('n_' + c)}" for c in covariates)
        frame = self.frame(
            f"{self.table.stamp(date)} AS date, count(*) AS rows, count({self.number(target)}) AS sold{counts}",
            "GROUP BY 1 ORDER BY 1",
        )
        return frame.assign(date=pd.to_datetime(frame["date"]))

    def steps(self, keys: list[str], date: str) -> pd.DataFrame:
        """Dates of a sample of (region, series), and the days since the one before: columns date, step."""
        key = " || '\x1f' || ".join(f"coalesce({self.text(k)}, '')" for k in keys)
        stamp = self.table.stamp(date)
        frame = self.frame(
            f"DISTINCT {key} AS key, {stamp} AS date",
            f"WHERE {key} IN (SELECT {key} FROM {self.table.source} GROUP BY 1 ORDER BY hash({key}) LIMIT {_SAMPLE})",
        )
        frame = frame.assign(date=pd.to_datetime(frame["date"])).sort_values(["key", "date"])
        return frame.assign(step=frame.groupby("key")["date"].diff().dt.days)

    def constant(self, region: str, covariates: Sequence[Column]) -> pd.DataFrame:
        """Covariates that never change within a region but do between regions: their values, one row a region."""
        value = {c.name: self.number(c.name) if c.numeric else self.text(c.name) for c in covariates}
        names: list[str] = []
        if covariates:
            inner = ", ".join(
                f"min({sql}) AS {name_sql('a_' + c)}, max({sql}) AS {name_sql('b_' + c)}" for c, sql in value.items()
            )
            outer = ", ".join(
                f"count(*) FILTER ({name_sql('a_' + c)} <> {name_sql('b_' + c)}), count(DISTINCT {name_sql('a_' + c)})"
                for c in value
            )
            row = self.engine.run(
                f"SELECT {outer} FROM (SELECT {inner} FROM {self.table.source} GROUP BY {self.text(region)})"
            )[0]
            names = [c for i, c in enumerate(value) if row[2 * i] == 0 and row[2 * i + 1] > 1]
        values = "".join(f", min({value[c]}) AS {name_sql(c)}" for c in names)
        text = self.text(region)
        return self.frame(f"{text} AS {name_sql(region)}{values}", f"WHERE {text} IS NOT NULL GROUP BY 1 ORDER BY 1")

    def closed(self, target: str, candidates: Sequence[Column]) -> tuple[dict[str, float], dict[str, int]]:
        """Flags named open or closed whose closed rows have no sales, and those that contradict the sales."""
        agree: dict[str, float] = {}
        disagree: dict[str, int] = {}
        for column in candidates:
            words = set(normal(column.name).split("_"))
            if not words & {"open", "opened", "closed"} or not column.numeric:
                continue
            if not {column.low, column.high} <= {0.0, 1.0}:
                continue
            closed = 1.0 if "closed" in words else 0.0
            sold = f"count(*) FILTER (coalesce({self.number(target)}, 0) <> 0)"
            rows, bad = self.query(f"count(*), {sold}", f"WHERE {self.number(column.name)} = {closed}")[0]
            if bad:
                disagree[column.name] = int(bad)
            elif rows:
                agree[column.name] = closed
        return agree, disagree

    def events(self, region: str, date: str, names: Sequence[str]) -> pd.DataFrame:
        """The days that some columns name: date, region unless all regions of a day have the same, and the names."""
        if not names:
            return pd.DataFrame()
        day, place = f"strftime({self.table.stamp(date)}, '%Y-%m-%d') AS date", f"{self.text(region)} AS region"
        texts = ", ".join(f"{self.text(name)} AS {name_sql(name)}" for name in names)
        named = " OR ".join(f"{self.text(name)} IS NOT NULL" for name in names)
        rows = self.frame(f"DISTINCT {day}, {place}, {texts}", f"WHERE {named} ORDER BY ALL")
        regions = self.frame(f"{day}, count(DISTINCT {self.text(region)}) AS regions", "GROUP BY 1")
        alike = rows.groupby(["date", *names], dropna=False)["region"].nunique().reset_index(name="named")
        both = alike.merge(regions, on="date")
        return alike.drop(columns="named") if (both["named"] == both["regions"]).all() else rows


def _called(name: str, names: Sequence[str]) -> bool:
    """Whether a column is called by one of these names, or by words and one of them: `visit_date` is a date."""
    words = normal(name)
    return words in names or any(words.endswith(f"_{known}") for known in names if len(known) > 2)


def _names_events(column: Column, rows: int) -> bool:
    """Whether a text is empty but for a few rows, and called like a holiday or an event; its kind is no name."""
    words = normal(column.name)
    called = bool(_EVENT.search(words)) and "type" not in words.split("_")
    return called and column.values > 0 and column.filled <= _SELDOM * rows


def _roles(
    source: str, columns: dict[str, Column], names_rows: Callable[[str], bool]
) -> tuple[str, str | None, str, str]:
    by_normal: dict[str, str] = {}
    for name in columns:
        by_normal.setdefault(normal(name), name)

    def first(names: Iterable[str], taken: Sequence[str | None] = ()) -> str | None:
        return next((by_normal[n] for n in names if n in by_normal and by_normal[n] not in taken), None)

    def only(names: Sequence[str], *taken: str | None) -> str | None:
        """The only column that ends in one of these names."""
        found = [name for name in columns if name not in taken and _called(name, names)]
        return found[0] if len(found) == 1 else None

    date = first(n for n in DATE if n in by_normal and columns[by_normal[n]].dates > 0) or first(DATE) or only(DATE)
    target = first(TARGET, [date]) or only(TARGET, date)
    regions = [by_normal[n] for n in REGION if n in by_normal and by_normal[n] not in (date, target)]
    region = next((name for name in regions if not names_rows(name)), regions[0] if regions else None)
    region = region or only(REGION, date, target)
    series = first(SERIES, [date, target, region])
    if region is None:
        region, series = series, None  # products alone are forecast as regions are
    elif normal(region) in ("unique_id", "id", "series_id"):
        series = None  # such an id names the whole series already
    if region is not None and date is not None and target is not None:
        return region, series, date, target
    roles = {"region": (region, REGION), "date": (date, DATE), "sales": (target, TARGET)}
    missing = [role for role, (name, _) in roles.items() if name is None]
    dated = sum(bool(re.fullmatch(r"\D?\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*", name)) for name in columns)
    series_each = region is None and target is None and sum(column.numeric for column in columns.values()) > 3
    wide = "dates" if dated > 3 else "one series each" if date is not None and series_each else ""
    known = "; ".join(f"{role}: {', '.join(roles[role][1][:8])}, ..." for role in missing)
    shown = ", ".join(list(columns)[:12]) + (", ..." if len(columns) > 12 else "")
    raise DataError(
        f"{source} has no column for {', '.join(missing)} among its {len(columns)} columns ({shown}). "
        + (f"Its columns seem to be {wide}: turn it into rows of (unique_id, ds, y) first. " if wide else "")
        + f"Rename columns ({known}), or describe the table in a dataset.yaml"
    )


def _frequency(where: str, dates: pd.DataFrame) -> tuple[str, int | None]:
    steps = dates["step"].dropna().to_numpy(dtype=np.int64)
    if steps.size == 0:
        raise DataError(f"{where} has one date a region; at least two are needed to find the frequency")
    middle = int(np.median(steps))
    if (steps == 1).mean() >= 0.2:
        return "D", None
    if middle == 7:
        weekdays = dates["date"].dt.day_name().value_counts()
        if len(weekdays) == 1:
            return "W", int(dates["date"].iloc[0].weekday())
        counts = ", ".join(f"{day} {count}" for day, count in weekdays.items())
        raise DataError(
            f"{where} looks weekly, but its dates fall on several days of the week ({counts}); "
            "date every week by the same day, the one on which it ends"
        )
    guess = {14: "fortnightly", 28: "four-weekly"}.get(middle, "monthly" if 27 < middle < 32 else "")
    guess = guess or ("quarterly" if 88 < middle < 94 else "yearly" if 360 < middle < 370 else "irregular")
    raise DataError(
        f"{where} is neither daily nor weekly: the dates of a region mostly lie {middle} days apart ({guess}). "
        "Sum the data to days or weeks, or describe the table in a dataset.yaml"
    )
