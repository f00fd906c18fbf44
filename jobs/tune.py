"""The job behind `stmp tune`: search lambda on validation windows of the target, and adapt the source with it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from jobs.load import load_forecaster
from jobs.screen import progress, say, table, warn


def tune(
    source: str,
    data: str,
    out: str,
    *,
    trials: int = 16,
    beside: Sequence[str] = (),
    settings: Sequence[str] = (),
    cpus: float = 1.0,
    gpus: float = 0.0,
    workers: int = 0,
    seed: int = 0,
    until: str | None = None,
    name: str | None = None,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Find how much of a source to keep, adapt it so, and register what forecasts the target best.

    Parameters
    ----------
    source : str
        Model reference.
    data, out : str
        The target's dataset, and the folder of the tuning; the best model lies in ``OUT/model``.
    trials, beside, cpus, gpus, workers
        As in `stmp_platform.tuning.tune`.
    settings : sequence of ``section.key=value``
        Hold for all trials.
    seed, until, tracking_uri
        As in `jobs.train.train`.
    name : str, optional
        Register the best model under this name; the dataset's by default.

    Raises
    ------
    ConfigError, DataError
        If the source, the configuration or the dataset cannot be used together.
    RegistryError, CheckpointError
        If the source is not there, or damaged.
    TrainingError
        If no trial came to an end.
    """
    from stmp_platform.dataset.manifest import load_manifest
    from stmp_platform.report.tuning import written
    from stmp_platform.settings import Settings
    from stmp_platform.tuning import tune as run_tuning

    began = time.monotonic()
    surroundings = Settings.from_env(tracking_uri)
    name = name or re.sub(r"[^\w.-]+", "-", load_manifest(data).name)
    forecaster = load_forecaster(source, surroundings)
    with progress("Trials") as bar:
        found = run_tuning(
            forecaster, data, out=out, trials=trials, beside=beside, overrides=settings, seed=seed, cpus=cpus,
            gpus=gpus, workers=workers, until=until, settings=surroundings, register_as=name, progress=bar,
        )  # fmt: skip
    choice, finished = found.choice, found.finished
    rows: list[tuple[Any, ...]] = [
        (written(t.strength), t.result["error"], float(choice.spread[i]), float(choice.behind[i]),
         "chosen" if i == choice.chosen else "best" if i == choice.best else "")
        for i, t in enumerate(finished)
    ]  # fmt: skip
    rows += [(written(t.strength), None, None, None, t.status) for t in found.trials if t.status != "finished"]
    table(("lambda", "MSE", "spread", "behind", ""), rows, "Validation on the target, by lambda")
    comparison = found.adaptation.comparison
    say(comparison.verdict())
    if found.adaptation.model is None:
        warn("Nothing is registered: no model is better than last season's sales.")
    else:
        say(f"Model: {found.adaptation.model} ({comparison.winner})")
    say(f"Report: {found.report}")
    tracking = found.adaptation.tracking
    if tracking is not None and tracking.version is not None:
        say(f"Registered: models:/{name}/{tracking.version} in {surroundings.shown_registry}")
    for outcome in (found.tracking, tracking):
        if outcome is not None and outcome.warning:
            warn(outcome.warning)
    return {
        "out": out,
        "model": found.adaptation.model,
        "source": forecaster.name,
        "lambda": written(found.chosen.strength),
        "chosen": found.chosen.values,
        "best": written(finished[choice.best].strength),
        "trials": [
            {"id": t.id, "lambda": written(t.strength), "status": t.status, **t.values,
             **{key: t.result[key] for key in ("error", "naive", "step", "seconds", "failure") if key in t.result}}
            for t in found.trials
        ],
        **comparison.to_dict(),
        "report": found.report,
        "seconds": time.monotonic() - began,
        "run_id": found.tracking.run_id if found.tracking else None,
        "name": name,
        "version": tracking.version if tracking else None,
    }  # fmt: skip
