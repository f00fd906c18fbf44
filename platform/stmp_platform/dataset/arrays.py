"""From rows to arrays: dated tables scattered onto the grid of regions by periods, a whole table at a time.

Ingest uses these functions to find what is missing, the reader to build a Panel, so both see the same values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stmp.data.calendar import period_dates, period_index, period_unit

OTHER = -1.0  # the code of a text value that has no column of its own
_CHUNK = 4096  # regions gathered at a time


@dataclass(frozen=True)
class Axis:
    """The time axis: `history` periods with sales, then the known future, up to `length`."""

    first: np.datetime64
    frequency: str
    history: int
    length: int

    @property
    def dates(self) -> np.ndarray:
        """All dates, datetime64[D] [length]."""
        return period_dates(self.first, self.length, self.frequency)

    def positions(self, column: pa.ChunkedArray) -> np.ndarray:
        """Position of each date of a column, int64; may lie outside the axis."""
        days = column.combine_chunks().cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
        if period_unit(self.frequency) == "D":
            return days - int(self.first.astype(np.int64))
        return period_index(days.astype("datetime64[D]"), self.first, self.frequency)


def lookup(column: pa.ChunkedArray, index: pd.Index) -> np.ndarray:
    """Position of each text in an index, int64: -1 where the index lacks it, -2 where it is null."""
    array = column.unify_dictionaries().combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    known = np.append(index.get_indexer(pd.Index(array.dictionary.to_pylist(), dtype=object)), -2)
    return known[array.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)]


def as_float(column: pa.ChunkedArray, vocabulary: pd.Index | None = None) -> np.ndarray:
    """Values as float32, NaN for null; text as its position in the vocabulary or `OTHER`."""
    if vocabulary is None:
        narrow = pc.cast(column, pa.float32(), safe=False)
        return np.asarray(narrow.to_numpy(), dtype=np.float32)
    codes = lookup(column, vocabulary).astype(np.float32)
    return np.where(codes == -2, np.float32(np.nan), codes)


def scatter(
    target: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    periods: np.ndarray,
    series: np.ndarray | None,
) -> None:
    """Put values onto the grid where it holds none yet.

    Parameters
    ----------
    target
        float32 [E, T] or [E, T, G], NaN where nothing is known.
    values, rows, periods, series
        [N], one entry a row of the table. Without `series` a value holds for all G series.
    """
    good = ~np.isnan(values) & (rows >= 0) & (periods >= 0) & (periods < target.shape[1])
    if series is not None and target.ndim == 3:
        good &= series >= 0
    if not good.all():
        values, rows, periods = values[good], rows[good], periods[good]
        series = series[good] if series is not None else None
    if target.ndim == 3 and series is None:
        held = target[rows, periods]
        target[rows, periods] = np.where(np.isnan(held), values[:, None], held)
        return
    place = (rows, periods) if target.ndim == 2 or series is None else (rows, periods, series)
    held = target[place]
    target[place] = np.where(np.isnan(held), values, held)


def scatter_table(
    targets: Mapping[str, np.ndarray],
    table: pa.Table,
    rows: np.ndarray,
    axis: Axis,
    series_index: pd.Index,
    vocabularies: Mapping[str, pd.Index],
) -> None:
    """Scatter all wanted columns of a table; `rows` is the place of each row's region (or group) in the targets."""
    periods = axis.positions(table["_date"])
    series = lookup(table["_series"], series_index) if "_series" in table.column_names else None
    for name, target in targets.items():
        if name in table.column_names:
            scatter(target, as_float(table[name], vocabularies.get(name)), rows, periods, series)


