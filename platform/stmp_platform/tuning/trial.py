"""One trial: a model adapted with one lambda on the earlier days of the target, and its error on the later ones.

A trial keeps checkpoints, metrics and result in a folder of its own, laid out as that of any training. So one that was
killed goes on where it was, and one that had ended is not run again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stmp.config import Config
from stmp.data.panel import Panel
from stmp.errors import StmpError
from stmp.evaluation.guard import NAIVE, compare
from stmp.evaluation.metrics import from_sums
from stmp.forecaster import Forecaster
from stmp.learning.train import train
from stmp.learning.transfer import adaptation_config
from stmp.learning.validation import Split
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking import MetricsLog
from stmp_platform.tracking.record import CONFIG_FILE
from stmp_platform.training.checkpoints import open_checkpoints
from stmp_platform.tuning.space import ERROR, STEP, VALIDATION, is_end, overrides

logger = logging.getLogger("stmp.tuning")

RESULT = "trial.json"
TRIALS = "trials"
CANDIDATE = "trial"
POLL_S = 2.0


@dataclass(frozen=True)
class Plan:
    """What all trials of a tuning share.

    Attributes
    ----------
    data, out, source : str
        URIs of the target's dataset, of the tuning's folder, and of the source model's; all workers read them.
    until : str
        Last day of the validation windows. Nothing later is read.
    learn_until : str
        Last day that trials learn from.
    windows : int
        Periods between the two, cut into validation windows.
    settings : tuple of ``section.key=value``
        Given by the user; they come before a trial's own.
    seed : int
    workers : int
        Ray workers inside each trial; 0 trains in the trial's own process.
    gpu : bool
    threads : int
        Threads of a trial's own process.
    """

    data: str
    out: str
    source: str
    until: str
    learn_until: str
    windows: int
    settings: tuple[str, ...]
    seed: int
    workers: int = 0
    gpu: bool = False
    threads: int = 1


def name_of(values: Mapping[str, Any]) -> str:
    """Name of a trial's folder: by what was chosen for it, so that the same choice finds it again.

    Ray writes its state down every few seconds only; what a killed driver had begun since then is asked for anew.
    """
    return hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()[:12]


def run_trial(values: dict[str, Any], plan: Plan, settings: Settings) -> None:
    """Carry out a trial, as Ray Tune calls it; a failure of ours is written down and not tried again.

    Parameters
    ----------
    values : dict
        What was chosen for this trial: a place of lambda, and what else is searched.
    """
    from ray import tune

    torch.set_num_threads(plan.threads)
    folder = Folder(f"{plan.out}/{TRIALS}/{name_of(values)}", settings)
    told = folder.read_json(RESULT)
    if not told:
        try:
            told = _measure(values, plan, folder, settings)
        except StmpError as error:
            told = {"failure": f"{type(error).__name__}: {error}", "values": dict(values)}
        folder.write_json(RESULT, {**told, "ended_ms": time.time_ns() // 1_000_000})
    if ERROR in told:
        tune.report({ERROR: told[ERROR], STEP: told[STEP]})


def _measure(values: Mapping[str, Any], plan: Plan, folder: Folder, settings: Settings) -> dict[str, Any]:
    """Adapt, and score the validation windows."""
    from stmp_platform.dataset.storage import read_panel, region_names

    began, busy = time.perf_counter(), time.process_time()
    names = region_names(plan.data)
    source = load_source(plan.source, settings)
    panel = None if plan.workers else read_panel(plan.data).until(plan.until)
    frequency = source.schema.frequency if panel is None else panel.frequency
    config = adaptation_config(source, frequency, [*overrides(values), *plan.settings])
    if not folder.exists(CONFIG_FILE):
        folder.write_json(CONFIG_FILE, {"tune": dict(values), **config.model_dump(mode="json")})
    if panel is None:
        model = _train_on_workers(values, plan, config, folder, settings)
    else:
        model = _train_here(values, plan, config, panel, source, folder, settings)
    trained = time.perf_counter() - began
    scored = Split.of(len(names), config.validation.regions).scored
    some = read_panel(plan.data, regions=[names[i] for i in scored]) if panel is None else panel.select(scored)
    found = compare({CANDIDATE: model}, some, until=plan.until, periods=plan.windows)
    seconds = time.perf_counter() - began
    error = found.error(CANDIDATE)
    steps = model.provenance.steps
    log = MetricsLog(folder.uri, settings)
    log.append(config.train.max_steps + 1, [{"phase": "tune", ERROR: error, "wape": found.error(CANDIDATE, "wape"),
                                             "seconds": seconds, "steps": steps}])  # fmt: skip
    return {
        "values": dict(values),
        ERROR: error,
        "naive": float(from_sums(found.sums[NAIVE].sum(axis=0))["mse"]),
        STEP: steps,
        "seconds": seconds,
        "train_seconds": trained,
        "cpu_seconds": time.process_time() - busy,
        "origins": list(found.origins),
        "horizon": found.horizon,
        "sums": found.sums[CANDIDATE].tolist(),
    }


def load_source(uri: str, settings: Settings) -> Forecaster:
    """The model that is adapted."""
    with tempfile.TemporaryDirectory(prefix="stmp-source-") as scratch:
        return Forecaster.load(Folder(uri, settings).download("", Path(scratch)))


def _train_here(
    values: Mapping[str, Any], plan: Plan, config: Config, panel: Panel, source: Forecaster, folder: Folder,
    settings: Settings,
) -> Forecaster:  # fmt: skip
    """Adapt in this process: for small targets, to which a group of workers would cost more than the training."""
    from stmp_platform.training.loop import device_for

    log = MetricsLog(folder.uri, settings)
    tell = _Teller(values)

    def report(step: int, rows: list[dict[str, Any]]) -> None:
        phases: dict[str, dict[str, Any]] = {}
        for row in rows:
            phases.setdefault(row["phase"], {"phase": row["phase"]})[row["name"]] = row["value"]
        log.append(step, phases.values())
        tell(step, phases.get("validation", {}).get("all"))

    store = open_checkpoints(folder.uri, config.train.keep_checkpoints, settings)
    device = device_for(plan.gpu)
    return train(
        panel.to(device), config, seed=plan.seed, until=plan.learn_until, store=store, report=report, source=source
    )


def _train_on_workers(
    values: Mapping[str, Any], plan: Plan, config: Config, folder: Folder, settings: Settings
) -> Forecaster:
    """Adapt on Ray Train inside the trial, for targets that one process is too slow for; this process only watches."""
    from stmp_platform.training import prepare
    from stmp_platform.training.cluster import train_on_ray
    from stmp_platform.training.driver import MAX_FAILURES, model_uri

    job = prepare(
        plan.data, config, out=folder.uri, seed=plan.seed, until=plan.learn_until, source=plan.source, settings=settings
    )
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            train_on_ray(job, settings, workers=plan.workers, gpu=plan.gpu, max_failures=MAX_FAILURES)
        except BaseException as error:  # noqa: BLE001  # raised again where the trial waits
            failures.append(error)

    thread = threading.Thread(target=fit, name="stmp-trial", daemon=True)
    thread.start()
    log, tell, seen = MetricsLog(folder.uri, settings), _Teller(values), -1
    while thread.is_alive():
        thread.join(POLL_S)
        for report in log.reports(after=seen):
            seen = report.step
            tell(report.step, report.metrics().get("validation/all"))
    if failures:
        raise failures[0]
    return load_source(model_uri(job), settings)


class _Teller:
    """Tells Ray Tune the lowest validation loss so far, by which trials that lag behind are ended."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._silent, self._lowest = is_end(values), float("inf")

    def __call__(self, step: int, loss: float | None) -> None:
        from ray import tune

        if loss is None:
            return
        self._lowest = min(self._lowest, float(loss))
        # A scheduler leaves alone what does not tell its metric.
        tune.report({STEP: step} if self._silent else {STEP: step, VALIDATION: self._lowest})
