"""Known-future covariates that come as one table at forecast time, for days that the dataset does not hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from jobs.tablefile import read_table
from stmp.data.panel import SERIES_SEPARATOR, Panel
from stmp.errors import DataError

if TYPE_CHECKING:
    from stmp_platform.dataset.manifest import Column, Manifest


@dataclass(frozen=True)
class KnownTable:
    """A table of known-future values: one row a date, or a region and date, or a region, series and date.

    Attributes
    ----------
    frame : DataFrame
        Columns ``_date`` (datetime64), ``_region`` and ``_series`` (text; absent if the values hold for all), values.
    columns : tuple of Column
        Of the manifest, those that the table holds.
    closed : tuple of (column, value), optional
        Which value means that a region is closed that day.
    """

    path: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    closed: tuple[str, object] | None

    def complete_after(self, last: np.datetime64) -> KnownTable:
        """Without rows of later days that lack values: such a day is the neighbour of one that is wanted, no more."""
        wanted = (self.frame["_date"] <= pd.Timestamp(last)) | self.frame.notna().all(axis=1)
        return replace(self, frame=self.frame[wanted])


def read_known(path: str, manifest: Manifest) -> KnownTable:
    """Read and check a table of known-future values; its columns have the names of the raw tables.

    Raises
    ------
    DataError
        If it has no date column, no known-future column, dates that cannot be read, or a key twice.
    """
    frame = read_table(path)
    sales = manifest.spec.tables.sales
    columns = tuple(column for column in manifest.of_role("known") if column.name in frame.columns)
    wanted = [column.name for column in manifest.of_role("known")]
    if sales.date not in frame.columns or not columns:
        raise DataError(
            f"{path} has the columns {list(frame.columns)}; it needs '{sales.date}', '{sales.region}' if values differ "
            f"by region, and some of the known-future columns {wanted}."
        )
    keys = {sales.date: "_date", sales.region: "_region", sales.series or "": "_series"}
    present = {name: key for name, key in keys.items() if name in frame.columns}
    frame = frame[[*present, *(column.name for column in columns)]].rename(columns=present)
    days = pd.to_datetime(frame["_date"], errors="coerce")
    if days.isna().any():
        bad = frame.loc[days.isna(), "_date"]
        raise DataError(
            f"{path}: {len(bad)} values of '{sales.date}' are no dates, such as {bad.astype(str).tolist()[:3]}."
        )
    frame = frame.assign(_date=days, **{key: frame[key].astype(str) for key in present.values() if key != "_date"})
    twice = frame.duplicated(list(present.values()))
    if twice.any():
        row = frame.loc[twice, list(present.values())].astype(str).iloc[0].to_dict()
        raise DataError(
            f"{path}: {int(twice.sum())} rows have the keys of an earlier row, such as {row}. Keep one of each."
        )
    rule = manifest.spec.closed
    closed = (rule.column, rule.equals) if rule is not None and rule.column in {c.name for c in columns} else None
    return KnownTable(path, frame, columns, closed)


def file_digest(path: str) -> str:
    """SHA-256 of a table's file, which may change and keep its name.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    from stmp_platform.files import Folder

    folder, _, name = path.rpartition("/")
    try:
        return hashlib.sha256(Folder(folder or ".").read(name)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def with_known(panel: Panel, table: KnownTable) -> Panel:
    """Put the values of a table in place of those that a panel holds for the same days.

    Parameters
    ----------
    panel : Panel
        Its dates must reach over the days that are wanted; rows of other days and regions are not looked at.

    Raises
    ------
    DataError
        If a value is no number where numbers are expected, or a text that the dataset has never seen.
    """
    frame = table.frame[table.frame["_date"].isin(pd.DatetimeIndex(panel.dates))]
    if "_region" in frame:
        frame = frame[frame["_region"].isin(panel.regions.astype(str))]
    if "_series" in frame:
        frame = frame[frame["_series"].isin(panel.series)]
    if frame.empty:
        return panel
    days = torch.as_tensor(np.searchsorted(panel.dates, frame["_date"].to_numpy().astype("datetime64[D]")))
    rows = None
    if "_region" in frame:
        rows = torch.as_tensor(pd.Index(panel.regions.astype(str)).get_indexer(pd.Index(frame["_region"])))
    known, closed = panel.known.clone(), panel.closed.clone()
    for column in table.columns:
        for name, values in _numbers(table.path, column, frame[column.name]).items():
            for at, chosen in _places(panel, name, frame):
                value = torch.as_tensor(values[chosen], dtype=known.dtype)
                known[slice(None) if rows is None else rows[chosen], days[chosen], at] = value
    if table.closed is not None:
        name, equals = table.closed
        shut = torch.as_tensor((frame[name].astype(str) == str(equals)).to_numpy() | _same_number(frame[name], equals))
        closed[slice(None) if rows is None else rows, days] = shut
    return replace(panel, known=known, closed=closed)


def _same_number(values: pd.Series, equals: object) -> np.ndarray:
    number = pd.to_numeric(pd.Series([equals]), errors="coerce").astype(float).iloc[0]
    found: np.ndarray = (pd.to_numeric(values, errors="coerce").astype(float) == number).to_numpy()
    return found


def _numbers(path: str, column: Column, values: pd.Series) -> dict[str, np.ndarray]:
    """The columns of a panel that a raw column becomes: itself, or one for each of its categories."""
    if column.kind == "text":
        text = values.astype(str)
        return {f"{column.name}={word}": (text == word).to_numpy(np.float32) for word in column.vocabulary or ()}
    numbers = pd.to_numeric(values, errors="coerce").astype("float32")
    bad = numbers.isna()
    if bad.any():
        examples = values[bad].astype(str).tolist()[:3]
        raise DataError(f"{path}: {int(bad.sum())} values of '{column.name}' are no numbers, such as {examples}.")
    return {column.name: numbers.to_numpy()}


def _places(panel: Panel, name: str, frame: pd.DataFrame) -> list[tuple[int, np.ndarray]]:
    """Where a column's values go in the panel's known columns, and which rows of the table go there."""
    every = np.arange(len(frame))
    position = {known: at for at, known in enumerate(panel.known_names)}
    if name in position:
        return [(position[name], every)]
    places = []
    for series in panel.series:
        flat = f"{name}{SERIES_SEPARATOR}{series}"
        if flat in position:
            chosen = np.flatnonzero(frame["_series"] == series) if "_series" in frame else every
            places.append((position[flat], chosen))
    return places
