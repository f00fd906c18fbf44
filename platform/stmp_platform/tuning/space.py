"""Where lambda is looked for, by whom, and which trials are ended early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stmp.nets.names import GROUPS

if TYPE_CHECKING:
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search import Searcher

PLACE, RATE, FROZEN = "log10_lambda", "learning_rate", "frozen"
LOWEST, HIGHEST = -4.0, 0.0
"""Log10 of the smallest and largest lambda. The ends themselves stand for 0 and infinity."""
RATES = (1e-4, 3e-3)
LAYERS = ("none", "extractor", "extractor+amortization")
"""Groups of parameters held at the source's values, whatever lambda the others have."""
SEARCHABLE = (RATE, FROZEN)
"""What can be searched beside lambda."""

ERROR, VALIDATION, STEP = "error", "validation", "step"
"""What a trial reports: at the end its error on the validation windows, on the way the loss that stops training."""


def lambda_of(place: float) -> float:
    """The lambda that a place on the scale stands for: its ends are 0 and infinity, between them it is logarithmic."""
    if place <= LOWEST:
        return 0.0
    return math.inf if place >= HIGHEST else float(10.0**place)


def is_end(values: Mapping[str, Any]) -> bool:
    """Whether a trial is plain fine-tuning or the frozen source, which no curve may lack: it is never ended early."""
    return lambda_of(values[PLACE]) in (0.0, math.inf)


def overrides(values: Mapping[str, Any]) -> list[str]:
    """The settings of a trial."""
    strength = lambda_of(values[PLACE])
    held = str(values.get(FROZEN, LAYERS[0])).split("+")
    settings = [f"transfer.lambda_{group}={_yaml(math.inf if group in held else strength)}" for group in GROUPS]
    return settings + ([f"train.learning_rate={values[RATE]!r}"] if RATE in values else [])


def searcher(beside: Sequence[str], rate: float, seed: int) -> Searcher:
    """Optuna's TPE; lambda 0 and infinity come first, then one in the middle of the scale.

    Parameters
    ----------
    beside : sequence of str
        What is searched beside lambda, of `SEARCHABLE`.
    rate : float
        The learning rate of the trials that come first.
    """
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, Any] = {PLACE: FloatDistribution(LOWEST, HIGHEST)}
    usual: dict[str, Any] = {}
    if RATE in beside:
        space[RATE] = FloatDistribution(*RATES, log=True)
        usual[RATE] = min(max(rate, RATES[0]), RATES[1])
    if FROZEN in beside:
        space[FROZEN] = CategoricalDistribution(LAYERS)
        usual[FROZEN] = LAYERS[0]
    first = [{PLACE: place, **usual} for place in (LOWEST, HIGHEST, (LOWEST + HIGHEST) / 2)]

    class Search(OptunaSearch):
        """Reads the error where a trial has one; Ray's own wants it in every report."""

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            if ERROR in result:
                super().on_trial_result(trial_id, result)

    # The first random trials spread lambda evenly enough; TPE's usual ten would leave it little to do.
    sampler = optuna.samplers.TPESampler(n_startup_trials=6, seed=seed)
    return Search(space=space, metric=ERROR, mode="min", points_to_evaluate=first, sampler=sampler)


def scheduler(max_steps: int) -> AsyncHyperBandScheduler:
    """ASHA on the trials' own steps, which go on where a trial that was killed goes on; Ray's count begins anew.

    A trial that is as good as half of those before it at a quarter (a half) of the steps may go on.
    """
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr=STEP,
        metric=VALIDATION,
        mode="min",
        max_t=max_steps + 1,  # ASHA would end a trial at its last step, before it has told its error
        grace_period=max(1, max_steps // 4),
        reduction_factor=2,
    )


def _yaml(value: float) -> str:
    return ".inf" if value == math.inf else repr(value)
