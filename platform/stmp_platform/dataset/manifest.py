"""The manifest: what a Dataset on storage holds. It is written last, so a dataset is there when its manifest is."""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from stmp.errors import DataError
from stmp_platform.dataset.spec import DatasetSpec, Role, Scalar
from stmp_platform.files import Folder

SCHEMA_VERSION = 2
NAME = "manifest.json"
HISTORY = "history"
"""Folder of all manifests that a dataset has had, by their fingerprints: what `stmp trace` tells of its data."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Fault(_Part):
    """Something that is wrong with the data, told once for all rows that share it."""

    level: Literal["error", "warning"]
    table: str
    column: str | None = None
    what: str
    count: int = 0
    examples: list[dict[str, Any]] = []
    remedy: str = ""

    def __str__(self) -> str:
        place = f"{self.table}.{self.column}" if self.column else self.table
        text = f"{place}: {self.what}"
        if self.examples:
            rows = ["{" + ", ".join(f"{key}: {value}" for key, value in row.items()) + "}" for row in self.examples]
            text += f"; e.g. {', '.join(rows)}"
        return f"{text}. {self.remedy}" if self.remedy else text


class Column(_Part):
    """A target or covariate column and what is known of its values."""

    name: str
    role: Role
    kind: Literal["number", "text"]
    tables: list[str]  # in the order in which they are asked for a value
    per_series: bool = False
    vocabulary: list[str] | None = None  # of text columns: the values that become one-hot columns
    fill: Scalar | None = None
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    missing: int = 0  # of known columns: cells of the history without a value, filled when read


class StaticColumn(_Part):
    """A feature of the regions."""

    name: str
    kind: Literal["number", "text"]
    vocabulary: list[str] | None = None
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    missing: int = 0


class DataFile(_Part):
    """One Parquet file of a table, with the regions that it holds."""

    path: str
    rows: int
    bytes: int
    sha256: str | None = None  # not in datasets of schema version 1
    bucket: int | None = None
    first_region: str | None = None
    last_region: str | None = None


class FactTable(_Part):
    """A table of dated values: sales, a covariate table, or the known columns of the calendar."""

    name: str
    keys: list[str]  # ["region"], columns of the regions table, ["scope"], or none: the same for every region
    has_series: bool
    columns: list[str]
    rows: int = 0
    first_date: str | None = None
    last_date: str | None = None
    files: list[DataFile] = []


class Manifest(_Part):
    """What a Dataset is: schema, roles, ranges, dates, fingerprint, files and where it came from."""

    schema_version: int = SCHEMA_VERSION
    name: str
    description: str | None = None
    frequency: str
    fingerprint: str
    spec: DatasetSpec
    regions: int
    series: list[str]
    first_date: str
    last_sales_date: str
    last_known_date: str
    rows: int
    columns: list[Column]
    static: list[StaticColumn]
    tables: list[FactTable]
    buckets: int
    data: str  # the folder of this generation's files, relative to the manifest
    replaces: str | None = None  # the folder of the generation before it
    regions_file: DataFile
    events_file: DataFile | None = None
    defaults_file: DataFile | None = None
    warnings: list[Fault] = []
    source: dict[str, str | list[str]]
    created_at: str
    created_by: str

    def column(self, name: str) -> Column:
        """Return a column by its name."""
        return next(column for column in self.columns if column.name == name)

    def table(self, name: str) -> FactTable:
        """Return a table by its name."""
        return next(table for table in self.tables if table.name == name)

    def of_role(self, role: Role) -> list[Column]:
        """Return the columns of a role, in the order of dataset.yaml."""
        return [column for column in self.columns if column.role == role]


def load_manifest(uri: str) -> Manifest:
    """Read the manifest of a dataset.

    Raises
    ------
    DataError
        If there is none, it is corrupt, or a newer version of this platform wrote it.
    """
    folder = Folder(uri)
    try:
        raw = folder.read(NAME)
    except FileNotFoundError:
        raise DataError(
            f"{uri} is no dataset: it has no {NAME}. Make one with `stmp ingest dataset.yaml --out {uri}`."
        ) from None
    except OSError as error:
        raise DataError(f"{folder.child(NAME)} cannot be read: {error}") from error
    remedy = "Write the dataset again with `stmp ingest`."
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise DataError(f"{folder.child(NAME)} is corrupt: {error}. {remedy}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise DataError(f"{folder.child(NAME)} is corrupt: it names no schema_version. {remedy}")
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{folder.child(NAME)} has schema version {version}, this platform reads up to {SCHEMA_VERSION}: "
            "update stmp-platform, or write the dataset again with this version"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{folder.child(NAME)} is corrupt: {error.error_count()} faults, the first at {place}: {first['msg']}. "
            f"{remedy}"
        ) from error


def save_manifest(manifest: Manifest, folder: Folder) -> None:
    """Commit a dataset: from here on its readers see it, and a copy stays when the next one takes its place."""
    content = (manifest.model_dump_json(indent=1) + "\n").encode()
    folder.write(f"{HISTORY}/{manifest.fingerprint}.json", content)
    folder.write(NAME, content)


def former_manifest(uri: str, fingerprint: str) -> Manifest | None:
    """What a dataset was when it had a fingerprint, of which the first digits are enough; None if it never had it."""
    folder = Folder(uri)
    found = [name for name in folder.names(HISTORY) if name.startswith(fingerprint)]
    return Manifest.model_validate_json(folder.read(f"{HISTORY}/{found[0]}")) if found else None


def bucket_bounds(regions: int, buckets: int) -> np.ndarray:
    """First region of each bucket, and the number of regions at the end; no bucket is empty.

    Buckets are runs of neighbouring regions, as the shares of workers are: a worker reads few files besides its own.
    """
    number = max(1, min(buckets, regions))
    return np.arange(number + 1) * regions // number
