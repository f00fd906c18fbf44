"""Baselines that every backtest is read against, each a Predictor on the same information as the model."""

from stmp.evaluation.baselines.base import LEVELS, Baseline
from stmp.evaluation.baselines.naive import SameFestivalLastYear, SeasonalNaive

__all__ = ["LEVELS", "Baseline", "SameFestivalLastYear", "SeasonalNaive"]
