"""What each worker does: read its regions, train in step with the others, and report. The same with and without Ray."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from stmp.errors import ConfigError
from stmp.forecaster import Forecaster
from stmp.learning.meta import MetaTrainer, run
from stmp.learning.workers import Workers
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking import MetricsLog
from stmp_platform.training.checkpoints import open_checkpoints, publish
from stmp_platform.training.job import MODEL, MODEL_MARKER, Job
from stmp_platform.training.shard import load_shard

logger = logging.getLogger("stmp.training")

INHERITANCE = "inheritance.json"
"""What an adapted model has of its source."""


def train_loop(job: Job, settings: Settings, device: torch.device) -> int:
    """Train as one of the workers of this process group, or alone; the first worker writes what comes of it.

    Returns
    -------
    int
        Steps done.
    """
    workers = Workers()
    begin = time.perf_counter()
    shard, trained = load_shard(job, workers, device, settings)
    until, source = shard.panel.index_of(job.until) + 1, load_source(job, settings)
    trainer = MetaTrainer(shard, job.config, seed=job.seed, until=until, workers=workers, source=source)
    if workers.rank == 0 and trainer.inheritance is not None:
        Folder(job.out, settings).write_json(INHERITANCE, asdict(trainer.inheritance))
    loading = time.perf_counter() - begin
    logger.info(
        "run=%s step=0 rank=%d phase=load regions=%d workers=%d device=%s seconds=%.2f",
        job.run, workers.rank, shard.panel.shape[0], workers.size, device, loading,
    )  # fmt: skip
    store = open_checkpoints(job.out, job.config.train.keep_checkpoints, settings)
    run(trainer, store, Reporter(job, settings, workers, loading))
    if workers.rank == 0:
        forecaster = Forecaster.from_trainer(trainer, regions=trained, until=job.until, fingerprint=job.fingerprint)
        publish(Folder(job.out, settings), MODEL, forecaster.write, marker=MODEL_MARKER)
    return trainer.step


def load_source(job: Job, settings: Settings) -> Forecaster | None:
    """The model that is adapted; None in a training from the start."""
    if not job.source:
        return None
    with tempfile.TemporaryDirectory(prefix="stmp-source-") as scratch:
        return Forecaster.load(Folder(job.source, settings).download("", Path(scratch)))


class Reporter:
    """Takes the metrics of a worker: into the log lines, and from the first worker into the metrics folder."""

    def __init__(self, job: Job, settings: Settings, workers: Workers, loading: float) -> None:
        self._job, self._workers = job, workers
        self._log = MetricsLog(job.out, settings) if workers.rank == 0 else None
        self._once = [{"phase": "time", "name": "load", "value": loading}]

    def __call__(self, step: int, rows: list[dict[str, Any]]) -> None:
        phases: dict[str, dict[str, float]] = {}
        for row in [*self._once, *rows]:
            phases.setdefault(row["phase"], {})[row["name"]] = row["value"]
        self._once = []
        for phase, values in phases.items():
            shown = " ".join(f"{name}={value:.4g}" for name, value in values.items())
            level = logging.INFO if self._log is not None else logging.DEBUG
            logger.log(
                level, "run=%s step=%d rank=%d phase=%s %s", self._job.run, step, self._workers.rank, phase, shown
            )
        if self._log is not None:
            self._log.append(step, [{"phase": phase, **values} for phase, values in phases.items()])


def ray_loop(values: dict[str, Any]) -> int:
    """`train_loop` as Ray Train calls it.

    Parameters
    ----------
    values : dict
        ``job``, ``settings``, ``threads`` and ``gpu``.
    """
    import ray.train

    settings: Settings = values["settings"]
    # What reads storage without settings of its own must find them too.
    os.environ.setdefault("STMP_STORAGE_OPTIONS", settings.storage_options.get_secret_value())
    torch.set_num_threads(values["threads"] or threads_for(ray.train.get_context().get_local_world_size()))
    return train_loop(Job.from_json(values["job"]), settings, device_for(values["gpu"]))


def device_for(gpu: bool) -> torch.device:
    """The device of this worker.

    Raises
    ------
    ConfigError
        If a GPU is asked for and there is none.
    """
    if not gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        build = "this build of torch has no CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise ConfigError(f"--gpu asks for a GPU, but {build}. Leave --gpu out, or train on a machine that has one.")
    return torch.device("cuda", torch.cuda.current_device())


def threads_for(workers: int) -> int:
    """Threads of each of some workers on this machine: more than its share of the cores makes all of them slower."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, workers))
