"""Who takes part in a benchmark: each learns from what is known before a window, and then forecasts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stmp.config import Config
from stmp.data.panel import DateLike, Panel
from stmp.errors import ConfigError
from stmp.evaluation.baselines import SeasonalNaive, make_baselines
from stmp.forecast import Predictor
from stmp.forecaster import Forecaster
from stmp.learning.train import resolve, train
from stmp.learning.transfer import adaptation_config
from stmp.nets.names import GROUPS

CARRY_ON = ["train.learning_rate=0.0005", *(f"transfer.lambda_{group}=0" for group in GROUPS)]
"""From one window to the next a model is fine-tuned, gently: it has seen nearly all of what it is shown."""
BASELINES = ("seasonal_naive", "lightgbm")


class Learner(Protocol):
    """Makes a predictor for a window from a panel in which nothing later is left."""

    def learn(self, panel: Panel, until: DateLike, horizon: int) -> Predictor:
        """Learn from the days up to `until`."""
        ...


@dataclass
class MetaTrained:
    """Our model: trained before the first window, carried on before the others; `steps` 0 trains once."""

    config: Config
    seed: int
    steps: int
    model: Forecaster | None = None

    def learn(self, panel: Panel, until: DateLike, horizon: int) -> Predictor:
        """Train, or go on from the window before; anew where the data have come to decide for another network."""
        now, _ = resolve(self.config, panel, until)
        if self.model is None or self.model.config.model != now.model:
            self.model = train(panel, self.config, seed=self.seed, until=until)
        elif self.steps:
            config = adaptation_config(self.model, panel.frequency, [*CARRY_ON, f"train.max_steps={self.steps}"])
            self.model = train(panel, config, seed=self.seed, until=until, source=self.model)
        return self.model


@dataclass
class Boosted:
    """LightGBM, fitted for each window on all that is known by then."""

    seed: int

    def learn(self, panel: Panel, until: DateLike, horizon: int) -> Predictor:
        """Fit."""
        return make_baselines(panel, until, horizon, names=["lightgbm"], seed=self.seed)["lightgbm"]


@dataclass
class Naive:
    """Last season's sales again, as fev-bench has it."""

    season: int

    def learn(self, panel: Panel, until: DateLike, horizon: int) -> Predictor:
        """Learn nothing."""
        return SeasonalNaive(self.season, plain=True)


def make_learners(
    config: Config, seeds: Sequence[int], steps: int, baselines: Sequence[str], season: int
) -> dict[str, Learner]:
    """The baselines, and our model for each seed.

    Raises
    ------
    ConfigError
        For an unknown baseline, or no seed.
    """
    unknown = sorted(set(baselines) - set(BASELINES))
    if unknown or not seeds:
        raise ConfigError(
            f"There are no baselines {unknown}; choose from {list(BASELINES)}, or none." if unknown else "Give a seed."
        )
    known: dict[str, Learner] = {"seasonal_naive": Naive(season), "lightgbm": Boosted(seeds[0])}
    made: dict[str, Learner] = {name: known[name] for name in BASELINES if name in baselines}
    ours: dict[str, Learner] = {f"stmp, seed {seed}": MetaTrained(config, seed, steps) for seed in seeds}
    return made | ours
