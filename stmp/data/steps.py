"""Steps of the level: in training, a past that lies higher or lower than it did.

A handful of regions have a handful of trends, and a network learns by heart what followed them: that a region which
has outgrown its year before falls back to it, say. So half of the rows of a batch have all that lies before their
context multiplied by a constant: what was sold then no longer tells where the level is, though it still tells weeks
and seasons. Nothing is changed from there on, so that no trend is made up that would go on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHARE = 0.5
"""Of the rows of a batch whose level takes a step."""


@dataclass(frozen=True)
class LevelStep:
    """A step of the level in each of B rows.

    Attributes
    ----------
    begin : Tensor int64 [B]
        First period that keeps its sales.
    size : Tensor [B]
        Logarithm of what those before are multiplied by; 0 for no step.
    """

    begin: Tensor
    size: Tensor

    def __call__(self, sales: Tensor) -> Tensor:
        """Sales [B, T, G] with their past at another level."""
        before = torch.arange(sales.shape[1], device=sales.device) < self.begin[:, None]
        return sales * torch.where(before, self.size[:, None], 0.0).exp()[:, :, None]
