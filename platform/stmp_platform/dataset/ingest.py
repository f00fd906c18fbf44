"""Ingest: raw tables in, a Dataset out, all faults told at once, nothing left behind where it fails.

DuckDB reads, checks and sorts, spilling to disk, so that memory does not grow with the data. All files of a dataset lie
in a folder of their own generation; writing the manifest, which is last and atomic, makes it the dataset.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import duckdb
import pyarrow as pa

from stmp.errors import ConfigError, DataError, StmpError
from stmp_platform.dataset.generations import all_or_nothing, latest, new_generation, publish, tidy
from stmp_platform.dataset.manifest import DataFile, FactTable, Manifest
from stmp_platform.dataset.plan import OldTables, Plan, make_plan, regions_table
from stmp_platform.dataset.raw import Engine, list_sql
from stmp_platform.dataset.scratch import scratch_folder
from stmp_platform.dataset.spec import DatasetSpec, load_spec
from stmp_platform.dataset.storage import Reader
from stmp_platform.dataset.survey import Survey
from stmp_platform.dataset.writing import Writer, update_digest
from stmp_platform.files import Folder


def ingest(
    spec: DatasetSpec | str | os.PathLike[str],
    out_uri: str,
    append: bool = False,
    revise: bool = False,
    *,
    memory_limit: str = "1.5GB",
    threads: int | None = None,
) -> Manifest:
    """Check raw tables and write them as a dataset.

    Parameters
    ----------
    spec
        A dataset.yaml, or its content.
    out_uri
        Folder of the dataset, local or a URI. A dataset that is there is replaced when the new one is whole.
    append
        Add new days and regions to the dataset that is there. Rows that it holds already are passed over.
    revise
        With `append`: rows that contradict the dataset replace its own.
    memory_limit
        What the sorting engine may hold before it uses the disk.

    Raises
    ------
    ConfigError
        If the spec is at fault, or does not fit the dataset that is appended to.
    FaultyData
        A DataError that lists every fault of the data. The dataset that was there is untouched.
    DataError
        If the tables cannot be read, or another ingest has changed the dataset that is appended to.
    """
    spec = spec if isinstance(spec, DatasetSpec) else load_spec(spec)
    if revise and not append:
        raise ConfigError("revise replaces rows of a dataset that is there: use it together with append")
    out_uri = os.fspath(out_uri)
    folder = Folder(out_uri)
    before = latest(out_uri) if append else _latest_or_none(out_uri)
    old = before if append else None
    if old is not None:
        _check_same_roles(old.spec, spec)
    generation = new_generation()
    with scratch_folder(folder) as work:
        engine = Engine(work, memory_limit, threads)
        try:
            plan = make_plan(engine, spec, old, _old_tables(engine, folder, old), revise)
            with all_or_nothing(folder, generation):
                manifest = _write(engine, plan, folder, generation, revise)
            with all_or_nothing(folder, generation, Exception):  # what is cut off here may be written all the same
                manifest, before = publish(manifest, folder, before, append)
        except duckdb.OutOfMemoryException as error:
            raise StmpError(f"ingest needs more than memory_limit={memory_limit}: raise it. {error}") from error
        except duckdb.Error as error:
            raise DataError(f"the raw tables cannot be read: {error}") from error
        finally:
            engine.close()
    tidy(folder, manifest, before)  # by now it is the dataset, and must stay whatever becomes of this
    return manifest


def _write(engine: Engine, plan: Plan, folder: Folder, generation: str, revise: bool) -> Manifest:
    writer = Writer(engine, plan, folder, generation, revise)
    writer.stage_rows()
    writer.write_groups()
    survey = Survey(plan, writer.text_values())
    for table in writer.groups.values():
        survey.table_rows(table)
    writer.write_buckets(survey)
    writer.tell()
    plan.findings.raise_errors()
    survey.finish()

    regions = regions_table(plan.regions, survey.region_columns())
    regions_file = writer.put("regions.parquet", regions)
    events = _events(plan)
    events_file = writer.put("calendar.parquet", events) if events.num_rows else None
    defaults = survey.defaults()
    defaults_file = writer.put("defaults.parquet", defaults) if defaults is not None else None
    axis = plan.axis
    dates = axis.dates
    static_columns = survey.static_columns()
    return Manifest(
        name=plan.spec.name,
        description=plan.spec.description,
        frequency=plan.spec.frequency,
        fingerprint=_fingerprint(plan, writer, regions, events),
        spec=plan.spec,
        regions=len(plan.regions),
        series=plan.series,
        first_date=str(dates[0]),
        last_sales_date=str(dates[axis.history - 1]),
        last_known_date=str(dates[-1]),
        rows=writer.written["sales"].rows,
        columns=survey.columns,
        static=static_columns,
        tables=[
            FactTable(
                name=fact.name,
                keys=fact.keys,
                has_series=fact.has_series,
                columns=[value.name for value in fact.values],
                rows=writer.written[fact.name].rows,
                first_date=str(fact.first) if fact.first is not None else None,
                last_date=str(fact.last) if fact.last is not None else None,
                files=writer.written[fact.name].files,
            )
            for fact in plan.facts
        ],
        buckets=plan.buckets,
        data=generation,
        regions_file=regions_file,
        events_file=events_file,
        defaults_file=defaults_file,
        warnings=plan.findings.warnings,
        source=_sources(plan.spec),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        created_by=f"stmp-platform {_version()}",
    )


def _events(plan: Plan) -> pa.Table:
    events = plan.events.sort_values(["date", "scope", "event"]) if len(plan.events) else plan.events
    return pa.table(
        {
            "_scope": pa.array(events["scope"].tolist(), pa.string()),
            "_date": pa.array(events["date"].tolist(), pa.date32()),
            "event": pa.array(events["event"].tolist(), pa.string()),
        }
    )


def _fingerprint(plan: Plan, writer: Writer, regions: pa.Table, events: pa.Table) -> str:
    """A digest of what a model can see: content and meaning, not paths, formats, names or the order of rows."""
    meaning = plan.spec.model_dump(mode="json", exclude={"name", "description", "tables", "units", "horizon"})
    meaning["frequency"] = plan.spec.frequency.upper()
    meaning["series"] = plan.series
    meaning["roles"] = [[role, name] for role, name, _ in plan.spec.columns()]
    table = plan.spec.tables.regions
    meaning["static"] = [table.numeric, table.categorical] if table else []
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
    kept = [name for name in regions.column_names if name not in ("_first", "_last", "_observed", "_gaps")]
    update_digest(digest, regions.select(sorted(kept)))
    update_digest(digest, events)
    for fact in plan.facts:
        digest.update(fact.name.encode() + writer.written[fact.name].digest.digest())
    return digest.hexdigest()[:32]


def _sources(spec: DatasetSpec) -> dict[str, str | list[str]]:
    found: dict[str, str | list[str]] = {"sales": spec.tables.sales.path}
    if spec.tables.regions is not None:
        found["regions"] = spec.tables.regions.path
    found |= {f"covariates-{i}": table.path for i, table in enumerate(spec.tables.covariates)}
    if spec.tables.calendar is not None:
        found["calendar"] = spec.tables.calendar.path
    return found


def _version() -> str:
    try:
        return version("stmp-platform")
    except PackageNotFoundError:
        return "from source"


# --- appending -----------------------------------------------------------------------------------------------------


def _check_same_roles(old: DatasetSpec, new: DatasetSpec) -> None:
    def meaning(spec: DatasetSpec) -> dict[str, Any]:
        content = spec.model_dump(mode="json", exclude={"name", "description", "units", "horizon"})
        tables = content.pop("tables")
        for table in [tables["sales"], tables["regions"], tables["calendar"], *tables["covariates"]]:
            if table is not None:
                table.pop("path")
        return {f"tables.{key}": value for key, value in tables.items()} | content

    one, two = meaning(old), meaning(new)
    changed = [key for key in one if one[key] != two[key]]
    if changed:
        raise ConfigError(
            f"the dataset was written with another {', '.join(changed)}: append with the same description of the data "
            "(only paths, names and units may change), or ingest all of it again"
        )


def _old_tables(engine: Engine, folder: Folder, old: Manifest | None) -> OldTables | None:
    if old is None:
        return None
    root, reader = f"{folder.path.rstrip('/')}/{old.data}", Reader(folder.uri)

    def source(files: list[DataFile]) -> str:
        for file in files:
            reader.content(file)  # DuckDB reads it later: damage must not become the new generation's content
        return f"read_parquet({list_sql([engine.address(folder, f'{root}/{file.path}') for file in files])})"

    return OldTables(
        regions=source([old.regions_file]),
        events=source([old.events_file]) if old.events_file else None,
        facts={table.name: source(table.files) for table in old.tables if table.files},
    )


def _latest_or_none(uri: str) -> Manifest | None:
    try:
        return latest(uri)
    except DataError:
        return None  # nothing there, or nothing usable: it will be replaced
