"""Forecast metrics from sums per region, so that shards merge and a bootstrap over regions is one matrix product.

Per-point losses and their means come from `utilsforecast.losses`; this module turns them into sums, pools the sums and
divides. The definitions are those of GluonTS and fev-bench:

=============  =========================================================================================
``mse, rmse``  squared error of the mean forecast
``mae, wape``  absolute error of the median; ``wape`` = sum |error| / sum |actual|
``bias``       sum (mean forecast - actual) / sum actual; above 0 means too much was forecast
``wql``        twice the pinball loss, averaged over the levels, / sum |actual|
``mase, sql``  absolute error of the median, and twice the pinball loss averaged over the levels, both
               divided by the series' own scale (`seasonal_scale`) and averaged over points
``coverage_80``  share of actuals between the 0.1 and the 0.9 quantile
=============  =========================================================================================

Zeros: a ratio whose denominator is 0 is None. A series whose scale is 0 or unknown is left out of ``mase`` and ``sql``
and its points are counted in ``unscaled``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from stmp.errors import ConfigError

SUMS = (
    "n", "squared", "absolute", "error", "actual", "abs_actual", "quantile", "inside",
    "scaled_n", "scaled_absolute", "scaled_quantile",
)  # fmt: skip
"""What is kept of each group of points. All are sums over points: add them to merge groups or shards."""

METRICS = ("mse", "rmse", "mae", "wape", "bias", "mase", "wql", "sql", "coverage_80")
LOWER_IS_BETTER = ("mse", "rmse", "mae", "wape", "mase", "wql", "sql")


class Points(NamedTuple):
    """One model's forecasts of N points."""

    mean: np.ndarray  # [N]
    quantiles: np.ndarray  # [N, Q]


def median_column(levels: Sequence[float]) -> int:
    """Position of the level 0.5.

    Raises
    ------
    ConfigError
        If there is none: absolute errors are those of the median.
    """
    position = int(np.argmin(np.abs(np.asarray(levels, dtype=float) - 0.5)))
    if abs(levels[position] - 0.5) > 1e-6:
        raise ConfigError(f"The quantile levels {list(levels)} lack 0.5, which the absolute errors are measured at.")
    return position


def seasonal_scale(sales: np.ndarray, observed: np.ndarray, period: int) -> np.ndarray:
    """Mean absolute difference between days one season apart, the scale of MASE and SQL.

    Parameters
    ----------
    sales, observed : ndarray [N, T]
        History up to the forecast origin; a difference counts where both its days are observed.
    period : int
        Periods in a season.

    Returns
    -------
    ndarray [N]
        NaN where there is no such pair of days, or where all differences are 0.
    """
    if sales.shape[1] <= period:
        return np.full(len(sales), np.nan)
    both = observed[:, period:] & observed[:, :-period]
    difference = np.abs(sales[:, period:].astype(np.float64) - sales[:, :-period])
    count = both.sum(axis=1)
    total = np.where(both, difference, 0.0).sum(axis=1)
    return np.where((count > 0) & (total > 0), total / np.maximum(count, 1), np.nan)


