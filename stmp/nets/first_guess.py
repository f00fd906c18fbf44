"""A forecast's first guess, which the network corrects: a learned mix of what needs no learning.

Candidates are the readings of attention over the region's past, and what was sold in the same weeks a year before. The
last is what a merchant asks first, and all that a season can be known from where each date is seen once or twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stmp.data.counterpart import FURTHEST, WEEKS, periods_of_year
from stmp.data.episodes import Episode
from stmp.data.features import History, Rows
from stmp.data.weekday import AROUND

NEIGHBOURS = (-1, 0, 1)
"""Weeks around last year's that are read, one after another: festivals and pay days move."""
READINGS = 2 * len(NEIGHBOURS)
"""Numbers a series that `last_year` gives."""


def last_year_reach(period_days: int, years: int = 1) -> int:
    """Periods before an origin in which the days of some years before lie, and what is read around them."""
    return (years * (WEEKS + max(FURTHEST, -min(NEIGHBOURS))) + AROUND + 1) * max(1, 7 // period_days)


class FirstGuess(nn.Module):
    """Weighs candidates by the decoder's numbers, each series for itself; the first has the upper hand at the start."""

    def __init__(self, hidden: int, candidates: int, series: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(hidden, candidates * series)
        with torch.no_grad():
            self.weigh.weight.mul_(0.1)
            self.weigh.bias.zero_()
            self.weigh.bias[:series] = 2.0

    def forward(self, x: Tensor, candidates: Tensor, seen: Tensor) -> Tensor:
        """Mix.

        Parameters
        ----------
        x : Tensor [B, L, Q, hidden]
        candidates : Tensor [B, Q, K, G]
            Transformed sales over the origin's level.
        seen : Tensor bool [B, Q, K, G]
            Others get no weight; some must be seen.

        Returns
        -------
        Tensor [B, L, Q, G]
        """
        scores = self.weigh(x).unflatten(-1, candidates.shape[2:])  # [B, L, Q, K, G]
        weights = scores.masked_fill(~seen[:, None], torch.finfo(scores.dtype).min).softmax(dim=-2)
        return (weights * candidates[:, None]).sum(dim=-2)


def last_year(history: History, rows: Rows, episode: Episode, *, counterparts: bool) -> tuple[Tensor, Tensor]:
    """Sales around the target's day of last year, over today's level, and over the level that the origin had then.

    The first says what was sold; the second adds the growth since. A target further than a year from its origin has
    neither, nor has one that the episode hides last year from. With `counterparts` the day in the middle is the one
    that the target is like, else 52 weeks before it.

    Returns
    -------
    readings : Tensor [B, Q, READINGS, G]
        Transformed sales, without growth and then with it; 0 where not seen.
    seen : Tensor bool [B, Q, READINGS, G]
    """
    week = max(1, 7 // history.panel.period_days)
    year = periods_of_year(history.panel.period_days)
    batch = torch.arange(len(episode.region), device=episode.region.device)[:, None]
    shift = torch.arange(NEIGHBOURS[0], NEIGHBOURS[-1] + 1, device=batch.device) * week
    day = episode.target[:, :, None] - year + shift  # [B, Q, N]
    if counterparts:
        like = episode.target - rows.lag[batch, episode.target]
        day = torch.where(shift == 0, like[:, :, None], day)
    inside = (day >= episode.start[:, None, None]) & (day <= episode.origin[:, :, None])
    if episode.last_year_hidden is not None:
        inside &= ~episode.last_year_hidden[:, :, None]
    at = (batch[:, :, None], day.clamp(min=0))
    seen = rows.observed[at] & inside[..., None]  # [B, Q, N, G]
    then = (batch, (episode.origin - year + 1).clamp(min=0))
    levelled = rows.scaled[then] & (episode.origin - year >= episode.start[:, None])[..., None]  # [B, Q, G]
    grown = seen & levelled[:, :, None]
    now_level = rows.level[batch, episode.origin + 1]
    readings = [
        history.scale(rows.sales[at], now_level[:, :, None]) * seen,
        history.scale(rows.sales[at], rows.level[then][:, :, None]) * grown,
    ]
    return torch.cat(readings, dim=2), torch.cat([seen, grown], dim=2)
