"""Rolling error, bias and coverage of forecasts whose days have been sold, by kind of day and group of regions.

Sums are kept by step of time, region and cell (day type, after a festival or not), as a backtest keeps them, and added
up over windows; so the figures are those of the backtest that they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stmp.errors import DataError
from stmp.evaluation.metrics import SUMS, Points, point_sums
from stmp.evaluation.slices import Cells
from stmp.hierarchy import GRAND_TOTAL

if TYPE_CHECKING:
    from stmp.data.panel import Panel


@dataclass(frozen=True)
class Sold:
    """Forecasts whose days have been sold; all arrays [N].

    Attributes
    ----------
    region, day : ndarray of int
        Positions in the panel.
    version : ndarray of str
        Which model forecast.
    waiting, unknown : int
        Rows left out: their days have no sales (yet), or the data do not have their region or series. Totals of
        regions are neither: their sales are those of the regions, which are scored.
    """

    region: np.ndarray
    day: np.ndarray
    actual: np.ndarray
    points: Points
    levels: tuple[float, ...]
    version: np.ndarray
    waiting: int
    unknown: int


def match(forecasts: pd.DataFrame, levels: tuple[float, ...], panel: Panel) -> Sold:
    """Put forecasts beside what was sold.

    Parameters
    ----------
    forecasts : DataFrame
        Columns ``region, series, date, mean, model_version`` and ``q0.1`` ... for the levels.
    """
    names = forecasts["region"].astype(str)
    region = pd.Index(panel.regions.astype(str)).get_indexer(pd.Index(names))
    total = (names.eq(GRAND_TOTAL) | names.str.contains("=", regex=False)).to_numpy(bool)
    series = pd.Index(panel.series).get_indexer(pd.Index(forecasts["series"].astype(str)))
    day = pd.DatetimeIndex(panel.dates).get_indexer(pd.DatetimeIndex(forecasts["date"]))
    here = (region >= 0) & (series >= 0)
    observed = panel.observed.cpu().numpy()
    sold = here & (day >= 0)
    sold[sold] = observed[region[sold], day[sold], series[sold]]
    rows = forecasts.loc[sold]
    place = (region[sold], day[sold], series[sold])
    return Sold(
        region=place[0],
        day=place[1],
        actual=panel.sales.cpu().numpy()[place].astype(np.float64),
        points=Points(
            rows["mean"].to_numpy(np.float64), rows[[f"q{level:g}" for level in levels]].to_numpy(np.float64)
        ),
        levels=levels,
        version=rows["model_version"].astype(str).to_numpy(),
        waiting=int((here & ~sold).sum()),
        unknown=int((~here & ~total).sum()),
    )


@dataclass(frozen=True)
class Rolling:
    """Sums of losses over rolling windows.

    Attributes
    ----------
    ends : ndarray datetime64[D] [W]
        Last day of each window, the latest last.
    slices, groups, versions : dict of name to ndarray [W, len(SUMS)]
        Of all days and each kind of day; of groups of regions; of model versions.
    """

    ends: np.ndarray
    slices: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    versions: dict[str, np.ndarray]


def roll(sold: Sold, panel: Panel, groups: dict[str, np.ndarray], window: int, step: int) -> Rolling:
    """Add losses up over windows that end with the last sale, and at every step before it.

    Parameters
    ----------
    groups : dict of name to bool [R]
        Groups of regions, as `stmp.evaluation.slices.region_groups` makes them.
    window, step : int
        Periods; the window is a multiple of the step.

    Raises
    ------
    DataError
        If no forecast's day has been sold.
    """
    assert window % step == 0, f"a window of {window} holds no whole number of steps of {step}"
    if len(sold.day) == 0:
        raise DataError(
            f"Not one of the forecasts is of a day whose sales are known: {sold.waiting:,} rows are of days without "
            f"sales, the last of which are of {panel.last_observed}, and {sold.unknown:,} of regions or series that "
            "the data do not have. Add the new sales with `stmp ingest --append`."
        )
    last = panel.index_of(panel.last_observed)
    age = (last - sold.day) // step  # the latest step is 0
    steps = int(age.max()) + 1
    cells = Cells(panel.calendar.day_types, ((1, 1),))
    calendar = panel.calendar_index.cpu().numpy()[sold.region]
    day_type = panel.calendar.day_type[calendar, sold.day].astype(np.int64)
    cell = day_type * 2 + panel.calendar.post_festival()[calendar, sold.day]
    names, version = np.unique(sold.version, return_inverse=True)
    of_cells = _totals(sold, age, cell, (steps, len(cells)))
    of_regions = _totals(sold, age, sold.region, (steps, len(panel.regions)))
    of_versions = _totals(sold, age, version, (steps, len(names)))

    def rolled(by_step: np.ndarray) -> np.ndarray:
        """Sums [steps, K], the latest first, as windows [W, K], the latest last."""
        total = np.concatenate([np.zeros((1, by_step.shape[1])), by_step.cumsum(axis=0)])
        begin = np.arange(steps)
        return np.asarray(total[np.minimum(begin + window // step, steps)] - total[begin])[::-1]

    return Rolling(
        ends=panel.dates[last - step * np.arange(steps)][::-1],
        slices={name: rolled(of_cells[:, members].sum(axis=1)) for name, members in cells.slices().items()},
        groups={name: rolled(of_regions[:, members].sum(axis=1)) for name, members in groups.items()},
        versions={str(name): rolled(of_versions[:, i]) for i, name in enumerate(names)},
    )


def _totals(sold: Sold, age: np.ndarray, key: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Losses summed by step and key, [*shape, len(SUMS)]."""
    unscaled = np.full(len(key), np.nan)  # the scale of MASE is that of one origin, and a log has many
    made = point_sums(age * shape[1] + key, sold.actual, unscaled, {"model": sold.points}, sold.levels)
    ids, sums = made["model"]
    totals = np.zeros((shape[0] * shape[1], len(SUMS)))
    totals[ids] = sums
    return totals.reshape(*shape, len(SUMS))
