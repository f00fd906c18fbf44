"""Between a Panel and one long table that holds all of it: what a registered model takes and what people can read.

Columns: ``region``, ``date``, ``sales`` (empty where not observed, and in the future), ``series`` where a region has
several; the covariates by name; the static features by name, repeated on each row; ``closed``; and the calendar, either
as ``event`` (the holiday's name on its date, empty elsewhere) or in full as ``day_type``, ``event``, ``event_offset``,
``days_to_event`` and ``days_since_event``, which is what `frame_of` writes and what gives the very same panel again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from stmp.data.calendar import Calendar, build_calendar, period_dates, period_index, period_range, period_unit
from stmp.data.panel import DEFAULT_RULES, SERIES_SEPARATOR, DateLike, Panel
from stmp.data.schema import Schema
from stmp.errors import DataError

REGION, DATE, SALES, SERIES, CLOSED = "region", "date", "sales", "series", "closed"
DAY_TYPE, EVENT, OFFSET, DAYS_TO, DAYS_SINCE = "day_type", "event", "event_offset", "days_to_event", "days_since_event"
CALENDAR = (DAY_TYPE, EVENT, OFFSET, DAYS_TO, DAYS_SINCE)

_SERIES_ONE_HOT = "series="


def frame_of(panel: Panel, regions: Sequence[str] | None = None, start: DateLike | None = None) -> pd.DataFrame:
    """All that a panel knows of some regions from a date on, as one row per region, series and date.

    Parameters
    ----------
    panel : Panel
    regions : sequence of str, optional
        All if not given.
    start : date, optional
        The first date if not given.
    """
    known = {str(name): row for row, name in enumerate(panel.regions)}
    chosen = panel.select([known[str(r)] for r in regions]) if regions is not None else panel
    begin = 0 if start is None else panel.index_of(start)
    count, periods, groups = chosen.shape[0], chosen.shape[1] - begin, chosen.shape[2]

    def spread(values: np.ndarray, by: str) -> np.ndarray:
        """Values [R], [R, T] or [R, T, G] on the rows, which run over regions, then series, then dates."""
        axes = {"R": (slice(None), None, None), "RT": (slice(None), None, slice(None)), "T": (None, None, slice(None))}
        shaped = values.transpose(0, 2, 1) if by == "RTG" else values[axes[by]]
        return np.broadcast_to(shaped, (count, groups, periods)).reshape(-1)

    def of(tensor: torch.Tensor) -> np.ndarray:
        return np.asarray(tensor.cpu().numpy()[:, begin:])

    columns: dict[str, np.ndarray] = {REGION: spread(chosen.regions, "R")}
    if groups > 1:
        names = np.asarray(chosen.series, dtype=object)
        columns[SERIES] = np.broadcast_to(names[None, :, None], (count, groups, periods)).reshape(-1)
    columns[DATE] = spread(chosen.dates[begin:].astype("datetime64[ns]"), "T")
    columns[SALES] = spread(np.where(of(chosen.observed), of(chosen.sales), np.nan).astype(np.float64), "RTG")
    columns[CLOSED] = spread(of(chosen.closed), "RT").astype(np.float64)
    for names_of, tensor in ((chosen.past_names, chosen.past), (chosen.known_names, chosen.known)):
        values = of(tensor).astype(np.float64)
        for base in dict.fromkeys(_base(name, chosen.series) for name in names_of):
            columns[base] = spread(_by_series(values, names_of, base, chosen.series), "RTG")
    for i, name in enumerate(chosen.static_names):
        columns[name] = spread(chosen.static[:, i].cpu().numpy().astype(np.float64), "R")
    calendar, which = chosen.calendar, chosen.calendar_index.cpu().numpy()
    columns[DAY_TYPE] = spread(np.asarray(calendar.day_types, dtype=object)[calendar.day_type[which, begin:]], "RT")
    columns[EVENT] = spread(np.asarray(calendar.events, dtype=object)[calendar.event[which, begin:]], "RT")
    for name, values in ((OFFSET, calendar.offset), (DAYS_TO, calendar.days_to), (DAYS_SINCE, calendar.days_since)):
        columns[name] = spread(values[which, begin:], "RT").astype(np.float64)
    return pd.DataFrame(columns)


def panel_of(frame: pd.DataFrame, schema: Schema, horizon: int = 0) -> Panel:
    """The panel of a long table, with the columns of a model.

    Parameters
    ----------
    frame : DataFrame
        As described at the top of this module; columns that the model does not know are left out.
    schema : Schema
        Of the model.
    horizon : int
        Periods that the time axis reaches past the last row with sales, at least.

    Raises
    ------
    DataError
        For missing columns, dates that cannot be read or are off the frequency, duplicate rows, unknown series.
    """
    series = series_of(schema)
    _check_columns(frame, schema, series)
    days = _days(frame)
    regions, rows = np.unique(frame[REGION].astype(str).to_numpy(dtype=object), return_inverse=True)
    groups = _groups(frame, series)
    sold = frame[SALES].to_numpy(dtype=np.float64, na_value=np.nan)
    seen = np.isfinite(sold)
    if not seen.any():
        raise DataError(f"Column '{SALES}' is empty in all {len(frame)} rows; a forecast needs a history.")
    ahead = period_dates(days[seen].max(), horizon + 1, schema.frequency)[-1]
    dates = period_range(days.min(), max(days.max(), ahead), schema.frequency)
    columns = period_index(days, dates[0], schema.frequency)
    if (dates[columns] != days).any():
        wrong = days[dates[columns] != days]
        raise DataError(
            f"{len(wrong)} rows have dates, such as {wrong[0]}, that are not whole periods ({schema.frequency}) after "
            f"the first, {dates[0]}."
        )
    shape = (len(regions), len(dates), len(series))
    at = (rows, columns, groups)
    taken = np.zeros(shape, dtype=np.int64)
    np.add.at(taken, at, 1)
    if (taken > 1).any():
        r, t, g = (int(x[0]) for x in np.nonzero(taken > 1))
        raise DataError(
            f"{int((taken - 1).clip(0).sum())} rows repeat a region, date and series, such as region {regions[r]} on "
            f"{dates[t]} ({series[g]}). Keep one row for each."
        )

    def cube(column: str) -> np.ndarray:
        values = np.full(shape, np.nan, dtype=np.float32)
        values[at] = pd.to_numeric(frame[column]).to_numpy(dtype=np.float64, na_value=np.nan)
        return values

    closed = (cube(CLOSED) == 1).any(axis=2) if CLOSED in frame.columns else np.zeros(shape[:2], dtype=bool)
    sales = cube(SALES)
    observed = np.isfinite(sales) & ~closed[:, :, None]
    past, past_names = _covariates(schema.past_names, schema, series, cube)
    known, known_names = _covariates(schema.known_names, schema, series, cube)
    calendar, which = _calendar(frame, schema, regions, dates, rows, columns)
    static_names = tuple(n for n in schema.static_names if len(series) == 1 or not n.startswith(_SERIES_ONE_HOT))
    return Panel(
        regions=regions,
        series=series,
        calendar=calendar,
        calendar_index=torch.from_numpy(which),
        sales=torch.from_numpy(np.where(observed, sales, np.float32(0))),
        observed=torch.from_numpy(observed),
        closed=torch.from_numpy(closed),
        past=torch.from_numpy(past),
        known=torch.from_numpy(known),
        static=torch.from_numpy(_static(frame, static_names, rows, len(regions))),
        past_names=past_names,
        known_names=known_names,
        static_names=static_names,
    )


def series_of(schema: Schema) -> tuple[str, ...]:
    """The series of a region; a model that learned each series as a row of its own keeps them as static features."""
    split = tuple(n.removeprefix(_SERIES_ONE_HOT) for n in schema.static_names if n.startswith(_SERIES_ONE_HOT))
    return split if len(schema.series) == 1 and len(split) > 1 else schema.series


def required_columns(schema: Schema) -> tuple[str, ...]:
    """Columns that a table must have, and ``col=value`` for the one-hot features that it may hold as ``col``."""
    series = series_of(schema)
    covariates = (_base(n, series) for n in (*schema.past_names, *schema.known_names))
    static = (n for n in schema.static_names if len(series) == 1 or not n.startswith(_SERIES_ONE_HOT))
    own = (REGION, *((SERIES,) if len(series) > 1 else ()), DATE, SALES)
    return tuple(dict.fromkeys((*own, *covariates, *static)))


def _check_columns(frame: pd.DataFrame, schema: Schema, series: tuple[str, ...]) -> None:
    have = set(frame.columns)
    missing = [n for n in required_columns(schema) if n not in have and n.partition("=")[0] not in have]
    if missing:
        raise DataError(
            f"The table lacks the columns {missing}, which the model needs; it has {sorted(map(str, have))}."
        )
    unknown = sorted(set(frame[SERIES].astype(str)) - set(series)) if len(series) > 1 else []
    if unknown:
        raise DataError(f"Column '{SERIES}' holds {unknown[:5]}; the model knows {list(series)}.")


def _days(frame: pd.DataFrame) -> np.ndarray:
    if frame.empty:
        raise DataError("The table has no rows.")
    try:
        days = pd.to_datetime(frame[DATE])
    except (ValueError, TypeError) as error:
        raise DataError(f"Column '{DATE}' holds values that are not dates: {error}.") from error
    if days.isna().any():
        raise DataError(f"Column '{DATE}' is empty in {int(days.isna().sum())} of {len(frame)} rows.")
    return days.to_numpy().astype("datetime64[D]")


def _groups(frame: pd.DataFrame, series: tuple[str, ...]) -> np.ndarray:
    if len(series) == 1:
        return np.zeros(len(frame), dtype=np.int64)
    return pd.Categorical(frame[SERIES].astype(str), categories=list(series)).codes.astype(np.int64)


def _covariates(
    names: tuple[str, ...], schema: Schema, series: tuple[str, ...], cube: Callable[[str], np.ndarray]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Covariates [R, T, K] as the model's own panel has them, from cubes [R, T, G] of columns."""
    parts: list[np.ndarray] = []
    out: list[str] = []
    for name in names:
        base = _base(name, series)
        values = cube(base)
        if len(series) > 1 and len(schema.series) == 1:  # the panel is split by series later
            parts += [values[:, :, g] for g in range(len(series))]
            out += [f"{base}{SERIES_SEPARATOR}{one}" for one in series]
        elif base != name:
            parts.append(values[:, :, series.index(name.removeprefix(f"{base}{SERIES_SEPARATOR}"))])
            out.append(name)
        else:
            highest = np.where(np.isnan(values), -np.inf, values).max(axis=2)
            parts.append(np.where(np.isfinite(highest), highest, np.nan).astype(np.float32))
            out.append(name)
    shape = cube(SALES).shape[:2]
    return np.stack(parts, axis=-1) if parts else np.zeros((*shape, 0), dtype=np.float32), tuple(out)


