"""Baselines that a planner would make with a spreadsheet: last week's sales, and last year's festival."""

from __future__ import annotations

import numpy as np

from stmp.evaluation.baselines.base import LEVELS, Baseline, Rows, normal_quantiles

LEVEL_PERIODS = {1: 28, 7: 8}  # by days in a period: four weeks of days, eight of weeks


class SeasonalNaive(Baseline):
    """The last observed day of the same place in the season, repeated.

    Quantiles are normal, with the root mean square of the seasonal differences times the square root of the number of
    seasons ahead (Hyndman & Athanasopoulos, *Forecasting: Principles and Practice*, 5.5).

    Parameters
    ----------
    season : int, optional
        Periods in a season. By default 7 for daily data, and for weekly data 52 with two years of history, else 1.
    plain : bool
        False: closed days of the horizon are forecast as 0, and closed or missing days of the past are skipped in
        favour of the last open one. True, as fev-bench has it: a closed day is a day that sold 0, a missing day
        repeats the day before, and nothing is known of closed days to come.
    """

    name = "seasonal_naive"

    def __init__(self, season: int | None = None, plain: bool = False, levels: tuple[float, ...] = LEVELS) -> None:
        self.season = season
        self.closed_as_zero = not plain
        self.levels = levels

    def forecast_rows(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Last season's values and their normal quantiles."""
        season = self.season or (rows.week if rows.week > 1 else 52 if rows.origin + 1 >= 104 else 1)
        sales, counted = rows.sales[:, rows.past], rows.observed[:, rows.past]
        if not self.closed_as_zero:
            sales, counted = _held(sales, counted, rows.closed[:, rows.past])
        mean = last_season(sales, counted, season, rows.horizon)
        sigma = seasonal_sigma(sales, counted, season)
        ahead = np.ceil(np.arange(1, rows.horizon + 1) / season)
        return mean, normal_quantiles(mean, sigma[:, None] * np.sqrt(ahead), self.levels)


def _held(sales: np.ndarray, observed: np.ndarray, closed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """History in which every day from the first row on has a value: 0 when closed, else the day before's."""
    known = observed | closed
    begun = np.maximum.accumulate(known, axis=1)
    latest = np.maximum.accumulate(np.where(known, np.arange(sales.shape[1]), 0), axis=1)
    return np.take_along_axis(sales, latest, axis=1), begun


def last_season(sales: np.ndarray, observed: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """The last observed value at each horizon step's place in the season.

    Parameters
    ----------
    sales, observed : ndarray [N, T]
        History up to the origin.

    Returns
    -------
    ndarray [N, H]
        The mean of the last observed season of days where a place was never observed; 0 where nothing was.
    """
    n, length = sales.shape
    pad = -length % season
    blocks = np.pad(sales, ((0, 0), (pad, 0))).reshape(
        n, -1, season
    )  # [N, seasons, season], the last one ends at the origin
    seen = np.pad(observed, ((0, 0), (pad, 0))).reshape(n, -1, season)
    latest = seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)  # [N, season]
    value = np.take_along_axis(blocks, latest[:, None], axis=1)[:, 0].astype(np.float64)
    recent, days = np.where(observed, sales, 0.0)[:, -4 * season :], observed[:, -4 * season :]
    fallback = recent.sum(axis=1, dtype=np.float64) / np.maximum(days.sum(axis=1), 1)
    value = np.where(seen.any(axis=1), value, fallback[:, None])
    return value[:, np.arange(horizon) % season]


def seasonal_sigma(sales: np.ndarray, observed: np.ndarray, season: int) -> np.ndarray:
    """Root mean square of seasonal differences; of the deviations from the mean where there are none: [N]."""
    squared = np.zeros(len(sales))
    count = np.zeros(len(sales))
    if sales.shape[1] > season:
        both = observed[:, season:] & observed[:, :-season]
        difference = np.where(both, sales[:, season:].astype(np.float64) - sales[:, :-season], 0.0)
        squared, count = (difference**2).sum(axis=1), both.sum(axis=1)
    days = np.maximum(observed.sum(axis=1), 1)
    mean = np.where(observed, sales, 0.0).sum(axis=1, dtype=np.float64) / days
    spread = np.where(observed, sales - mean[:, None], 0.0)
    deviation = (spread**2).sum(axis=1) / days
    return np.sqrt(np.where(count > 1, squared / np.maximum(count, 1), deviation))


class SameFestivalLastYear(Baseline):
    """Festival days as the same event's last time, other days as 52 weeks before, both moved to today's level.

    A day in an event's window takes the value of the latest earlier day with the same event and the same distance from
    it; any other day that of the same weekday 52 weeks before, if that was no festival. Both are scaled by the mean of
    the last four weeks over the mean of the four weeks that lay as far before the copied day. Where there is nothing to
    copy, the day is forecast by `SeasonalNaive`. Quantiles are normal, with the seasonal naive's deviation (its
    deviation at one season ahead, for a copy does not age with the horizon), scaled up on days sold above the level.
    """

    name = "same_festival_last_year"

    def __init__(self, levels: tuple[float, ...] = LEVELS) -> None:
        self.levels = levels

    def forecast_rows(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Copies of last year, moved to today's level."""
        season = rows.week
        sales, observed = rows.sales[:, rows.past], rows.observed[:, rows.past]
        mean = last_season(sales, observed, season, rows.horizon)
        ahead = np.ceil(np.arange(1, rows.horizon + 1) / season)
        sigma = seasonal_sigma(sales, observed, season)[:, None] * np.sqrt(ahead)
        copied, ratio = copy_of_last_year(rows)
        found = np.isfinite(copied)
        copy = np.where(found, copied * ratio, 0.0)
        level = rows.level(rows.origin + 1, LEVEL_PERIODS[rows.panel.period_days])[:, None]
        burst = np.where(found & (level > 0), np.maximum(copy / np.where(level > 0, level, 1.0), 1.0), 1.0)
        mean = np.where(found, copy, mean)
        sigma = np.where(found, sigma / np.sqrt(ahead) * burst, sigma)
        return mean, normal_quantiles(mean, sigma, self.levels)


def copy_of_last_year(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """What sold on the day that each horizon day repeats, and how the level has moved since.

    Returns
    -------
    copied : ndarray [N, H]
        Sales of the copied day, NaN where there is none.
    ratio : ndarray [N, H]
        Level now over level then, between 0.2 and 5; 1 where either is unknown.
    """
    panel, origin = rows.panel, rows.origin
    calendar, calendar_of = panel.calendar, panel.calendar_index.cpu().numpy()
    year = 364 // panel.period_days
    periods = LEVEL_PERIODS[panel.period_days]
    shape = (len(panel.regions), rows.horizon)
    source = np.full(shape, -1)  # [N, H] position of the copied day
    for c in range(len(calendar)):
        members = np.flatnonzero(calendar_of == c)
        if len(members) == 0:
            continue
        for h in range(rows.horizon):
            source[members, h] = _sources(calendar.event[c], calendar.offset[c], rows, origin + 1 + h, members, year)
    found = source >= 0
    row = np.arange(shape[0])[:, None]
    copied = np.where(found, rows.sales[row, source], np.nan).astype(np.float64)

    sold = np.pad(np.cumsum(rows.sales, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    days = np.pad(np.cumsum(rows.observed, axis=1), ((0, 0), (1, 0)))
    stop = np.clip(source - np.arange(rows.horizon), 0, origin + 1)  # where the origin lay then, and one after
    start = np.maximum(stop - periods, 0)
    count = days[row, stop] - days[row, start]
    then = np.where(count > periods // 4, (sold[row, stop] - sold[row, start]) / np.maximum(count, 1), np.nan)
    now = rows.level(origin + 1, periods)[:, None]
    known = np.isfinite(then) & np.isfinite(now) & (np.nan_to_num(then) > 0) & (np.nan_to_num(now) > 0)
    ratio = np.where(known, now / np.where(known, then, 1.0), 1.0)
    return copied, np.clip(ratio, 0.2, 5.0)


def _sources(
    event: np.ndarray, offset: np.ndarray, rows: Rows, target: int, members: np.ndarray, year: int
) -> np.ndarray:
    """Position of the day that `target` repeats for each of some rows of one calendar, -1 for none: [M]."""
    past = slice(0, rows.origin + 1)
    if event[target] > 0:
        same = np.flatnonzero((event[past] == event[target]) & (offset[past] == offset[target]))
        candidates = same[::-1]  # the latest first
    else:
        candidates = target - year * np.arange(1, 3)
        candidates = candidates[(candidates >= 0) & (candidates <= rows.origin)]
        candidates = candidates[event[candidates] == 0]
    source = np.full(len(members), -1)
    if len(candidates):
        seen = rows.observed[np.ix_(members, candidates)]  # [M, candidates]
        source = np.where(seen.any(axis=1), candidates[seen.argmax(axis=1)], -1)
    return source
