"""The calendar: which days are special, what they are called, and how far the next one is.

A day type (weekday, weekend, festival, or any other that the rules name) is one axis of the task grid. Beside it every
day knows the event whose window holds it and its distance, so that the same festival of an earlier year can be found.
Regions that share their scopes (country, state, city) share one calendar: C calendars serve R regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from stmp.errors import ConfigError, DataError

CAP = 60  # periods; a festival further away than this tells a forecaster nothing
ANY_EVENT = ("*",)
_CHUNK = 256  # calendars built at a time: bounds memory where every region has a calendar of its own
_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class DayRule:
    """One line of `day_types` in dataset.yaml: the days it holds, by weekday, event, date or month-day.

    Attributes
    ----------
    day_type
        The name that the day gets: "festival", "weekend", or any other.
    weekdays
        Weekdays that match, Monday = 0 (daily data only).
    event
        Event names that match; ``("*",)`` matches any event.
    dates
        Single dates that match.
    every
        A month-day "MM-DD" that matches in each year; 02-29 matches in leap years only.
    before, after
        Periods of the data's frequency before and after the event that match as well.
    name
        What the event of a `dates` or `every` rule is called.
    """

    day_type: str
    weekdays: tuple[int, ...] = ()
    event: tuple[str, ...] | None = None
    dates: tuple[np.datetime64, ...] = ()
    every: str | None = None
    before: int = 0
    after: int = 0
    name: str | None = None

    @property
    def event_name(self) -> str:
        """The name of the event that a `dates` or `every` rule brings in itself."""
        return self.name or self.every or self.day_type


@dataclass(frozen=True, eq=False)
class Calendar:
    """C distinct calendars over T dates; regions with equal scopes share one.

    Attributes
    ----------
    dates
        datetime64[D] [T], one step of the frequency apart.
    frequency
        Pandas offset alias as in dataset.yaml: "D", "W", ...
    day_types
        Names of the day types, the default first.
    events
        Names of the events; ``events[0]`` is the empty string: no event.
    day_type
        int8 [C, T], index into `day_types`.
    event
        int16 [C, T], the event whose window (before/after) holds the day, nearest first; 0 none.
    offset
        int16 [C, T], signed periods from that event's date, negative before it; 0 where none.
    days_to, days_since
        int16 [C, T], periods to the next and since the last date of any event, 0 on the day itself, at most `CAP`.
    """

    dates: np.ndarray
    frequency: str
    day_types: tuple[str, ...]
    events: tuple[str, ...]
    day_type: np.ndarray
    event: np.ndarray
    offset: np.ndarray
    days_to: np.ndarray
    days_since: np.ndarray

    def __len__(self) -> int:
        """Number of distinct calendars C."""
        return int(self.day_type.shape[0])

    def post_festival(self, days: int = 3) -> np.ndarray:
        """Days right after a run of festival days, when demand falls back: bool [C, T].

        `days` periods after each run that are no festival themselves; for weekly or longer periods at most one.
        """
        if period_unit(self.frequency) != "D":
            days = min(days, 1)
        festival = self.day_type == _index_of(self.day_types, "festival")  # [C, T]
        after = np.zeros_like(festival)
        for step in range(1, days + 1):
            after[:, step:] |= festival[:, :-step]
        return after & ~festival

    def slice(self, start: int, stop: int) -> Calendar:
        """The same calendars over the dates ``start:stop`` only."""
        cut = slice(start, stop)
        return replace(
            self,
            dates=self.dates[cut],
            day_type=self.day_type[:, cut],
            event=self.event[:, cut],
            offset=self.offset[:, cut],
            days_to=self.days_to[:, cut],
            days_since=self.days_since[:, cut],
        )


def _index_of(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else -1


# --- periods -------------------------------------------------------------------------------------------------------


def period_unit(frequency: str) -> str:
    """Reduce a frequency alias to "D", "W", "M" or "Q".

    Raises
    ------
    ConfigError
        For hours, business days, multiples and anything else.
    """
    base = frequency.strip().upper().split("-")[0]
    units = {"D": "D", "W": "W", "M": "M", "MS": "M", "ME": "M", "Q": "Q", "QS": "Q", "QE": "Q"}
    if base not in units:
        raise ConfigError(
            f"frequency '{frequency}' is not known: use D (daily), W (weekly), M (monthly) or Q (quarterly), "
            "and aggregate finer data first"
        )
    return units[base]


def period_days(frequency: str) -> int:
    """Days in a period: 1 for daily, 7 for weekly data."""
    return 7 if frequency.upper().startswith("W") else 1


def period_index(dates: np.ndarray, anchor: np.datetime64, frequency: str) -> np.ndarray:
    """Position of each date on the time axis that starts at `anchor`, in periods: int64, same shape as `dates`.

    A weekly date stands for the week that ends there, so the days of the six days before `anchor` have position 0.
    Months and quarters hold the dates of their calendar month(s).
    """
    unit = period_unit(frequency)
    dates = np.asarray(dates, dtype="datetime64[D]")
    anchor = anchor.astype("datetime64[D]")
    if unit == "D":
        return (dates - anchor).astype(np.int64)
    if unit == "W":
        return -((anchor - dates).astype(np.int64) // 7)
    months = (dates.astype("datetime64[M]") - anchor.astype("datetime64[M]")).astype(np.int64)
    if unit == "M":
        return months
    # the quarter of `anchor` is the three months that end (or start) with its month
    starts = frequency.strip().upper().startswith("QS")
    return months // 3 if starts else -((-months) // 3)


def period_dates(anchor: np.datetime64, count: int, frequency: str) -> np.ndarray:
    """Return the `count` dates that start at `anchor`, one period apart: datetime64[D] [count]."""
    unit = period_unit(frequency)
    anchor = anchor.astype("datetime64[D]")
    if unit in "DW":
        return anchor + np.arange(count) * (1 if unit == "D" else 7)
    month = anchor.astype("datetime64[M]")
    day = (anchor - month.astype("datetime64[D]")).astype(np.int64)
    months = month + np.arange(count) * (1 if unit == "M" else 3)
    starts, ends = months.astype("datetime64[D]"), (months + 1).astype("datetime64[D]") - 1
    if count and anchor == ends[0]:
        return ends
    return np.minimum(starts + day, ends)


def period_range(first: np.datetime64, last: np.datetime64, frequency: str) -> np.ndarray:
    """All dates of the time axis from `first` up to the period that holds `last`: datetime64[D] [T]."""
    count = int(period_index(np.asarray([last]), first, frequency)[0]) + 1
    return period_dates(first, max(count, 0), frequency)


# --- building ------------------------------------------------------------------------------------------------------


def default_day_types(frequency: str) -> tuple[str, ...]:
    """Day types that are always there, the default first."""
    return ("weekday", "weekend", "festival") if period_unit(frequency) == "D" else ("ordinary", "festival")


def build_calendar(
    dates: np.ndarray,
    frequency: str,
    rules: Sequence[DayRule],
    events: pd.DataFrame | None = None,
    scopes: Sequence[frozenset[str]] = (frozenset(),),
) -> Calendar:
    """Work out day types, events and distances for each of C sets of scopes.

    Parameters
    ----------
    dates
        datetime64[D] [T], one step of `frequency` apart.
    rules
        In order: the first that matches names the day; what matches none gets the first default day type.
    events
        Columns scope (text, "" = everywhere), date, event (text). Dates outside `dates` count for distances and
        windows.
    scopes
        For each of the C calendars the scope values that hold there. An event counts for calendar c if its scope is ""
        or one of ``scopes[c]``.

    Raises
    ------
    DataError
        If `dates` is empty or not one step apart.
    ConfigError
        If a rule has no meaning at this frequency or a malformed month-day.
    """
    dates = np.asarray(dates, dtype="datetime64[D]")
    if dates.size == 0:
        raise DataError("a calendar needs at least one date")
    if not np.array_equal(period_dates(dates[0], dates.size, frequency), dates):
        raise DataError(
            f"the {dates.size} calendar dates from {dates[0]} to {dates[-1]} are not one '{frequency}' step apart: "
            "fill the gaps in the time axis"
        )
    _check_rules(rules, frequency)
    defaults = default_day_types(frequency)
    day_types = defaults + tuple(dict.fromkeys(r.day_type for r in rules if r.day_type not in defaults))

    table = _event_table(dates, frequency, rules, events)
    names = ("", *sorted(set(table["event"])))
    table = table.assign(name=pd.Categorical(table["event"], categories=names).codes.astype(np.int64))

    count, length = len(scopes), dates.size
    shape = (count, length)
    out: dict[str, np.ndarray] = {
        "day_type": np.zeros(shape, np.int8),
        "event": np.zeros(shape, np.int16),
        "offset": np.zeros(shape, np.int16),
        "days_to": np.full(shape, CAP, np.int16),
        "days_since": np.full(shape, CAP, np.int16),
    }
    for start in range(0, count, _CHUNK):
        part = _build_chunk(dates, frequency, rules, table, scopes[start : start + _CHUNK], day_types, len(names))
        for key, value in part.items():
            out[key][start : start + _CHUNK] = value
    return Calendar(dates=dates, frequency=frequency, day_types=day_types, events=names, **out)


def _check_rules(rules: Sequence[DayRule], frequency: str) -> None:
    for rule in rules:
        if rule.weekdays and period_unit(frequency) != "D":
            raise ConfigError(
                f"day type '{rule.day_type}' names days of the week, but the data's frequency is {frequency}"
            )
        if rule.every is not None:
            try:
                np.datetime64(f"2024-{rule.every}", "D")  # a leap year, so that 02-29 is allowed
            except ValueError:
                raise ConfigError(
                    f"day type '{rule.day_type}': every: '{rule.every}' is not a month-day, write e.g. '02-14'"
                ) from None


def _event_table(
    dates: np.ndarray, frequency: str, rules: Sequence[DayRule], events: pd.DataFrame | None
) -> pd.DataFrame:
    """All event dates, those of rules included: columns scope, event, position, rule (-1: from the events table)."""
    parts = []
    if events is not None and len(events):
        days = events["date"].to_numpy().astype("datetime64[D]")
        parts.append(
            pd.DataFrame(
                {
                    "scope": events["scope"].fillna("").astype(str).to_numpy(dtype=object),
                    "event": events["event"].astype(str).to_numpy(dtype=object),
                    "position": period_index(days, dates[0], frequency),
                    "rule": -1,
                }
            )
        )
    years = np.arange(dates[0].astype("datetime64[Y]") - 1, dates[-1].astype("datetime64[Y]") + 2)
    for number, rule in enumerate(rules):
        own = list(rule.dates)
        if rule.every is not None:
            own += [np.datetime64(f"{year}-{rule.every}", "D") for year in years if _exists(str(year), rule.every)]
        if own:
            position = period_index(np.asarray(own, dtype="datetime64[D]"), dates[0], frequency)
            parts.append(pd.DataFrame({"scope": "", "event": rule.event_name, "position": position, "rule": number}))
    if not parts:
        return pd.DataFrame(
            {"scope": [], "event": [], "position": np.zeros(0, np.int64), "rule": np.zeros(0, np.int64)}
        )
    table = pd.concat(parts, ignore_index=True)
    return table[table["event"] != ""].drop_duplicates(ignore_index=True)


def _exists(year: str, month_day: str) -> bool:
    leap = np.datetime64(f"{year}-03-01", "D") - np.datetime64(f"{year}-02-28", "D") == np.timedelta64(2, "D")
    return month_day != "02-29" or bool(leap)


def _build_chunk(
    dates: np.ndarray,
    frequency: str,
    rules: Sequence[DayRule],
    table: pd.DataFrame,
    scopes: Sequence[frozenset[str]],
    day_types: tuple[str, ...],
    n_names: int,
) -> dict[str, np.ndarray]:
    count, length = len(scopes), dates.size
    which, row = _occurrences(table, scopes)  # one entry for each (calendar, event date)
    position = table["position"].to_numpy(np.int64)[row]
    name = table["name"].to_numpy(np.int64)[row]
    source = table["rule"].to_numpy(np.int64)[row]
    event_names = table["event"].to_numpy(dtype=object)[row]

    day_type = np.full((count, length), -1, np.int8)
    nearest = np.full(count * length, _FAR, np.int64)
    weekday = (dates.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    for number, rule in enumerate(rules):
        match = np.zeros(count * length, bool)
        if rule.weekdays:
            match.reshape(count, length)[:] = np.isin(weekday, rule.weekdays)
        hit = source == number
        if rule.event == ANY_EVENT:
            hit |= source == -1
        elif rule.event is not None:
            hit |= (source == -1) & np.isin(event_names, list(rule.event))
        cell, offset, entry = _windows(which[hit], position[hit], rule.before, rule.after, length)
        match[cell] = True
        # nearest first; of two at the same distance the coming one; then by name, whatever the order of the rows
        key = (np.abs(offset) * 2 + (offset > 0)) * n_names + name[hit][entry]
        np.minimum.at(nearest, cell, key)
        free = (day_type < 0) & match.reshape(count, length)
        day_type[free] = day_types.index(rule.day_type)
    day_type[day_type < 0] = 0

    found = nearest != _FAR
    key = np.where(found, nearest, 0)
    distance, sign = (key // n_names) // 2, np.where((key // n_names) % 2 == 1, 1, -1)
    shape = (count, length)
    days_to, days_since = _distances(which, position, count, length)
    return {
        "day_type": day_type,
        "event": np.where(found, key % n_names, 0).astype(np.int16).reshape(shape),
        "offset": np.where(found, distance * sign, 0).astype(np.int16).reshape(shape),
        "days_to": days_to,
        "days_since": days_since,
    }


def _occurrences(table: pd.DataFrame, scopes: Sequence[frozenset[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Pair each calendar with the rows of the event table that hold there: (calendar [N], row [N])."""
    pairs = pd.DataFrame(
        [(scope, index) for index, held in enumerate(scopes) for scope in sorted(held | {""})],
        columns=["scope", "calendar"],
    )
    rows = pd.DataFrame({"scope": table["scope"].astype(object), "row": np.arange(len(table))})
    joined = rows.merge(pairs.astype({"scope": object}), on="scope")
    return joined["calendar"].to_numpy(np.int64), joined["row"].to_numpy(np.int64)


