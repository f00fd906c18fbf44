"""Is an 80 % interval right 80 % of the time? Counts of actuals below each quantile level, by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Reliability:
    """How often the actual lay at or below each quantile. Counts add over origins and shards.

    Attributes
    ----------
    groups : tuple of str
        What the D rows stand for: day types.
    levels : tuple of float
        The Q nominal levels.
    n : ndarray [D]
        Points scored.
    below : ndarray [D, Q]
        Points whose actual was at or below the quantile.
    """

    groups: tuple[str, ...]
    levels: tuple[float, ...]
    n: np.ndarray
    below: np.ndarray

    @classmethod
    def empty(cls, groups: Sequence[str], levels: Sequence[float]) -> Reliability:
        """No points yet."""
        return cls(tuple(groups), tuple(levels), np.zeros(len(groups)), np.zeros((len(groups), len(levels))))

    def __add__(self, other: Reliability) -> Reliability:
        assert (self.groups, self.levels) == (other.groups, other.levels), "counts of different groups or levels"
        return Reliability(self.groups, self.levels, self.n + other.n, self.below + other.below)

    def observed(self) -> np.ndarray:
        """Share of actuals at or below each quantile [D, Q], NaN for groups without points."""
        n = self.n[:, None]
        return np.where(n > 0, self.below / np.maximum(n, 1), np.nan)

    def table(self) -> dict[str, dict[str, float]]:
        """Observed share by group and nominal level, and ``all`` pooled, for JSON; empty groups are absent."""
        pooled = Reliability(("all",), self.levels, self.n.sum(keepdims=True), self.below.sum(0, keepdims=True))
        result: dict[str, dict[str, float]] = {}
        for part in (pooled, self):
            for group, n, row in zip(part.groups, part.n, part.observed(), strict=True):
                if n > 0:
                    result[group] = {f"{q:g}": float(share) for q, share in zip(self.levels, row, strict=True)}
        return result


def reliability(
    group: np.ndarray, groups: Sequence[str], actual: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]
) -> Reliability:
    """Count actuals at or below each quantile.

    Parameters
    ----------
    group : ndarray of int [N]
        Index into `groups` of each point.
    actual : ndarray [N]
    quantiles : ndarray [N, Q]
        Points with NaN were not forecast and are not counted.
    """
    from utilsforecast import losses

    result = Reliability.empty(groups, levels)
    kept = np.isfinite(quantiles).all(axis=1)
    if not kept.any():
        return result
    names = [str(i) for i in range(len(levels))]
    frame = pd.DataFrame(dict(zip(names, quantiles[kept].T.astype(np.float64), strict=True)))
    frame = frame.assign(unique_id=group[kept], y=actual[kept].astype(np.float64))
    shares = losses.calibration(frame, {name: name for name in names}).set_index("unique_id")
    rows = shares.index.to_numpy()
    result.n[:] = np.bincount(group[kept], minlength=len(groups))
    result.below[rows] = shares[names].to_numpy(dtype=np.float64) * result.n[rows, None]
    return result
