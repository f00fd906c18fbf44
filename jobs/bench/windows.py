"""A panel's series as fev takes them, and fev's windows as forecasts are made for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from jobs.bench.learners import Learner
from jobs.bench.tasks import QUANTILES, lifetime
from stmp.data.panel import Panel

Predictions = list[dict[str, Any]]
"""As fev takes them: for each series a list of medians, and a list for each quantile level."""


@dataclass(frozen=True)
class Series:
    """The series of a panel that ever sold, in the order of their ids.

    Attributes
    ----------
    panel : Panel
    region, series : ndarray int [N]
        Positions in the panel.
    """

    panel: Panel
    region: np.ndarray
    series: np.ndarray

    @classmethod
    def of(cls, panel: Panel) -> Series:
        """Number them."""
        region, series = panel.observed.any(dim=1).nonzero().cpu().numpy().T
        return cls(panel, region, series)

    @property
    def ids(self) -> list[str]:
        """Their names for fev, which sorts by them: numbers of one width."""
        return [f"{n:07d}" for n in range(len(self.region))]

    def frame(self) -> pd.DataFrame:
        """One row a series: id, dates and sales from its first to its last; closed days 0, gaps NaN."""
        panel = self.panel
        rows = panel.observed | panel.closed[:, :, None]
        lives = lifetime(rows).cpu().numpy()
        sales = torch.where(rows, panel.sales, torch.nan).cpu().numpy()
        dates = panel.dates.astype("datetime64[ns]")
        at = [(r, g, lives[r, :, g]) for r, g in zip(self.region, self.series, strict=True)]
        columns = {
            "id": self.ids,
            "timestamp": [dates[life] for _, _, life in at],
            "target": [sales[r, life, g].astype(np.float64) for r, g, life in at],
        }
        return pd.DataFrame(columns)

    def known_by(self, cutoffs: np.ndarray) -> Panel:
        """The panel without what each series sold after its own cutoff, datetime64[D] [N]; NaT forgets it all."""
        panel = self.panel
        regions, periods, groups = panel.shape
        last = np.full((regions, groups), -1)
        days = np.where(np.isnat(cutoffs), -1, np.searchsorted(panel.dates, cutoffs))
        last[self.region, self.series] = days
        after = torch.arange(periods)[None, :, None] > torch.as_tensor(last)[:, None]  # [R, T, G]
        gone = after.all(dim=2)  # nothing of the region's is known then
        return replace(
            panel,
            sales=panel.sales.masked_fill(after, 0.0),
            observed=panel.observed & ~after,
            past=panel.past.masked_fill(gone[:, :, None], torch.nan),
        )


@dataclass(frozen=True)
class Window:
    """One of fev's windows: which series it wants, by position, and the last date of each that may be seen."""

    wanted: np.ndarray
    cutoffs: np.ndarray

    @classmethod
    def of(cls, window: Any, series: Series) -> Window:
        """Read it off fev's own input data."""
        past, _ = window.get_input_data()
        table = past.data.table
        ends = [stamps[-1].as_py() for stamps in table["timestamp"]]
        wanted = np.array([int(name) for name in table["id"].to_pylist()])
        return cls(wanted, np.array(ends, dtype="datetime64[D]"))


def forecasts(learner: Learner, series: Series, windows: list[Window], horizon: int) -> Iterator[Predictions]:
    """Learn and forecast, window by window."""
    for window in windows:
        cutoffs = np.full(len(series.region), np.datetime64("NaT"), dtype="datetime64[D]")
        cutoffs[window.wanted] = window.cutoffs
        panel = series.known_by(cutoffs)
        predictor = learner.learn(panel, window.cutoffs.max(), horizon)
        quantiles = np.zeros((len(window.wanted), horizon, len(QUANTILES)))
        for origin in np.unique(window.cutoffs):  # nearly always one
            rows = np.flatnonzero(window.cutoffs == origin)
            region, group = series.region[window.wanted[rows]], series.series[window.wanted[rows]]
            quantiles[rows] = predictor.predict(panel, origin, horizon).quantiles[region, :, group]
        yield [
            {"predictions": row[:, QUANTILES.index(0.5)], **{str(q): row[:, k] for k, q in enumerate(QUANTILES)}}
            for row in quantiles
        ]


def average(members: list[list[Predictions]]) -> list[Predictions]:
    """Several models' predictions of the same windows, averaged quantile by quantile."""
    return [
        [
            {key: np.mean([part[key] for part in parts], axis=0) for key in parts[0]}
            for parts in zip(*window, strict=True)
        ]
        for window in zip(*members, strict=True)
    ]
