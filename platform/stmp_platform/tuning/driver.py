"""Tune lambda for a target: search on validation windows, choose, report, and adapt with what was chosen.

All that is needed to go on lies in the output folder: Ray Tune's own state in ``ray/``, each trial's checkpoints and
result in ``trials/``. A driver that was killed is started again by its own command; trials that had ended are not run
again, the others go on from their checkpoints.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from stmp.config import Config
from stmp.data.calendar import period_days
from stmp.data.panel import DateLike
from stmp.errors import ConfigError, DataError, TrainingError
from stmp.evaluation.guard import WINDOW
from stmp.forecaster import Forecaster
from stmp.learning.graft import check_match
from stmp.learning.selection import Candidate, Choice, choose
from stmp.learning.train import resolve_dates
from stmp.learning.transfer import adaptation_config
from stmp_platform.dataset.manifest import Manifest, load_manifest
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking import Outcome, Tracker
from stmp_platform.tracking.record import CONFIG_FILE, Status
from stmp_platform.training import Adaptation, adapt
from stmp_platform.training.adaptation import SOURCE, keep_source
from stmp_platform.training.cluster import QUIET
from stmp_platform.training.job import absolute
from stmp_platform.tuning import space
from stmp_platform.tuning.children import Children, Progress
from stmp_platform.tuning.trial import RESULT, TRIALS, Plan, name_of, run_trial

logger = logging.getLogger("stmp.tuning")

STATE = "ray"
PLAN, CHOICE = "tune.json", "choice.json"
TUNE = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output tells of an experiment however silent it is asked to be
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the user's, and ends the command rather than the search alone
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # what a report leaves out is none of its searcher's or scheduler's
}
MAX_FAILURES = 2
"""How often a trial whose process died is started again."""
STEPS = "train.max_steps=200"
"""Of a trial and of the model in the end, unless the user says otherwise: fine-tuning finds most of it early."""
MAX_WINDOWS = {1: 4, 7: 2}
"""Validation windows at most, by days in a period: four weeks, or eight weeks in two windows."""
FEWEST = {1: 28, 7: 16}
"""Periods of history that can be divided at all."""


@dataclass(frozen=True)
class Trial:
    """How a trial ended.

    Attributes
    ----------
    id : str
    values : dict
        What was chosen for it.
    strength : float
        Its lambda.
    status : str
        ``finished``; ``stopped``, as others were ahead; ``failed``.
    result : dict
        What it wrote: error, sums by region, seconds.
    """

    id: str
    values: dict[str, Any]
    strength: float
    status: str
    result: dict[str, Any]


@dataclass(frozen=True)
class Tuning:
    """What came of a tuning.

    Attributes
    ----------
    trials : tuple of Trial
        By lambda.
    finished : tuple of Trial
        Those that `choice` is among, in its order.
    choice : Choice
    seconds : float
        That the search took, in this process.
    adaptation : Adaptation
        With what was chosen.
    report : str
        URI of the page.
    tracking : Outcome or None
        Of the tuning's own run.
    """

    trials: tuple[Trial, ...]
    finished: tuple[Trial, ...]
    choice: Choice
    seconds: float
    adaptation: Adaptation
    report: str
    tracking: Outcome | None

    @property
    def chosen(self) -> Trial:
        """The trial whose values were taken."""
        return self.finished[self.choice.chosen]


def tune(
    source: Forecaster,
    data: str,
    *,
    out: str,
    trials: int = 16,
    beside: Sequence[str] = (),
    overrides: Sequence[str] = (),
    seed: int = 0,
    cpus: float = 1.0,
    gpus: float = 0.0,
    workers: int = 0,
    until: DateLike | None = None,
    settings: Settings | None = None,
    track: bool = True,
    register_as: str | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Search lambda on validation windows of a target, and adapt the source with what was found.

    Parameters
    ----------
    source : Forecaster
    data : str
        URI of the target's dataset.
    out : str
        URI of the folder of this tuning; the best model lies in ``OUT/model``.
    trials : int
        Lambdas tried; 0 and infinity are among them.
    beside : sequence of str
        What is searched beside lambda, of `SEARCHABLE`.
    overrides : sequence of ``section.key=value``
        Hold for all trials, and for the model that is adapted in the end.
    seed : int
    cpus, gpus : float
        Share of a core and of a GPU that each trial takes: as many run at once as fit.
    workers : int
        Ray workers inside each trial, for large targets, with a core each and, if `gpus` is above 0, a GPU; 0 trains
        each trial in one process.
    until : date, optional
        Last day to learn from and to validate on; by default the last day with sales. What comes later is not read.
    settings, track, register_as
        As in `stmp_platform.training.adapt`.
    progress : callable, optional

    Raises
    ------
    ConfigError
        If the source cannot be adapted to the data, or the folder holds another tuning.
    DataError
        If the target's history is too short to hold validation windows.
    TrainingError
        If no trial came to an end.
    """
    settings = settings or Settings.from_env()
    _check(trials, beside, overrides, cpus, gpus, workers)
    overrides = [STEPS, *overrides]
    manifest = load_manifest(data)
    config = adaptation_config(source, manifest.frequency, overrides)
    check_match(source, config, manifest.frequency)
    plan = _plan(manifest, config, data, out, overrides, seed, until, workers, gpus > 0, max(1, int(cpus)))
    folder = Folder(plan.out, settings)
    description = {
        "trials": trials, "beside": sorted(beside), "settings": list(overrides), "seed": seed, "until": plan.until,
        "fingerprint": manifest.fingerprint,
    }  # fmt: skip
    _claim(folder, description)
    keep_source(folder, source, settings)
    tracker = None
    if track:
        tracker = Tracker(
            plan.out, settings, config={"tune": description, **config.model_dump(mode="json")},
            dataset_fingerprint=manifest.fingerprint,
            tags={"stmp.job": "tune", "stmp.source": source.name, "mlflow.source.name": "stmp tune"},
        ).start()  # fmt: skip
    children = Children(folder, settings, trials, track=track, progress=progress)
    try:
        children.start()
        search = partial(space.searcher, beside, config.train.learning_rate, seed)
        began = time.monotonic()
        asked = _search(plan, settings, trials, search, config.train.max_steps, cpus, gpus)
        seconds = time.monotonic() - began
        found = _read(folder, settings, asked)
        problem = children.finish({trial.id: STATUSES[trial.status] for trial in found})
        finished, choice = _choose(found, seed)
        report = _report(folder, found, finished, choice, manifest.name)
        chosen = space.overrides(finished[choice.chosen].values)
        adaptation = adapt(
            source, data, out=plan.out, overrides=[*chosen, *overrides], seed=seed, workers=workers, gpu=gpus > 0,
            until=plan.until, settings=settings, track=track, register_as=register_as,
        )  # fmt: skip
    except BaseException as error:
        children.finish({})
        if tracker is not None:
            tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    outcome = tracker.finish("FINISHED") if tracker is not None else None
    if problem:
        logger.warning(problem)
    return Tuning(tuple(found), tuple(finished), choice, seconds, adaptation, report, outcome)


