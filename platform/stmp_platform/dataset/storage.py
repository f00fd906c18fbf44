"""Reading a Dataset: the regions that a worker asks for, and no others, as a Panel."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stmp.data.calendar import Calendar, build_calendar, period_index
from stmp.data.panel import Panel
from stmp.errors import DataError
from stmp_platform.dataset.arrays import (
    Axis,
    calendar_values,
    calendars_of,
    group_regions,
    lookup,
    scatter_table,
    spread,
)
from stmp_platform.dataset.manifest import Column, DataFile, FactTable, Manifest, bucket_bounds, load_manifest
from stmp_platform.dataset.plan import scope_columns
from stmp_platform.dataset.spec import Role
from stmp_platform.dataset.survey import closed_days
from stmp_platform.files import Folder


class Reader:
    """Reads the files of one generation of a dataset."""

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)
        self.manifest: Manifest = load_manifest(uri)

    def table(self, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
        """One file as Arrow.

        Raises
        ------
        DataError
            If the file is missing, truncated or changed since it was written.
        """
        try:
            return pq.read_table(pa.BufferReader(self.content(file)), columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(file, error) from error

    def content(self, file: DataFile) -> bytes:
        """The bytes of a file, as they were written.

        Raises
        ------
        DataError
            If the file is missing, truncated or changed.
        """
        try:
            content = self.folder.read(f"{self.manifest.data}/{file.path}")
        except OSError as error:
            raise self._unreadable(file, error) from error
        if file.sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise self._unreadable(
                file, f"it holds {len(content):,} bytes, {file.bytes:,} were written, and its SHA-256 is another"
            )
        return content

    def _unreadable(self, file: DataFile, why: object) -> DataError:
        return DataError(
            f"{self.folder.path.rstrip('/')}/{self.manifest.data}/{file.path} of dataset {self.folder.uri} cannot be "
            f"read: {why}. Write the dataset again with `stmp ingest`."
        )

    def regions(self) -> pd.DataFrame:
        """All regions in order, with their features."""
        frame = self.table(self.manifest.regions_file).to_pandas()
        return frame.astype({name: object for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])})

    def events(self) -> pd.DataFrame:
        """Event dates: columns scope, date, event."""
        if self.manifest.events_file is None:
            return pd.DataFrame({"scope": [], "date": [], "event": []}, dtype=object)
        return self.table(self.manifest.events_file).to_pandas().set_axis(["scope", "date", "event"], axis=1)


def read_regions(uri: str) -> pd.DataFrame:
    """The regions of a dataset in order: `_region`, their features, `_first` and `_last` sale, `_observed` values."""
    return Reader(uri).regions()


def region_names(uri: str, since: str = "") -> list[str]:
    """The regions of a dataset in order, without those that have closed.

    Parameters
    ----------
    since : str, optional
        A region whose last sale is of an earlier day than this has closed; one that never sold has not opened yet.
    """
    frame = read_regions(uri)
    names: list[str] = frame["_region"].tolist()
    if not since:
        return names
    return [name for name, last in zip(names, frame["_last"], strict=True) if last is None or str(last) >= since]


def read_panel(
    uri: str,
    regions: Sequence[str] | None = None,
    shard: tuple[int, int] | None = None,
    end: date | str | np.datetime64 | None = None,
) -> Panel:
    """Read a dataset, or some of its regions, as a Panel.

    Parameters
    ----------
    uri
        Folder of the dataset.
    regions
        Ids of the regions wanted, by default all; the panel keeps the dataset's order.
    shard
        (i, n): the i-th of n equal runs of the sorted list of regions.
    end
        The last date wanted; the time axis is extended past the data, where known covariates are NaN unless filled by
        the spec, or cut short.

    Raises
    ------
    DataError
        If there is no dataset, a file is corrupt, or a region is unknown.
    """
    reader = Reader(uri)
    manifest = reader.manifest
    everywhere = reader.regions()
    chosen = _choose(everywhere["_region"], regions, shard, uri)
    frame = everywhere.iloc[chosen].reset_index(drop=True)
    axis = axis_of(manifest, end)
    series_index = pd.Index(manifest.series, dtype=object)
    shape = (len(frame), axis.length)

    roles: tuple[Role, Role] = ("past", "known")
    layout = {role: layout_of(manifest.of_role(role), manifest.series) for role in roles}
    blocks = {role: np.full((*shape, len(names)), np.nan, np.float32) for role, (names, _) in layout.items()}
    sales = np.full((*shape, len(manifest.series)), np.nan, np.float32)
    targets = {manifest.of_role("target")[0].name: sales}
    vocabularies: dict[str, pd.Index] = {}
    codes: dict[str, np.ndarray] = {}  # texts, until they become one-hot columns
    for role in roles:
        for column in manifest.of_role(role):
            place = layout[role][1][column.name]
            if column.kind == "text":
                vocabularies[column.name] = pd.Index(column.vocabulary or [], dtype=object)
                own = (*shape, len(manifest.series)) if column.per_series else shape
                targets[column.name] = codes[column.name] = np.full(own, np.nan, np.float32)
            else:
                block = blocks[role][:, :, place]
                targets[column.name] = block if column.per_series else block[:, :, 0]

    index = pd.Index(frame["_region"], dtype=object)
    for table in manifest.tables:
        wanted = {name: targets[name] for name in table.columns}
        if table.keys == ["_region"]:
            _read_buckets(reader, table, wanted, chosen, index, axis, series_index, vocabularies)
        elif wanted and table.files:
            _read_groups(reader, table, wanted, frame, axis, series_index, vocabularies)
    _fill(reader, targets, axis)

    closed = _closed(manifest, targets, vocabularies, shape)
    for role in roles:
        for column in manifest.of_role(role):
            if column.kind == "text":
                block = blocks[role][:, :, layout[role][1][column.name]]
                _one_hot(block, codes.pop(column.name), len(column.vocabulary or []))
    observed = ~np.isnan(sales)
    observed &= ~closed[:, :, None]
    observed[:, axis.history :] = False
    sales[~observed] = 0.0
    static, static_names = _static(manifest, frame)
    calendar, calendar_index = calendar_of(reader, frame, axis)
    return Panel(
        regions=frame["_region"].to_numpy(dtype=object),
        series=tuple(manifest.series),
        calendar=calendar,
        calendar_index=torch.from_numpy(calendar_index),
        sales=torch.from_numpy(sales),
        observed=torch.from_numpy(observed),
        closed=torch.from_numpy(closed),
        past=torch.from_numpy(blocks["past"]),
        known=torch.from_numpy(blocks["known"]),
        static=torch.from_numpy(static),
        past_names=layout["past"][0],
        known_names=layout["known"][0],
        static_names=static_names,
        fingerprint=manifest.fingerprint,
    )


def _choose(ids: pd.Series, regions: Sequence[str] | None, shard: tuple[int, int] | None, uri: str) -> np.ndarray:
    chosen = np.arange(len(ids))
    if regions is not None:
        wanted = [str(item) for item in regions]
        unknown = sorted(set(wanted) - set(ids))
        if unknown:
            raise DataError(
                f"{len(unknown)} of {len(wanted)} regions are not in dataset {uri}: {', '.join(unknown[:5])}. "
                f"It holds {len(ids):,}, such as {', '.join(ids.head(3))}."
            )
        chosen = chosen[ids.isin(wanted).to_numpy()]
    if shard is not None:
        number, count = shard
        if not 0 <= number < count:
            raise DataError(f"there is no shard {number} of {count}: shards are numbered from 0")
        chosen = chosen[np.arange(len(chosen)) * count // max(1, len(chosen)) == number]
    return chosen


def axis_of(manifest: Manifest, end: date | str | np.datetime64 | None) -> Axis:
    """The time axis of a dataset, extended or cut to `end`."""
    first = np.datetime64(manifest.first_date, "D")
    stops = [np.datetime64(manifest.last_sales_date, "D"), np.datetime64(manifest.last_known_date, "D")]
    if end is not None:
        stops.append(np.datetime64(pd.Timestamp(end), "D"))
    history, known, *asked = (period_index(np.asarray(stops), first, manifest.frequency) + 1).tolist()
    length = asked[0] if asked else known
    if length < 1:
        raise DataError(f"the dataset begins on {first}: it has nothing up to {end}")
    return Axis(first, manifest.frequency, min(history, length), length)


def layout_of(columns: Sequence[Column], series: Sequence[str]) -> tuple[tuple[str, ...], dict[str, slice]]:
    """Names of the panel's columns, and which of them come from each column of the dataset."""
    names: list[str] = []
    places = {}
    for column in columns:
        own = (
            [f"{column.name}={value}" for value in column.vocabulary or []] if column.kind == "text" else [column.name]
        )
        if column.per_series:
            own = [f"{name}@{item}" for name in own for item in series]
        places[column.name] = slice(len(names), len(names) + len(own))
        names += own
    return tuple(names), places


