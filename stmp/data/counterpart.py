"""The day of last year that a day is like: whole weeks before, so that weekdays meet, unless a festival moves.

Easter, Ramadan or a sale of some weekend fall into other weeks each year. A day of such an event is like the same
weekday of last year's event that lies nearest to it in the event's own count of days, and an ordinary day whose
counterpart held an event is like the nearest ordinary day of that weekday. Close to the event its own count goes before
the weekday: Christmas Eve is like Christmas Eve. Easter counts as an event where the dataset's calendar has none: it
moves by up to five weeks, and is kept in most markets.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from dateutil.easter import easter

from stmp.data.calendar import Calendar, period_days

WEEKS = 52
"""A year of whole weeks."""
FURTHEST = 6
"""Weeks by which a counterpart may lie before or after that: more than festivals move."""
NEAR = 2
"""Days around an event that are like the same day of last year's event, whatever its weekday."""
BEFORE_EASTER = 6
"""Days before Easter Sunday that are sold into."""


def periods_of_year(period_days: int) -> int:
    """Periods in a year of whole weeks."""
    return WEEKS * max(1, 7 // period_days)


@lru_cache(maxsize=16)
def counterparts(calendar: Calendar) -> np.ndarray:
    """Periods between each day and the day of last year that it is like, int64 [C, T].

    Kept for the last calendars asked for: they are those of panels that are served.
    """
    days = period_days(calendar.frequency)
    week, year = max(1, 7 // days), periods_of_year(days)
    event, offset = _with_easter(calendar, days)
    periods = event.shape[1]
    best = np.full(event.shape, np.inf)
    lag = np.full(event.shape, year, dtype=np.int64)
    for shift in sorted(range(-FURTHEST * week, FURTHEST * week + 1), key=abs):
        back = year - shift
        there = np.arange(periods) - back
        at = np.clip(there, 0, None)
        apart = np.abs(offset[:, at] - offset).astype(float)  # both 0 of ordinary days
        apart[(event[:, at] != event) | (there < 0) | (np.arange(periods) < year)] = np.inf
        if shift % week:  # another weekday comes after the same day of that weekday, and before any other day
            apart[(event == 0) | (np.abs(offset) * days > NEAR) | (apart > 0)] = np.inf
            apart += 0.5
        nearer = apart < best
        lag[nearer], best[nearer] = back, apart[nearer]
    return lag


def _with_easter(calendar: Calendar, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Events and offsets [C, T] of a calendar, with Easter where it has no event."""
    last = calendar.dates.astype("datetime64[D]")  # a week is dated by its last day
    first = last - np.timedelta64(days - 1, "D")
    event, offset = calendar.event.astype(np.int64), calendar.offset.astype(np.int64)
    for year in range(int(str(last[0])[:4]), int(str(last[-1])[:4]) + 1):
        sunday = np.datetime64(easter(year), "D")
        near = (last >= sunday - BEFORE_EASTER) & (first <= sunday) & (event == 0)
        since = -((sunday - last) // np.timedelta64(days, "D"))
        event = np.where(near, len(calendar.events), event)
        offset = np.where(near, since, offset)
    return event, offset
