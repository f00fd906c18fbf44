"""Leaning on last year: a combination of the network's forecast with last year's sales, by a rate that is measured.

With a year of history or little more, few of the days to learn from have a last year, and a network cannot learn what
it is worth, though all days to come have one. The validation days, which training never saw, can tell two numbers.

What is known of the level grows old like a random walk: the variance of an error from it grows with the lead h, and
that of last year's sales does not. Two forecasts whose errors are independent are best weighed by the inverse of their
variances (Bates & Granger 1969, "The combination of forecasts", Operational Research Quarterly 20), which gives last
year the weight ``rate h / (1 + rate h)``. The quantiles move by one distance, on the scale that the network works on,
towards a guess: what the region sold in the same week a year before, with half of the growth since, for a single week
says little of a year and growth seldom lasts in full; mixed with how all regions went on from then (`GroupIndex`),
which is all there is for a region that was not there yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stmp.data.counterpart import periods_of_year
from stmp.data.episodes import Episode
from stmp.data.features import RARE, History, Rows
from stmp.data.group_index import GroupIndex

RATES = (0.0, *(2.0**power for power in range(-6, 1)))
"""A period, from which the best is chosen; the first leans on nothing."""
SHARES = (0.6, 1.0)
"""Of a region's own last year in the guess, from which the best is chosen; the rest is that of all regions."""
SETTLED = 0.5
"""Share of its level window that a region must have been observed in, to go on as all regions did."""
LEAST_SEEN = 0.5
"""Share of the validation days that must have a last year: few of them are few kinds of days."""


