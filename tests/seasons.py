"""Panels with a season, and a model too small to learn it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stmp.data.panel import Panel

TINY = {"model": {"hidden": 8}, "train": {"max_steps": 20, "warmup": 2, "batch_regions": 8, "queries": 8}}


def yearly(weeks: int = 80, growth: float = 1.0, grown: int = 52, season: float = 0.6) -> Panel:
    """Twelve regions, each of which has a year of its own, that it repeats; all sell more once they have grown."""
    rng = np.random.default_rng(0)
    shape = rng.lognormal(0, season, (12, 52))
    week = np.arange(weeks)
    sales = 100 * shape[:, week % 52] * np.where(week < grown, 1.0, growth) * rng.lognormal(0, 0.02, (12, weeks))
    dates = pd.date_range("2022-01-02", periods=weeks, freq="7D")
    rows = [(f"r{r:02}", day, sales[r, t]) for r in range(12) for t, day in enumerate(dates)]
    return Panel.from_frame(pd.DataFrame(rows, columns=["unique_id", "ds", "y"]))
