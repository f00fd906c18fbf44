"""From forecasts and what was sold to the sums of a backtest, some regions and one origin at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stmp.data.panel import Panel
from stmp.evaluation.calibration import Reliability, reliability
from stmp.evaluation.metrics import SUMS, Points, point_sums, seasonal_scale
from stmp.evaluation.result import Totals
from stmp.evaluation.slices import Cells
from stmp.forecast import Forecast


class Part:
    """Some regions of a panel and what they sold.

    Parameters
    ----------
    whole : Panel
    rows : ndarray of int [R]
        Their positions in it.
    score_closed : bool
        Closed days count, as days that sold 0.

    Attributes
    ----------
    panel : Panel
        These regions alone.
    """

    def __init__(self, whole: Panel, rows: np.ndarray, score_closed: bool) -> None:
        panel = whole.select(rows)
        self.rows, self.panel = rows, panel
        self.region_of, self.series_of = panel.series_rows()
        self.sales = panel.sales.cpu().numpy()[self.region_of, :, self.series_of]  # [N, T]
        self.sold = panel.observed.cpu().numpy()[self.region_of, :, self.series_of]
        self.counted = self.sold  # days that are scored, and that make the scale
        if score_closed:
            self.counted = self.sold | panel.closed.cpu().numpy()[self.region_of]
        index = panel.calendar_index.cpu().numpy()
        self.day_type = panel.calendar.day_type[index]  # [R, T]
        self.post = panel.calendar.post_festival()[index]
        self.event = panel.calendar.event[index]

    def beside(self, forecasts: Mapping[str, Forecast], origin: int, season: int, cells: Cells) -> Scored:
        """The days to score of forecasts of these regions, flat."""
        horizon = next(iter(forecasts.values())).mean.shape[1]
        days = slice(origin + 1, origin + 1 + horizon)
        past = slice(0, origin + 1)
        # Exports write rows of 0 for series that have not sold anything yet.
        begun = np.asarray((self.sold & (self.sales > 0))[:, past].any(axis=1))
        scale = seasonal_scale(self.sales[:, past], self.counted[:, past], season)  # [N]
        target = self.counted[:, days]
        row, step = np.nonzero(target & begun[:, None])
        region, series, day = self.region_of[row], self.series_of[row], origin + 1 + step
        cell = cells.index(self.day_type[:, days], self.post[:, days])  # [R, H]
        return Scored(
            row=row,
            region=region,
            series=series,
            cell=cell[region, step],
            day_type=self.day_type[region, day].astype(np.int64),
            event=self.event[region, day].astype(np.int64),
            actual=self.sales[row, day],
            scale=scale[row],
            forecasts={
                name: Points(forecast.mean[region, step, series], forecast.quantiles[region, step, series])
                for name, forecast in forecasts.items()
            },
            skipped=int((target & ~begun[:, None]).sum()),
        )


@dataclass(frozen=True)
class Scored:
    """Flat points of some regions and one origin; all arrays [N].

    Attributes
    ----------
    row, region, series : ndarray of int
        Row (region and series), region and series of the `Part`.
    scale : ndarray
        Of MASE and SQL.
    skipped : int
        Days left out because their series had not sold by the origin.
    """

    row: np.ndarray
    region: np.ndarray
    series: np.ndarray
    cell: np.ndarray
    day_type: np.ndarray
    event: np.ndarray
    actual: np.ndarray
    scale: np.ndarray
    forecasts: dict[str, Points]
    skipped: int

    def sums(self, key: np.ndarray, keys: int, levels: Sequence[float]) -> dict[str, tuple[np.ndarray, ...]]:
        """Sums of each model's losses by row and by a key of each point: rows [U], keys [U] and sums [U, len(SUMS)]."""
        found = point_sums(self.row * keys + key, self.actual, self.scale, self.forecasts, levels)
        return {name: (*np.divmod(ids, keys), sums) for name, (ids, sums) in found.items()}


class Scorer:
    """The sums of one backtest, to which forecasts are added in any order.

    Parameters
    ----------
    panel : Panel
        All regions.
    names : sequence of str
        Of the models.
    horizon, origins : int
        Periods of a forecast, and their number.
    season : int
        Periods in a season of MASE and SQL.
    """

    def __init__(self, panel: Panel, names: Sequence[str], horizon: int, origins: int, season: int) -> None:
        self.season = season
        self.cells = Cells.of(panel, horizon)
        self.levels: tuple[float, ...] = ()
        self.skipped = 0
        self.totals = {m: np.zeros((len(panel.regions), len(self.cells), len(SUMS))) for m in names}
        sizes = origins, len(panel.calendar.events), len(panel.series)
        pooled = [{m: np.zeros((size, len(SUMS))) for m in names} for size in sizes]
        self.by_origin, self.by_event, self.by_series = pooled
        self.reliability: dict[str, Reliability] = {}

    def add(self, part: Part, number: int, origin: int, forecasts: Mapping[str, Forecast]) -> None:
        """Score forecasts of some regions from one origin.

        Parameters
        ----------
        number, origin : int
            Which origin it is, and its position in the panel.
        """
        if not self.levels:
            self.levels = tuple(next(iter(forecasts.values())).levels)
            self.reliability = {m: Reliability.empty(self.cells.day_types, self.levels) for m in forecasts}
        points = part.beside(forecasts, origin, self.season, self.cells)
        self.skipped += points.skipped
        for m, (row, cell, sums) in points.sums(points.cell, len(self.cells), self.levels).items():
            np.add.at(self.totals[m], (part.rows[part.region_of[row]], cell), sums)
            np.add.at(self.by_series[m], part.series_of[row], sums)
            self.by_origin[m][number] += sums.sum(axis=0)
            quantiles = points.forecasts[m].quantiles
            self.reliability[m] += reliability(
                points.day_type, self.cells.day_types, points.actual, quantiles, self.levels
            )
        events = len(part.panel.calendar.events)
        for m, (_, event, sums) in points.sums(points.event, events, self.levels).items():
            np.add.at(self.by_event[m], event, sums)

    def add_cold(
        self, totals: Totals, place: np.ndarray, part: Part, origin: int, forecasts: Mapping[str, Forecast]
    ) -> None:
        """Score forecasts of regions whose history was cut.

        Parameters
        ----------
        totals : Totals [U, cells, len(SUMS)]
            To which they are added, at the places [R] of the part's regions.
        """
        points = part.beside(forecasts, origin, self.season, self.cells)
        for m, (row, cell, sums) in points.sums(points.cell, len(self.cells), self.levels).items():
            np.add.at(totals[m], (place[part.region_of[row]], cell), sums)
