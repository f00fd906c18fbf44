"""Closures that the data write as zeros: long runs without a sale, in series that hardly ever go without one.

A shop that was shut for half a year of works sold nothing because it offered nothing. Where those days are not marked
as closed or left out, their zeros would say that it hardly sells, long after it has opened again. A run counts as a
closure if, by the share of days that sold before it, so many days in a row without a sale are next to impossible; on
days when the other regions sold, for what nobody sells is out of season; and only once a sale has ended it, for nobody
knows before that one will.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNLIKELY = 5e-6
"""Chance of a run, with days taken one by one, below which it is no chance."""
SURE = 0.9
"""Share of days that sell, at most, for no series sells on each for certain: five days of zeros may yet be chance."""
IN_SEASON = 0.5
"""Of their usual sales, that all regions together sell at least while the season lasts."""


def closures(sales: Tensor, observed: Tensor, known: Tensor, index: Tensor) -> Tensor:
    """Which days lie in a closure that has ended.

    Parameters
    ----------
    sales, observed : Tensor [B, T, G]
    known : Tensor int64 [B]
        One past the last period whose sales may tell that a closure has ended.
    index : Tensor [B, T, G]
        Of the `GroupIndex`: what all regions sold, over their usual sales; NaN where that is not known.

    Returns
    -------
    Tensor bool [B, T, G]
    """
    periods = sales.shape[1]
    time = torch.arange(periods, device=sales.device)[None, :, None]
    sold = observed & (sales > 0) & (time < known[:, None, None])
    day, total = observed.cumsum(dim=1), sold.cumsum(dim=1)
    before = torch.nn.functional.pad((day * sold).cummax(dim=1).values, (0, 0, 1, 0))[
        :, :-1
    ]  # days up to the sale before
    share = ((total - 1) / (before + 1)).clamp(min=0.0, max=SURE)
    ends = sold & (before > 0) & ((1.0 - share) ** (day - 1 - before) < UNLIKELY)
    following = torch.where(sold, time, periods).flip(1).cummin(dim=1).values.flip(1)  # the next sale
    ended = torch.nn.functional.pad(ends, (0, 0, 0, 1)).gather(1, following)
    return ended & observed & ~sold & ~(index < IN_SEASON)
