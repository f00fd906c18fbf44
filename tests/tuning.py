"""Trials that die or fail as a test wants them to, and a tuning as a process of its own.

``python -m tests.tuning DATA SOURCE OUT ENDED`` tunes, and kills itself as soon as that many trials have ended.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from stmp.errors import TrainingError
from stmp.forecaster import Forecaster
from stmp.learning.meta import MetaTrainer
from stmp_platform.settings import Settings
from stmp_platform.tuning import Tuning, tune
from stmp_platform.tuning.space import PLACE, lambda_of
from stmp_platform.tuning.trial import Plan, run_trial

SETTINGS = ("train.max_steps=12", "train.validate_every=4", "train.checkpoint_every=2", "train.warmup=2")
TRIALS = 4


def small_tuning(source: Forecaster, data: str, out: Path, **more: Any) -> Tuning:
    """A tuning that takes seconds."""
    return tune(source, data, out=str(out), trials=TRIALS, overrides=SETTINGS, until="2022-05-31", **more)


def moody_trial(values: dict[str, Any], plan: Plan, settings: Settings) -> None:
    """A trial, but plain fine-tuning fails, and the first process that tries a lambda in between dies on the way."""
    if lambda_of(values[PLACE]) == 0.0:
        MetaTrainer.train_step = _fail  # type: ignore[method-assign]
    elif not math.isinf(lambda_of(values[PLACE])):
        _die_once(Path(plan.out) / "died")
    step = MetaTrainer.train_step
    try:
        run_trial(values, plan, settings)
    finally:
        MetaTrainer.train_step = STEP if step is _fail else step  # type: ignore[method-assign]


STEP = MetaTrainer.train_step


def _fail(self: MetaTrainer) -> None:
    raise TrainingError("The loss is not finite at step 0.")


def _die_once(mark: Path) -> None:
    def train_step(self: MetaTrainer) -> None:
        if self.step == 6 and not mark.exists():
            mark.write_text(str(self.step))
            os.kill(os.getpid(), signal.SIGKILL)
        STEP(self)

    MetaTrainer.train_step = train_step  # type: ignore[method-assign]


def main(data: str, source: str, out: str, ended: str) -> None:
    """Tune, and die as asked."""

    def watch() -> None:
        while len(list(Path(out).glob("trials/*/trial.json"))) < int(ended):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    small_tuning(Forecaster.load(source), data, Path(out), track=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
