"""Observations that come in: looked up in the data before they are written."""

from __future__ import annotations

import numpy as np

from serving.cold import past_column, series_of
from serving.futures import columns_of, day_index
from serving.livedata import LiveData
from serving.model import ServedModel
from serving.observations import Day
from serving.problems import ApiError, invalid
from serving.schema import Fault, Observation, ObservationsRequest
from serving.settings import Settings


def check(request: ObservationsRequest, model: ServedModel, settings: Settings) -> tuple[list[Day], int]:
    """The days to write, and how many the dataset has already with the same values.

    Raises
    ------
    ApiError
        422 for names and dates that are not there, and for a day that is given twice with different values; 409 where
        the dataset has other values and the request is no revision.
    """
    days: dict[tuple[str, str, str], Day] = {}
    there, conflicts = 0, []
    for i, one in enumerate(request.observations):
        field = f"body.observations.{i}"
        day, t = _day(one, model.data, settings, field)
        if days.setdefault(day.key, day) != day:
            raise invalid(field, "this region, date and series is there twice, with different values", "Send one.")
        held = _held(model.data, day, t)
        if held is None:
            continue
        same = np.float32(held) == np.float32(day.sales if day.sales is not None else np.nan)
        if same and _covariates_held(model.data, day, t):
            del days[day.key]
            there += 1
        elif not request.revise:
            told = "other covariates" if same else f"{held:g}"
            conflicts.append(Fault(field=field, reason=f"the data has {told} for {day.region} on {day.date}"))
    if conflicts:
        raise conflict(conflicts)
    return list(days.values()), there


def conflict(faults: list[Fault]) -> ApiError:
    """Other values are there."""
    return ApiError(409, f"{len(faults)} days have other values. To replace them, send `revise: true`.", faults)


def _day(one: Observation, data: LiveData, settings: Settings, field: str) -> tuple[Day, int]:
    panel = data.panel
    if one.region not in data.position:
        raise invalid(f"{field}.region", f"there is no region '{one.region}'", "GET /v1/regions lists them.")
    series = panel.series[series_of(one.series, panel.series, field)]
    t = day_index(panel, one.date, f"{field}.date")
    last = int(data.origin[data.position[one.region]])
    if t > last + settings.max_gap:
        raise invalid(
            f"{field}.date",
            f"{one.date} is {t - last} periods after the last known day of '{one.region}', {panel.dates[last]}",
            f"At most {settings.max_gap} are allowed; send the days between first.",
        )
    if one.closed and one.sales:
        raise invalid(f"{field}.sales", "a closed day has no sales", "Leave `sales` or `closed` out.")
    past = {
        panel.past_names[past_column(panel, name, series, f"{field}.past.{name}")]: value
        for name, value in one.past.items()
    }
    known = {
        panel.known_names[k]: value
        for name, value in one.known.items()
        for k in columns_of(panel, name, series, f"{field}.known.{name}")
    }
    sales = None if one.sales is None else float(one.sales)
    return Day(one.region, series, one.date, sales, one.closed, _sorted(past), _sorted(known)), t


def _held(data: LiveData, day: Day, t: int) -> float | None:
    """The sales of a day that the dataset itself has."""
    r, g = data.position[day.region], data.panel.series.index(day.series)
    if t > data.last or not bool(data.panel.observed[r, t, g]):
        return None
    return float(data.panel.sales[r, t, g])


def _covariates_held(data: LiveData, day: Day, t: int) -> bool:
    """Whether the dataset itself has what a day says beside its sales."""
    r, panel = data.position[day.region], data.panel
    pairs = [(panel.past[r, t, panel.past_names.index(name)], value) for name, value in day.past]
    pairs += [(panel.known[r, t, panel.known_names.index(name)], value) for name, value in day.known]
    return day.closed == bool(panel.closed[r, t]) and all(float(held) == np.float32(value) for held, value in pairs)


def _sorted(values: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, float(value)) for name, value in values.items()))
