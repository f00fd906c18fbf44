"""Writing a dataset bucket by bucket: sort, merge, measure and store, with one bucket of rows in memory at a time."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stmp_platform.dataset.arrays import (
    calendar_values,
    calendars_of,
    group_regions,
    scatter_table,
    spread,
)
from stmp_platform.dataset.checks import EXAMPLES, check_duplicates
from stmp_platform.dataset.manifest import DataFile, bucket_bounds
from stmp_platform.dataset.merge import merge_rows
from stmp_platform.dataset.plan import Plan, scope_columns
from stmp_platform.dataset.raw import Engine, name_sql, text_sql
from stmp_platform.dataset.reading import Fact, fact_select
from stmp_platform.dataset.survey import Survey
from stmp_platform.files import Folder

ROW_GROUP = 131_072


@dataclass
class Written:
    """What was written of one table."""

    files: list[DataFile] = field(default_factory=list)
    rows: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    duplicates: int = 0
    conflicts: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)  # of the conflicts


class Writer:
    """Writes the files of one generation of a dataset.

    Parameters
    ----------
    folder
        The dataset's folder.
    generation
        Sub-folder for this generation's files.
    revise
        Whether new rows may contradict old ones.
    """

    def __init__(self, engine: Engine, plan: Plan, folder: Folder, generation: str, revise: bool) -> None:
        self.engine, self.plan, self.folder, self.generation, self.revise = engine, plan, folder, generation, revise
        self.stage = engine.work / "stage"
        self.stage.mkdir(exist_ok=True)
        self.written = {fact.name: Written() for fact in plan.facts}
        self.groups: dict[str, pa.Table] = {}
        self.series_index = pd.Index(plan.series, dtype=object)
        self.region_ids = plan.regions["_region"].to_numpy(dtype=object)
        self.bounds = bucket_bounds(len(self.region_ids), plan.buckets)

    # --- tables that hold for groups of regions: small, kept in memory ---------------------------------------------

    def write_groups(self) -> None:
        """Merge and write covariate tables that are not by region, and the known columns of the calendar."""
        for fact in self.plan.facts:
            if fact.by_region or not fact.values:
                continue
            keys = [*fact.keys, *(["_series"] if fact.has_series else []), "_date"]
            names = [value.name for value in fact.values]
            order = ", ".join(name_sql(key) for key in keys)
            table = self.engine.arrow(f"SELECT * FROM ({self._rows(fact)}) ORDER BY {order}, _new")
            table = self._merged(fact, table, keys, names)
            self.groups[fact.name] = table
            # calendar.parquet holds the events
            file = "calendar-known.parquet" if fact.name == "calendar" else f"{fact.name}.parquet"
            self._store(fact, file, table, keys, names, bucket=None)

    def _rows(self, fact: Fact) -> str:
        sql = f"SELECT *, true AS _new FROM ({fact_select(self.plan.spec, fact)})"
        return f"{sql} UNION ALL BY NAME SELECT *, false AS _new FROM {fact.old_sql}" if fact.old_sql else sql

    def _merged(self, fact: Fact, table: pa.Table, keys: list[str], names: list[str]) -> pa.Table:
        old = self.plan.old
        target = next((value.name for value in fact.values if value.role == "target"), None)
        after = np.datetime64(old.last_sales_date, "D") if old is not None else None
        merged = merge_rows(table, keys, names, after, target)
        written = self.written[fact.name]
        written.duplicates += merged.duplicates
        written.conflicts += merged.conflicts
        written.examples += merged.examples[: EXAMPLES - len(written.examples)]
        return merged.table

    def tell(self) -> None:
        """Note the duplicates and, unless they are wanted, the contradictions that sorting brought to light."""
        for fact in self.plan.facts:
            written = self.written[fact.name]
            if written.duplicates:
                check_duplicates(self.engine, fact.source, self.plan.findings)
            if written.conflicts and not self.revise:
                self.plan.findings.error(
                    fact.source.label,
                    None,
                    f"{written.conflicts:,} rows contradict what the dataset holds for the same keys and date",
                    "Append with --revise to replace the old values.",
                    count=written.conflicts,
                    examples=[self._in_words(row) for row in written.examples],
                )

    def _in_words(self, row: dict[str, Any]) -> dict[str, Any]:
        """An example with ids in the place of numbers."""
        words: dict[str, Any] = {}
        for key, value in row.items():
            if key == "_r":
                words["region"] = self.region_ids[value]
            elif key == "_s":
                words |= {"series": self.plan.series[value]} if len(self.plan.series) > 1 else {}
            else:
                words[key.lstrip("_")] = str(value)
        return words

    # --- tables by region: as large as they come ---------------------------------------------------------------------

    def stage_rows(self) -> None:
        """Split the rows of the tables by region into buckets on local disk, unsorted."""
        count = len(self.region_ids)
        numbers = np.arange(count, dtype=np.int32)
        self.engine.register(
            "region_numbers",
            pa.table(
                {
                    "_region": pa.array(self.region_ids, pa.string()),
                    "_r": numbers,
                    "_bucket": np.searchsorted(self.bounds, numbers, side="right") - 1,
                }
            ),
        )
        self.engine.register(
            "series_numbers",
            pa.table(
                {
                    "_series": pa.array(self.plan.series, pa.string()),
                    "_s": np.arange(len(self.plan.series), dtype=np.int32),
                }
            ),
        )
        for fact in self.plan.facts:
            if not fact.by_region:
                continue
            columns = ", ".join(name_sql(value.name) for value in fact.values)
            series = ("s._s", "JOIN series_numbers s USING (_series)") if fact.has_series else ("0::INTEGER AS _s", "")
            self.engine.run(
                f"COPY (SELECT r._r, {series[0]}, _date, {columns}, _new, r._bucket FROM ({self._rows(fact)}) "
                f"JOIN region_numbers r USING (_region) {series[1]}) TO {text_sql(str(self.stage / fact.name))} "
                "(FORMAT parquet, PARTITION_BY (_bucket), COMPRESSION lz4)"
            )

    def write_buckets(self, survey: Survey) -> None:
        """Sort, merge, measure and write one bucket after the other; the next is sorted while one is written."""
        facts = [fact for fact in self.plan.facts if fact.by_region]
        total = len(self.bounds) - 1
        group_cubes = self._group_cubes(survey)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._sorted_bucket, facts, 0)
            for bucket in _progress(total):
                tables = ahead.result()
                if bucket + 1 < total:
                    ahead = pool.submit(self._sorted_bucket, facts, bucket + 1)
                self._write_bucket(survey, facts, bucket, tables, group_cubes)

    def _sorted_bucket(self, facts: list[Fact], bucket: int) -> dict[str, pa.Table]:
        found = {}
        for fact in facts:
            part = self.stage / fact.name / f"_bucket={bucket}"
            if part.exists():
                source = f"read_parquet({text_sql(str(part / '*.parquet'))}, hive_partitioning = false)"
                cursor = self.engine.connection.cursor()
                found[fact.name] = cursor.sql(f"SELECT * FROM {source} ORDER BY _r, _s, _date, _new").to_arrow_table()
        return found

    def _write_bucket(
        self,
        survey: Survey,
        facts: list[Fact],
        bucket: int,
        tables: dict[str, pa.Table],
        group_cubes: list[tuple[dict[str, np.ndarray], np.ndarray]],
    ) -> None:
        first = self.bounds[bucket]
        regions = np.arange(first, self.bounds[bucket + 1])
        cubes = survey.empty_cubes(len(regions))
        keys = ["_region", "_series", "_date"]
        for fact in facts:
            table = tables.get(fact.name)
            if table is None:
                continue
            names = [value.name for value in fact.values]
            table = self._merged(fact, table, ["_r", "_s", "_date"], names)
            local = table["_r"].combine_chunks().to_numpy() - first
            if fact.name == "sales":
                survey.sales_rows(table, regions, local)
            table = self._named(table, regions, local, fact.has_series)
            held = [key for key in keys if key in table.column_names]
            self._store(fact, f"{fact.name}/part-{bucket:05d}.parquet", table, held, names, bucket)
            survey.table_rows(table)
            scatter_table(cubes, table, local, self.plan.axis, self.series_index, survey.vocabularies)
        for sources, groups in group_cubes:
            for name, source in sources.items():
                if name in cubes:
                    spread(cubes[name], groups[regions], source)
        survey.bucket(regions, cubes)

    def _named(self, table: pa.Table, regions: np.ndarray, local: np.ndarray, has_series: bool) -> pa.Table:
        """Put ids in the place of numbers."""
        ids = pa.DictionaryArray.from_arrays(
            pa.array(local.astype(np.int32)), pa.array(self.region_ids[regions], pa.string())
        )
        columns: dict[str, Any] = {"_region": ids}
        if has_series:
            columns["_series"] = pa.DictionaryArray.from_arrays(
                table["_s"].combine_chunks().cast(pa.int32()), pa.array(self.plan.series, pa.string())
            )
        columns |= {name: table[name] for name in table.column_names if name not in ("_r", "_s", "_new")}
        return pa.table(columns)

    def _group_cubes(self, survey: Survey) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Spread out the group tables once: (column -> cube [E, T, G], group of each region [R]) of each."""
        found = []
        axis, shape = self.plan.axis, survey.shape
        for fact in self.plan.facts:
            table = self.groups.get(fact.name)
            if table is None:
                continue
            wanted = [value.name for value in fact.values if value.name in survey.cube_names]
            if fact.name == "calendar":
                scopes = set(table["_scope"].to_pylist()) | self.plan.calendar_scopes
                of_region, held = calendars_of(self.plan.regions, scope_columns(self.plan.spec), scopes)
                if fact.first is None or fact.last is None:
                    continue
                cubes = {
                    name: calendar_values(table, name, held, axis, survey.vocabularies.get(name), fact.first, fact.last)
                    for name in wanted
                }
                found.append(({name: cube[:, :, None] for name, cube in cubes.items()}, of_region))
                continue
            of_region, of_row, count = group_regions(self.plan.regions, table, fact.keys)
            cubes = {name: np.full((count, *shape), np.nan, np.float32) for name in wanted}
            scatter_table(cubes, table, of_row, axis, self.series_index, survey.vocabularies)
            found.append((cubes, of_region))
        return found

    # --- files -----------------------------------------------------------------------------------------------------

    def _store(
        self, fact: Fact, name: str, table: pa.Table, keys: list[str], values: list[str], bucket: int | None
    ) -> None:
        written = self.written[fact.name]
        table = table.select([*keys, *values])
        update_digest(written.digest, table)
        if table.num_rows == 0:
            return
        file = self.put(name, table)
        file.bucket = bucket
        if bucket is not None:
            file.first_region, file.last_region = str(table["_region"][0].as_py()), str(table["_region"][-1].as_py())
        written.files.append(file)
        written.rows += table.num_rows

    def put(self, name: str, table: pa.Table) -> DataFile:
        """Write a Parquet file of this generation."""
        path = f"{self.folder.path.rstrip('/')}/{self.generation}/{name}"
        self.folder.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        plain = [f.name for f in table.schema if not pa.types.is_floating(f.type)]
        sink = pa.BufferOutputStream()
        pq.write_table(
            table, sink, compression="zstd", compression_level=1, row_group_size=ROW_GROUP, use_dictionary=plain
        )
        content = sink.getvalue()
        with self.folder.fs.open(path, "wb") as file:
            file.write(content)
        return DataFile(path=name, rows=table.num_rows, bytes=content.size, sha256=hashlib.sha256(content).hexdigest())

    def text_values(self) -> dict[str, list[str]]:
        """All values of each text column, sorted."""
        found: dict[str, set[str]] = {}
        for fact in self.plan.facts:
            for value in fact.values:
                if value.kind != "text":
                    continue
                if fact.by_region:
                    source = f"read_parquet({text_sql(str(self.stage / fact.name / '*' / '*.parquet'))})"
                    rows = [row[0] for row in self.engine.run(f"SELECT DISTINCT {name_sql(value.name)} FROM {source}")]
                else:
                    rows = pc.unique(self.groups[fact.name][value.name]).to_pylist()
                found.setdefault(value.name, set()).update(item for item in rows if item is not None)
        return {name: sorted(values) for name, values in found.items()}


def update_digest(digest: Any, table: pa.Table) -> None:
    """Add a sorted table to a digest: names and values, numbers as the float32 that a Panel holds.

    The same content gives the same digest whatever library, version or file format it came through.
    """
    for name in table.column_names:
        column = table[name].combine_chunks()
        digest.update(name.encode() + b"\0")
        if pa.types.is_floating(column.type):
            values = pc.cast(column, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
            # one bit pattern each for a missing value and for zero
            digest.update(np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0)).tobytes())
        elif pa.types.is_date(column.type):
            digest.update(column.cast(pa.int32()).to_numpy(zero_copy_only=False).astype("<i4").tobytes())
        else:
            encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            values = encoded.dictionary.to_pylist()
            order = sorted(range(len(values)), key=lambda i: str(values[i]))
            rank = np.empty(len(values) + 1, np.int32)
            rank[order] = np.arange(len(values))
            rank[-1] = -1
            digest.update(json.dumps([str(values[i]) for i in order]).encode())
            digest.update(
                rank[encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)].astype("<i4").tobytes()
            )


def _progress(total: int) -> Iterator[int]:
    if not sys.stderr.isatty():
        yield from range(total)
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(range(total), description="Writing", console=Console(stderr=True), transient=True)
