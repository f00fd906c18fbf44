"""Baselines that every backtest is read against, each a Predictor on the same information as the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stmp.data.panel import DateLike, Panel
from stmp.errors import ConfigError
from stmp.evaluation.baselines.base import LEVELS, Baseline
from stmp.evaluation.baselines.boosting import LightGBM
from stmp.evaluation.baselines.foundation import Chronos2
from stmp.evaluation.baselines.naive import SameFestivalLastYear, SeasonalNaive
from stmp.evaluation.baselines.recurrent import BODIES, Recurrent
from stmp.evaluation.baselines.statistical import ETS, sample_of
from stmp.evaluation.baselines.tabular import TabPFN

__all__ = [
    "FOUNDATION", "LEVELS", "NAMES", "NEURAL", "Baseline", "Chronos2", "ETS", "LightGBM", "Recurrent",
    "SameFestivalLastYear", "SeasonalNaive", "TabPFN", "make_baselines",
]  # fmt: skip

NAMES = ("seasonal_naive", "same_festival_last_year", "ets", "lightgbm")
"""What every backtest is read against."""
NEURAL = tuple(BODIES)
"""Networks of the paper's time, which take minutes to train."""
FOUNDATION = ("chronos2", "tabpfn")
"""Networks that were trained elsewhere, whose weights must be fetched."""

LEARNED_FROM = 5000
"""Regions at most that baselines learn from. They draw fewer points from all regions than these have."""


def make_baselines(
    panel: Panel,
    until: DateLike,
    horizon: int,
    *,
    names: Sequence[str] = NAMES,
    regions: Sequence[str] | None = None,
    levels: tuple[float, ...] = LEVELS,
    seed: int = 0,
    threads: int = 0,
) -> dict[str, Baseline]:
    """Make the baselines, and fit those that learn on what the model has learned from.

    Parameters
    ----------
    panel : Panel
    until : date
        The last day to learn from: the model's own, and never after the first origin of a backtest.
    horizon : int
        Periods to forecast.
    names : sequence of str
        Which of `NAMES`, `NEURAL` and `FOUNDATION`.
    regions : sequence of str, optional
        Regions to learn from, the model's ``trained_regions``; by default all. Of more than `LEARNED_FROM` some are
        taken.
    levels : tuple of float
        Quantile levels, those of the model.
    threads : int
        Of LightGBM; 0: all cores.

    Raises
    ------
    ConfigError
        For an unknown name, or where the library of a baseline is not installed.
    """
    every = [*NAMES, *NEURAL, *FOUNDATION]
    unknown = sorted(set(names) - set(every))
    if unknown:
        raise ConfigError(f"There are no baselines {unknown}; choose from {every}.")
    made: dict[str, Baseline] = {}
    for name in names:
        if name == "seasonal_naive":
            made[name] = SeasonalNaive(levels=levels)
        elif name == "same_festival_last_year":
            made[name] = SameFestivalLastYear(levels=levels)
        elif name == "ets":
            made[name] = ETS(sample_of(panel), levels=levels)
        elif name == "chronos2":
            made[name] = Chronos2(levels=levels)
        elif name == "tabpfn":
            made[name] = TabPFN(levels=levels)
        else:
            rows = np.arange(len(panel.regions))
            if regions is not None:
                rows = np.flatnonzero(np.isin(panel.regions.astype(str), list(regions)))
            if len(rows) > LEARNED_FROM:
                rows = rows[np.linspace(0, len(rows) - 1, LEARNED_FROM).round().astype(int)]
            learner: LightGBM | Recurrent = LightGBM(seed=seed, threads=threads, levels=levels)
            if name in NEURAL:
                learner = Recurrent(name, seed=seed, levels=levels)
            made[name] = learner.fit(panel.select(rows), until, horizon)
    return made
