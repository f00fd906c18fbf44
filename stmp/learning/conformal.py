"""Conformal calibration: quantiles stretched, by day type, until they hold on days that training never saw.

A network's quantiles describe the days it learned from, and those it has learned too well. On the validation days each
distance from the median is compared with the predicted one; the factor that would have made an interval hold is kept
with the model (after conformalized quantile regression, Romano et al. 2019, with a factor in place of their offset).
Both ends of an interval are stretched alike: the validation days are one short stretch of time, whose sales lie above
or below what was forecast together, and that says nothing of how the next ones lie. They may be easy days, too, above
all where regions are few: ranges become no narrower than those of the year before, whose days were learned from, needed
to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 500
EDGES = torch.logspace(-2, 1, BINS - 1, dtype=torch.float64)
"""Ratios are counted in bins, each 1.4 % wide, so that the workers need to share no more than counts."""

ENOUGH = 500.0
"""Points of a day type that weigh as much as those of all day types together."""

SMALLEST, LARGEST = {"quantile": 0.5, "normal": 0.01}, 4.0
"""Of a head's factors: learned quantiles are not far off, where the unit variance of the normal head says nothing."""

LATER = 1.07
"""The days to come lie further from those of training than validation does: in the months after it, over thirteen
stretches of five data sets, ranges had to be wider by this much (the median; benchmarks/README.md)."""

FESTIVALS = 1.1
"""And festivals by this much more, on the mean of the same stretches: each is learned from one or two of its kind, and
few of them fall into validation. Where they lean on last year's, how far off that is tells more."""

TINY = 1e-6


@dataclass(frozen=True)
class Conformal:
    """A factor for each day type and level; the median's moves nothing.

    Attributes
    ----------
    factors : tuple [D] of tuple [Q]
    """

    factors: tuple[tuple[float, ...], ...]

    @classmethod
    def identity(cls, day_types: int, levels: int) -> Conformal:
        """Leave the quantiles as they are."""
        return cls(((1.0,) * levels,) * day_types)

    def at_least(self, other: Conformal) -> Conformal:
        """The wider of both, for each day type and level."""
        pairs = zip(self.factors, other.factors, strict=True)
        return Conformal(tuple(tuple(map(max, ours, theirs)) for ours, theirs in pairs))

    def for_later(self, day_types: Sequence[str], leaning: bool = False) -> Conformal:
        """Wider, for the days to come and for festivals among them, unless these lean on last year's.

        The median's factor moves nothing.
        """
        by = [LATER * (FESTIVALS if name == "festival" and not leaning else 1.0) for name in day_types]
        return Conformal(tuple(tuple(f * b for f in row) for row, b in zip(self.factors, by, strict=True)))

    def apply(self, quantiles: Tensor, day_type: Tensor, middle: int) -> Tensor:
        """Stretch quantiles around their median; they stay in order.

        Parameters
        ----------
        quantiles : Tensor [B, H, G, Q]
            Of transformed sales.
        day_type : Tensor int64 [B, H]
        middle : int
            Position of the median.
        """
        factors = torch.tensor(self.factors, dtype=quantiles.dtype, device=quantiles.device)[day_type][:, :, None]
        median = quantiles[..., middle : middle + 1]
        stretched = median + factors * (quantiles - median)
        above = stretched[..., middle:].cummax(dim=-1).values
        below = stretched[..., : middle + 1].flip(-1).cummin(dim=-1).values.flip(-1)
        return torch.cat([below[..., :-1], above], dim=-1)


def count_ratios(
    quantiles: Tensor, truth: Tensor, observed: Tensor, day_type: Tensor, day_types: int, levels: tuple[float, ...]
) -> Tensor:
    """How far from the median the truth lay, over how far each level did, counted in bins.

    Parameters
    ----------
    quantiles : Tensor [B, H, G, Q]
    truth, observed : Tensor [B, H, G]
    day_type : Tensor int64 [B, H]

    Returns
    -------
    Tensor float64 [D, Q, BINS]
        Of a level with a mirror image, on the side of the median where the truth lay; of another one on its own side,
        where the other side counts in the first bin.
    """
    middle = levels.index(0.5)
    median = quantiles[..., middle]
    above = truth > median
    counts = torch.zeros(day_types, len(levels), BINS, dtype=torch.float64)
    kinds = day_type[:, :, None].expand_as(truth)[observed].cpu()
    for k, level in enumerate(levels):
        side = torch.full_like(truth, 1.0 if level > 0.5 else -1.0)
        end = quantiles[..., k]
        mirror = _mirror(level, levels)
        if mirror is not None:
            side = torch.where(above, 1.0, -1.0)
            end = torch.where(above == (level > 0.5), end, quantiles[..., mirror])
        distance = (side * (end - median)).clamp(min=TINY)
        ratio = (side * (truth - median) / distance)[observed].cpu()
        place = torch.bucketize(ratio.double(), EDGES)
        counts[:, k] += torch.bincount(kinds * BINS + place, minlength=day_types * BINS).view(day_types, BINS)
    return counts


def fit_conformal(counts: Tensor, levels: tuple[float, ...], head: str = "quantile") -> Conformal:
    """Factors from counts [D, Q, BINS] over all workers: a day type's own, leaning on all where it has few points."""
    middle = levels.index(0.5)
    points = counts[:, middle].sum(dim=-1)  # [D]
    if points.sum() == 0:
        return Conformal.identity(len(counts), len(levels))
    overall = _factors(counts.sum(dim=0), levels, SMALLEST[head])
    rows = []
    for own, number in zip(counts, points.tolist(), strict=True):
        weight = number / (number + ENOUGH)
        mixed = overall if number == 0 else weight * _factors(own, levels, SMALLEST[head]) + (1 - weight) * overall
        mixed[middle] = 1.0
        rows.append(tuple(mixed.tolist()))
    return Conformal(tuple(rows))


def _mirror(level: float, levels: tuple[float, ...]) -> int | None:
    """Position of the other end of the interval that a level is one end of; None where it is not forecast."""
    return next((k for k, other in enumerate(levels) if abs(1.0 - level - other) < 1e-6), None)


def _share(level: float, levels: tuple[float, ...]) -> float:
    """Points whose ratio is to stay below the factor: those inside the interval, or on one side of a lone level."""
    return abs(2 * level - 1) if _mirror(level, levels) is not None else max(level, 1 - level)


def _factors(counts: Tensor, levels: tuple[float, ...], smallest: float) -> Tensor:
    """The ratio that the wanted share of the points stays below, for each level; [Q]."""
    shares = counts.cumsum(dim=-1) / counts.sum(dim=-1, keepdim=True)
    wanted = torch.tensor([_share(level, levels) for level in levels], dtype=torch.float64)[:, None]
    place = (shares < wanted).sum(dim=-1).clamp(max=BINS - 1)
    middles = (EDGES[1:] * EDGES[:-1]).sqrt()
    return torch.cat([EDGES[:1], middles, EDGES[-1:]])[place].clamp(min=smallest, max=LARGEST)
