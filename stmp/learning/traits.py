"""What a region's sales look like in a few numbers: level, week, promotions, festivals, volatility.

All but the level are changes of log sales (of sales over their level, and a tenth of it added, as the model sees them),
so that shops of any size and currency can be compared. They are measured on the days that a panel holds, one row per
(region, series).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stmp.data.features import OFFSET
from stmp.data.panel import Panel
from stmp.errors import DataError

FEWEST = 3
"""Days that a response is measured on at least."""
NOTHING = math.log(OFFSET / (1.0 + OFFSET))
"""Log sales over the level on a day that sells nothing."""
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

LEVEL, WEEK, KNOWN, FESTIVAL, VOLATILITY, STATIC = "level", "week", "known", "festival", "volatility", "static"
KINDS = (LEVEL, WEEK, KNOWN, FESTIVAL, VOLATILITY, STATIC)


@dataclass(frozen=True)
class Traits:
    """Numbers that describe N rows of (region, series), those that sold.

    Attributes
    ----------
    rows : ndarray of str [N]
        Region, or ``region@series`` where there are several series.
    regions : ndarray of str [N]
        The region of each row.
    values : dict of kind to float64 [N, K]
        NaN where a row's days do not tell.
    names : dict of kind to tuple of str, length K
    """

    rows: np.ndarray
    regions: np.ndarray
    values: dict[str, np.ndarray]
    names: dict[str, tuple[str, ...]]


def describe(panel: Panel) -> Traits:
    """Measure the traits of every row of a panel.

    Parameters
    ----------
    panel : Panel
        Holding the days to look at and no others (`window_of`).

    Raises
    ------
    DataError
        If nothing was sold.
    """
    rows = panel.split_series()
    sold = rows.observed.any(dim=2).any(dim=1).cpu().numpy()
    rows, regions = rows.select(np.flatnonzero(sold)), panel.regions[panel.series_rows()[0][sold]]
    observed = rows.observed[:, :, 0].cpu().numpy()  # [N, T]
    if not len(observed):
        raise DataError("The data has no observed sales in the period that is compared. Choose an earlier --until.")
    sales = rows.sales[:, :, 0].cpu().numpy().astype(np.float64)
    which = rows.calendar_index.cpu().numpy()
    ordinary = observed & (rows.calendar.event[which] == 0)
    usual = np.where((ordinary.sum(axis=1) >= FEWEST)[:, None], ordinary, observed)
    level = np.maximum(_mean(sales, usual), 1e-6)  # [N]
    logs = np.log(np.maximum(sales, 0.0) / level[:, None] + OFFSET) - math.log(1.0 + OFFSET)
    place = _places(rows)
    week, expected = _week(rows, _profile(logs, usual, place), place)
    rest = logs - expected  # what the weekday does not say
    festival = rows.calendar.day_type == _position(rows.calendar.day_types, "festival")
    values = {
        LEVEL: np.log(level)[:, None],
        WEEK: week,
        KNOWN: _responses(rows, rest, usual, place),
        FESTIVAL: np.stack(
            [_change(rest, observed & days[which], usual) for days in (festival, rows.calendar.post_festival())], axis=1
        ),
        VOLATILITY: _volatility(sales, rest, observed, usual),
        STATIC: _signed_log(rows.static.cpu().numpy().astype(np.float64)),
    }
    names = {
        LEVEL: ("log mean sales",),
        WEEK: WEEKDAYS[: week.shape[1]],
        KNOWN: rows.known_names,
        FESTIVAL: ("festival", "after it"),
        VOLATILITY: ("spread", "no sales", "memory"),
        STATIC: rows.static_names,
    }
    return Traits(rows.regions, regions, values, names)


def window_of(panel: Panel, last: np.datetime64, periods: int) -> Panel:
    """The `periods` of a panel that end on a date, with nothing before or after."""
    end = panel.index_of(last) + 1
    return panel.window(max(0, end - periods), end)


def matching_end(source: Panel, target_last: np.datetime64, periods: int) -> np.datetime64:
    """Where a source's window ends that is to be compared with a target's: at the same time of year, if it can.

    Two windows of equal length and season have equal noise and equal festivals in them. The latest such window is
    taken; without one, the last periods there are.
    """
    last = source.last_observed
    step = source.period_days
    years = max(0, -(-int((target_last - last) // np.timedelta64(1, "D")) // 364))
    end = target_last - np.timedelta64(364 * years, "D")
    if years == 0 and end < last:  # the source reaches further: go forward by whole years
        end += np.timedelta64(364 * (int((last - end) // np.timedelta64(1, "D")) // 364), "D")
    begins = end - np.timedelta64((periods - 1) * step, "D")
    return end if begins >= source.dates[0] and end in source.dates else last


def _week(rows: Panel, profile: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weekly profile about its own mean [N, 7], and what it says of each day [N, T].

    A weekday on which a row is closed sells nothing; one of which nothing is known is as the others. Weeks have none.
    """
    closed = rows.closed.cpu().numpy()
    shut = np.stack([(closed & (place == k)).any(axis=1) for k in range(profile.shape[1])], axis=1)
    middle = np.nanmean(profile, axis=1, keepdims=True)
    filled = np.where(np.isfinite(profile), profile, np.where(shut, NOTHING, middle))
    week = filled - middle if profile.shape[1] > 1 else np.zeros((len(filled), 0))
    return week, filled[:, place]