def _read_buckets(
    reader: Reader,
    table: FactTable,
    targets: dict[str, np.ndarray],
    chosen: np.ndarray,
    index: pd.Index,
    axis: Axis,
    series_index: pd.Index,
    vocabularies: dict[str, pd.Index],
) -> None:
    bounds = bucket_bounds(reader.manifest.regions, reader.manifest.buckets)
    needed = set((np.searchsorted(bounds, chosen, side="right") - 1).tolist())
    columns = ["_region", *(["_series"] if table.has_series else []), "_date", *targets]
    for file in table.files:
        if file.bucket in needed:
            rows = reader.table(file, columns)
            scatter_table(targets, rows, lookup(rows["_region"], index), axis, series_index, vocabularies)


def _read_groups(
    reader: Reader,
    table: FactTable,
    targets: dict[str, np.ndarray],
    frame: pd.DataFrame,
    axis: Axis,
    series_index: pd.Index,
    vocabularies: dict[str, pd.Index],
) -> None:
    rows = reader.table(table.files[0])
    if table.name == "calendar":
        if table.first_date is None or table.last_date is None:
            return
        bounds = np.datetime64(table.first_date, "D"), np.datetime64(table.last_date, "D")
        groups, held = calendars_of(frame, scope_columns(reader.manifest.spec), set(rows["_scope"].to_pylist()))
        for name, target in targets.items():
            spread(target, groups, calendar_values(rows, name, held, axis, vocabularies.get(name), *bounds))
        return
    groups, of_row, count = group_regions(frame, rows, table.keys)
    length = axis.length
    for name, target in targets.items():
        by_series = table.has_series and target.ndim == 3
        source = np.full((count, length, len(series_index)) if by_series else (count, length), np.nan, np.float32)
        scatter_table({name: source}, rows, of_row, axis, series_index, vocabularies)
        spread(target, groups, source)