def _check(
    trials: int, beside: Sequence[str], overrides: Sequence[str], cpus: float, gpus: float, workers: int
) -> None:
    """Refuse what cannot be searched, before anything is read."""
    unknown = sorted(set(beside) - set(space.SEARCHABLE))
    if unknown or trials < 2 or cpus <= 0 or gpus < 0 or workers < 0:
        raise ConfigError(
            f"trials is {trials}, which must be 2 or more, for lambda 0 and infinity; cpus {cpus:g} must be above 0, "
            f"gpus {gpus:g} and workers {workers} 0 or more; beside lambda can be searched "
            f"{', '.join(space.SEARCHABLE)}{f', not {unknown}' if unknown else ''}."
        )
    given = {override.partition("=")[0].strip() for override in overrides}
    if space.RATE in beside and f"train.{space.RATE}" in given:
        raise ConfigError(f"train.{space.RATE} is given, and is to be searched. Leave one of the two out.")


STATUSES: dict[str, Status] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""Of a trial, in MLflow's words: a trial that others were ahead of was ended from outside."""


def _plan(
    manifest: Manifest, config: Config, data: str, out: str, overrides: Sequence[str], seed: int,
    until: DateLike | None, workers: int, gpu: bool, threads: int,
) -> Plan:  # fmt: skip
    """Divide the target's history: what trials learn from, and the validation windows after it."""
    days = period_days(manifest.frequency)
    first = np.datetime64(manifest.first_date, "D")
    _, last = resolve_dates(
        config, first=first, last_sold=np.datetime64(manifest.last_sales_date, "D"), period_days=days, until=until
    )
    periods = int((last - first) // np.timedelta64(days, "D")) + 1
    if periods < FEWEST[days]:
        raise DataError(
            f"The target holds {periods} periods until {last}; tuning needs {FEWEST[days]} at least, to learn from the "
            "first and validate on the last. Adapt with `stmp adapt` and a lambda of your own, or give more history."
        )
    windows = WINDOW[days] * min(MAX_WINDOWS[days], max(1, periods // 4 // WINDOW[days]))
    folder = absolute(out).rstrip("/")
    return Plan(
        data=absolute(data), out=folder, source=f"{folder}/{SOURCE}", until=str(last),
        learn_until=str(last - np.timedelta64(windows * days, "D")), windows=windows, settings=tuple(overrides),
        seed=seed, workers=workers, gpu=gpu, threads=threads,
    )  # fmt: skip


def _claim(folder: Folder, description: dict[str, Any]) -> None:
    """Write what this tuning is, or refuse a folder that holds another."""
    there = folder.read_json(PLAN)
    if not there:
        if folder.exists(CONFIG_FILE) or folder.exists("model"):
            raise ConfigError(f"{folder.uri} holds a training. Choose another --out.")
        folder.write_json(PLAN, description)
        return
    differ = [
        f"{key} was {there.get(key)!r}, now {value!r}" for key, value in description.items() if there.get(key) != value
    ]
    if differ:
        raise ConfigError(
            f"{folder.uri} holds another tuning: {'; '.join(differ)}. Repeat its command as it was to go on with it, "
            "or choose another --out."
        )


def _search(
    plan: Plan, settings: Settings, trials: int, search: Any, max_steps: int, cpus: float, gpus: float
) -> dict[str, bool]:
    """Run the trials that have not ended; the names of all, and whether their processes kept dying."""
    for name, value in {**QUIET, **TUNE}.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import tune

    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING)
    # It misses the files of the loggers that are not used here.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    # By reference: Ray writes a trainable into its state, and settings hold secrets.
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, plan=plan, settings=settings), _resources(plan.workers, cpus, gpus)
    )
    state = f"{plan.out}/{STATE}"
    if tune.Tuner.can_restore(state):
        tuner = tune.Tuner.restore(state, trainable, resume_unfinished=True)
    else:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=trials,
                search_alg=search(),
                scheduler=space.scheduler(max_steps),
                max_concurrent_trials=_at_once(plan.workers, cpus, gpus),
                reuse_actors=not plan.workers,  # a process of its own for each would cost seconds
                trial_dirname_creator=lambda trial: name_of(trial.config),
            ),
            run_config=tune.RunConfig(
                name=STATE,
                storage_path=plan.out,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                verbose=0,
            ),
        )
    return {str(result.path).rstrip("/").rsplit("/", 1)[-1]: result.error is not None for result in tuner.fit()}


