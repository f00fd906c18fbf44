"""What a request says of the future: known days and what-ifs, put into the panel of the regions that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import torch
from torch import Tensor

from serving.problems import invalid
from serving.schema import Change, KnownDay
from stmp.data.panel import SERIES_SEPARATOR, Panel


@dataclass(frozen=True)
class Future:
    """A change of the known future of some regions; only days after each region's origin are touched.

    Attributes
    ----------
    origin : ndarray int64 [R]
        Of the regions of the panel that it will be given.
    """

    known: Sequence[KnownDay]
    what_if: Sequence[Change]
    origin: np.ndarray

    def __call__(self, panel: Panel) -> Panel:
        """The panel of these regions with the request's future.

        Raises
        ------
        ApiError
            422 for a region, series, column or date that is not there.
        """
        known, closed = panel.known.clone(), panel.closed.clone()
        ahead = torch.arange(panel.shape[1]) > torch.from_numpy(self.origin)[:, None]  # [R, T]
        rows = {str(region): at for at, region in enumerate(panel.regions)}
        self._put(panel, rows, ahead.numpy(), known.numpy(), closed.numpy())
        for i, change in enumerate(self.what_if):
            where = f"body.what_if.{i}"
            chosen = ahead & _between(panel, change)
            if change.regions is not None:
                mine = [_row(rows, region, f"{where}.regions.{j}") for j, region in enumerate(change.regions)]
                chosen &= torch.isin(torch.arange(len(rows)), torch.tensor(mine))[:, None]
            for column in columns_of(panel, change.column, None, f"{where}.column"):
                known[:, :, column] = torch.where(chosen, _changed(known[:, :, column], change), known[:, :, column])
        return replace(panel, known=known, closed=closed)

    def _put(
        self, panel: Panel, rows: dict[str, int], ahead: np.ndarray, known: np.ndarray, closed: np.ndarray
    ) -> None:
        """Put known days into arrays [R, T, K] and [R, T], in place; NumPy's, as one by one Tensor's would be slow."""
        position: dict[date, int] = {}
        for i, day in enumerate(self.known):
            where = f"body.known.{i}"
            at = slice(None) if day.region is None else slice(_row(rows, day.region, where), rows[day.region] + 1)
            if day.date not in position:
                position[day.date] = day_index(panel, day.date, f"{where}.date")
            t = position[day.date]
            touched = ahead[at, t]
            for name, value in day.values.items():
                for column in columns_of(panel, name, day.series, f"{where}.values.{name}"):
                    known[at, t, column][touched] = value
            if day.closed is not None:
                closed[at, t][touched] = day.closed


def columns_of(panel: Panel, name: str, series: str | None, field: str) -> list[int]:
    """Positions of a known-future covariate; several where it differs between series."""
    if series is not None and series not in panel.series:
        raise invalid(field, f"there is no series '{series}'", f"There are {', '.join(panel.series[:20])}.")
    position = {column: at for at, column in enumerate(panel.known_names)}
    if name in position:
        return [position[name]]
    wanted = panel.series if series is None else (series,)
    found = [
        position[f"{name}{SERIES_SEPARATOR}{one}"] for one in wanted if f"{name}{SERIES_SEPARATOR}{one}" in position
    ]
    if not found:
        there = ", ".join(panel.known_names[:50]) or "none"
        raise invalid(field, f"there is no known-future covariate '{name}'", f"There are: {there}.")
    return found


def day_index(panel: Panel, day: date, field: str) -> int:
    """Position of a date in the panel."""
    on = np.datetime64(day, "D")
    at = int(np.searchsorted(panel.dates, on))
    if at == len(panel.dates) or panel.dates[at] != on:
        raise invalid(
            field,
            f"{day} is not a period of the data",
            f"It goes from {panel.dates[0]} to {panel.dates[-1]} by {panel.frequency}.",
        )
    return at


def _row(rows: dict[str, int], region: str, field: str) -> int:
    if region not in rows:
        raise invalid(field, f"the region '{region}' is not asked for", "Name it in `regions`, or leave this out.")
    return rows[region]


def _between(panel: Panel, change: Change) -> Tensor:
    first = panel.dates[0] if change.first is None else np.datetime64(change.first, "D")
    last = panel.dates[-1] if change.last is None else np.datetime64(change.last, "D")
    return torch.from_numpy((panel.dates >= first) & (panel.dates <= last))


def _changed(values: Tensor, change: Change) -> Tensor:
    if change.to is not None:
        return torch.full_like(values, change.to)
    return values * change.scale if change.scale is not None else values + (change.add or 0.0)
