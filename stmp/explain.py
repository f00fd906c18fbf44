"""What a forecast owes to its causes: the same forecast again, with one of them as it ordinarily is.

Counterfactuals, not attributions: each asks the model one plain question. What two causes do together counts for both,
so that effects need not add up to the difference between the forecast and an ordinary day.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stmp.data.calendar import CAP, Calendar
from stmp.data.panel import SERIES_SEPARATOR, DateLike, Panel
from stmp.forecast import Forecast, Predictor

FESTIVALS, TREND, EVERYTHING = "festivals", "recent trend", "everything"
RECENT = 28
"""Days whose level, against that of the days before, is the recent trend."""
BEFORE = 84
"""Days before those, which make the level that they are compared with."""


@dataclass(frozen=True)
class Explanation:
    """A forecast and its counterfactuals.

    Attributes
    ----------
    forecast : Forecast
    without : dict of cause to ndarray [R, H, G]
        The mean forecast with that cause at its ordinary value: each known-future covariate by its name, the festivals
        of the horizon, the recent trend, and all of these together under ``everything``.
    """

    forecast: Forecast
    without: dict[str, np.ndarray]

    def to_frame(self) -> pd.DataFrame:
        """One row per region, series and date: ``mean``, ``ordinary``, and what each cause adds, in units of sales."""
        frame = self.forecast.to_frame()[["region", "series", "date", "mean"]]
        mean = self.forecast.mean
        columns = {"ordinary": _flat(self.without[EVERYTHING])}
        columns |= {name: _flat(mean - other) for name, other in self.without.items() if name != EVERYTHING}
        return frame.assign(**columns)


def explain(model: Predictor, panel: Panel, origin: DateLike, horizon: int) -> Explanation:
    """Forecast every region, and again without each cause.

    Parameters
    ----------
    model : Predictor
    panel, origin, horizon
        As for `Forecaster.predict`, whose errors are raised.
    """
    at = panel.index_of(origin)
    days = slice(at + 1, at + 1 + horizon)
    panel = panel.until(panel.dates[at])
    without = {name: replace(panel, known=_ordinary_known(panel, at, days, which)) for name, which in _groups(panel)}
    without[FESTIVALS] = replace(panel, calendar=_without_festivals(panel.calendar, at, days))
    without[TREND] = replace(panel, sales=_without_trend(panel, at))
    every = [k for _, which in _groups(panel) for k in which]
    without[EVERYTHING] = replace(
        without[FESTIVALS], known=_ordinary_known(panel, at, days, every), sales=without[TREND].sales
    )
    forecast = model.predict(panel, origin, horizon)
    return Explanation(forecast, {name: model.predict(other, origin, horizon).mean for name, other in without.items()})


def _flat(values: np.ndarray) -> np.ndarray:
    """[R, H, G] in the order of `Forecast.to_frame`."""
    return values.transpose(0, 2, 1).reshape(-1)


def _groups(panel: Panel) -> list[tuple[str, list[int]]]:
    """Known covariates by their name in the data: the columns of a category, or one for each series, go together."""
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(panel.known_names):
        groups.setdefault(name.split("=")[0].split(SERIES_SEPARATOR)[0], []).append(k)
    return list(groups.items())


def _ordinary_known(panel: Panel, at: int, days: slice, which: list[int]) -> Tensor:
    """Known covariates [R, T, K] with some columns of the horizon as they usually were on days without an event.

    Numbers take the region's median, categories its most frequent one.
    """
    known = panel.known.clone()
    event = torch.as_tensor(panel.calendar.event, device=known.device)[panel.calendar_index] > 0  # [R, T]
    usual = panel.observed.any(dim=2) & ~event
    usual[:, at + 1 :] = False
    past = known.masked_fill(~usual[:, :, None], torch.nan)[:, : at + 1]
    numbers = [k for k in which if "=" not in panel.known_names[k]]
    choices = [k for k in which if "=" in panel.known_names[k]]
    ordinary = past[:, :, numbers].nanmedian(dim=1).values  # [R, N]
    _put(known, numbers, days, ordinary)
    if choices:
        share = past[:, :, choices].nanmean(dim=1)  # [R, N]
        best = share.nan_to_num(-1.0).argmax(dim=1)
        picked = torch.nn.functional.one_hot(best, len(choices)).to(known.dtype)
        _put(known, choices, days, picked.masked_fill(share.isnan(), torch.nan))
    return known


def _put(known: Tensor, columns: list[int], days: slice, ordinary: Tensor) -> None:
    """Write the ordinary values [R, N] over the horizon, where the region has any."""
    for n, k in enumerate(columns):
        value = ordinary[:, n, None]
        known[:, days, k] = torch.where(value.isnan(), known[:, days, k], value)


def _without_festivals(calendar: Calendar, at: int, days: slice) -> Calendar:
    """The calendar with a horizon in which nothing is special: each weekday is what it usually is."""
    changed = {
        name: getattr(calendar, name).copy() for name in ("day_type", "event", "offset", "days_to", "days_since")
    }
    changed["event"][:, days] = changed["offset"][:, days] = 0
    changed["days_to"][:, days] = CAP
    ahead = np.arange(1, days.stop - days.start + 1)
    since = calendar.days_since[:, at, None].astype(np.int64) + ahead
    changed["days_since"][:, days] = np.minimum(since, CAP)[:, : changed["days_since"][:, days].shape[1]]
    week = 7 if calendar.frequency.upper().startswith("D") else 1
    place = np.arange(len(calendar.dates)) % week
    for c in range(len(calendar)):
        for k in range(week):
            usual = (place == k) & (calendar.event[c] == 0) & (np.arange(len(place)) <= at)
            if usual.any():
                kind = np.bincount(calendar.day_type[c, usual], minlength=len(calendar.day_types)).argmax()
                changed["day_type"][c, days][place[days] == k] = kind
    return replace(calendar, **changed)


def _without_trend(panel: Panel, at: int) -> Tensor:
    """Sales [R, T, G] with the last four weeks moved to the level of the twelve weeks before."""
    recent = slice(max(0, at + 1 - RECENT // panel.period_days), at + 1)
    before = slice(max(0, recent.start - BEFORE // panel.period_days), recent.start)
    ratio = _mean(panel, before) / _mean(panel, recent)  # [R, G]
    sales = panel.sales.clone()
    sales[:, recent] *= torch.where(ratio.isfinite(), ratio, 1.0)[:, None]
    return sales


def _mean(panel: Panel, days: slice) -> Tensor:
    """Mean sales of the observed days, [R, G]; NaN where there are none."""
    observed = panel.observed[:, days]
    return (panel.sales[:, days] * observed).sum(dim=1) / observed.sum(dim=1)
