"""How far apart two samples of vectors are, and whether that could be chance.

The energy distance (Székely & Rizzo, 2013) needs no bandwidth, unlike the maximum mean discrepancy of a Gaussian
kernel; it is the MMD of the kernel ``-|x - y|``, and zero only where both samples come from one distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_ROWS = 600
"""Rows of a sample at most: all pairs are compared."""
PERMUTATIONS = 999
_FINE = 1e-9


@dataclass(frozen=True)
class TwoSample:
    """The outcome of a two-sample test.

    Attributes
    ----------
    distance : float
        The energy coefficient of inhomogeneity, ``(2 E|X - Y| - E|X - X'| - E|Y - Y'|) / 2 E|X - Y|``: 0 for one and
        the same sample, 1 for two points. It does not depend on the unit.
    excess : float
        The same less what two samples of these sizes from one distribution have on average (the mean over the
        permutations), as a share of what is left above it; 0 where the samples are no further apart than chance.
    p_value : float
        Share of random divisions of all rows, the one at hand included, that are at least as far apart.
    rows : tuple of int
        Rows compared of each sample.
    """

    distance: float
    excess: float
    p_value: float
    rows: tuple[int, int]


def energy_test(x: np.ndarray, y: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0) -> TwoSample:
    """Compare two samples by their energy distance, with a permutation test.

    Parameters
    ----------
    x, y : ndarray [N, K], [M, K]
        Finite; a row each for what may be exchanged, here a region. At most `MAX_ROWS` are read of either.
    permutations : int
    seed : int

    Returns
    -------
    TwoSample
    """
    rng = np.random.default_rng(seed)
    x, y = _some(x, rng), _some(y, rng)
    n, m = len(x), len(y)
    assert n and m and np.isfinite(x).all() and np.isfinite(y).all()
    between = pairwise(np.concatenate([x, y]), np.concatenate([x, y]))  # [N + M, N + M]
    first = np.zeros((n + m, 1 + permutations))  # a column each way to divide the rows; the first is the true one
    first[:n, 0] = 1.0
    for column in range(1, permutations + 1):
        first[rng.permutation(n + m)[:n], column] = 1.0
    values = _coefficients(between, first, n, m)
    own, others = float(values[0]), values[1:]
    by_chance = float(others.mean()) if len(others) else 0.0
    excess = max(0.0, own - by_chance) / (1.0 - by_chance) if by_chance < 1.0 else 0.0
    p_value = (1 + int((others >= own - _FINE).sum())) / (1 + permutations)
    return TwoSample(distance=own, excess=excess, p_value=p_value, rows=(n, m))


def pairwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances of the rows of two arrays, [N, M]."""
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2.0 * x @ y.T
    # The difference of large squares leaves rounding where rows are equal.
    squares[squares < 1e-12 * max(1.0, float(np.abs(squares).max(initial=0.0)))] = 0.0
    return np.asarray(np.sqrt(squares))


def _coefficients(between: np.ndarray, first: np.ndarray, n: int, m: int) -> np.ndarray:
    """The coefficient for each division of the rows: `first` is 1 for the rows of the first sample, [N + M, P]."""
    second = 1.0 - first
    to_first = between @ first  # [N + M, P] sum of distances to the first sample
    across = (second * to_first).sum(axis=0) / (n * m)
    within_first = (first * to_first).sum(axis=0) / n**2
    within_second = (second * (between @ second)).sum(axis=0) / m**2
    energy = np.maximum(0.0, 2.0 * across - within_first - within_second)
    return np.divide(energy, 2.0 * across, out=np.zeros_like(energy), where=across > 0)


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    if len(rows) <= MAX_ROWS:
        return rows
    return rows[np.sort(rng.choice(len(rows), MAX_ROWS, replace=False))]
