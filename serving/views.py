"""What the API tells of regions, festivals and the model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import torch

from serving.model import ServedModel
from serving.problems import ApiError, invalid
from stmp.data.calendar import Calendar
from stmp.errors import StmpError
from stmp_platform.gate.promotion import GATE_TAG, report_of

RECENT = 28
"""Periods that the mean sales of a region are taken over."""


def list_regions(model: ServedModel, search: str, offset: int, limit: int) -> dict[str, Any]:
    """Regions whose id holds a text, in the order of the data."""
    data, wanted = model.data, search.lower()
    found = [at for name, at in data.position.items() if wanted in name.lower()]
    return {
        "total": len(found),
        "regions": [
            {
                "id": str(data.panel.regions[r]), "cold": bool(model.cold[r]), "mean_sales": _recent_mean(model, r),
                "data_date": str(data.panel.dates[data.origin[r]]),
            }
            for r in found[offset : offset + limit]
        ],
    }  # fmt: skip


def show_region(model: ServedModel, region: str, history: int) -> dict[str, Any]:
    """One region with its recent history, and its calendar and covariates as far as the model has learned.

    Raises
    ------
    ApiError
        404 where there is no such region.
    """
    r = _position(model, region)
    panel, origin = model.data.panel, int(model.data.origin[r])
    begin, end = max(0, origin + 1 - history), min(len(panel.dates), origin + 1 + model.forecaster.horizon)
    calendar, row = panel.calendar, int(panel.calendar_index[r])
    sales = panel.sales[r, begin : origin + 1].double()
    sales = sales.masked_fill(~panel.observed[r, begin : origin + 1], float("nan"))
    return {
        "id": region,
        "cold": bool(model.cold[r]),
        "data_date": str(panel.dates[origin]),
        "known_until": str(panel.dates[model.known_until[r]]),
        "static": dict(zip(panel.static_names, _numbers(panel.static[r]), strict=True)),
        "dates": panel.dates[begin:end].astype(str).tolist(),
        "day_types": [calendar.day_types[k] for k in calendar.day_type[row, begin:end]],
        "events": [calendar.events[k] for k in calendar.event[row, begin:end]],
        "closed": panel.closed[r, begin:end].tolist(),
        "known": {name: _numbers(panel.known[r, begin:end, k]) for k, name in enumerate(panel.known_names)},
        "history": [{"series": name, "sales": _numbers(sales[:, g])} for g, name in enumerate(panel.series)],
    }


def show_model(model: ServedModel) -> dict[str, Any]:
    """The card of a model: what it was trained on, and what it can be asked."""
    forecaster, panel = model.forecaster, model.data.panel
    return {
        "model_version": model.version,
        "horizon": forecaster.horizon,
        "levels": list(forecaster.config.model.levels),
        "frequency": panel.frequency,
        "series": list(panel.series),
        "day_types": list(panel.calendar.day_types),
        "known": [
            _column(name, panel.known[:, :, k]) | {"read": bool(model.reads[k])}
            for k, name in enumerate(panel.known_names)
        ],
        "past": list(panel.past_names),
        "static": list(panel.static_names),
        "trained_until": forecaster.trained_until,
        "trained_regions": len(forecaster.trained_regions),
        "fingerprint": forecaster.fingerprint,
        "validation": dict(forecaster.provenance.validation),
        "tags": dict(model.tags),
    }


def show_gate(version: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """The report of the gate on a version, read from the registry.

    Raises
    ------
    ApiError
        404 where the version was not held against a champion, 503 where the registry does not give the report.
    """
    if GATE_TAG not in tags:
        raise ApiError(404, f"{version} was not held against a champion, or its registry was not at hand.")
    try:
        found = report_of(f"models:/{version}", tags[GATE_TAG])
    except StmpError as error:
        raise ApiError(503, str(error)) from error
    champion = found["champion"]
    return {
        "model_version": version,
        "passed": found["passed"],
        "against": champion["version"] if champion else found["opponent"],
        "at": found["at"],
        "by": found["by"],
        **found["windows"],
        "checks": [{key: check[key] for key in ("rule", "passed", "text")} for check in found["checks"]],
    }


def list_festivals(model: ServedModel, region: str | None, first: date | None, last: date | None) -> dict[str, Any]:
    """Festivals between two days, of one region or of all: each date of an event with the days around it."""
    panel = model.data.panel
    calendar = panel.calendar
    begin = 0 if first is None else int(np.searchsorted(panel.dates, np.datetime64(first, "D")))
    stop = None if last is None else int(np.searchsorted(panel.dates, np.datetime64(last, "D"), side="right"))
    rows = panel.calendar_index if region is None else panel.calendar_index[[_position(model, region)]]
    keepers = np.bincount(rows.numpy(), minlength=len(calendar))  # regions by calendar
    found: dict[tuple[int, int], list[int]] = {}
    for c in np.flatnonzero(keepers).tolist():
        on = np.flatnonzero((calendar.event[c, begin:stop] > 0) & (calendar.offset[c, begin:stop] == 0)) + begin
        for t in on.tolist():
            days = (_reach(calendar, c, t, -1), _reach(calendar, c, t, 1))
            entry = found.setdefault((t, int(calendar.event[c, t])), [*days, 0])
            entry[2] += int(keepers[c])
    return {
        "festivals": [
            {
                "name": calendar.events[event], "date": str(panel.dates[t]), "first": str(panel.dates[low]),
                "last": str(panel.dates[high]), "regions": regions,
            }
            for (t, event), (low, high, regions) in sorted(found.items())
        ]
    }  # fmt: skip


def _reach(calendar: Calendar, c: int, date: int, step: int) -> int:
    """The furthest day from an event's date, in one direction, that counts as the event's."""
    at = date
    while 0 <= at + step < len(calendar.dates):
        same = calendar.event[c, at + step] == calendar.event[c, date]
        if not same or calendar.offset[c, at + step] * step <= 0:
            break
        at += step
    return at


def _position(model: ServedModel, region: str) -> int:
    if region not in model.data.position:
        raise invalid("path.region", f"there is no region '{region}'", "GET /v1/regions lists them.", status=404)
    return model.data.position[region]


def _recent_mean(model: ServedModel, r: int) -> float:
    panel, origin = model.data.panel, int(model.data.origin[r])
    days = slice(max(0, origin + 1 - RECENT), origin + 1)
    seen = int(panel.observed[r, days].any(dim=-1).sum())
    return round(float(panel.sales[r, days].double().sum()) / seen, 6) if seen else 0.0


def _numbers(values: torch.Tensor) -> list[float | None]:
    return [round(value, 6) if value == value else None for value in values.double().tolist()]


def _column(name: str, values: torch.Tensor) -> dict[str, Any]:
    there = values[values.isfinite()]
    if len(there) == 0:
        return {"name": name, "low": None, "high": None, "binary": False}
    binary = bool(((there == 0) | (there == 1)).all())
    return {"name": name, "low": round(float(there.min()), 6), "high": round(float(there.max()), 6), "binary": binary}