@dataclass(frozen=True)
class Leaning:
    """How forecasts lean on last year.

    Attributes
    ----------
    rate : float
        A period; 0 for not at all.
    share : float
        Of the region's own last year in the guess.
    group : GroupIndex, optional
        Where the rest of the guess comes from.
    """

    rate: float = 0.0
    share: float = 1.0
    group: GroupIndex | None = None

    def to_json(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `from_json` reads: plain data, and tensors."""
        plain: dict[str, Any] = {"rate": self.rate, "share": self.share}
        if self.group is None:
            return plain, {}
        plain |= {"first": str(self.group.first), "period_days": self.group.period_days}
        return plain, {"index": self.group.index, "level": self.group.level}

    @classmethod
    def from_json(cls, plain: dict[str, Any] | float, tensors: dict[str, Tensor]) -> Leaning:
        """The leaning of these; models from before leaned on a region's own last year alone, by a single number."""
        if not isinstance(plain, dict):
            return cls(plain)
        group = None
        if "first" in plain:
            group = GroupIndex(np.datetime64(plain["first"], "D"), plain["period_days"], **tensors)
        return cls(plain["rate"], plain["share"], group)


@dataclass(frozen=True)
class Season:
    """Last year's sales of some days, transformed and over today's level.

    Attributes
    ----------
    own, group : Tensor [B, Q, G]
        The region's own, with half of the growth since where that is known; and how all regions went.
    own_seen, group_seen : Tensor bool [B, Q, G]
        Never of a rare series, of which a single day of last year says nothing.
    """

    own: Tensor
    own_seen: Tensor
    group: Tensor
    group_seen: Tensor

    @property
    def seen(self) -> Tensor:
        """Where there is a guess at all."""
        return self.own_seen | self.group_seen

    def guess(self, share: float) -> Tensor:
        """The mix of both, or the one that is seen."""
        share_of = torch.where(self.group_seen, torch.where(self.own_seen, share, 0.0), 1.0)
        return share_of * self.own + (1 - share_of) * self.group


def season(history: History, rows: Rows, episode: Episode) -> Season:
    """What was sold on the days of last year that the targets are like.

    A target further than a year from its origin has none.
    """
    batch = torch.arange(len(episode.region), device=episode.region.device)[:, None]
    steady = rows.selling[batch, episode.origin + 1] >= RARE
    day = episode.target - rows.lag[batch, episode.target]  # [B, Q]
    at = (batch, day.clamp(min=0))
    year_ago = episode.origin + 1 - periods_of_year(history.panel.period_days)
    then = (batch, year_ago.clamp(min=0))
    known, levelled = (day >= 0) & (day <= episode.origin), year_ago >= 0
    begun, begun_then = day >= episode.start[:, None], year_ago > episode.start[:, None]
    seen = rows.observed[at] & (known & begun)[..., None] & steady  # [B, Q, G]
    plain = history.scale(rows.sales[at], rows.level[batch, episode.origin + 1])
    grown = history.scale(rows.sales[at], rows.level[then])
    own = torch.where(rows.scaled[then] & (levelled & begun_then)[..., None], (plain + grown) / 2, plain)
    if rows.group is None or rows.group_level is None:
        return Season(own, seen, torch.zeros_like(own), torch.zeros_like(seen))
    group = history.scale(rows.group[at], rows.group_level[then])
    # The index is over the mean of a whole level window, and says nothing of a level from a few days of a season.
    window = history.level_window
    days = torch.nn.functional.pad(rows.observed.cumsum(dim=1), (0, 0, 1, 0))  # [B, T + 1, G]
    now = episode.origin + 1
    settled = days[batch, now] - days[batch, (now - window).clamp(min=0)] >= SETTLED * window
    told = group.isfinite() & (known & levelled)[..., None] & steady & settled
    return Season(own, seen, group.nan_to_num(0.0), told)


def lean(quantiles: Tensor, middle: int, guess: Tensor, seen: Tensor, lead: Tensor, rate: float) -> Tensor:
    """Move quantiles towards a guess.

    Parameters
    ----------
    quantiles : Tensor [B, Q, G, L]
    middle : int
        Position of the median.
    guess, seen : Tensor [B, Q, G]
        Of a `Season`.
    lead : Tensor [B, Q]
        Periods ahead.
    """
    weight = 1.0 - 1.0 / (1.0 + rate * lead)
    shift = weight[..., None] * torch.where(seen, guess - quantiles[..., middle], 0.0)
    return quantiles + shift[..., None]


def season_losses(
    history: History,
    median: Tensor,
    level: Tensor,
    sales: Tensor,
    observed: Tensor,
    season: Season,
    lead: Tensor,
    rates: Sequence[float] = RATES,
    shares: Sequence[float] = SHARES,
) -> Tensor:
    """Absolute errors of the days that have a last year, in the unit of the data, for some rates and shares.

    The median alone is judged: ranges are not calibrated yet, and those of the normal head, of unit variance, are so
    wide that nothing else would count.

    Parameters
    ----------
    median : Tensor [B, Q, G]
        Transformed.
    level, sales, observed : Tensor [B, Q, G]
    season : Season
    lead : Tensor [B, Q]
    rates, shares : sequence of float

    Returns
    -------
    Tensor float64 [len(rates) * len(shares) + 2]
        The errors, then the number of observed days that have a last year, and that of all observed ones.
    """
    told = observed & season.seen
    sums = []
    for rate in rates:
        for share in shares:
            leaned = lean(median[..., None], 0, season.guess(share), season.seen, lead, rate)[..., 0]
            sums.append(((sales - history.unscale(leaned, level)).abs() * told).sum())
    return torch.stack([*sums, told.sum(), observed.sum()]).double().cpu()


def choose(sums: Tensor, rates: Sequence[float] = RATES, shares: Sequence[float] = SHARES) -> tuple[float, float]:
    """Rate and share of the lowest loss, from `season_losses` summed over all workers; the first if too few told."""
    told, observed = float(sums[-2]), float(sums[-1])
    enough = told > 0 and told >= LEAST_SEEN * observed
    best = int(sums[:-2].argmin()) if enough else 0
    return rates[best // len(shares)], shares[best % len(shares)]
