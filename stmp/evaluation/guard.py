"""The guard against negative transfer: an adapted model beside its rivals, on the last days before the target's end.

Those are the validation days of the target: no candidate has them among its training targets, and nothing after them
is read. They stop the training of adapted and scratch alike, which flatters both a little against those that learn
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stmp.data.panel import DateLike, Panel
from stmp.errors import ConfigError
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines.naive import SeasonalNaive
from stmp.evaluation.metrics import from_sums, resample, summary
from stmp.forecast import Predictor
from stmp.forecaster import Forecaster

ADAPTED, FROZEN, SCRATCH, NAIVE = "adapted", "source as it is", "from scratch", "seasonal naive"
WINDOW = {1: 7, 7: 4}
"""Periods of a validation window, by days in a period: a week of days, four weeks of weeks."""
DRAWS = 500


@dataclass(frozen=True)
class Comparison:
    """How some candidates forecast the same windows.

    Attributes
    ----------
    sums : dict of name to ndarray [R, len(SUMS)]
        Sums of `stmp.evaluation.metrics` by region.
    origins : tuple of str
    horizon : int
    """

    sums: dict[str, np.ndarray]
    origins: tuple[str, ...]
    horizon: int

    def error(self, name: str, metric: str = "mse") -> float:
        """A candidate's error over all regions."""
        return float(from_sums(self.sums[name].sum(axis=0))[metric])

    def gain(self, name: str, over: str, metric: str = "mse") -> tuple[float, float]:
        """By how much an error is lower than another, as a share, and the standard error over regions (bootstrap)."""
        pair = np.stack([self.sums[name], self.sums[over]], axis=1)  # [R, 2, K]
        drawn = from_sums(resample(pair, DRAWS, seed=0))[metric]
        spread = float(np.nanstd(1.0 - drawn[:, 0] / drawn[:, 1])) if len(pair) > 1 else float("nan")
        return 1.0 - self.error(name, metric) / self.error(over, metric), spread

    @property
    def winner(self) -> str:
        """The candidate of the lowest error; of equals the first."""
        return min(self.sums, key=self.error)

    def verdict(self) -> str:
        """What the comparison says of transfer, for people."""
        winner = self.winner
        if winner == ADAPTED:
            second = min((name for name in self.sums if name != ADAPTED), key=self.error)
            gain, spread = self.gain(ADAPTED, second)
            sure = f" (standard error {spread:.1%})" if np.isfinite(spread) else ""
            helped = "Transfer makes no clear difference" if gain <= spread else "Transfer helped"
            return f"{helped}: the adapted model's MSE is {gain:.1%}{sure} below the next best, {second}."
        more = f"the adapted model's MSE is {self.error(ADAPTED) / self.error(winner) - 1.0:.1%} above"
        if winner == FROZEN:
            return f"Fine-tuning did not help: {more} that of the source as it is. Use the source as it is."
        if winner == NAIVE:
            return (
                f"Transfer did not help: {more} that of last week's sales repeated, and so is every other model's. "
                "Forecast with those until there is more history."
            )
        return f"Transfer did not help: {more} that of a model that learned {winner}. Use that one."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "winner": self.winner,
            "verdict": self.verdict(),
            "horizon": self.horizon,
            "origins": list(self.origins),
            "candidates": {name: summary(sums.sum(axis=0)) for name, sums in self.sums.items()},
        }


def compare(candidates: Mapping[str, Forecaster], panel: Panel, *, until: DateLike, periods: int) -> Comparison:
    """Forecast the last periods before a date with each candidate, and with last season's sales.

    Parameters
    ----------
    candidates : mapping of name to Forecaster
    panel : Panel
        The target's regions to score; what was sold after `until` is not read.
    until : date
        Last day of validation.
    periods : int
        Periods of validation, cut into windows of a week (of four weeks, for weekly data).

    Raises
    ------
    ConfigError
        If there are no validation periods.
    """
    first = panel.index_of(until) - periods  # its next day is the first that no candidate has learned from
    known = panel.until(panel.dates[first + periods])
    last = known.index_of(known.last_observed)  # nobody may have sold on the very last day
    model = next(iter(candidates.values()))
    horizon = min(last - first, model.horizon, WINDOW[panel.period_days])
    if horizon < 1 or first < 0:
        raise ConfigError(
            f"No sales are observed in the {periods} validation periods up to {until}, or none before them: there is "
            "nothing to compare models on. Set validation.periods, or choose another last day."
        )
    naive = SeasonalNaive(levels=model.config.model.levels)
    predictors: dict[str, Predictor] = {**candidates, NAIVE: naive}
    found = backtest(
        predictors,
        known,
        panel.dates[first],
        panel.dates[last],
        horizon,
        cold_histories=(),
        draws=0,
        keep_regions=0,
        progress=False,
    )
    sums = {name: totals.sum(axis=1) for name, totals in found.totals.items()}
    return Comparison(sums, tuple(str(day) for day in found.origins), horizon)
