"""Leaning on last year: a combination of the network's forecast with last year's sales, by a rate that is measured.

With a year of history or little more, few of the days to learn from have a last year, and a network cannot learn what
it is worth, though all days to come have one. The validation days, which training never saw, can tell a single number.

What is known of the level grows old like a random walk: the variance of an error from it grows with the lead h, and
that of last year's sales does not. Two forecasts whose errors are independent are best weighed by the inverse of their
variances (Bates & Granger 1969, "The combination of forecasts", Operational Research Quarterly 20), which gives last
year the weight ``rate h / (1 + rate h)``. The quantiles move by one distance, on the scale that the network works on,
towards what was sold in the same week a year before with half of the growth since: a single week says little of a year,
and growth seldom lasts in full.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stmp.data.episodes import Episode
from stmp.data.features import RARE, History, Rows
from stmp.nets.first_guess import NEIGHBOURS, last_year

RATES = (0.0, *(2.0**power for power in range(-6, 1)))
"""A period, from which the best is chosen; the first leans on nothing."""
LEAST_SEEN = 0.5
"""Share of the validation days that must have a last year: few of them are few kinds of days."""


def season(history: History, rows: Rows, episode: Episode) -> tuple[Tensor, Tensor]:
    """What was sold in the target's week a year before, with half of the growth since where that is known.

    Returns
    -------
    guess : Tensor [B, Q, G]
        Transformed, over the origin's level.
    seen : Tensor bool [B, Q, G]
        Never of a rare series, of which a single day of last year says nothing.
    """
    readings, seen = last_year(history, rows, episode)
    batch = torch.arange(len(episode.region), device=episode.region.device)[:, None]
    steady = rows.selling[batch, episode.origin + 1] >= RARE
    week = NEIGHBOURS.index(0)
    plain, grown = week, len(NEIGHBOURS) + week
    half = torch.where(seen[:, :, grown], (readings[:, :, plain] + readings[:, :, grown]) / 2, readings[:, :, plain])
    return half, seen[:, :, plain] & steady


def lean(quantiles: Tensor, middle: int, guess: Tensor, seen: Tensor, lead: Tensor, rate: float) -> Tensor:
    """Move quantiles towards a guess.

    Parameters
    ----------
    quantiles : Tensor [B, Q, G, L]
    middle : int
        Position of the median.
    guess, seen : Tensor [B, Q, G]
        Of `season`.
    lead : Tensor [B, Q]
        Periods ahead.
    """
    weight = 1.0 - 1.0 / (1.0 + rate * lead)
    shift = weight[..., None] * torch.where(seen, guess - quantiles[..., middle], 0.0)
    return quantiles + shift[..., None]


def losses_by_rate(
    history: History,
    median: Tensor,
    level: Tensor,
    sales: Tensor,
    observed: Tensor,
    guess: Tensor,
    seen: Tensor,
    lead: Tensor,
) -> Tensor:
    """Absolute errors of the days that have a last year, in the unit of the data, for each of `RATES`; and counts.

    The median alone is judged: ranges are not calibrated yet, and those of the normal head, of unit variance, are so
    wide that nothing else would count.

    Parameters
    ----------
    median : Tensor [B, Q, G]
        Transformed.
    level, sales, observed : Tensor [B, Q, G]
    guess, seen, lead
        As for `lean`.

    Returns
    -------
    Tensor float64 [len(RATES) + 2]
        The errors, the observed days that have a last year, and all observed ones.
    """
    told = observed & seen
    sums = []
    for rate in RATES:
        leaned = lean(median[..., None], 0, guess, seen, lead, rate)[..., 0]
        sums.append(((sales - history.unscale(leaned, level)).abs() * told).sum())
    return torch.stack([*sums, told.sum(), observed.sum()]).double().cpu()


def choose_rate(sums: Tensor) -> float:
    """The rate of the lowest loss, from sums of `losses_by_rate` over all workers; 0 where too few days have told."""
    losses, told, observed = sums[:-2], float(sums[-2]), float(sums[-1])
    return RATES[int(losses.argmin())] if told > 0 and told >= LEAST_SEEN * observed else 0.0