def _fill(reader: Reader, targets: dict[str, np.ndarray], axis: Axis) -> None:
    """Fill missing covariates: by `fill`, else known ones of the history by what is usual on their date."""
    manifest = reader.manifest
    for column in manifest.columns:
        if column.role == "target" or column.fill is None:
            continue
        # what is past-only is unknown in the future, whatever fills its gaps
        part = targets[column.name] if column.role == "known" else targets[column.name][:, : axis.history]
        part[np.isnan(part)] = _as_value(column)
    if manifest.defaults_file is None:
        return
    defaults = reader.table(manifest.defaults_file)
    names = np.asarray(defaults["column"].to_pylist(), dtype=object)
    periods, series = axis.positions(defaults["_date"]), defaults["series"].to_numpy()
    values = defaults["value"].to_numpy().astype(np.float32)
    for name in dict.fromkeys(names):
        target = targets[name]
        mine = (names == name) & (periods < axis.history)
        usual = np.full((axis.history, *target.shape[2:]), np.nan, np.float32)
        place = (periods[mine],) if target.ndim == 2 else (periods[mine], series[mine])
        usual[place] = values[mine]
        spread(target[:, : axis.history], np.zeros(len(target), np.int64), usual[None])


def _as_value(column: Column) -> float:
    if column.kind == "text":
        found = (
            (column.vocabulary or []).index(str(column.fill)) if str(column.fill) in (column.vocabulary or []) else -1
        )
        return float(found)
    assert column.fill is not None, "only columns with a fill are filled by it"
    return float(column.fill)


def _closed(
    manifest: Manifest,
    targets: dict[str, np.ndarray],
    vocabularies: dict[str, pd.Index],
    shape: tuple[int, int],
) -> np.ndarray:
    rule = manifest.spec.closed
    if rule is None:
        return np.zeros(shape, bool)
    shut = closed_days(targets[rule.column], rule, vocabularies.get(rule.column))
    # a region is closed when nothing in it is open
    return shut if shut.ndim == 2 else np.asarray(shut.all(axis=2))


def _one_hot(block: np.ndarray, codes: np.ndarray, width: int) -> None:
    """Write codes as columns: [R, T] -> block [R, T, V], or [R, T, G] -> block [R, T, V * G]."""
    codes = codes[:, :, None] if codes.ndim == 2 else codes
    groups = codes.shape[2]
    unknown = np.isnan(codes)
    for value in range(width):
        part = block[:, :, value * groups : (value + 1) * groups]
        part[:] = codes == value
        part[unknown] = np.nan


def _static(manifest: Manifest, frame: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    columns: list[np.ndarray] = []
    names: list[str] = []
    for column in manifest.static:
        if column.kind == "number":
            columns.append(frame[column.name].to_numpy(np.float32, na_value=np.nan))
            names.append(column.name)
            continue
        for value in column.vocabulary or []:
            columns.append((frame[column.name] == value).to_numpy(np.float32))
            names.append(f"{column.name}={value}")
    values = np.stack(columns, axis=1) if columns else np.zeros((len(frame), 0), np.float32)
    return values, tuple(names)


def calendar_of(reader: Reader, frame: pd.DataFrame, axis: Axis) -> tuple[Calendar, np.ndarray]:
    """The calendars of some regions, and which of them each region follows: int64 [R]."""
    spec, events = reader.manifest.spec, reader.events()
    index, held = calendars_of(frame, scope_columns(spec), set(events["scope"]))
    scopes = [frozenset(item) for item in held]
    return build_calendar(axis.dates, axis.frequency, spec.rules(), events, scopes), index
