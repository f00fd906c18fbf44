"""The forecasts of a few regions over the test period, laid out for a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from stmp.data.panel import Panel
    from stmp.evaluation.result import Backtest


@dataclass(frozen=True)
class Span:
    """A run of festival days and what it is called."""

    first: np.datetime64
    last: np.datetime64
    name: str


@dataclass(frozen=True)
class Example:
    """One region's (and series') test period.

    Attributes
    ----------
    table : DataFrame
        By date: ``actual`` (NaN where not observed), ``mean``, the quantiles ``q0.1`` ..., and the baselines' means.
        Closed days are absent; days that no origin forecast are rows of NaN, so that lines break there.
    festivals : tuple of Span
    """

    region: str
    series: str
    table: pd.DataFrame
    festivals: tuple[Span, ...]


def examples(result: Backtest, panel: Panel) -> list[Example]:
    """The regions that the backtest kept, each with its largest series.

    Where origins overlap, a day shows the forecast of the latest one.
    """
    rows = {str(r): i for i, r in enumerate(panel.regions)}
    made = []
    for region in dict.fromkeys(result.examples["region"]):
        if region not in rows:
            continue
        row = rows[region]
        series = int(panel.sales[row].sum(dim=0).argmax())
        frame = result.examples
        mine = (frame["region"] == region) & (frame["series"] == panel.series[series])
        table = frame[mine].sort_values("step").drop_duplicates("date").drop(columns=["region", "series", "step"])
        table = table.assign(date=pd.to_datetime(table["date"])).set_index("date").sort_index()
        first, last = (panel.index_of(d) for d in (table.index[0], table.index[-1]))
        days = slice(first, last + 1)
        seen = panel.observed[row, days, series].cpu().numpy()
        actual = np.where(seen, panel.sales[row, days, series].cpu().numpy(), np.nan)
        table = table.reindex(pd.to_datetime(panel.dates[days]))
        table.insert(0, "actual", actual)
        closed = panel.closed[row, days].cpu().numpy()
        made.append(Example(region, panel.series[series], table[~closed], _festivals(panel, row, days)))
    return made


def _festivals(panel: Panel, row: int, days: slice) -> tuple[Span, ...]:
    calendar, c = panel.calendar, int(panel.calendar_index[row])
    if "festival" not in calendar.day_types:
        return ()
    dates = calendar.dates[days]
    event = calendar.event[c, days]
    festival = calendar.day_type[c, days] == calendar.day_types.index("festival")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], festival, [False]]).astype(int)))
    spans = []
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        named = dict.fromkeys(calendar.events[e] for e in event[begin:end] if e > 0)
        spans.append(Span(dates[begin], dates[end - 1], ", ".join(named) or "festival"))
    return tuple(spans)
