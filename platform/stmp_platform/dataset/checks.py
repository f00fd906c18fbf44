"""Checks of raw tables. Each finds all that is wrong in one scan; examples are fetched only for what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from stmp.data.calendar import period_unit
from stmp.errors import DataError
from stmp_platform.dataset.manifest import Fault
from stmp_platform.dataset.raw import Engine, RawTable, name_sql
from stmp_platform.dataset.spec import Role

EXAMPLES = 5
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class FaultyData(DataError):
    """Raw data with faults; the message tells all of them, `faults` holds them for machines."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        listing = "\n".join(f"  - {fault}" for fault in faults)
        noun = "fault" if len(faults) == 1 else "faults"
        super().__init__(f"The data has {len(faults)} {noun}:\n{listing}")


@dataclass
class Findings:
    """What the checks found so far."""

    faults: list[Fault] = field(default_factory=list)

    def error(self, table: str, column: str | None, what: str, remedy: str, **more: Any) -> None:
        """Note something that makes the data unusable."""
        self._add("error", table, column, what, remedy, **more)

    def warn(self, table: str, column: str | None, what: str, remedy: str = "", **more: Any) -> None:
        """Note something that a user should know of data that can be used."""
        self._add("warning", table, column, what, remedy, **more)

    def _add(
        self, level: Literal["error", "warning"], table: str, column: str | None, what: str, remedy: str, **more: Any
    ) -> None:
        self.faults.append(Fault(level=level, table=table, column=column, what=what, remedy=remedy, **more))

    @property
    def errors(self) -> list[Fault]:
        """The faults that make the data unusable."""
        return [fault for fault in self.faults if fault.level == "error"]

    @property
    def warnings(self) -> list[Fault]:
        """The faults that the data can be used with."""
        return [fault for fault in self.faults if fault.level == "warning"]

    def raise_errors(self) -> None:
        """Raise all errors as one.

        Raises
        ------
        FaultyData
            If there is any.
        """
        if self.errors:
            raise FaultyData(self.errors)


@dataclass(frozen=True)
class Value:
    """A value column of a dated table, as it is read from the raw table."""

    name: str
    role: Role
    kind: Literal["number", "text"]
    boolean_text: bool = False  # text such as "true" and "no" that stands for 1 and 0


@dataclass
class FactSource:
    """A dated raw table with the meaning of its columns.

    `keys` maps each stored key (`_region`, `_scope`, or a column of the regions table) to the raw column.
    """

    name: str
    raw: RawTable
    keys: dict[str, str]
    series: str | None
    date: str
    values: list[Value]
    where: str = "true"

    @property
    def label(self) -> str:
        """What messages call the table."""
        return self.raw.label

    def value_sql(self, value: Value) -> str:
        """SQL of a value column, typed."""
        if value.kind == "text":
            return self.raw.text(value.name)
        return self.raw.number(value.name, value.boolean_text)

    def select(self) -> str:
        """SQL of the table with its stored names and types."""
        parts = [f"{self.raw.text(column)} AS {name_sql(key)}" for key, column in self.keys.items()]
        if self.series is not None:
            parts.append(f"{self.raw.text(self.series)} AS _series")
        parts.append(f"{self.raw.day(self.date)} AS _date")
        parts += [f"{self.value_sql(value)} AS {name_sql(value.name)}" for value in self.values]
        return f"SELECT {', '.join(parts)} FROM {self.raw.source} WHERE {self.where}"

    def examples(self, engine: Engine, condition: str, shown: Sequence[str] = ()) -> list[dict[str, Any]]:
        """A few raw rows that meet a condition, as the user wrote them."""
        columns = [*self.keys.values(), *([self.series] if self.series else []), self.date, *shown]
        return example_rows(engine, self.raw, list(dict.fromkeys(columns)), f"({condition}) AND {self.where}")


def example_rows(engine: Engine, raw: RawTable, columns: Sequence[str], condition: str) -> list[dict[str, Any]]:
    """A few raw rows that meet a condition."""
    listing = ", ".join(f"CAST({name_sql(column)} AS VARCHAR)" for column in columns)
    rows = engine.run(f"SELECT {listing} FROM {raw.source} WHERE {condition} LIMIT {EXAMPLES}")
    # a date that its file holds as a timestamp is shown as a date
    texts = [[value.removesuffix(" 00:00:00") if value is not None else None for value in row] for row in rows]
    return [dict(zip(columns, row, strict=True)) for row in texts]


