"""Regions that the model never saw: a panel of one region, made of what the request says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from serving.forecasts import Forecasts, check_horizon, level_weights, series_index
from serving.futures import Future, columns_of, day_index
from serving.model import ServedModel
from serving.problems import invalid
from serving.schema import ColdRequest
from stmp.data.panel import SERIES_SEPARATOR, Panel


def forecast_cold(request: ColdRequest, model: ServedModel) -> Forecasts:
    """Forecast a region by amortization: its few days are support days, and nothing is trained.

    Raises
    ------
    ApiError
        422 for names, dates and values that cannot be used.
    """
    whole = model.data.panel
    panel = _blank(request, whole, model)
    days = [day_index(panel, day.date, f"body.history.{i}.date") for i, day in enumerate(request.history)]
    origin = max(days, default=int(model.data.origin.max()))
    if request.origin is not None:
        origin = day_index(panel, request.origin, "body.origin")
        if days and max(days) > origin:
            raise invalid("body.history", f"it has days after the origin {request.origin}", "Leave them out.")
    _fill(panel, request, days)
    panel = replace(panel, static=_static(request, panel))
    panel = Future([day.model_copy(update={"region": None}) for day in request.known], [], np.asarray([origin]))(panel)
    horizon = request.horizon or model.forecaster.horizon
    check_horizon(horizon, origin, panel)
    series = series_index(request.series, panel.series)
    levels, weights = level_weights(request.quantiles, model.forecaster.config.model.levels)
    decoded = model.online.cold(panel, origin, horizon)
    return Forecasts(
        panel=panel,
        names=panel.regions,
        calendar=panel.calendar_index.numpy(),
        cold=np.asarray([True]),
        origin=decoded.origin,
        days=origin + 1 + np.arange(horizon)[None],
        series=tuple(panel.series[g] for g in series),
        levels=levels,
        mean=decoded.mean[:, :, series],
        quantiles=decoded.quantiles[:, :, series] @ weights,
        model_version=model.version,
        forecast_id=model.forecast_id,
        sequence=model.data.sequence,
    )


def _blank(request: ColdRequest, whole: Panel, model: ServedModel) -> Panel:
    """A region without a past, on the calendar, and with the known future, of one like it."""
    if request.like is None:
        common = int(torch.bincount(whole.calendar_index).argmax())
        row = int((whole.calendar_index == common).nonzero()[0, 0])
    elif request.like in model.data.position:
        row = model.data.position[request.like]
    else:
        raise invalid("body.like", f"there is no region '{request.like}'", "GET /v1/regions lists them.")
    one = whole.select([row])
    alike = request.like is not None
    return replace(
        one,
        regions=np.asarray([request.region], dtype=object),
        sales=torch.zeros_like(one.sales),
        observed=torch.zeros_like(one.observed),
        closed=one.closed if alike else torch.zeros_like(one.closed),
        past=torch.full_like(one.past, float("nan")),
        known=one.known if alike else torch.full_like(one.known, float("nan")),
        static=torch.full_like(one.static, float("nan")),
    )


def _fill(panel: Panel, request: ColdRequest, days: list[int]) -> None:
    """Put the days of history into a blank panel, in place."""
    seen = set()
    for i, (day, t) in enumerate(zip(request.history, days, strict=True)):
        where = f"body.history.{i}"
        g = series_of(day.series, panel.series, where)
        if (t, g) in seen:
            raise invalid(f"{where}.date", f"{day.date} is there twice", "Keep one of each date and series.")
        seen.add((t, g))
        if day.sales is not None and not day.closed:
            panel.sales[0, t, g], panel.observed[0, t, g] = day.sales, True
        panel.closed[0, t] = day.closed
        for name, value in day.past.items():
            panel.past[0, t, past_column(panel, name, day.series, f"{where}.past.{name}")] = value
        for name, value in day.known.items():
            for column in columns_of(panel, name, day.series, f"{where}.known.{name}"):
                panel.known[0, t, column] = value


def series_of(name: str | None, series: tuple[str, ...], field: str) -> int:
    """Position of a series, which only a model of one series may leave out."""
    if name is None and len(series) == 1:
        return 0
    if name not in series:
        reason = "the series is missing" if name is None else f"there is no series '{name}'"
        raise invalid(f"{field}.series", reason, f"Name one of {', '.join(series[:20])}.")
    return series.index(name)


def past_column(panel: Panel, name: str, series: str | None, field: str) -> int:
    """Position of a past covariate; of the day's series where it differs between them."""
    for candidate in (name, f"{name}{SERIES_SEPARATOR}{series}"):
        if candidate in panel.past_names:
            return panel.past_names.index(candidate)
    there = ", ".join(panel.past_names[:50]) or "none"
    raise invalid(field, f"there is no past covariate '{name}'", f"There are: {there}.")


def _static(request: ColdRequest, panel: Panel) -> Tensor:
    """Static features [1, S]: numbers by their name, texts as the one-hot columns that they are."""
    names = list(panel.static_names)
    values = torch.full((1, len(names)), float("nan"))
    for name, value in request.static.items():
        field = f"body.static.{name}"
        if isinstance(value, str):
            mine = [column for column in names if column.startswith(f"{name}=")]
            if f"{name}={value}" not in mine:
                known = [column.partition("=")[2] for column in mine]
                remedy = f"Its values are {', '.join(known[:20])}." if mine else _features(names)
                raise invalid(field, f"'{value}' is not known", remedy)
            for column in mine:
                values[0, names.index(column)] = float(column == f"{name}={value}")
        elif name in names:
            values[0, names.index(name)] = value
        else:
            raise invalid(field, "there is no such static feature", _features(names))
    return values


def _features(names: list[str]) -> str:
    return f"There are: {', '.join(names[:50]) or 'none'}."
