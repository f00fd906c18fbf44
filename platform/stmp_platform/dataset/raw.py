"""Raw tables: CSV or Parquet, local or on object storage, as DuckDB sees them.

Nothing is trusted here: a column is read as what it is and cast where it is used, so that a wrong value is counted and
shown with its row instead of ending the reading at the first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from stmp.errors import ConfigError
from stmp_platform.dataset.manifest import Fault
from stmp_platform.files import Folder

CSV_NULLS = ["", "NA", "N/A", "NaN", "nan", "NULL", "null"]
DATE_FORMATS = ["%Y%m%d", "%Y/%m/%d", "%Y.%m.%d"]
_NUMERIC = ("INT", "DOUBLE", "FLOAT", "DECIMAL", "BOOLEAN", "REAL")


class Engine:
    """A DuckDB connection that spills to disk instead of filling memory.

    Parameters
    ----------
    work
        Local folder for what does not fit into memory.
    memory_limit
        What DuckDB may hold, such as "1.5GB".
    threads
        By default all cores.
    """

    def __init__(self, work: Path, memory_limit: str, threads: int | None = None) -> None:
        self.work = work
        self.connection = duckdb.connect()
        self.run("SET memory_limit = $1", memory_limit)
        self.run("SET temp_directory = $1", str(work / "spill"))
        self.run("SET TimeZone = 'UTC'")
        self.run("SET preserve_insertion_order = false")  # order is by keys; arrival order would need buffers
        self.run("SET autoinstall_known_extensions = false")
        self.run("SET autoload_known_extensions = false")
        self.run("SET enable_progress_bar = false")
        if threads:
            self.run("SET threads = $1", threads)
        self._filesystems: set[str] = set()

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return self.connection.execute(sql, list(values) or None).fetchall()

    def arrow(self, sql: str) -> pa.Table:
        """Run a query and return its rows as an Arrow table."""
        return self.connection.sql(sql).to_arrow_table()

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table known to queries by a name."""
        self.connection.register(name, table)

    def address(self, folder: Folder, path: str) -> str:
        """Return how DuckDB names a file of a folder's filesystem; remote filesystems are registered on first use."""
        if folder.local:
            return path
        protocol = folder.uri.split("://", 1)[0]
        if protocol not in self._filesystems:
            if not self.connection.filesystem_is_registered(protocol):
                self.connection.register_filesystem(folder.fs)
            self._filesystems.add(protocol)
        return f"{protocol}://{path.lstrip('/')}"

    def close(self) -> None:
        """Let go of memory and files."""
        self.connection.close()


def name_sql(name: str) -> str:
    """Quote a column name."""
    return '"' + name.replace('"', '""') + '"'


def text_sql(value: str) -> str:
    """Quote a text value."""
    return "'" + value.replace("'", "''") + "'"


def list_sql(values: Sequence[str]) -> str:
    """Quote a list of text values."""
    return "[" + ", ".join(text_sql(value) for value in values) + "]"


@dataclass(frozen=True)
class RawTable:
    """A raw table that can be opened: a query source and the types of its columns."""

    label: str
    source: str
    types: dict[str, str]

    def text(self, column: str) -> str:
        """SQL of a column as an id or a category: trimmed text, NULL where empty; 7.0 and 7 are the same id."""
        type_, name = self.types[column], name_sql(column)
        if type_ == "VARCHAR":
            return f"nullif(trim({name}), '')"
        if type_ in ("DOUBLE", "FLOAT"):
            whole = f"{name} = floor({name}) AND abs({name}) < 1e15"
            return f"CASE WHEN {whole} THEN CAST(CAST({name} AS BIGINT) AS VARCHAR) ELSE CAST({name} AS VARCHAR) END"
        return f"CAST({name} AS VARCHAR)"

    def number(self, column: str, boolean_text: bool = False) -> str:
        """SQL of a column as DOUBLE; NULL where it is empty, NaN or no number."""
        type_, name = self.types[column], name_sql(column)
        if type_ == "VARCHAR" and boolean_text:
            return f"CAST(TRY_CAST(trim({name}) AS BOOLEAN) AS DOUBLE)"
        if type_ == "VARCHAR":
            return f"nullif(TRY_CAST(trim({name}) AS DOUBLE), CAST('nan' AS DOUBLE))"
        if type_ in ("DOUBLE", "FLOAT"):
            return f"nullif(CAST({name} AS DOUBLE), CAST('nan' AS DOUBLE))"
        return f"CAST({name} AS DOUBLE)"

    def no_number(self, column: str, boolean_text: bool = False) -> str:
        """SQL that is true where a value is there but is no number."""
        if self.types[column] != "VARCHAR":
            return "false"
        name = name_sql(column)
        type_ = "BOOLEAN" if boolean_text else "DOUBLE"
        return f"({name} IS NOT NULL AND trim({name}) <> '' AND TRY_CAST(trim({name}) AS {type_}) IS NULL)"

    def stamp(self, column: str) -> str:
        """SQL of a column as TIMESTAMP; NULL where it is no date between 1900 and 2200."""
        type_, name = self.types[column], name_sql(column)
        if type_ == "DATE" or type_.startswith("TIMESTAMP"):
            value = f"CAST({name} AS TIMESTAMP)"
        elif type_ == "VARCHAR":
            value = (
                f"coalesce(TRY_CAST(trim({name}) AS TIMESTAMP), try_strptime(trim({name}), {list_sql(DATE_FORMATS)}))"
            )
        else:
            value = f"try_strptime(CAST({name} AS VARCHAR), {list_sql(DATE_FORMATS)})"
        low, high = "TIMESTAMP '1900-01-01'", "TIMESTAMP '2200-01-01'"
        return f"(CASE WHEN {value} >= {low} AND {value} < {high} THEN {value} END)"

    def day(self, column: str) -> str:
        """SQL of a column as DATE."""
        return name_sql(column) if self.types[column] == "DATE" else f"CAST({self.stamp(column)} AS DATE)"

    def is_numeric(self, column: str) -> bool:
        """Whether the column's type is a number or a boolean."""
        return any(part in self.types[column] for part in _NUMERIC) and not self.is_nested(column)

    def is_nested(self, column: str) -> bool:
        """Whether the column holds lists, structs or bytes."""
        type_ = self.types[column]
        return type_.endswith("]") or type_.startswith(("STRUCT", "MAP", "UNION")) or type_ == "BLOB"

    def is_date(self, column: str) -> bool:
        """Whether the column's type is a date or time."""
        return self.types[column].startswith(("DATE", "TIME", "INTERVAL"))