def missing_columns(findings: Findings, raw: RawTable, wanted: Iterable[tuple[str, str]]) -> bool:
    """Note the columns that the spec names and the table lacks; true if there are any."""
    found = False
    for column, place in wanted:
        if column not in raw.types:
            near = [name for name in raw.types if name.lower() == column.lower()]
            hint = f"did you mean '{near[0]}'?" if near else f"It has {list(raw.types)}."
            findings.error(raw.label, column, f"there is no such column, but {place} names it", hint)
            found = True
        elif raw.is_nested(column):
            findings.error(
                raw.label, column, f"holds {raw.types[column]}, which is neither number nor text", "Unfold it first."
            )
            found = True
    return found


def find_kind(engine: Engine, raw: RawTable, name: str, role: Role) -> Value:
    """Decide whether a column is numbers or text; text that is mostly numbers is numbers with faults."""
    if role == "target" or raw.is_numeric(name):
        return Value(name, role, "number")
    if raw.is_date(name):
        return Value(name, role, "text")
    column = f"nullif(trim({name_sql(name)}), '')"
    total, numbers, booleans = engine.run(
        f"SELECT count({column}), count(TRY_CAST({column} AS DOUBLE)), count(TRY_CAST({column} AS BOOLEAN)) "
        f"FROM {raw.source}"
    )[0]
    if numbers == total or 2 * numbers > total:
        return Value(name, role, "number")
    return Value(name, role, "number", boolean_text=True) if booleans == total else Value(name, role, "text")


@dataclass
class FactStats:
    """What the scan of a dated table tells: one row per region (or one row for all)."""

    rows: int
    first: np.datetime64 | None
    last: np.datetime64 | None
    first_sale: np.datetime64 | None  # of the sales table: dates with a target value
    last_sale: np.datetime64 | None
    by_region: pd.DataFrame  # index: region id; columns n, first, last
    day_of_week: int | None  # of weekly data, Monday = 1


def check_facts(
    engine: Engine,
    source: FactSource,
    frequency: str,
    findings: Findings,
    day_of_week: int | None = None,
    may_be_empty: bool = False,
) -> FactStats:
    """Check keys, dates, types and values of a dated table in one scan.

    `day_of_week` is the day on which weeks end in the sales table; other tables must agree.
    """
    raw, day, unit = source.raw, source.raw.day(source.date), period_unit(frequency)
    counts = _conditions(source, unit)
    group = raw.text(source.keys["_region"]) if "_region" in source.keys else "NULL"
    target = [source.value_sql(value) for value in source.values if value.role == "target"]
    sold = f"({target[0]}) IS NOT NULL" if target else "false"
    sums = "".join(f", count_if({condition}) AS c{i}" for i, condition in enumerate(counts.values()))
    frame = engine.arrow(
        f"SELECT {group} AS region, count(*) AS n, min({day}) AS first, max({day}) AS last, "
        f"min({day}) FILTER ({sold}) AS first_sale, max({day}) FILTER ({sold}) AS last_sale{sums} "
        f"FROM {raw.source} WHERE {source.where} GROUP BY 1"
    ).to_pandas()
    total = {label: int(frame[f"c{i}"].sum()) for i, label in enumerate(counts)}
    rows = int(frame["n"].sum())
    if rows == 0 and not may_be_empty:
        findings.error(source.label, None, "the table is empty", "Give a table with rows.")
    found = _note_grid(engine, source, total, counts, unit, day_of_week, findings) if unit != "D" else None
    _note_counts(engine, source, total, counts, findings)
    by_region = frame[frame["region"].notna()].set_index("region")[["n", "first", "last"]]
    return FactStats(
        rows=rows,
        first=_extreme(frame["first"], "min"),
        last=_extreme(frame["last"], "max"),
        first_sale=_extreme(frame["first_sale"], "min"),
        last_sale=_extreme(frame["last_sale"], "max"),
        by_region=by_region,
        day_of_week=found,
    )


def _extreme(days: pd.Series, which: Literal["min", "max"]) -> np.datetime64 | None:
    found = pd.to_datetime(days.dropna())
    if found.empty:
        return None
    return np.datetime64(found.min() if which == "min" else found.max(), "D")


def _conditions(source: FactSource, unit: str) -> dict[str, str]:
    """What is counted in the scan, as SQL conditions; what a column's type rules out is not asked for."""
    raw, date = source.raw, source.date
    found = {}
    for column in [*source.keys.values(), *([source.series] if source.series else [])]:
        found[f"empty:{column}"] = f"({raw.text(column)}) IS NULL"
    empty = f"{name_sql(date)} IS NULL"
    if raw.types[date] == "VARCHAR":
        empty = f"({empty} OR trim({name_sql(date)}) = '')"
    stamp, day = raw.stamp(date), raw.day(date)
    found[f"empty:{date}"] = empty
    found["no date"] = f"{stamp} IS NULL AND NOT {empty}"
    if raw.types[date] != "DATE":
        found["time"] = f"{stamp} <> date_trunc('day', {stamp})"
    if unit == "W":
        found |= {f"weekday:{number}": f"isodow({day}) = {number}" for number in range(1, 8)}
    elif unit in "MQ":
        found["dated"] = f"{day} IS NOT NULL"
        found["start"] = f"day({day}) = 1"
        found["end"] = f"{day} = last_day({day})"
    for value in source.values:
        if value.kind == "number" and raw.types[value.name] == "VARCHAR":
            found[f"no number:{value.name}"] = raw.no_number(value.name, value.boolean_text)
        if value.kind == "number" and raw.types[value.name] in ("VARCHAR", "DOUBLE", "FLOAT"):
            found[f"infinite:{value.name}"] = f"isinf({source.value_sql(value)})"
        if value.role == "target":
            found[f"negative:{value.name}"] = f"{source.value_sql(value)} < 0"
    return found


