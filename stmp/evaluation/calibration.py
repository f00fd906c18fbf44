"""Is an 80 % interval right 80 % of the time? Counts of actuals below each quantile level, by group.

Where an actual lies on its quantile, as on the many days that a small series sells nothing and 0 is forecast, any share
between those below and those at or below is right (Czado, Gneiting & Held 2009, "Predictive model assessment for count
data", Biometrics 65); the one nearest to the level is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """How often the actual lay below each quantile. Counts add over origins and shards.

    Attributes
    ----------
    groups : tuple of str
        What the D rows stand for: day types.
    levels : tuple of float
        The Q nominal levels.
    n : ndarray [D]
        Points scored.
    below, at : ndarray [D, Q]
        Points whose actual was below the quantile, and those whose actual was the quantile.
    """

    groups: tuple[str, ...]
    levels: tuple[float, ...]
    n: np.ndarray
    below: np.ndarray
    at: np.ndarray

    @classmethod
    def empty(cls, groups: Sequence[str], levels: Sequence[float]) -> Reliability:
        """No points yet."""
        none = np.zeros((len(groups), len(levels)))
        return cls(tuple(groups), tuple(levels), np.zeros(len(groups)), none, none.copy())

    def __add__(self, other: Reliability) -> Reliability:
        assert (self.groups, self.levels) == (other.groups, other.levels), "counts of different groups or levels"
        n, below, at = self.n + other.n, self.below + other.below, self.at + other.at
        return Reliability(self.groups, self.levels, n, below, at)

    def pooled(self) -> Reliability:
        """All groups as one, named ``all``."""
        n, below, at = (counts.sum(axis=0, keepdims=True) for counts in (self.n, self.below, self.at))
        return Reliability(("all",), self.levels, n, below, at)

    def observed(self) -> np.ndarray:
        """Share of actuals below each quantile [D, Q], NaN for groups without points."""
        n = np.maximum(self.n, 1)[:, None]
        share = np.clip(np.asarray(self.levels), self.below / n, (self.below + self.at) / n)
        return np.where(self.n[:, None] > 0, share, np.nan)

    def table(self) -> dict[str, dict[str, float]]:
        """Observed share by group and nominal level, and ``all`` pooled, for JSON; empty groups are absent."""
        result: dict[str, dict[str, float]] = {}
        for part in (self.pooled(), self):
            for group, n, row in zip(part.groups, part.n, part.observed(), strict=True):
                if n > 0:
                    result[group] = {f"{q:g}": float(share) for q, share in zip(self.levels, row, strict=True)}
        return result


def reliability(
    group: np.ndarray, groups: Sequence[str], actual: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]
) -> Reliability:
    """Count actuals below and on each quantile.

    Parameters
    ----------
    group : ndarray of int [N]
        Index into `groups` of each point.
    actual : ndarray [N]
    quantiles : ndarray [N, Q]
        Points with NaN were not forecast and are not counted.
    """
    result = Reliability.empty(groups, levels)
    kept = np.isfinite(quantiles).all(axis=1)
    of, values, bounds = group[kept], actual[kept, None], quantiles[kept]
    result.n[:] = np.bincount(of, minlength=len(groups))
    np.add.at(result.below, of, values < bounds)
    np.add.at(result.at, of, values == bounds)
    return result
