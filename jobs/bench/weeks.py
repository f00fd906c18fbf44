"""Daily data added up to weeks, as fev-bench has its weekly tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stmp.data.calendar import ANY_EVENT, Calendar, DayRule, build_calendar
from stmp.data.panel import Panel

MONDAY = 0


def by_week(panel: Panel) -> Panel:
    """The whole weeks of a daily panel, from Monday to Sunday, up to its last sale.

    A week sells what its days sell, and is closed if all of them are; its covariates are the means over its days; it
    is a festival if one of its days is the date of an event. Each week is called by its Sunday.

    Parameters
    ----------
    panel : Panel
        By day, T days.

    Returns
    -------
    Panel
        By week, at most T / 7 of them.
    """
    first = int((pd.DatetimeIndex(panel.dates).weekday == MONDAY).argmax())
    weeks = (panel.index_of(panel.last_observed) + 1 - first) // 7
    days = panel.window(first, first + 7 * weeks)

    def per_week(values: Tensor) -> Tensor:  # [R, 7 * weeks, ...] -> [R, weeks, 7, ...]
        return values.unflatten(1, (weeks, 7))

    return replace(
        panel,
        calendar=_calendar(days.calendar),
        sales=per_week(days.sales).sum(dim=2),
        observed=per_week(days.observed).any(dim=2),
        closed=per_week(days.closed).all(dim=2),
        past=torch.nanmean(per_week(days.past), dim=2),
        known=torch.nanmean(per_week(days.known), dim=2),
    )


def _calendar(days: Calendar) -> Calendar:
    """The calendars of the weeks, from the dates of the events in those of the days."""
    on_the_day = (days.event > 0) & (days.offset == 0)  # [C, T]
    calendar, day = on_the_day.nonzero()
    events = pd.DataFrame(
        {
            "scope": calendar.astype(str),
            "date": days.dates[day],
            "event": np.asarray(days.events, dtype=object)[days.event[calendar, day]],
        }
    )
    scopes = [frozenset({str(number)}) for number in range(len(days))]
    return build_calendar(days.dates[6::7], "W", (DayRule("festival", event=ANY_EVENT),), events, scopes)