_NOTES = {  # what is said of a condition's rows, and what to do
    "empty": ("rows have no {column}", "Fill in or take out these rows."),
    "no date": ("values are no dates", "Write dates as 2024-12-31."),
    "time": ("dates have a time of day", "Sum up to whole periods, or cut the time off."),
    "no number": ("values are no numbers", "Correct them, or leave them empty where nothing was observed."),
    "infinite": ("values are infinite", "Correct them, or leave them empty where nothing was observed."),
    "negative": (
        "values are negative; they are kept as they are",
        "If they are returns, decide whether the target is net of them.",
    ),
}


def _note_counts(
    engine: Engine, source: FactSource, total: dict[str, int], counts: dict[str, str], findings: Findings
) -> None:
    for label, condition in counts.items():
        kind, _, column = label.partition(":")
        if kind not in _NOTES or not total[label]:
            continue
        column = column or source.date
        what, remedy = _NOTES[kind]
        note = findings.warn if kind == "negative" else findings.error
        note(
            source.label,
            column,
            f"{total[label]:,} {what.format(column=column)}",
            remedy,
            count=total[label],
            examples=source.examples(engine, condition, [column]),
        )


def _note_grid(
    engine: Engine,
    source: FactSource,
    total: dict[str, int],
    counts: dict[str, str],
    unit: str,
    day_of_week: int | None,
    findings: Findings,
) -> int | None:
    """Dates of weeks, months and quarters must lie one period apart; returns the weekday of weekly data."""
    if unit == "W":
        by_day = {number: total[f"weekday:{number}"] for number in range(1, 8)}
        common = day_of_week or max(by_day, key=lambda number: by_day[number])
        off, condition = sum(by_day.values()) - by_day[common], f"NOT ({counts[f'weekday:{common}']})"
        whose = "the sales table's weeks" if day_of_week else "most weeks"
        what = f"dates are off the weekly grid: {whose} end on {_WEEKDAYS[common - 1]}"
        remedy = "Use one weekday throughout, or frequency: D."
    else:
        common = None
        end = "start" if total["start"] >= total["end"] else "end"
        off, condition = total["dated"] - total[end], f"NOT ({counts[end]})"
        what, remedy = (
            f"dates are not at the {end} of a month",
            "Use the first or the last day of the month throughout.",
        )
    if off:
        examples = source.examples(engine, condition)
        findings.error(source.label, source.date, f"{off:,} {what}", remedy, count=off, examples=examples)
    return common


def check_duplicates(engine: Engine, source: FactSource, findings: Findings) -> None:
    """Note rows that share all keys and the date."""
    keys = [*source.keys.values(), *([source.series] if source.series else [])]
    sql = [source.raw.text(key) for key in keys] + [source.raw.day(source.date)]
    names = ", ".join(f"{expression} AS k{i}" for i, expression in enumerate(sql))
    present = " AND ".join(f"k{i} IS NOT NULL" for i in range(len(sql)))
    grouped = f"SELECT * FROM (SELECT {names} FROM {source.raw.source} WHERE {source.where}) WHERE {present} "
    groups = f"SELECT *, count(*) AS n FROM ({grouped}) GROUP BY ALL HAVING count(*) > 1"
    count = engine.run(f"SELECT coalesce(sum(n), 0) FROM ({groups})")[0][0]
    if count:
        rows = engine.run(f"SELECT * FROM ({groups}) ORDER BY ALL LIMIT {EXAMPLES}")
        columns = [*keys, source.date, "rows"]
        note_duplicates(
            findings, source.label, int(count), [dict(zip(columns, map(str, row), strict=True)) for row in rows]
        )


def note_duplicates(findings: Findings, label: str, count: int, examples: list[dict[str, Any]]) -> None:
    """Note rows that share all keys and the date."""
    findings.error(
        label,
        None,
        f"{count:,} rows share their keys and date with another row",
        "Keep one row for each, or sum them up.",
        count=count,
        examples=examples[:EXAMPLES],
    )
