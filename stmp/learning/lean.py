"""How far forecasts lean towards last year's sales: one number, told by days that training never saw.

With a year of history or little more, few of the days to learn from have a last year, and a network cannot learn what
it is worth, though all days to come have one. The validation days can tell a single number. It moves the quantiles on
the scale that the network works on, each by the same distance, towards what was sold in the same week a year before
with half of the growth since: a single week says little of a year, and growth seldom lasts in full.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stmp.data.episodes import Episode
from stmp.data.features import History, Rows
from stmp.nets.first_guess import NEIGHBOURS, last_year

SHARES = tuple(i / 10 for i in range(11))
"""From which the best is chosen; the first is none."""
LEAST_SEEN = 0.5
"""Share of the validation days that must have a last year: few of them are few kinds of days."""


def season(history: History, rows: Rows, episode: Episode) -> tuple[Tensor, Tensor]:
    """What was sold in the target's week a year before, with half of the growth since where that is known.

    Returns
    -------
    guess : Tensor [B, Q, G]
        Transformed, over the origin's level.
    seen : Tensor bool [B, Q, G]
    """
    readings, seen = last_year(history, rows, episode)
    week = NEIGHBOURS.index(0)
    plain, grown = week, len(NEIGHBOURS) + week
    half = torch.where(seen[:, :, grown], (readings[:, :, plain] + readings[:, :, grown]) / 2, readings[:, :, plain])
    return half, seen[:, :, plain]


def lean(quantiles: Tensor, middle: int, guess: Tensor, seen: Tensor, share: float) -> Tensor:
    """Move quantiles [B, Q, G, L] so that the median, at position `middle`, comes nearer to a guess [B, Q, G]."""
    shift = share * torch.where(seen, guess - quantiles[..., middle], 0.0)
    return quantiles + shift[..., None]


def losses_by_share(
    history: History,
    quantiles: Tensor,
    level: Tensor,
    sales: Tensor,
    observed: Tensor,
    levels: tuple[float, ...],
    guess: Tensor,
    seen: Tensor,
) -> Tensor:
    """Quantile losses of the days that have a last year, in the unit of the data, for each of `SHARES`; and counts.

    Parameters
    ----------
    quantiles : Tensor [B, Q, G, L]
        Transformed.
    level, sales, observed : Tensor [B, Q, G]
    guess, seen : Tensor [B, Q, G]
        Of `season`.

    Returns
    -------
    Tensor float64 [len(SHARES) + 2]
        The losses, the observed days that have a last year, and all observed ones.
    """
    told = observed & seen
    at = torch.tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    sums = []
    for share in SHARES:
        forecast = history.unscale(lean(quantiles, levels.index(0.5), guess, seen, share), level[..., None])
        error = sales[..., None] - forecast
        sums.append((torch.maximum(at * error, (at - 1.0) * error).mean(dim=-1) * told).sum())
    return torch.stack([*sums, told.sum(), observed.sum()]).double().cpu()


def choose_share(sums: Tensor) -> float:
    """The share of the lowest loss, from sums of `losses_by_share` over all workers; 0 where too few days have told."""
    losses, told, observed = sums[:-2], float(sums[-2]), float(sums[-1])
    return SHARES[int(losses.argmin())] if told > 0 and told >= LEAST_SEEN * observed else 0.0