def _resources(workers: int, cpus: float, gpus: float) -> dict[str, float]:
    """What Ray sets aside for a trial; one that only watches its workers takes a byte, and leaves them all cores."""
    return {"cpu": 0, "memory": 1} if workers else {"cpu": cpus, **({"gpu": gpus} if gpus else {})}


def _at_once(workers: int, cpus: float, gpus: float) -> int:
    """Trials that may run at once: watchers take no room, but too many would hold workers that wait for others."""
    import ray

    have = ray.cluster_resources()
    cores, devices = (workers, workers * (gpus > 0)) if workers else (cpus, gpus)
    rooms = [have.get("CPU", 1.0) / cores] + ([have.get("GPU", 0.0) / devices] if devices else [])
    if devices and rooms[1] < 1:
        raise ConfigError(
            f"Each trial asks for {devices:g} GPUs, and Ray sees {have.get('GPU', 0.0):g}. Ask for less: --gpus."
        )
    return max(1, int(min(rooms) + 1e-6))


def _read(folder: Folder, settings: Settings, asked: Mapping[str, bool]) -> list[Trial]:
    """How all trials ended, by their folders.

    One that ended counts, even if a killed driver did not live to tell Ray; one that nobody asked for again does not.
    """
    found = []
    for name in folder.names(TRIALS):
        own = Folder(folder.child(f"{TRIALS}/{name}"), settings)
        result = own.read_json(RESULT)
        values = result.get("values") or own.read_json(CONFIG_FILE).get("tune")
        if values is None or (not result and name not in asked):
            continue
        crashed = asked.get(name, False)
        status = "finished" if space.ERROR in result else "failed" if result or crashed else "stopped"
        if crashed and not result:
            result = {"failure": f"its process died {MAX_FAILURES + 1} times"}
        found.append(Trial(name, values, space.lambda_of(values[space.PLACE]), status, result))
    return sorted(found, key=lambda trial: (trial.strength, trial.id))


def _choose(found: Sequence[Trial], seed: int) -> tuple[list[Trial], Choice]:
    finished = [trial for trial in found if trial.status == "finished" and np.isfinite(trial.result[space.ERROR])]
    failures = {trial.result["failure"] for trial in found if trial.status == "failed"}
    if not finished:
        raise TrainingError(f"No trial came to an end. {' '.join(sorted(failures)[:3]) or 'None was started.'}")
    for text in sorted(failures):
        logger.warning("A trial has failed: %s", text)
    candidates = [Candidate(trial.strength, np.asarray(trial.result["sums"])) for trial in finished]
    return finished, choose(candidates, seed)


def _report(folder: Folder, found: Sequence[Trial], finished: Sequence[Trial], choice: Choice, target: str) -> str:
    """The page, its picture, and the numbers."""
    from stmp_platform.report.tuning import write_tuning

    content = {
        "chosen": finished[choice.chosen].id,
        "best": finished[choice.best].id,
        "trials": [
            {**asdict(t), "strength": str(t.strength), "result": {k: v for k, v in t.result.items() if k != "sums"}}
            for t in found
        ],
        "errors": {
            trial.id: {"error": trial.result[space.ERROR], "spread": float(spread), "behind": float(behind),
                       "behind_spread": float(behind_spread)}
            for trial, spread, behind, behind_spread in zip(
                finished, choice.spread, choice.behind, choice.behind_spread, strict=True)
        },
    }  # fmt: skip
    folder.write_json(CHOICE, content)
    write_tuning(found, finished, choice, target, folder)
    return folder.child("report/tuning.html")