def _static(frame: pd.DataFrame, names: tuple[str, ...], rows: np.ndarray, count: int) -> np.ndarray:
    """Static features [R, S]: the first value in a region's rows; ``col=value`` from a text column ``col`` too."""
    values = np.full((count, len(names)), np.nan, dtype=np.float32)
    for i, name in enumerate(names):
        column, equals, category = name.partition("=")
        if name in frame.columns:
            given = pd.to_numeric(frame[name]).to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            assert equals
            text = frame[column]
            given = np.where(text.isna(), np.nan, (text.astype(str) == category).astype(np.float64))
        filled = np.flatnonzero(np.isfinite(given))[::-1]  # the first row of a region is written last
        values[rows[filled], i] = given[filled]
    return values


def _calendar(
    frame: pd.DataFrame,
    schema: Schema,
    regions: np.ndarray,
    dates: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> tuple[Calendar, np.ndarray]:
    """A calendar for each region, in the model's day types: by the usual rules, or as the table says."""
    events = _texts(frame, EVENT)
    in_full = OFFSET in frame.columns
    offsets = frame[OFFSET].to_numpy(dtype=np.float64, na_value=np.nan) if in_full else np.zeros(len(frame))
    on_date = (events != "") & (offsets == 0)
    table = pd.DataFrame(
        {"scope": rows[on_date].astype(str), "date": dates[columns[on_date]], "event": events[on_date]}
    )
    daily = period_unit(schema.frequency) == "D"
    rules = [rule for rule in DEFAULT_RULES if daily or not rule.weekdays]
    scopes = [frozenset({str(row)}) for row in range(len(regions))]
    base = build_calendar(dates, schema.frequency, rules, table, scopes)
    day_types = {name: i for i, name in enumerate(schema.day_types)}
    given = _texts(frame, DAY_TYPE)
    unknown = sorted(set(given) - set(day_types) - {""})
    if unknown:
        raise DataError(f"Column '{DAY_TYPE}' holds {unknown[:5]}; the model knows {list(day_types)}.")
    beyond = sorted(set(day_types) - set(base.day_types))
    if beyond and DAY_TYPE not in frame.columns:
        raise DataError(f"The model knows the day types {beyond}, which dates do not tell: give a column '{DAY_TYPE}'.")

    day_type = np.asarray([day_types.get(name, 0) for name in base.day_types], dtype=np.int8)[base.day_type]
    said = given != ""
    day_type[rows[said], columns[said]] = [day_types[name] for name in given[said]]
    names = tuple(dict.fromkeys(("", *base.events, *sorted(set(events)))))
    event = np.asarray([names.index(name) for name in base.events], dtype=np.int16)[base.event]
    offset, days_to, days_since = base.offset.copy(), base.days_to.copy(), base.days_since.copy()
    if in_full:
        told = np.isfinite(offsets)
        event[rows[told], columns[told]] = [names.index(name) for name in events[told]]
        offset[rows[told], columns[told]] = offsets[told]
    for column, target in ((DAYS_TO, days_to), (DAYS_SINCE, days_since)):
        if column in frame.columns:
            distance = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
            told = np.isfinite(distance)
            target[rows[told], columns[told]] = distance[told]
    calendar = Calendar(
        dates=dates,
        frequency=schema.frequency,
        day_types=schema.day_types,
        events=names,
        day_type=day_type,
        event=event,
        offset=offset,
        days_to=days_to,
        days_since=days_since,
    )
    return calendar, np.arange(len(regions), dtype=np.int64)


def _texts(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A text column without missing values; empty if the table has none."""
    if column not in frame.columns:
        return np.full(len(frame), "", dtype=object)
    return np.asarray(frame[column].astype(object).where(frame[column].notna(), "").astype(str), dtype=object)


def _by_series(values: np.ndarray, names: tuple[str, ...], base: str, series: tuple[str, ...]) -> np.ndarray:
    """One covariate [R, T, G] of flat ones [R, T, K]: the same for all series, or each its own."""
    if base in names:
        return np.repeat(values[:, :, [names.index(base)]], len(series), axis=2)
    wanted = [f"{base}{SERIES_SEPARATOR}{one}" for one in series]
    blank = np.full(values.shape[:2], np.nan)
    return np.stack([values[:, :, names.index(n)] if n in names else blank for n in wanted], axis=2)


def _base(name: str, series: Sequence[str]) -> str:
    base, separator, suffix = name.rpartition(SERIES_SEPARATOR)
    return base if separator and suffix in series else name
