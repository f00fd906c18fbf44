"""The group index: how a series went day by day over all regions, as a share of its usual sales.

A single region's week of last year holds that week's chance as well as the season. The season that all regions share is
what is left when they are taken together, and a mix of both forecasts better than either: "group seasonal indices",
Withycombe 1989 ("Forecasting with combined seasonal indices", International Journal of Forecasting 5); Chen & Boylan
2007 ("Use of individual and group seasonal indices in subaggregate demand forecasting", Journal of the Operational
Research Society 58). It also tells the season of a region that was not there a year ago.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stmp.data.panel import Panel
from stmp.data.schema import BLOCK

LEAST = 0.05
"""Share of usual sales that a level is never below: what hardly sells then says nothing of what sells now."""


@dataclass(frozen=True)
class GroupIndex:
    """What the regions of a training sold together, until its last day.

    Attributes
    ----------
    first : datetime64[D]
        Date of the first period.
    period_days : int
        Days in a period.
    index : Tensor float32 [T, N]
        Of each of the dataset's N series: the sales of the regions observed on a day, over what these sell on average;
        NaN where none is observed.
    level : Tensor float32 [T + 1, N]
        Mean of the index over the ordinary days of the level window before; NaN where there is none.
    """

    first: np.datetime64
    period_days: int
    index: Tensor
    level: Tensor

    @classmethod
    def fit(cls, panel: Panel, until: int, level_window: int, reduce: Callable[[Tensor, str], Tensor]) -> GroupIndex:
        """Measure it on this worker's regions, and sum over the workers.

        Parameters
        ----------
        panel : Panel
            In the rows that the model sees.
        until : int
            One past the last period that may be seen.
        level_window : int
            Periods.
        reduce : callable
            ``reduce(tensor, "sum")`` over all workers.
        """
        series = panel.series_index  # [R, G]
        ordinary = torch.as_tensor(panel.calendar.event == 0, device=panel.device)[panel.calendar_index]  # [R, T]
        # Sales and usual sales of the regions observed, of all days and of ordinary ones alone.
        sums = torch.zeros(4, until, panel.series_number, dtype=torch.float64, device=panel.device)
        for begin in range(0, panel.shape[0], BLOCK):
            rows = slice(begin, begin + BLOCK)
            sales, observed = panel.sales[rows, :until].double().clamp(min=0.0), panel.observed[rows, :until]
            observed = observed & ((sales * observed).cummax(dim=1).values > 0)  # a region opens with its first sale
            usual = (sales * observed).sum(dim=1) / observed.sum(dim=1).clamp(min=1)  # [B, G]
            sold, expected = sales * observed, usual[:, None] * observed
            told = ordinary[rows, :until, None]
            for total, part in zip(sums, (sold, expected, sold * told, expected * told), strict=True):
                total.index_add_(1, series[rows].flatten(), part.transpose(0, 1).flatten(1))
        sold, expected, sold_then, expected_then = reduce(sums, "sum").cpu()
        index = _ratio(sold, expected)
        level = _trailing_mean(_ratio(sold_then, expected_then), level_window)
        level = torch.where(level.isnan(), _trailing_mean(index, level_window), level).clamp(min=LEAST)
        first = panel.dates[0].astype("datetime64[D]")
        return cls(first, panel.period_days, index.float(), level.float())

    def last(self, periods: int) -> GroupIndex:
        """The last periods alone: all that forecasts from later days read, where a model has thousands of series."""
        gone = max(0, len(self.index) - periods)
        days = gone * self.period_days
        return replace(
            self, first=self.first + np.timedelta64(days, "D"), index=self.index[gone:], level=self.level[gone:]
        )

    def on(self, panel: Panel) -> tuple[Tensor, Tensor]:
        """Index [T, N] and level [T + 1, N] on a panel's dates; NaN where it does not reach."""
        days = int((panel.dates[0].astype("datetime64[D]") - self.first).astype(int))
        shift, periods = days // self.period_days, len(panel.dates)
        index, level = _shifted(self.index, shift, periods), _shifted(self.level, shift, periods + 1)
        return index.to(panel.device), level.to(panel.device)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.nan)


def _trailing_mean(values: Tensor, window: int) -> Tensor:
    """Mean of what is no NaN of the last `window` rows before each index, [T + 1, N]; NaN where nothing is."""
    told = ~values.isnan()
    total, count = (
        torch.nn.functional.pad(part.cumsum(dim=0), (0, 0, 1, 0)) for part in (values.nan_to_num(0.0), told.double())
    )
    before = torch.arange(len(total)).sub(window).clamp(min=0)
    return _ratio(total - total[before], count - count[before])


def _shifted(values: Tensor, shift: int, length: int) -> Tensor:
    """Rows ``shift : shift + length``, NaN before the first and after the last."""
    rows = torch.arange(length) + shift
    inside = (rows >= 0) & (rows < len(values))
    return torch.where(inside[:, None], values[rows.clamp(0, len(values) - 1)], torch.nan)
