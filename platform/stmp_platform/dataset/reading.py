"""The raw tables of a dataset.yaml, read and checked one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stmp.data.calendar import period_index, period_unit
from stmp_platform.dataset.checks import (
    EXAMPLES,
    FactSource,
    FactStats,
    Findings,
    Value,
    check_duplicates,
    check_facts,
    example_rows,
    find_kind,
    missing_columns,
    note_duplicates,
)
from stmp_platform.dataset.manifest import Manifest
from stmp_platform.dataset.raw import Engine, RawTable, name_sql, text_sql
from stmp_platform.dataset.spec import CovariateTable, DatasetSpec, Role, Scalar


@dataclass
class Fact:
    """A dated table of the dataset: the rows that are there (SQL) and the new ones."""

    name: str
    keys: list[str]
    has_series: bool
    values: list[Value]
    source: FactSource
    stats: FactStats
    old_sql: str | None = None
    first: np.datetime64 | None = None  # of old and new rows
    last: np.datetime64 | None = None

    @property
    def by_region(self) -> bool:
        """Whether rows belong to single regions, and are laid out by them."""
        return self.keys == ["_region"]


# --- regions -------------------------------------------------------------------------------------------------------


def read_regions(engine: Engine, spec: DatasetSpec, raw: RawTable | None, findings: Findings) -> pd.DataFrame | None:
    table = spec.tables.regions
    if raw is None or table is None:
        return None
    text = sorted(spec.text_columns())
    wanted = [(table.region, "tables.regions.region")]
    wanted += [(name, "tables.regions.numeric") for name in table.numeric]
    wanted += [(name, "tables.regions") for name in text]
    if missing_columns(findings, raw, wanted):
        if table.region not in raw.types:
            return None
        table = table.model_copy(update={"numeric": [name for name in table.numeric if name in raw.types]})
        text = [name for name in text if name in raw.types]
    region = raw.text(table.region)
    parts = [f"{region} AS _region"]
    parts += [f"{raw.number(name)} AS {name_sql(name)}" for name in table.numeric]
    parts += [f"{raw.text(name)} AS {name_sql(name)}" for name in text]
    rows = engine.arrow(f"SELECT {', '.join(parts)} FROM {raw.source}")
    if rows.num_rows == 0:
        findings.error("regions", None, "the table is empty", "Give a table with one row per region.")
    nulls = rows["_region"].null_count
    if nulls:
        findings.error(
            "regions",
            table.region,
            f"{nulls:,} rows have no {table.region}",
            "Fill in or take out these rows.",
            count=nulls,
        )
    for name in table.numeric:
        for condition, what in (
            (raw.no_number(name), "are no numbers"),
            (f"isinf({raw.number(name)})", "are infinite"),
        ):
            count = engine.run(f"SELECT count_if({condition}) FROM {raw.source}")[0][0]
            if count:
                findings.error(
                    "regions",
                    name,
                    f"{count:,} values {what}",
                    "Correct them, leave them empty, or name the column under categorical.",
                    count=count,
                    examples=example_rows(engine, raw, [table.region, name], condition),
                )
    counts = rows["_region"].drop_null().value_counts()
    double = [row for row in counts.to_pylist() if row["counts"] > 1] if len(counts) < rows.num_rows - nulls else []
    if double:
        count = sum(row["counts"] for row in double)
        examples = [{table.region: row["values"], "rows": row["counts"]} for row in double[:EXAMPLES]]
        note_duplicates(findings, "regions", count, examples)
    return rows.to_pandas().astype(dict.fromkeys(["_region", *text], object))


def unknown_regions(engine: Engine, sales: Fact, known: set[str], findings: Findings) -> None:
    sold = sales.stats.by_region
    unknown = sold[~sold.index.isin(list(known))]
    if len(unknown):
        ids = unknown.index.tolist()
        region = sales.source.keys["_region"]
        values = ", ".join(text_sql(str(item)) for item in ids[:EXAMPLES])
        findings.error(
            "sales",
            region,
            f"{len(unknown):,} regions ({int(unknown['n'].sum()):,} rows) are not in the regions table: "
            f"{', '.join(map(str, ids[:EXAMPLES]))}",
            "Add them to the regions table, or take their rows out.",
            count=int(unknown["n"].sum()),
            examples=sales.source.examples(engine, f"{sales.source.raw.text(region)} IN ({values})"),
        )


# --- dated tables --------------------------------------------------------------------------------------------------


def _values(engine: Engine, raw: RawTable, columns: list[tuple[Role, str]], old: Manifest | None) -> list[Value]:
    found = []
    for role, name in columns:
        if name not in raw.types or raw.is_nested(name):
            continue
        value = find_kind(engine, raw, name, role)
        if old is not None and (before := old.column(name).kind) != value.kind:
            # a few days of a text column may look like numbers; numbers that became text are faults
            value = Value(name, role, before)
        found.append(value)
    return found


def read_sales(
    engine: Engine, spec: DatasetSpec, raw: RawTable, findings: Findings, old: Manifest | None
) -> list[Fact]:
    table = spec.tables.sales
    keys = [(table.region, "tables.sales.region"), (table.date, "tables.sales.date")]
    keys += [(table.series, "tables.sales.series")] if table.series else []
    columns: list[tuple[Role, str]] = [("target", table.target)]
    columns += [("past", name) for name in table.past] + [("known", name) for name in table.known]
    missing_columns(findings, raw, [*keys, *((name, f"tables.sales.{role}") for role, name in columns)])
    if any(name not in raw.types for name, _ in keys):
        return []
    values = _values(engine, raw, columns, old)
    source = FactSource("sales", raw, {"_region": table.region}, table.series, table.date, values)
    stats = check_facts(engine, source, spec.frequency, findings, _old_week_day(old))
    _stray_dates(engine, source, stats, spec.frequency, findings)
    if stats.rows and stats.last_sale is None and old is None and table.target in raw.types and not findings.errors:
        findings.error("sales", table.target, "holds no value at all", "Name the column that holds what was sold.")
    return [Fact("sales", ["_region"], table.series is not None, values, source, stats)]


def _stray_dates(engine: Engine, source: FactSource, stats: FactStats, frequency: str, findings: Findings) -> None:
    """A mistyped year would stretch the time axis, and with it all tensors, over centuries."""
    if stats.first is None or stats.last is None:
        return
    day = source.raw.day(source.date)
    span = int(period_index(np.asarray([stats.last]), stats.first, frequency)[0]) + 1
    found = engine.run(f"SELECT count(DISTINCT {day}) FROM {source.raw.source}")[0][0]
    if span <= 3 * found + 366:
        return
    ends = f"{day} IN (DATE '{stats.first}', DATE '{stats.last}')"
    findings.error(
        source.label,
        source.date,
        f"the dates run from {stats.first} to {stats.last}, {span:,} periods, of which only {found:,} have rows",
        "Look for mistyped years.",
        count=span - found,
        examples=source.examples(engine, ends),
    )


def _old_week_day(old: Manifest | None) -> int | None:
    if old is None or period_unit(old.frequency) != "W":
        return None
    return (int(np.datetime64(old.first_date, "D").astype(np.int64)) + 3) % 7 + 1


def read_covariates(
    engine: Engine,
    spec: DatasetSpec,
    table: CovariateTable,
    number: int,
    raw: RawTable,
    findings: Findings,
    old: Manifest | None,
    week_day: int | None,
) -> list[Fact]:
    sales = spec.tables.sales
    place = f"tables.covariates[{number}]"
    columns: list[tuple[Role, str]] = [("past", name) for name in table.past] + [
        ("known", name) for name in table.known
    ]
    missing_columns(
        findings,
        raw,
        [*((key, f"{place}.keys") for key in table.keys), *((name, f"{place}.{r}") for r, name in columns)],
    )
    if any(key not in raw.types for key in table.keys):
        return []
    values = _values(engine, raw, columns, old)
    keys = {"_region": sales.region} if sales.region in table.keys else {key: key for key in spec.join_keys(table)}
    series = sales.series if sales.series in table.keys else None
    source = FactSource(f"covariates-{number}", raw, keys, series, sales.date, values)
    stats = check_facts(engine, source, spec.frequency, findings, week_day, may_be_empty=old is not None)
    return [Fact(source.name, list(keys), series is not None, values, source, stats)]


def read_calendar(
    engine: Engine,
    spec: DatasetSpec,
    raw: RawTable,
    findings: Findings,
    old: Manifest | None,
    week_day: int | None,
) -> tuple[pd.DataFrame, set[str], list[Fact]]:
    table = spec.tables.calendar
    assert table is not None, "a calendar table was opened that the spec does not name"
    wanted = [(table.date, "tables.calendar.date"), *((name, "tables.calendar.where") for name in table.where)]
    wanted += [(table.scope, "tables.calendar.scope")] if table.scope else []
    wanted += [(name, "tables.calendar.events") for name in table.events]
    wanted += [(name, "tables.calendar.known") for name in table.known]
    nothing = pd.DataFrame({"scope": [], "date": [], "event": []}, dtype=object)
    if missing_columns(findings, raw, wanted):
        return nothing, set(), []
    where = " AND ".join([_where(raw, name, values) for name, values in table.where.items()]) or "true"
    values = _values(engine, raw, [("known", name) for name in table.known], old)
    keys = {"_scope": table.scope} if table.scope else {}
    source = FactSource("calendar", raw, keys, None, table.date, values, where)
    # events may fall on any day; values must fit the grid of the sales
    stats = check_facts(
        engine, source, spec.frequency if values else "D", findings, week_day if values else None, old is not None
    )
    if values:
        check_duplicates(engine, source, findings)
    scope = _scope_sql(spec, raw)
    day = raw.day(table.date)
    selects = [
        f"SELECT {scope} AS scope, {day} AS date, {raw.text(name)} AS event FROM {raw.source} WHERE {where}"
        for name in table.events
    ]
    events = nothing
    if selects:
        rows = engine.arrow(
            f"SELECT DISTINCT * FROM ({' UNION ALL '.join(selects)}) WHERE event IS NOT NULL AND date IS NOT NULL"
        )
        events = rows.to_pandas(date_as_object=True).astype(object)
    scopes = {row[0] for row in engine.run(f"SELECT DISTINCT {scope} FROM {raw.source} WHERE {where}") if row[0]}
    if not events.empty:
        named = {name for rule in spec.rules() for name in rule.event or () if name != "*"}
        unknown = sorted(named - set(events["event"]))
        if unknown and old is None:
            findings.warn(
                "calendar",
                None,
                f"day_types name events that no row has: {', '.join(unknown)}",
                f"The calendar's events are such as {', '.join(sorted(set(events['event']))[:EXAMPLES])}.",
                count=len(unknown),
            )
    return events, scopes, [Fact("calendar", ["_scope"], False, values, source, stats)]


def _where(raw: RawTable, name: str, wanted: list[Scalar]) -> str:
    text = f"lower({raw.text(name)})"
    conditions = []
    for value in wanted:
        if isinstance(value, bool):
            same = ["true", "t", "yes", "1"] if value else ["false", "f", "no", "0"]
            conditions.append(f"{text} IN ({', '.join(text_sql(item) for item in same)})")
        elif isinstance(value, int | float):
            conditions.append(f"TRY_CAST({text} AS DOUBLE) = {float(value)!r}")
        else:
            conditions.append(f"{text} = {text_sql(value.lower())}")
    return f"({' OR '.join(conditions) or 'false'})"


def _scope_sql(spec: DatasetSpec, raw: RawTable) -> str:
    table = spec.tables.calendar
    if table is None or table.scope is None:
        return "''"
    scope = raw.text(table.scope)
    if not table.everywhere:
        return scope
    everywhere = ", ".join(text_sql(value) for value in table.everywhere)
    return f"(CASE WHEN {scope} IN ({everywhere}) THEN '' ELSE {scope} END)"


def fact_select(spec: DatasetSpec, fact: Fact) -> str:
    """SQL of the new rows of a fact; a calendar's scopes are brought to their stored form."""
    if fact.name != "calendar":
        return fact.source.select()
    raw, source = fact.source.raw, fact.source
    values = ", ".join(f"max({source.value_sql(value)}) AS {name_sql(value.name)}" for value in fact.values)
    # two scopes that both hold everywhere may name the same day
    return (
        f"SELECT {_scope_sql(spec, raw)} AS _scope, {raw.day(source.date)} AS _date, {values} "
        f"FROM {raw.source} WHERE {source.where} GROUP BY ALL"
    )


def same_kinds(facts: list[Fact], findings: Findings) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for fact in facts:
        for value in fact.values:
            label, kind = seen.setdefault(value.name, (fact.source.label, value.kind))
            if kind != value.kind:
                findings.error(
                    fact.source.label,
                    value.name,
                    f"is {value.kind} here, but {kind} in {label}",
                    "Use one type for a column that several tables hold.",
                )


def check_fill(spec: DatasetSpec, facts: list[Fact], findings: Findings) -> None:
    """Note values under `fill` that are no numbers, for columns of numbers."""
    for fact in facts:
        for value in fact.values:
            wanted = spec.fill.get(value.name)
            if value.kind == "number" and isinstance(wanted, str):
                findings.error(
                    fact.source.label,
                    value.name,
                    f"holds numbers, but dataset.yaml fills it by '{wanted}'",
                    "Name a number under fill.",
                )