def spread(target: np.ndarray, groups: np.ndarray, source: np.ndarray) -> None:
    """Give each region the values of its group where it has none of its own.

    Parameters
    ----------
    target
        float32 [R, T] or [R, T, G].
    groups
        int64 [R], -1 for a region without a group.
    source
        float32 [E, T] or [E, T, G].
    """
    for start in range(0, len(target), _CHUNK):
        part, group = target[start : start + _CHUNK], groups[start : start + _CHUNK]
        if len(source) == 0:
            return
        values = source[np.maximum(group, 0)]
        if values.ndim < part.ndim:
            values = values[:, :, None]
        member = (group >= 0).reshape(-1, *[1] * (part.ndim - 1))
        np.copyto(part, values, where=np.isnan(part) & member)


def group_regions(regions: pd.DataFrame, table: pa.Table, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Number the key combinations of a table: (group of each region [R], group of each row [N], number of groups)."""
    if not keys:
        return np.zeros(len(regions), np.int64), np.zeros(table.num_rows, np.int64), 1
    rows = table.select(list(keys)).to_pandas().astype(object)
    combined = pd.concat([rows, regions[list(keys)].astype(object)], ignore_index=True)
    number = combined.groupby(list(keys), sort=True, dropna=True).ngroup().to_numpy(np.int64)
    count = int(number.max(initial=-1)) + 1
    of_region = np.where(regions[list(keys)].isna().any(axis=1).to_numpy(), -1, number[len(rows) :])
    return of_region, number[: len(rows)], count


def calendars_of(regions: pd.DataFrame, scopes: Sequence[str], named: set[str]) -> tuple[np.ndarray, list[list[str]]]:
    """Number the distinct combinations of scopes that any calendar row names.

    Returns
    -------
    index
        int64 [R], the calendar of each region.
    held
        For each calendar its scopes, in the order of `scopes`.
    """
    if not scopes or not len(regions):
        return np.zeros(len(regions), np.int64), [[]]
    frame = regions[list(scopes)].astype(object)
    frame = frame.where(frame.isin(list(named)), "")
    number = np.array(frame.groupby(list(scopes), sort=True).ngroup(), np.int64)  # a copy that may be written to
    first = np.unique(number, return_index=True)[1]
    held = [[str(value) for value in row if value != ""] for row in frame.iloc[first].itertuples(index=False)]
    return number, held


def calendar_values(
    table: pa.Table,
    name: str,
    held: Sequence[Sequence[str]],
    axis: Axis,
    vocabulary: pd.Index | None,
    first: np.datetime64,
    last: np.datetime64,
) -> np.ndarray:
    """A known column of the calendar table for each calendar: float32 [C, T].

    Of several scopes that have a row on a day the highest number (any "yes") or the first text counts. Days between the
    table's first and last date that have no row are ordinary: 0, or no category. Outside the value is unknown: NaN.
    """
    scopes = pd.Index(sorted(set(table["_scope"].to_pylist())), dtype=object)
    cube = np.full((len(scopes) + 1, axis.length), np.nan, np.float32)  # the last row: no such scope
    rows, periods = lookup(table["_scope"], scopes), axis.positions(table["_date"])
    scatter(cube, as_float(table[name], vocabulary), rows, periods, None)
    width = max((len(item) for item in held), default=0) + 1
    numbers = np.full((len(held), width), len(scopes), np.int64)
    for j in range(width):
        wanted = [item[j] if j < len(item) else ("" if j == len(item) else None) for item in held]
        found = scopes.get_indexer(pd.Index(wanted, dtype=object))
        numbers[:, j] = np.where(found < 0, len(scopes), found)
    out = np.full((len(held), axis.length), np.nan, np.float32)
    for j in range(width):
        values = cube[numbers[:, j]]
        if vocabulary is None:
            out = np.fmax(out, values)
        else:
            np.copyto(out, values, where=np.isnan(out))
    bounds = period_index(np.asarray([first, last], dtype="datetime64[D]"), axis.first, axis.frequency)
    inside = slice(max(int(bounds[0]), 0), max(int(bounds[1]) + 1, 0))
    part = out[:, inside]
    part[np.isnan(part)] = 0.0 if vocabulary is None else OTHER
    return out
