"""What all baselines share: one row per (region, series), no look past the origin, closed days forecast as 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from stmp.data.panel import DateLike, Panel
from stmp.errors import ConfigError, DataError
from stmp.forecast import Forecast

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Rows:
    """A panel's (region, series) rows as arrays, with nothing sold after the origin in them.

    Attributes
    ----------
    panel : Panel
        One series a row; T reaches to the last day of the horizon.
    region : ndarray of str [N]
        Name of each row's region.
    origin : int
        Position of the last day whose sales are known; the horizon is ``origin + 1 .. origin + horizon``.
    sales, observed, closed : ndarray [N, T]
        Sales and observed are 0 and False after the origin; closed is known for the horizon too.
    """

    panel: Panel
    region: np.ndarray
    origin: int
    horizon: int
    sales: np.ndarray
    observed: np.ndarray
    closed: np.ndarray

    @classmethod
    def of(cls, panel: Panel, origin: DateLike, horizon: int) -> Rows:
        """Rows of a panel as they were known at the origin.

        Raises
        ------
        DataError
            If the time axis ends before the horizon does.
        """
        at = panel.index_of(origin)
        if horizon < 1:
            raise ConfigError(f"horizon is {horizon}; it must be at least one period.")
        if at + horizon >= len(panel.dates):
            raise DataError(
                f"A forecast of {horizon} periods from {panel.dates[at]} needs the calendar up to then, but the "
                f"panel's dates end on {panel.dates[-1]}. Read it with a later `end`, or choose a shorter horizon."
            )
        known = panel.until(panel.dates[at])
        rows = known.split_series()
        return cls(
            panel=rows,
            region=known.regions[known.series_rows()[0]],
            origin=at,
            horizon=horizon,
            sales=rows.sales[:, :, 0].cpu().numpy(),
            observed=rows.observed[:, :, 0].cpu().numpy(),
            closed=rows.closed.cpu().numpy(),
        )

    @property
    def past(self) -> slice:
        """Time axis up to and with the origin."""
        return slice(0, self.origin + 1)

    @property
    def future(self) -> slice:
        """Time axis of the horizon."""
        return slice(self.origin + 1, self.origin + 1 + self.horizon)

    @property
    def week(self) -> int:
        """Periods in a week, or 1 for weekly data."""
        return 7 if self.panel.period_days == 1 else 1

    def trailing(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Sum of sales and number of observed days in ``start:stop`` of the time axis, each [N]; start may be < 0."""
        window = slice(max(start, 0), max(stop, 0))
        return self.sales[:, window].sum(axis=1, dtype=np.float64), self.observed[:, window].sum(axis=1)

    def level(self, stop: int, periods: int) -> np.ndarray:
        """Mean of the observed sales in the `periods` before position `stop`, NaN without any: [N]."""
        total, count = self.trailing(stop - periods, stop)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class Baseline(ABC):
    """A predictor that works on rows; `predict` does the rest."""

    name: str = "baseline"
    levels: tuple[float, ...] = LEVELS
    closed_as_zero: bool = True

    @abstractmethod
    def forecast_rows(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Mean [N, H] and quantiles [N, H, Q] of each row; NaN where this baseline makes no forecast."""

    def predict(self, panel: Panel, origin: DateLike, horizon: int) -> Forecast:
        """Forecast every region and series from what was known at the origin; one that never sold by then as 0."""
        rows = Rows.of(panel, origin, horizon)
        mean, quantiles = self.forecast_rows(rows)
        if self.closed_as_zero:
            closed = rows.closed[:, rows.future] & np.isfinite(mean)
            mean = np.where(closed, 0.0, mean)
            quantiles = np.where(closed[:, :, None], 0.0, quantiles)
        regions, _, series = panel.shape
        region_of, series_of = panel.until(origin).series_rows()
        full_mean = np.zeros((regions, horizon, series), dtype=np.float32)
        full_quantiles = np.zeros((regions, horizon, series, len(self.levels)), dtype=np.float32)
        full_mean[region_of, :, series_of] = mean
        full_quantiles[region_of, :, series_of] = quantiles
        return Forecast(
            regions=panel.regions,
            series=panel.series,
            dates=panel.dates[rows.future],
            levels=self.levels,
            mean=full_mean,
            quantiles=full_quantiles,
            model_version=self.name,
        )


def normal_quantiles(mean: np.ndarray, sigma: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles of normal distributions: means and standard deviations [N, H] to [N, H, Q]."""
    z = np.array([NormalDist().inv_cdf(q) for q in levels])
    return mean[:, :, None] + sigma[:, :, None] * z


def require(module: str, package: str, extra: str = "baselines") -> None:
    """Say how to install a library that only some baselines need, by which of our extras."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise ConfigError(
            f"This baseline needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'stmp-platform[{extra}]'"
        )
