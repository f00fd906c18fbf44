"""Features of a horizon day for a tabular model, all known at the origin, for all rows at once.

Sales enter as log ratios to the row's own level (the mean of its last two months), so that one model serves all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stmp.data.panel import Panel
from stmp.evaluation.baselines.base import Rows
from stmp.evaluation.baselines.naive import copy_of_last_year

FLOOR = 0.05  # of the level: keeps the logarithm finite on days that sold nothing
MATCH_PERIODS = {1: 182, 7: 104}
LEVEL_PERIODS = {1: 63, 7: 13}
CATEGORY = "category "  # names of columns that hold codes begin so


@dataclass(frozen=True)
class Features:
    """Features of rows by horizon day.

    Attributes
    ----------
    values : ndarray float32 [N, H, F]
        NaN where not known.
    names : tuple of str, length F
    level : ndarray [N]
        What ratios are relative to; NaN for a row without sales.
    """

    values: np.ndarray
    names: tuple[str, ...]
    level: np.ndarray


def to_ratio(sales: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Log of sales over the level; what the model predicts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(np.maximum(sales / level, 0.0) + FLOOR)


def from_ratio(ratio: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Sales of a log ratio, at least 0."""
    return np.maximum(np.exp(ratio) - FLOOR, 0.0) * level


def binary_known(panel: Panel) -> tuple[int, ...]:
    """Known-future columns that hold nothing but two values, such as a promotion or a school holiday."""
    columns = []
    for k in range(panel.known.shape[2]):
        values = panel.known[:, :, k]
        finite = values[values.isfinite()]
        if len(finite) and bool(((finite == finite.min()) | (finite == finite.max())).all()):
            columns.append(k)
    return tuple(columns)


def build_features(rows: Rows, binary: tuple[int, ...]) -> Features:
    """Features of every horizon day of every row.

    Parameters
    ----------
    rows : Rows
        Holds nothing sold after the origin.
    binary : tuple of int
        Known columns whose days are matched exactly in "the mean of the same weekday with the same promotion".
    """
    panel = rows.panel
    level = _level(rows)
    horizon = rows.horizon
    columns: dict[str, np.ndarray] = {}  # each [N, H], [N, 1] or [1, H]

    for name, periods in _spans(rows).items():
        columns[f"mean_{name}"] = to_ratio(rows.level(rows.origin + 1, periods), level)[:, None]
    columns |= _lags(rows, level)
    columns |= _matches(rows, level, binary)
    copied, moved = copy_of_last_year(rows)
    columns["last_year"] = to_ratio(copied * moved, level[:, None])
    columns["last_year_moved"] = np.log(moved)
    columns |= _calendar(rows)
    known = panel.known.cpu().numpy()
    at = np.arange(rows.origin + 1, rows.origin + 1 + horizon)
    for k, name in enumerate(panel.known_names):
        for shift in (-1, 0, 1):
            place = np.minimum(at + shift, known.shape[1] - 1)
            columns[f"{name}{shift:+d}"] = np.where(at + shift < known.shape[1], known[:, place, k], np.nan)
    for shift in (-1, 1):
        place = np.minimum(at + shift, known.shape[1] - 1)
        columns[f"closed{shift:+d}"] = rows.closed[:, place].astype(np.float32)
    columns |= _past(rows)
    columns |= _static(panel)
    columns["log_level"] = np.log(np.maximum(level, 1e-6))[:, None]
    columns["days_of_history"] = rows.observed[:, rows.past].sum(axis=1)[:, None]
    columns["step"] = np.arange(1, horizon + 1)[None, :]

    values = np.empty((len(level), horizon, len(columns)), dtype=np.float32)
    for i, column in enumerate(columns.values()):
        values[:, :, i] = column
    return Features(values, tuple(columns), level)


def _spans(rows: Rows) -> dict[str, int]:
    if rows.week == 7:
        return {"week": 7, "2_weeks": 14, "4_weeks": 28, "half_year": 182, "year": 364}
    return {"last": 1, "4_weeks": 4, "8_weeks": 8, "half_year": 26, "year": 52}


def _level(rows: Rows) -> np.ndarray:
    """Mean of recent observed days; of all of them where there is none lately: [N], NaN for none at all."""
    recent = rows.level(rows.origin + 1, LEVEL_PERIODS[rows.panel.period_days])
    whole = rows.level(rows.origin + 1, rows.origin + 1)
    level = np.where(np.isfinite(recent) & (np.nan_to_num(recent) > 0), recent, whole)
    return np.where(np.nan_to_num(level) > 0, level, np.nan)


