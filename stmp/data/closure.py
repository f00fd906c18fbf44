"""Closures that the data write as zeros: long runs without a sale, in series that hardly ever go without one.

A shop that was shut for half a year of works sold nothing because it offered nothing. Where those days are not marked
as closed or left out, their zeros would say that it hardly sells, long after it has opened again. A run counts as a
closure if, by the share of days that sold before it, so many days in a row without a sale are next to impossible; and
only once a sale has ended it, for nobody knows before that one will.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNLIKELY = 1e-5
"""Chance of a run, with days taken one by one, below which it is no chance."""
SURE = 0.9
"""Share of days that sell, at most, for no series sells on each for certain: five days of zeros may yet be chance."""


def closures(sales: Tensor, observed: Tensor, known: Tensor) -> Tensor:
    """Which days lie in a closure that has ended.

    Parameters
    ----------
    sales, observed : Tensor [B, T, G]
    known : Tensor int64 [B]
        One past the last period whose sales may tell that a closure has ended.

    Returns
    -------
    Tensor bool [B, T, G]
    """
    periods = sales.shape[1]
    time = torch.arange(periods, device=sales.device)[None, :, None]
    sold = observed & (sales > 0) & (time < known[:, None, None])
    day, total = observed.cumsum(dim=1), sold.cumsum(dim=1)
    before = torch.nn.functional.pad((day * sold).cummax(dim=1).values, (0, 0, 1, 0))[:, :-1]  # days to the last sale
    share = ((total - 1) / (before + 1)).clamp(min=0.0, max=SURE)
    ends = sold & (before > 0) & ((1.0 - share) ** (day - 1 - before) < UNLIKELY)
    following = torch.where(sold, time, periods).flip(1).cummin(dim=1).values.flip(1)  # the next sale
    ended = torch.nn.functional.pad(ends, (0, 0, 0, 1)).gather(1, following)
    return ended & observed & ~sold
