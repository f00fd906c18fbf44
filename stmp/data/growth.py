"""Growth: in training, sales that grow by more or less a year than they did.

A handful of regions have a handful of trends. Of these a network learns by heart what follows: that a region which has
outgrown its year before falls back to it, say. So each row of a batch has its sales multiplied by an exponential of
time, past and future alike, and what is learned has to hold for regions that grow and for regions that shrink.
"""

from __future__ import annotations

from torch import Tensor

YEAR = 365.25


def grown(sales: Tensor, years: Tensor, growth: Tensor) -> Tensor:
    """Sales that grow by so much more.

    Parameters
    ----------
    sales : Tensor [B, T, G]
    years : Tensor [B, T]
        From the period that keeps its sales.
    growth : Tensor [B]
        Logarithm of the growth of a year.

    Returns
    -------
    Tensor [B, T, G]
    """
    return sales * (growth[:, None] * years).exp()[:, :, None]