def _windows(
    which: np.ndarray, position: np.ndarray, before: int, after: int, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spread events over their windows: flat cell index, offset from the event, and the event, each [N * width]."""
    offset = np.arange(-before, after + 1)
    day = position[:, None] + offset  # [N, width]
    inside = (day >= 0) & (day < length)
    entry = np.broadcast_to(np.arange(position.size)[:, None], day.shape)[inside]
    cell = which[entry] * length + day[inside]
    return cell, np.broadcast_to(offset, day.shape)[inside], entry


def _distances(which: np.ndarray, position: np.ndarray, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Periods to the next and since the last event, capped; events up to CAP beyond either end of the axis count."""
    padded = length + 2 * CAP
    inside = (position >= -CAP) & (position < length + CAP)
    marked = np.zeros((count, padded), bool)
    marked[which[inside], position[inside] + CAP] = True
    axis = np.arange(padded, dtype=np.int32)
    coming = np.minimum.accumulate(np.where(marked, axis, padded + CAP)[:, ::-1], axis=1)[:, ::-1]
    gone = np.maximum.accumulate(np.where(marked, axis, -padded), axis=1)
    keep = slice(CAP, CAP + length)
    days_to = np.minimum(coming - axis, CAP)[:, keep].astype(np.int16)
    days_since = np.minimum(axis - gone, CAP)[:, keep].astype(np.int16)
    return days_to, days_since