def _lags(rows: Rows, level: np.ndarray) -> dict[str, np.ndarray]:
    """The last values at the target's place in the week (weekly data: the last values), and their means."""
    week, horizon = rows.week, rows.horizon
    weeks = 13
    back = np.arange(1, weeks + 1) * week
    at = np.arange(horizon) % week + rows.origin + 1  # the first day after the origin with the target's weekday
    place = at[:, None] - back  # [H, weeks], all at or before the origin
    inside = place >= 0
    place = np.maximum(place, 0)
    seen = rows.observed[:, place] & inside  # [N, H, weeks]
    sold = np.where(seen, rows.sales[:, place], 0.0)
    columns = {
        f"lag_{k + 1}": to_ratio(np.where(seen[:, :, k], sold[:, :, k], np.nan), level[:, None]) for k in range(4)
    }
    for k in (4, 8, 13):
        count = seen[:, :, :k].sum(axis=2)
        mean = np.where(count > 0, sold[:, :, :k].sum(axis=2) / np.maximum(count, 1), np.nan)
        columns[f"weekday_mean_{k}"] = to_ratio(mean, level[:, None])
    return columns


def _matches(rows: Rows, level: np.ndarray, binary: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Means of the past days that share the target's weekday, day type and yes/no covariates."""
    if not binary:
        return {}
    panel = rows.panel
    begin = max(0, rows.origin + 1 - MATCH_PERIODS[panel.period_days])
    end = rows.origin + 1 + rows.horizon
    known = panel.known[:, begin:end, list(binary)].cpu().numpy()
    low = np.nanmin(known, axis=(0, 1), keepdims=True)
    code = ((known > low) * 2 ** np.arange(len(binary))).sum(axis=2)  # [N, T']
    weekday = _weekday(panel.dates[begin:end]) if rows.week == 7 else np.zeros(end - begin, dtype=int)
    festival = (panel.calendar.event[:, begin:end] > 0)[panel.calendar_index.cpu().numpy()]
    code = code * 2 + festival
    past = rows.origin + 1 - begin
    seen = rows.observed[:, begin : rows.origin + 1]
    ratio = np.where(seen, to_ratio(rows.sales[:, begin : rows.origin + 1], level[:, None]), 0.0)
    columns = {}
    for name, key in {"matched_weekday_mean": code * 7 + weekday, "matched_mean": code}.items():
        total, count = np.zeros(key[:, past:].shape), np.zeros(key[:, past:].shape)
        for value in np.unique(key[:, past:]):  # a few codes, each over all rows at once
            hit = (key[:, :past] == value) & seen
            wanted = key[:, past:] == value
            total += np.where(wanted, (ratio * hit).sum(axis=1)[:, None], 0.0)
            count += np.where(wanted, hit.sum(axis=1)[:, None], 0.0)
        columns[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        columns[f"{name}_days"] = count
    return columns


def _calendar(rows: Rows) -> dict[str, np.ndarray]:
    calendar, index = rows.panel.calendar, rows.panel.calendar_index.cpu().numpy()
    dates = calendar.dates[rows.future]
    months = dates.astype("datetime64[M]")
    day_of_year = (dates - dates.astype("datetime64[Y]")).astype(int)
    columns: dict[str, np.ndarray] = {
        "weekday": _weekday(dates)[None],
        "day_of_month": (dates - months).astype(int)[None],
        "day_of_year": day_of_year[None],
    }
    for name in ("day_type", "event", "offset", "days_to", "days_since"):
        columns[name] = getattr(calendar, name)[:, rows.future][index]
    return columns


def _static(panel: Panel) -> dict[str, np.ndarray]:
    """Numeric features as they are; the one-hot columns of a category as one column of codes."""
    values = panel.static.cpu().numpy()
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(panel.static_names):
        groups.setdefault(f"{CATEGORY}{name.split('=', 1)[0]}" if "=" in name else f"static {name}", []).append(i)
    columns = {}
    for name, members in groups.items():
        part = values[:, members]
        if name.startswith(CATEGORY):
            part = np.where((part > 0.5).any(axis=1), part.argmax(axis=1), np.nan)[:, None]
        columns[name] = part
    return columns


def _past(rows: Rows) -> dict[str, np.ndarray]:
    """How each past-only covariate has moved: its last week over its last two months."""
    columns = {}
    values = rows.panel.past.cpu().numpy()
    short, long = rows.week, LEVEL_PERIODS[rows.panel.period_days]
    for i, name in enumerate(rows.panel.past_names):
        window = values[:, max(0, rows.origin + 1 - long) : rows.origin + 1, i]
        columns[f"past {name}"] = (_nanmean(window[:, -short:]) - _nanmean(window))[:, None]
    return columns


def _nanmean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _weekday(dates: np.ndarray) -> np.ndarray:
    return (dates.astype("datetime64[D]").astype(int) + 3) % 7  # 1970-01-01 was a Thursday
