"""Which lambda to take: the strongest hold on the source that is as good as the best, by the one-standard-error rule.

After Breiman et al. (1984, *Classification and Regression Trees*, 3.4.3). Errors of two candidates on the same regions
rise and fall together, so the standard error is that of their difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stmp.evaluation.metrics import from_sums, resample

DRAWS = 500
METRIC = "mse"


@dataclass(frozen=True)
class Candidate:
    """What one lambda came to.

    Attributes
    ----------
    strength : float
        Lambda, from 0 to infinity.
    sums : ndarray [R, len(SUMS)]
        Sums of `stmp.evaluation.metrics` by region, over the same validation windows for all candidates.
    """

    strength: float
    sums: np.ndarray

    @property
    def error(self) -> float:
        """MSE over all regions."""
        return float(from_sums(self.sums.sum(axis=0))[METRIC])


@dataclass(frozen=True)
class Choice:
    """The outcome of the rule, by the candidates' positions.

    Attributes
    ----------
    best, chosen : int
        The candidate of the lowest error, and the one to take.
    spread : ndarray [N]
        Standard error of each candidate's error, by a bootstrap over the regions.
    behind, behind_spread : ndarray [N]
        Each error less the lowest, and the standard error of that difference.
    """

    best: int
    chosen: int
    spread: np.ndarray
    behind: np.ndarray
    behind_spread: np.ndarray


def choose(candidates: Sequence[Candidate], seed: int = 0) -> Choice:
    """The largest lambda whose error is at most one standard error (of the difference) above the lowest.

    Parameters
    ----------
    candidates : sequence of Candidate
        One at least; of equal lambda the one of the lower error is taken.
    seed : int
        Of the bootstrap.
    """
    errors = np.asarray([c.error for c in candidates])
    best = int(errors.argmin())
    sums = np.stack([c.sums for c in candidates], axis=1)  # [R, N, K]
    if len(sums) > 1:
        drawn = from_sums(resample(sums, DRAWS, seed))[METRIC]  # [draws, N]
    else:
        drawn = errors[None]  # one region tells nothing of the spread
    behind = errors - errors[best]
    behind_spread = (drawn - drawn[:, best : best + 1]).std(axis=0)
    close: list[int] = np.flatnonzero(behind <= behind_spread).tolist()
    chosen = min(close, key=lambda i: (-candidates[i].strength, errors[i]))
    return Choice(best, chosen, drawn.std(axis=0), behind, behind_spread)