def open_table(engine: Engine, label: str, path: str | list[str]) -> RawTable | Fault:
    """Find the files of a raw table and read its columns, or say what hinders it."""
    paths = [path] if isinstance(path, str) else path
    files: list[tuple[Folder, str]] = []
    for item in paths:
        try:
            folder = Folder(item)
            found = _expand(folder)
        except (OSError, ImportError, ValueError, ConfigError) as error:
            return Fault(level="error", table=label, what=f"{item} cannot be read: {error}", remedy="Check the path.")
        if not found:
            return Fault(
                level="error", table=label, what=f"there is no file {item}", remedy="Check the path in dataset.yaml."
            )
        files += [(folder, name) for name in found]
    try:
        if _is_csv(files[0][1]):
            source = _csv_as_parquet(engine, label, files)
        else:
            source = f"read_parquet({list_sql([engine.address(*file) for file in files])}, union_by_name = true)"
        rows = engine.run(f"DESCRIBE SELECT * FROM {source}")
    except (duckdb.Error, OSError, ValueError) as error:
        return unreadable(label, paths, error)
    types = {str(row[0]): str(row[1]) for row in rows}
    # an enumeration is text that came from a dictionary
    return RawTable(label, source, {name: "VARCHAR" if t.startswith("ENUM") else t for name, t in types.items()})


def unreadable(label: str, paths: Sequence[str], error: Exception) -> Fault:
    """Say that a file is corrupt or of another format."""
    text = " ".join(str(error).split("\n\nLINE")[0].split("Possible")[0].split())
    return Fault(
        level="error",
        table=label,
        what=f"{', '.join(paths)} cannot be read: {text}",
        remedy="Give a whole CSV (UTF-8, with a header) or Parquet file.",
    )


def _expand(folder: Folder) -> list[str]:
    """The files that a path means: itself, those of a pattern, or those in a folder."""
    folder.fs.invalidate_cache()
    if any(sign in folder.path for sign in "*?["):
        return sorted(str(name) for name in folder.fs.glob(folder.path))
    if folder.fs.isdir(folder.path):
        names = [str(name) for name in folder.fs.find(folder.path)]
        return sorted(name for name in names if _is_csv(name) or name.endswith((".parquet", ".pq")))
    return [folder.path] if folder.fs.exists(folder.path) else []


def _is_csv(path: str) -> bool:
    base = path.lower()
    for suffix in (".gz", ".zst"):
        base = base.removesuffix(suffix)
    return base.endswith((".csv", ".tsv", ".txt"))


def _csv_as_parquet(engine: Engine, label: str, files: list[tuple[Folder, str]]) -> str:
    """Parse CSV once, as text, into a local Parquet file: checking asks for the same columns several times."""
    headers = [_csv_header(folder, path) for folder, path in files]
    names, delimiter = headers[0]
    for (other, _), (_, path) in zip(headers, files, strict=True):
        if other != names:
            raise ValueError(f"{path} has the columns {other}, but {files[0][1]} has {names}")
    if len(set(names)) < len(names):
        raise ValueError(f"the header names a column twice: {names}")
    columns = ", ".join(f"{text_sql(name)}: 'VARCHAR'" for name in names)
    target = engine.work / f"{label.replace('.', '-')}.parquet"
    # Sniffing is off: it would skip lines that do not look like the others.
    engine.run(
        f"COPY (SELECT * FROM read_csv({list_sql([engine.address(*file) for file in files])}, auto_detect = false, "
        f"header = true, delim = {text_sql(delimiter)}, quote = '\"', escape = '\"', columns = {{{columns}}}, "
        f"nullstr = {list_sql(CSV_NULLS)})) TO {text_sql(str(target))} (FORMAT parquet)"
    )
    return f"read_parquet({text_sql(str(target))})"


def _csv_header(folder: Folder, path: str) -> tuple[list[str], str]:
    with folder.fs.open(path, "rb", compression="infer") as file:
        line = file.readline().decode("utf-8-sig").rstrip("\r\n")
    if not line.strip():
        raise ValueError(f"{path} has no header line")
    delimiter = max((",", ";", "\t", "|"), key=line.count)
    return next(csv.reader(io.StringIO(line), delimiter=delimiter)), delimiter
