"""What one weekday sells more than another, told by the weeks around a day.

A festival of a date falls on another weekday each year, and last year's sales of it were that weekday's too. A festival
that few keep is an ordinary Friday, to be compared with an ordinary Saturday; one that all keep is its date whatever
the weekday. Which it is nobody knows, and half of the difference is taken for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stmp.data.counterpart import NEAR
from stmp.data.episodes import Episode
from stmp.data.features import History, Rows

SHARE = 0.5
"""Of the difference between two weekdays that a festival has."""
AROUND = 4
"""Weeks before and after the day that are read."""
ALIKE = 0.5
"""Spreads of a known-future covariate within which two days count as alike."""


def alike(history: History, rows: Rows, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Whether all that is known ahead of some days is the same, bool of the indices' shape."""
    known = history.known_columns
    apart = (rows.features[one][..., known] - rows.features[other][..., known]).abs()
    return (apart <= ALIKE).all(dim=-1)


def weekday_step(history: History, rows: Rows, episode: Episode, day: Tensor) -> Tensor:
    """Half of what the weekday of each target sells more than that of an earlier day, in the weeks around the latter.

    It is measured by pairs of days of one week, one of each weekday, that are alike in what is known ahead and are not
    close to a festival.

    Parameters
    ----------
    history : History
    rows : Rows
    episode : Episode
    day : Tensor int64 [B, Q]
        Below 0 for none.

    Returns
    -------
    Tensor [B, Q, G]
        Transformed sales; 0 where the weekday is the same, or where there is no such pair.
    """
    day, week = day.clamp(min=0), max(1, 7 // history.panel.period_days)
    shift = (episode.target - day + week // 2) % week - week // 2  # to the target's weekday, within half a week
    if not shift.any():
        return rows.sales.new_zeros(*day.shape, rows.sales.shape[-1])
    batch = torch.arange(len(episode.region), device=day.device)[:, None, None]
    weeks = torch.arange(-AROUND, AROUND, device=day.device)
    weeks = weeks + (weeks >= 0).long()  # all but the day's own
    first = day[:, :, None] + weeks * week  # [B, Q, W]
    level = rows.level[batch[:, :, 0], day][:, :, None]  # [B, Q, 1, G]
    last = rows.sales.shape[1] - 1
    sides, told = [], []
    for days in (first, first + shift[:, :, None]):
        at = (batch, days.clamp(0, last))
        inside = (days >= episode.start[:, None, None]) & (days <= episode.origin[:, :, None])
        ordinary = (rows.event[at] == 0) | (rows.offset[at].abs() > NEAR)
        sides.append(history.scale(rows.sales[at], level))
        told.append(rows.observed[at] & (inside & ordinary)[..., None])
    same = alike(history, rows, (batch, first.clamp(0, last)), (batch, (first + shift[:, :, None]).clamp(0, last)))
    pairs = told[0] & told[1] & (same & (shift != 0)[:, :, None])[..., None]  # [B, Q, W, G]
    return SHARE * ((sides[1] - sides[0]) * pairs).sum(dim=2) / pairs.sum(dim=2).clamp(min=1)
