"""Shocks: what all regions err by together on a day, and how much of it is usual.

An error that all regions share says nothing of their number: the validation days are a few weeks, whose shocks are few
draws of what the days to come may bring. Where these weeks are Christmas, the shocks of no other month are like theirs,
and intervals stretched to hold them would be far too wide all year. How regions err apart from each other, on the other
hand, a few weeks tell well. So the shocks of validation count in full only as far as they are of a usual size, which is
told by the same model's errors over the year before.
"""

from __future__ import annotations

import torch
from torch import Tensor

USUAL = 1.5
"""Shocks of validation days are usual up to so many times those of the year before, whose days were trained on."""

FAR = 4.0
"""Half widths of the interval: a single region's error beyond counts as this much of a shock."""

TINY = 1e-6


def half_width(quantiles: Tensor) -> Tensor:
    """Half of the widest interval, [B, H, G] of quantiles [B, H, G, Q]: the unit of a shock."""
    return ((quantiles[..., -1] - quantiles[..., 0]) / 2).clamp(min=TINY)


def shock_sums(quantiles: Tensor, truth: Tensor, observed: Tensor, middle: int) -> Tensor:
    """Sum over regions and series of the errors of each day, in half widths, and their number; they add over chunks.

    Parameters
    ----------
    quantiles : Tensor [B, H, G, Q]
    truth, observed : Tensor [B, H, G]
    middle : int
        Position of the median.

    Returns
    -------
    Tensor float64 [H, 2]
    """
    errors = ((truth - quantiles[..., middle]) / half_width(quantiles)).clamp(min=-FAR, max=FAR)
    sums = torch.where(observed, errors, 0.0).double().sum(dim=(0, 2))
    return torch.stack([sums, observed.sum(dim=(0, 2)).double()], dim=-1).cpu()


def excess_shocks(sums: Tensor, usual: Tensor) -> Tensor:
    """What to take from the errors of each validation day, so that their shocks have a usual size.

    Parameters
    ----------
    sums : Tensor [H, 2]
        `shock_sums` of the validation days.
    usual : Tensor [N, 2]
        Of days before them.

    Returns
    -------
    Tensor [H]
        In half widths; 0 where the validation days are like others.
    """
    shocks = sums[:, 0] / sums[:, 1].clamp(min=1)
    size, size_before = _size(sums), _size(usual)
    if size <= USUAL * size_before or not (usual[:, 1] > 0).any():
        return torch.zeros_like(shocks)
    return (1 - USUAL * size_before / size) * shocks


def _size(sums: Tensor) -> float:
    """Root mean square of the shocks of the days that have sales."""
    days = sums[:, 1] > 0
    return float((sums[days, 0] / sums[days, 1]).square().mean().sqrt()) if days.any() else 0.0
