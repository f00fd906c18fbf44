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
    Findings,
    check_duplicates,
)
from stmp_platform.dataset.manifest import Fault, Manifest
from stmp_platform.dataset.raw import Engine, RawTable, open_table, unreadable
from stmp_platform.dataset.reading import (
    Fact,
    check_fill,
    read_calendar,
    read_covariates,
    read_regions,
    read_sales,
    same_kinds,
    unknown_regions,
)
from stmp_platform.dataset.spec import DatasetSpec

KNOWN_AHEAD = {"D": 366, "W": 53, "M": 12, "Q": 4}  # periods of known future that are loaded where no horizon is named


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
        """Files per table: small enough to sort in memory, and enough of them for many workers to share.

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
    known_regions = read_regions(engine, spec, raws.get("regions"), findings)
    facts: list[Fact] = []
    if "sales" in raws:
        facts += read_sales(engine, spec, raws["sales"], findings, old)
    week_day = facts[0].stats.day_of_week if facts else None
    for number, table in enumerate(spec.tables.covariates):
        raw = raws.get(f"covariates[{number}]")
        if raw is not None:
            facts += read_covariates(engine, spec, table, number, raw, findings, old, week_day)
    events = pd.DataFrame({"scope": [], "date": [], "event": []}, dtype=object)
    scopes: set[str] = set()
    if "calendar" in raws:
        events, scopes, more = read_calendar(engine, spec, raws["calendar"], findings, old, week_day)
        facts += more
    same_kinds(facts, findings)
    check_fill(spec, facts, findings)
    if known_regions is not None and facts and facts[0].name == "sales":
        in_old = set(_old_regions(engine, old_tables)["_region"]) if old_tables else set()
        unknown_regions(engine, facts[0], set(known_regions["_region"]) | in_old, findings)
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


# --- together with what is there -----------------------------------------------------------------------------------


def sort_ids(ids: set[str]) -> list[str]:
    """Sort ids: as numbers if all are whole numbers, else as text."""
    if all(re.fullmatch(r"-?\d{1,18}", item) for item in ids):
        return sorted(ids, key=lambda item: (int(item), item))
    return sorted(ids)


def _old_regions(engine: Engine, old_tables: OldTables) -> pd.DataFrame:
    frame = engine.arrow(f"SELECT * EXCLUDE (_first, _last, _observed, _gaps) FROM {old_tables.regions}").to_pandas()
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
    """The columns of the regions frame that a calendar's scope may name; the region's id where none is named."""
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
    # a calendar alone, known for years ahead, does not stretch the axis: its values are there when more is asked for
    ahead = [
        fact.last
        for fact in facts
        if fact.last is not None and fact.name != "calendar" and any(value.role == "known" for value in fact.values)
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