def _places(rows: Panel) -> np.ndarray:
    """Weekday of each period, Monday 0; all 0 for weeks: int [T]."""
    if rows.period_days > 1:
        return np.zeros(len(rows.dates), dtype=np.int64)
    return (rows.dates.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday


def _profile(values: np.ndarray, mask: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Mean by weekday, [N, 7] (weeks: [N, 1]); NaN where a row has none."""
    return np.stack([_mean(values, mask & (place == k)) for k in range(place.max() + 1)], axis=1)


def _responses(rows: Panel, rest: np.ndarray, usual: np.ndarray, place: np.ndarray) -> np.ndarray:
    """How log sales answer each known covariate beside the weekday, [N, K]: by its presence, if 0/1, or its deviation.

    The slope of a regression on weekday and covariate, by residuals of both (Frisch, Waugh & Lovell).
    """
    known = rows.known.cpu().numpy().astype(np.float64)
    slopes = np.full((len(rest), known.shape[2]), np.nan)
    for k in range(known.shape[2]):
        values = known[:, :, k]
        use = usual & np.isfinite(values)
        values = np.nan_to_num(values)
        beside = np.where(use, values - np.nan_to_num(_profile(values, use, place))[:, place], 0.0)
        variance = (beside**2).sum(axis=1)
        product = (beside * np.where(use, rest, 0.0)).sum(axis=1)
        np.divide(product, variance, out=slopes[:, k], where=variance > 1e-9)
        if not np.isin(values[use], (0.0, 1.0)).all():
            slopes[:, k] *= np.sqrt(variance / np.maximum(use.sum(axis=1), 1))
        else:
            few = np.minimum((use & (values == 1)).sum(axis=1), (use & (values == 0)).sum(axis=1)) < FEWEST
            slopes[few, k] = np.nan
    return slopes


def _change(rest: np.ndarray, days: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Mean of what the weekday does not say on some days, less that of usual days; NaN where there are few."""
    enough = (days.sum(axis=1) >= FEWEST) & (usual.sum(axis=1) >= FEWEST)
    return np.where(enough, _mean(rest, days) - _mean(rest, usual), np.nan)


def _volatility(sales: np.ndarray, rest: np.ndarray, observed: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Standard deviation beside the weekday, share of days without sales, and correlation with the day before."""
    centred = np.where(usual, rest - _mean(rest, usual)[:, None], 0.0)
    variance = (centred**2).sum(axis=1) / np.maximum(usual.sum(axis=1) - 1, 1)
    empty = (observed & (sales <= 0)).sum(axis=1) / np.maximum(observed.sum(axis=1), 1)
    pairs = usual[:, 1:] & usual[:, :-1]
    product = np.where(pairs, centred[:, 1:] * centred[:, :-1], 0.0).sum(axis=1) / np.maximum(pairs.sum(axis=1), 1)
    memory = np.divide(product, variance, out=np.zeros_like(product), where=variance > 1e-9)
    return np.stack([np.sqrt(variance), empty, memory.clip(-1, 1)], axis=1)


def _mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over time of what a mask leaves, [N]; NaN where it leaves nothing."""
    total = np.where(mask, values, 0.0).sum(axis=1)
    count = mask.sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _position(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _signed_log(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))
