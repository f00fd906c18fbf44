"""Leaning on last year: a combination of the network's forecast with last year's sales, by a rate that is measured.

With a year of history or little more, few of the days to learn from have a last year, and a network cannot learn what
it is worth, though all days to come have one. The validation days, which training never saw, can tell two numbers.

What is known of the level grows old like a random walk: the variance of an error from it grows with the lead h, and
that of last year's sales does not. Two forecasts whose errors are independent are best weighed by the inverse of their
variances (Bates & Granger 1969, "The combination of forecasts", Operational Research Quarterly 20), which gives last
year the weight ``rate h / (1 + rate h)``. The quantiles move by one distance, on the scale that the network works on,
towards a guess: what the region sold in the same week a year before, with half of the growth since, for a single week
says little of a year and growth seldom lasts in full; where there is a second year, that year's own guess of the next
one has a share in it. It is mixed with how all regions went on from then (`GroupIndex`), which is all there is for a
region that was not there yet.

Close to a festival the weight has a least value, which is not measured: validation days seldom hold a festival, and a
network that has seen each of them once or a few times, among hundreds of other days, knows little of what is its own. A
single day holds chance too, and the wider the forecast's own range is, the more of it.

Where both disagree, less is known than either says: ranges have the variance of the mix of both (the linear pool, Stone
1961, "The opinion pool", Annals of Mathematical Statistics 32), of which their distance is a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stmp.config import ValidationConfig
from stmp.data.features import History
from stmp.data.group_index import GroupIndex
from stmp.learning.season import Season

RATES = (0.0, *(2.0**power for power in range(-6, 1)))
"""A period, from which the best is chosen; the first leans on festivals alone."""
SHARES = (0.6, 1.0)
"""Of a region's own last year in the guess, from which the best is chosen; the rest is that of all regions."""
OLDER = 0.3
"""Share of the year before last in a region's own guess."""
CHANCE = 0.25
"""Half of a range, on the scale of the network, at which a festival's single day of last year weighs half as much."""
TINY = 1e-6
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
        Where the rest of the guess comes from; it also tells closures from seasons (`stmp/data/closure.py`).
    festivals : float
        Least weight of the guess close to a festival.
    older : float
        Share of the year before last in a region's own last year.
    """

    rate: float = 0.0
    share: float = 1.0
    group: GroupIndex | None = None
    festivals: float = 0.0
    older: float = OLDER

    def __bool__(self) -> bool:
        """Whether anything is leaned on at all."""
        return self.rate > 0 or self.festivals > 0

    def to_json(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `from_json` reads: plain data, and tensors."""
        plain: dict[str, Any] = {
            "rate": self.rate,
            "share": self.share,
            "festivals": self.festivals,
            "older": self.older,
        }
        if self.group is None:
            return plain, {}
        plain |= {"first": str(self.group.first), "period_days": self.group.period_days}
        return plain, {"index": self.group.index, "level": self.group.level}

    @classmethod
    def from_json(cls, plain: dict[str, Any] | float, tensors: dict[str, Tensor]) -> Leaning:
        """The leaning of these; models from before leaned on less, the first on a region's own last year alone."""
        if not isinstance(plain, dict):
            return cls(plain, older=0.0)
        group = None
        if "first" in plain:
            group = GroupIndex(np.datetime64(plain["first"], "D"), plain["period_days"], **tensors)
        return cls(plain["rate"], plain["share"], group, plain.get("festivals", 0.0), plain.get("older", 0.0))


def lean(quantiles: Tensor, levels: Sequence[float], then: Season, lead: Tensor, leaning: Leaning) -> Tensor:
    """Move quantiles towards last year, and apart by as much as it is elsewhere.

    Parameters
    ----------
    quantiles : Tensor [B, Q, G, L]
    levels : sequence of L floats
        The median among them.
    then : Season
    lead : Tensor [B, Q]
        Periods ahead.
    leaning : Leaning
    """
    median = quantiles[..., levels.index(0.5), None]
    if leaning.rate == 0:  # festivals alone read no group
        then = then.without_group()
    half = (quantiles[..., -1] - quantiles[..., 0]) / 2  # [B, Q, G]
    measured = (1.0 - 1.0 / (1.0 + leaning.rate * lead))[..., None]  # [B, Q, 1]
    festival = leaning.festivals * then.festival[..., None] / (1.0 + (half / CHANCE) ** 2)
    weight = torch.maximum(measured, festival)
    distance = torch.where(then.seen, then.guess(leaning.share, leaning.older) - median[..., 0], 0.0)
    deviations = (NormalDist().inv_cdf(levels[-1]) - NormalDist().inv_cdf(levels[0])) / 2  # of half a range
    pooled = (half**2 + deviations**2 * weight * (1 - weight) * distance**2).sqrt()
    wider = pooled / half.clamp(min=TINY)
    return median + (weight * distance)[..., None] + wider[..., None] * (quantiles - median)


def season_losses(
    history: History,
    median: Tensor,
    level: Tensor,
    sales: Tensor,
    observed: Tensor,
    season: Season,
    lead: Tensor,
    choices: Sequence[Leaning],
) -> Tensor:
    """Absolute errors of the days that have a last year, in the unit of the data, for some ways of leaning.

    The median alone is judged: ranges are not calibrated yet, and those of the normal head, of unit variance, are so
    wide that nothing else would count.

    Parameters
    ----------
    median : Tensor [B, Q, G]
        Transformed.
    level, sales, observed : Tensor [B, Q, G]
    season : Season
    lead : Tensor [B, Q]
    choices : sequence of Leaning

    Returns
    -------
    Tensor float64 [len(choices) + 2, Q]
        By period: the errors, then the number of observed days that have a last year, and that of all observed ones.
    """
    told = observed & season.seen
    sums = []
    for leaning in choices:
        leaned = lean(median[..., None], (0.5,), season, lead, leaning)[..., 0]
        sums.append(((sales - history.unscale(leaned, level)).abs() * told).sum(dim=(0, 2)))
    return torch.stack([*sums, told.sum(dim=(0, 2)), observed.sum(dim=(0, 2))]).double().cpu()


def ways_to_lean(asked: ValidationConfig, group: GroupIndex | None) -> list[Leaning]:
    """What `choose` is given, first the one that leans least: every rate and share, or what was asked for."""
    rates = RATES if asked.lean is None else (asked.lean,)
    shares = SHARES if asked.own_share is None else (asked.own_share,)
    none = [Leaning(group=group, festivals=asked.lean_festivals)] if 0 in rates else []
    return none + [Leaning(rate, share, group, asked.lean_festivals) for rate in rates if rate for share in shares]


def choose(sums: Tensor, choices: Sequence[Leaning]) -> Leaning:
    """The leaning of the lowest loss, from `season_losses` summed over all workers.

    The first if too few days told, or if what is gained is less than its standard error over the periods: what all
    regions err by together on a day is one draw, and validation has few days.
    """
    errors, told, observed = sums[:-2], sums[-2], sums[-1]
    if told.sum() == 0 or told.sum() < LEAST_SEEN * observed.sum():
        return choices[0]
    best = int(errors.sum(dim=1).argmin())
    gained = (errors[0] - errors[best])[told > 0]
    sure = len(gained) > 1 and gained.mean() > gained.std() / len(gained) ** 0.5
    return choices[best if sure else 0]