def point_sums(
    ids: np.ndarray,
    actual: np.ndarray,
    scale: np.ndarray,
    forecasts: Mapping[str, Points],
    levels: Sequence[float],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sums of each model's losses by group of points.

    Parameters
    ----------
    ids : ndarray of int [N]
        The group that each point belongs to; a group lies within one series and one origin.
    actual, scale : ndarray [N]
        What was sold, and the scale of its series (NaN: the series has none), the same within a group.
    forecasts : mapping of model name to Points
        A point whose mean is NaN is one that this model did not forecast; it is not scored.
    levels : sequence of float
        Levels of the quantiles, 0.5 among them; 0.1 and 0.9 for the coverage.

    Returns
    -------
    dict of model name to (ids [U], sums [U, len(SUMS)])
        The groups that hold any point, ascending.
    """
    by_mask: dict[bytes, list[str]] = {}
    for name, points in forecasts.items():  # models that forecast the same points share one pass
        by_mask.setdefault(np.isfinite(points.mean).tobytes(), []).append(name)
    result: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for mask, names in by_mask.items():
        kept = np.frombuffer(mask, dtype=bool)
        part = {name: Points(forecasts[name].mean[kept], forecasts[name].quantiles[kept]) for name in names}
        result |= _sums_of(ids[kept], actual[kept].astype(np.float64), scale[kept], part, levels)
    return {name: result[name] for name in forecasts}


def _sums_of(
    ids: np.ndarray, actual: np.ndarray, scale: np.ndarray, forecasts: Mapping[str, Points], levels: Sequence[float]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from utilsforecast import losses

    models = list(forecasts)
    groups, first, codes, counts = np.unique(ids, return_index=True, return_inverse=True, return_counts=True)
    if len(groups) == 0:
        return {m: (groups, np.zeros((0, len(SUMS)))) for m in models}
    names = {m: [f"{m}|{i}" for i in range(len(levels))] for m in models}
    columns = {"unique_id": ids, "y": actual}
    for m, points in forecasts.items():
        columns[m] = points.mean.astype(np.float64)
        columns |= {name: points.quantiles[:, i].astype(np.float64) for i, name in enumerate(names[m])}
    median = {m: names[m][median_column(levels)] for m in models}
    low, high = _level_column(levels, 0.1), _level_column(levels, 0.9)
    if low is not None and high is not None:
        columns |= {f"{m}-lo-80": columns[names[m][low]] for m in models}
        columns |= {f"{m}-hi-80": columns[names[m][high]] for m in models}
    frame = pd.DataFrame(columns)

    def sums(means: pd.DataFrame) -> dict[str, np.ndarray]:
        by_group = means.set_index("unique_id").loc[groups]
        return {str(c): by_group[c].to_numpy(dtype=np.float64) * counts for c in by_group.columns}

    squared, error = sums(losses.mse(frame, models)), sums(losses.bias(frame, models))
    absolute = sums(losses.mae(frame, list(median.values())))
    pinball = sums(losses.mqloss(frame, names, np.asarray(levels, dtype=float)))
    unknown = dict.fromkeys(models, np.full(len(groups), np.nan))
    inside = sums(losses.coverage(frame, models, 80)) if low is not None and high is not None else unknown

    has_scale = np.isfinite(scale[first])
    divisor = np.where(has_scale, scale[first], 1.0)
    result = {}
    for m in models:
        by_name = {
            "n": counts,
            "squared": squared[m],
            "absolute": absolute[median[m]],
            "error": error[m],
            "actual": np.bincount(codes, weights=actual),
            "abs_actual": np.bincount(codes, weights=np.abs(actual)),
            "quantile": 2.0 * pinball[m],  # the factor 2 of GluonTS and fev
            "inside": inside[m],
            "scaled_n": counts * has_scale,
            "scaled_absolute": absolute[median[m]] / divisor * has_scale,
            "scaled_quantile": 2.0 * pinball[m] / divisor * has_scale,
        }
        result[m] = groups, np.stack([by_name[key] for key in SUMS], axis=1).astype(np.float64)
    return result


def _level_column(levels: Sequence[float], level: float) -> int | None:
    hits = np.flatnonzero(np.abs(np.asarray(levels, dtype=float) - level) < 1e-6)
    return int(hits[0]) if len(hits) else None


def from_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of pooled sums.

    Parameters
    ----------
    sums : ndarray [..., len(SUMS)]

    Returns
    -------
    dict of metric name to ndarray [...]
        NaN where a metric is not defined: no points, or a denominator of 0.
    """
    part = {key: sums[..., i] for i, key in enumerate(SUMS)}

    def ratio(over: str, under: str) -> np.ndarray:
        nonzero = part[under] != 0
        return np.where(nonzero, part[over] / np.where(nonzero, part[under], 1.0), np.nan)

    mse = ratio("squared", "n")
    return {
        "mse": mse,
        "rmse": np.sqrt(mse),
        "mae": ratio("absolute", "n"),
        "wape": ratio("absolute", "abs_actual"),
        "bias": ratio("error", "actual"),
        "mase": ratio("scaled_absolute", "scaled_n"),
        "wql": ratio("quantile", "abs_actual"),
        "sql": ratio("scaled_quantile", "scaled_n"),
        "coverage_80": ratio("inside", "n"),
    }


def summary(sums: np.ndarray) -> dict[str, float | int | None]:
    """The metrics of one group as plain numbers for JSON; what is not defined is None.

    Parameters
    ----------
    sums : ndarray [len(SUMS)]
    """
    n = int(sums[SUMS.index("n")])
    values = {key: float(value) for key, value in from_sums(sums).items()}
    plain: dict[str, float | int | None] = {"n": n}
    plain |= {key: value if np.isfinite(value) else None for key, value in values.items()}
    plain["unscaled"] = n - int(sums[SUMS.index("scaled_n")])
    return plain


def resample(sums: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums of `draws` samples of the regions with replacement, for percentile intervals.

    Parameters
    ----------
    sums : ndarray [R, ...]
        Sums by region. A region that repeats its neighbours' luck is one draw, however many days it has.
    draws, seed : int
        The same seed draws the same regions, so that two models' sums stay paired.

    Returns
    -------
    ndarray [draws, ...]
    """
    flat = sums.reshape(len(sums), -1)
    parts = [weights @ flat for weights in times_drawn(len(sums), draws, seed)]
    return np.concatenate(parts).reshape(draws, *sums.shape[1:])


def times_drawn(regions: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each region is in each of some samples with replacement, float64 [draws', R], 32 MB at a time."""
    block = max(1, 4_000_000 // max(regions, 1))
    if block >= draws:
        yield _drawn(regions, draws, seed)
        return
    for start in range(0, draws, block):
        yield _draw(regions, min(block, draws - start), np.random.default_rng((seed, start)))


def _draw(regions: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    # A multinomial draw of so many counts takes seven times as long.
    counts = [np.bincount(rng.integers(regions, size=regions), minlength=regions) for _ in range(draws)]
    return np.array(counts, dtype=np.float64).reshape(draws, regions)


@lru_cache(maxsize=4)
def _drawn(regions: int, draws: int, seed: int) -> np.ndarray:
    """What the many tables of one report share."""
    return _draw(regions, draws, np.random.default_rng((seed, 0)))


def interval(values: np.ndarray, confidence: float = 0.95) -> list[float] | None:
    """Percentile interval of bootstrap values [draws]; None where fewer than half are defined."""
    finite = values[np.isfinite(values)]
    if len(finite) < max(2, len(values) // 2):
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    return [float(low), float(high)]
