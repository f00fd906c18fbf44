"""Is one model better than another? Both forecast the same windows, and their errors are compared pair by pair.

A window is one origin and its horizon. The days of a region share its luck, and the regions of a window share its
weather, so neither days nor regions nor windows are independent draws alone. The interval is therefore that of a
two-way bootstrap: regions and windows are both drawn with replacement, a region's sums in a window count as often as
the two were drawn together, and both models are weighed alike (the pigeonhole bootstrap: Owen 2007, "The pigeonhole
bootstrap", Annals of Applied Statistics 1(2), `doi 10.1214/07-AOAS122 <https://doi.org/10.1214/07-AOAS122>`_; it errs
on the wide side).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stmp.data.panel import DateLike, Panel
from stmp.evaluation.backtest import backtest
from stmp.evaluation.calibration import Reliability
from stmp.evaluation.metrics import SUMS, from_sums, times_drawn
from stmp.evaluation.slices import region_groups
from stmp.forecast import Predictor

COLD = "cold"
"""The slice of regions that neither model has learned from, forecast from their last few days alone."""

_N = SUMS.index("n")


@dataclass(frozen=True)
class Paired:
    """Sums of two models' losses on the same windows.

    Attributes
    ----------
    models : tuple of str
        The one that is judged, and the one that it is held against.
    slices, groups : dict of name to ndarray [2, W, R', len(SUMS)]
        By model, window and region: of all days, of each kind of day, of cold starts (`COLD`, over the regions that are
        cold); and of all days in each group of regions.
    reliability : dict of model name to Reliability
    origins : ndarray datetime64[D] [W]
    """

    models: tuple[str, str]
    slices: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    reliability: dict[str, Reliability]
    origins: np.ndarray


@dataclass(frozen=True)
class Difference:
    """How much worse (above 0) or better (below 0) the judged model's error is, relative to the other's.

    Attributes
    ----------
    judged, other : float
        The metric of each model; NaN where it is not defined.
    relative : float
        ``judged / other - 1``.
    low, high : float
        Its one-sided bounds, each exceeded with probability 1 - confidence; NaN where they cannot be found.
    points : int
        Region-days (and series) that both models forecast.
    """

    judged: float
    other: float
    relative: float
    low: float
    high: float
    points: int


def compare(
    models: Mapping[str, Predictor],
    panel: Panel,
    origins: Sequence[DateLike],
    horizon: int,
    *,
    cold_histories: Sequence[int] = (),
    cold_regions: Sequence[str] = (),
    group_by: str | None = None,
) -> Paired:
    """Let two models forecast the same windows.

    Parameters
    ----------
    models : mapping of name to Predictor
        The one that is judged, then the other.
    origins : sequence of date
        The last known day of each window.
    horizon : int
        Periods in a window; the windows may overlap.
    cold_histories : sequence of int
        Days of history left to `cold_regions`; their sums are pooled.
    group_by : str, optional
        As in `stmp.evaluation.backtest.backtest`.

    Raises
    ------
    ConfigError
        If a window does not fit the panel, or the models forecast different quantile levels.
    """
    judged, other = models
    windows: list[dict[str, np.ndarray]] = []  # of each, sums [2, R', K] by slice
    counts: list[dict[str, Reliability]] = []
    for origin in origins:
        end = panel.dates[panel.index_of(origin) + horizon]
        result = backtest(
            models, panel, origin, end, horizon, cold_histories=cold_histories, unseen_regions=list(cold_regions),
            draws=0, keep_regions=0, progress=False,
        )  # fmt: skip
        members = result.cells.slices()
        totals = [result.totals[m] for m in (judged, other)]
        windows.append({name: np.stack([t[:, cells].sum(axis=1) for t in totals]) for name, cells in members.items()})
        if result.cold:
            young = [sum(part.totals[m].sum(axis=1) for part in result.cold.values()) for m in (judged, other)]
            windows[-1][COLD] = np.stack(young)
        counts.append(result.reliability)
    slices = {name: np.stack([window[name] for window in windows], axis=1) for name in windows[0]}
    regions = region_groups(panel, group_by, panel.index_of(origins[0]))
    groups = {name: slices["all"][:, :, rows] for name, rows in regions.items()}
    reliability = {m: sum((c[m] for c in counts[1:]), counts[0][m]) for m in (judged, other)}
    dates = panel.dates[[panel.index_of(origin) for origin in origins]]
    return Paired((judged, other), slices, groups, reliability, dates)


def difference(
    sums: np.ndarray, metric: str, *, draws: int = 2000, seed: int = 0, confidence: float = 0.9
) -> Difference:
    """The relative difference of two models' errors, with bounds from the two-way bootstrap.

    Parameters
    ----------
    sums : ndarray [2, W, R, len(SUMS)]
        One slice or group of a `Paired`. A region's window counts where both models forecast the same number of points.
    metric : str
        One of `stmp.evaluation.metrics.LOWER_IS_BETTER`.
    draws, seed : int
    confidence : float
        Of each bound by itself.
    """
    both = sums[0, ..., _N] == sums[1, ..., _N]  # [W, R]
    kept = np.where(both[None, :, :, None], sums, 0.0)
    judged, other = from_sums(kept.sum(axis=(1, 2)))[metric]
    _, windows, regions, size = kept.shape
    by_window = np.random.default_rng(seed).multinomial(windows, np.full(windows, 1 / windows), size=draws)  # [D, W]
    flat = kept.transpose(1, 2, 0, 3).reshape(windows, regions, 2 * size)
    parts, start = [], 0
    for by_region in times_drawn(regions, draws, seed):  # [D', R]; memory does not grow with the draws
        stop = start + len(by_region)
        parts.append(sum(by_window[start:stop, w, None] * (by_region @ flat[w]) for w in range(windows)))
        start = stop
    drawn = np.concatenate(parts)
    sampled = from_sums(drawn.reshape(draws, 2, size))[metric]
    ratios = _relative(sampled[:, 0], sampled[:, 1])
    finite = ratios[np.isfinite(ratios)]
    low, high = (np.nan, np.nan)
    if len(finite) > draws // 2:
        low, high = np.quantile(finite, [1 - confidence, confidence])
    relative = float(_relative(judged, other))
    return Difference(float(judged), float(other), relative, float(low), float(high), int(kept[0, ..., _N].sum()))


def _relative(judged: np.ndarray, other: np.ndarray) -> np.ndarray:
    nonzero = np.isfinite(other) & (other != 0)
    return np.where(nonzero, judged / np.where(nonzero, other, 1.0) - 1.0, np.nan)
