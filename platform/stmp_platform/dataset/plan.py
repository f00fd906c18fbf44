"""The plan of an ingestion: all raw tables opened and checked, and what they hold put together with what is there.

After this nothing but duplicates and contradictions can be wrong; they are found while rows are sorted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stmp.data.calendar import period_index, period_unit
from stmp.errors import ConfigError
from stmp_platform.dataset.arrays import Axis
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
from stmp_platform.dataset.manifest import Fault, Manifest
from stmp_platform.dataset.raw import Engine, RawTable, name_sql, open_table, text_sql, unreadable
from stmp_platform.dataset.spec import CovariateTable, DatasetSpec, Role, Scalar

KNOWN_AHEAD = {"D": 366, "W": 53, "M": 12, "Q": 4}  # periods of known future that are loaded where no horizon is named


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


@dataclass
class Plan:
    """What is to be written."""

    spec: DatasetSpec
    findings: Findings
    regions: pd.DataFrame  # sorted; column _region, then the columns of the regions table
    series: list[str]
    axis: Axis
    facts: list[Fact]
    events: pd.DataFrame  # scope, date, event
    calendar_scopes: set[str]
    old: Manifest | None = None
    sources: dict[str, str | list[str]] = field(default_factory=dict)

    @property
    def buckets(self) -> int:
        """Files per table. Many divisors, so that a shard of n workers finds its regions in 1/n of the files.

        It follows from regions and dates alone, so that appending gives the same layout as ingesting at once.
        """
        cells = len(self.regions) * self.axis.length * len(self.series)
        choices = (12, 24, 60, 120, 240, 480, 960, 1920)
        return next((count for count in choices if cells / count <= 500_000), choices[-1])


def make_plan(
    engine: Engine, spec: DatasetSpec, old: Manifest | None, old_tables: OldTables | None, revise: bool
) -> Plan:
    """Open and check all raw tables.

    Raises
    ------
    FaultyData
        With every fault found.
    """
    findings = Findings()
    raws = _open_all(engine, spec, findings)
    try:
        plan = _check(engine, spec, raws, findings, old, old_tables, revise)
    except duckdb.Error as error:
        # a file whose head is whole and whose middle is not
        findings.faults.append(unreadable("tables", [_named_file(raws, error)], error))
        plan = None
    findings.raise_errors()
    assert plan is not None, "a check returned no plan and told no fault"
    return plan


@dataclass
class OldTables:
    """SQL of the tables of the dataset that is appended to."""

    regions: str
    events: str | None
    facts: dict[str, str]


def _open_all(engine: Engine, spec: DatasetSpec, findings: Findings) -> dict[str, RawTable]:
    tables = spec.tables
    wanted = {"sales": tables.sales.path}
    if tables.regions is not None:
        wanted["regions"] = tables.regions.path
    wanted |= {f"covariates[{i}]": table.path for i, table in enumerate(tables.covariates)}
    if tables.calendar is not None:
        wanted["calendar"] = tables.calendar.path
    raws = {}
    for label, path in wanted.items():
        found = open_table(engine, label, path)
        if isinstance(found, Fault):
            findings.faults.append(found)
        else:
            raws[label] = found
    return raws


def _named_file(raws: dict[str, RawTable], error: Exception) -> str:
    text = str(error)
    named = re.findall(r"'([^']+\.(?:parquet|pq|csv|tsv|txt)[^']*)'|\"([^\"]+\.(?:parquet|pq|csv))\"", text)
    return next((a or b for a, b in named), ", ".join(raws))


def _check(
    engine: Engine,
    spec: DatasetSpec,
    raws: dict[str, RawTable],
    findings: Findings,
    old: Manifest | None,
    old_tables: OldTables | None,
    revise: bool,
) -> Plan | None:
    known_regions = _read_regions(engine, spec, raws.get("regions"), findings)
    facts: list[Fact] = []
    if "sales" in raws:
        facts += _sales(engine, spec, raws["sales"], findings, old)
    week_day = facts[0].stats.day_of_week if facts else None
    for number, table in enumerate(spec.tables.covariates):
        raw = raws.get(f"covariates[{number}]")
        if raw is not None:
            facts += _covariates(engine, spec, table, number, raw, findings, old, week_day)
    events = pd.DataFrame({"scope": [], "date": [], "event": []}, dtype=object)
    scopes: set[str] = set()
    if "calendar" in raws:
        events, scopes, more = _calendar(engine, spec, raws["calendar"], findings, old, week_day)
        facts += more
    _same_kinds(facts, findings)
    if known_regions is not None and facts and facts[0].name == "sales":
        in_old = set(_old_regions(engine, old_tables)["_region"]) if old_tables else set()
        _unknown_regions(engine, facts[0], set(known_regions["_region"]) | in_old, findings)
    if findings.errors:
        for fact in facts:
            check_duplicates(engine, fact.source, findings)
        return None
    for fact in facts:
        if not fact.by_region and fact.name != "calendar":
            check_duplicates(engine, fact.source, findings)
    if findings.errors:
        return None
    return _combine(engine, spec, known_regions, facts, events, scopes, findings, old, old_tables, revise)


# --- regions -------------------------------------------------------------------------------------------------------


def _read_regions(engine: Engine, spec: DatasetSpec, raw: RawTable | None, findings: Findings) -> pd.DataFrame | None:
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
    return rows.to_pandas().astype({name: object for name in ["_region", *text]})


def _unknown_regions(engine: Engine, sales: Fact, known: set[str], findings: Findings) -> None:
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


def _sales(engine: Engine, spec: DatasetSpec, raw: RawTable, findings: Findings, old: Manifest | None) -> list[Fact]:
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
    if stats.rows and stats.last_sale is None and old is None and table.target in raw.types and not findings.errors:
        findings.error("sales", table.target, "holds no value at all", "Name the column that holds what was sold.")
    return [Fact("sales", ["_region"], table.series is not None, values, source, stats)]


def _old_week_day(old: Manifest | None) -> int | None:
    if old is None or period_unit(old.frequency) != "W":
        return None
    return (int(np.datetime64(old.first_date, "D").astype(np.int64)) + 3) % 7 + 1


def _covariates(
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
    stats = check_facts(engine, source, spec.frequency, findings, week_day)
    return [Fact(source.name, list(keys), series is not None, values, source, stats)]


def _calendar(
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
    stats = check_facts(engine, source, spec.frequency if values else "D", findings, week_day if values else None)
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


def _same_kinds(facts: list[Fact], findings: Findings) -> None:
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


# --- together with what is there -----------------------------------------------------------------------------------


def sort_ids(ids: set[str]) -> list[str]:
    """Sort ids: as numbers if all are whole numbers, else as text."""
    if all(re.fullmatch(r"-?\d{1,18}", item) for item in ids):
        return sorted(ids, key=lambda item: (int(item), item))
    return sorted(ids)


def _old_regions(engine: Engine, old_tables: OldTables) -> pd.DataFrame:
    frame = engine.arrow(f"SELECT * EXCLUDE (_first, _last, _observed) FROM {old_tables.regions}").to_pandas()
    return frame.astype({name: object for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])})


def _combine(
    engine: Engine,
    spec: DatasetSpec,
    regions: pd.DataFrame | None,
    facts: list[Fact],
    events: pd.DataFrame,
    scopes: set[str],
    findings: Findings,
    old: Manifest | None,
    old_tables: OldTables | None,
    revise: bool,
) -> Plan | None:
    sales = facts[0]
    sold = {str(item) for item in sales.stats.by_region.index}
    if regions is None:
        regions = pd.DataFrame({"_region": sorted(sold)}, dtype=object)
    series = {"sales"}
    if spec.tables.sales.series is not None:
        raw = sales.source.raw
        series = {
            row[0] for row in engine.run(f"SELECT DISTINCT {raw.text(spec.tables.sales.series)} FROM {raw.source}")
        }
    first, last = sales.stats.first_sale, sales.stats.last_sale
    for fact in facts:
        fact.first, fact.last = fact.stats.first, fact.stats.last
    idle = regions[~regions["_region"].isin(list(sold))]
    if old is not None and old_tables is not None:
        before = _old_regions(engine, old_tables)
        _changed_regions(before, regions, findings, revise)
        if findings.errors:
            return None
        idle = idle[~idle["_region"].isin(list(before["_region"]))]
        sold |= set(before["_region"])
        kept = before[~before["_region"].isin(list(regions["_region"]))]
        regions = pd.concat([regions, kept], ignore_index=True) if len(kept) else regions
        if spec.tables.sales.series is not None:
            series |= set(old.series)
        first = min(x for x in (first, np.datetime64(old.first_date, "D")) if x is not None)
        last = max(x for x in (last, np.datetime64(old.last_sales_date, "D")) if x is not None)
        for fact in facts:
            fact.old_sql = old_tables.facts.get(fact.name)
            table = old.table(fact.name)
            dates = [np.datetime64(day, "D") for day in (table.first_date, table.last_date) if day]
            fact.first = min([*dates, *([fact.first] if fact.first is not None else [])], default=None)
            fact.last = max([*dates, *([fact.last] if fact.last is not None else [])], default=None)
        events, scopes = _all_events(engine, old_tables, events, scopes, revise)
    if len(idle):
        findings.warn(
            "regions",
            None,
            f"{len(idle):,} regions have no row in the sales table and are left out",
            "A row with a date and an empty target is enough to bring one in.",
            count=len(idle),
            examples=[{"region": item} for item in idle["_region"].head(EXAMPLES)],
        )
    regions = regions[regions["_region"].isin(list(sold))]
    order = {item: i for i, item in enumerate(sort_ids(set(regions["_region"])))}
    regions = regions.sort_values("_region", key=lambda ids: ids.map(order)).reset_index(drop=True)
    _idle_scopes(spec, regions, scopes, findings)
    axis = _axis(spec, facts, first, last)
    return Plan(spec, findings, regions, sort_ids(series), axis, facts, events, scopes, old)


def _changed_regions(before: pd.DataFrame, now: pd.DataFrame, findings: Findings, revise: bool) -> None:
    both = before.merge(now, on="_region", suffixes=("", " now"))
    for name in before.columns:
        if name == "_region" or revise or f"{name} now" not in both.columns:
            continue
        old, new = both[name], both[f"{name} now"]
        if pd.api.types.is_numeric_dtype(old) and pd.api.types.is_numeric_dtype(new):
            old, new = old.astype(np.float32), new.astype(np.float32)
        changed = (old != new) & ~(old.isna() & new.isna())
        if changed.any():
            rows = both[changed].head(EXAMPLES)
            findings.error(
                "regions",
                name,
                f"{int(changed.sum()):,} regions have another value than the dataset",
                "Append with --revise to replace it.",
                count=int(changed.sum()),
                examples=[
                    {"region": row["_region"], "in dataset": str(row[name]), "new": str(row[f"{name} now"])}
                    for _, row in rows.iterrows()
                ],
            )


def _all_events(
    engine: Engine, old_tables: OldTables, events: pd.DataFrame, scopes: set[str], revise: bool
) -> tuple[pd.DataFrame, set[str]]:
    if old_tables.events is None:
        return events, scopes
    rows = engine.arrow(f"SELECT _scope AS scope, _date AS date, event FROM {old_tables.events}")
    before = rows.to_pandas(date_as_object=True).astype(object)
    scopes = scopes | (set(before["scope"]) - {""})
    if revise and len(events):
        # a revised calendar speaks for all the days between its first and its last
        before = before[(before["date"] < events["date"].min()) | (before["date"] > events["date"].max())]
    return pd.concat([before, events], ignore_index=True).drop_duplicates(ignore_index=True), scopes


def scope_columns(spec: DatasetSpec) -> list[str]:
    """The columns of the regions frame whose values a calendar's scope may name; the region's id where none is named."""
    calendar, regions = spec.tables.calendar, spec.tables.regions
    if calendar is None or calendar.scope is None:
        return []
    if regions is None or not regions.scopes:
        return ["_region"]
    return ["_region" if name == regions.region else name for name in regions.scopes]


def _idle_scopes(spec: DatasetSpec, regions: pd.DataFrame, scopes: set[str], findings: Findings) -> None:
    held: set[str] = set()
    for name in scope_columns(spec):
        held |= set(regions[name].dropna())
    idle = sorted(scopes - held - {""})
    if idle:
        findings.warn(
            "calendar",
            spec.tables.calendar.scope if spec.tables.calendar else None,
            f"{len(idle):,} scopes belong to no region: {', '.join(idle[:EXAMPLES])}",
            "Name the column that holds them under tables.regions.scopes, or what holds for all under everywhere.",
            count=len(idle),
        )


def _axis(spec: DatasetSpec, facts: list[Fact], first: np.datetime64 | None, last: np.datetime64 | None) -> Axis:
    if first is None or last is None:
        raise ConfigError("the sales table holds no sales")
    history = int(period_index(np.asarray([last]), first, spec.frequency)[0]) + 1
    ahead = [
        fact.last for fact in facts if fact.last is not None and any(value.role == "known" for value in fact.values)
    ]
    known = max([int(period_index(np.asarray([day]), first, spec.frequency)[0]) + 1 for day in ahead], default=history)
    limit = history + (spec.horizon or KNOWN_AHEAD[period_unit(spec.frequency)])
    return Axis(first, spec.frequency, history, max(history, min(known, limit)))


def regions_table(regions: pd.DataFrame, extra: dict[str, pa.Array]) -> pa.Table:
    """The regions frame as it is stored."""
    columns: dict[str, pa.Array] = {}
    for name in regions.columns:
        if pd.api.types.is_numeric_dtype(regions[name]):
            columns[name] = pa.array(regions[name].to_numpy(np.float64, na_value=np.nan), from_pandas=True)
        else:
            columns[name] = pc.cast(pa.array(regions[name].tolist(), from_pandas=True), pa.string())
    return pa.table(columns | extra)
