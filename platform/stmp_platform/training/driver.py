"""Train on a dataset: prepared, run here or on Ray, tracked, and gone on with where it was left."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from stmp.config import Config
from stmp.data.episodes import Strata
from stmp.data.panel import DateLike
from stmp.errors import ConfigError, StmpError, TrainingError
from stmp.learning.validation import Split
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking import Outcome, Tracker
from stmp_platform.training.job import MODEL, Job, prepare
from stmp_platform.training.loop import device_for, train_loop
from stmp_platform.training.progress import Progress

logger = logging.getLogger("stmp.training")

MAX_FAILURES = 3
"""How often workers that died are started again before a training gives up."""


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training.

    Attributes
    ----------
    job : Job
    model : str
        URI of the finished forecaster's folder.
    resumed : bool
        Whether it had been finished before, so that nothing was done.
    tracking : Outcome or None
        How tracking ended; None where it was not asked for.
    """

    job: Job
    model: str
    finished_before: bool
    tracking: Outcome | None


def train(
    data: str,
    config: Config,
    *,
    out: str,
    seed: int = 0,
    workers: int | tuple[int, int] = 0,
    gpu: bool = False,
    until: DateLike | None = None,
    source: str | None = None,
    since: str = "",
    settings: Settings | None = None,
    track: bool = True,
    name: str = "",
    register_as: str | None = None,
    tags: Mapping[str, str] | None = None,
    max_failures: int = MAX_FAILURES,
) -> TrainingResult:
    """Meta-train on a dataset, or go on with a training that was not finished; the model lies in ``OUT/model``.

    Parameters
    ----------
    data : str
        URI of a dataset.
    config : Config
    out : str
        URI of the folder of this training. A folder with an unfinished training is gone on with, one with a finished
        training is left as it is.
    seed : int
        The same seed gives the same model.
    workers : int, or the fewest and the most
        Ray workers; 0 trains in this process, without Ray. Between the fewest and the most, the training begins with
        what the cluster has, goes on with fewer when machines are lost, and takes in those that come. However many they
        are, they make the same steps.
    gpu : bool
        One GPU for each worker.
    until : date, optional
        The last day to learn from; by default the last day with sales.
    source : str, optional
        URI of the folder of a model to adapt, which all workers can read.
    since : str
        A region whose last sale is of an earlier day than this has closed, and is left out.
    settings : Settings, optional
        Read from the environment if not given.
    track : bool
        Mirror to MLflow.
    name : str
        Of the run, for people; by default the folder's name.
    register_as : str, optional
        Registered model to which the finished training adds a version.
    tags : mapping, optional
        Of the run.
    max_failures : int
        How often workers that died are started again.

    Raises
    ------
    DataError, ConfigError
        If the dataset or the configuration cannot be used, or the folder holds another training.
    TrainingError
        If a loss is not finite, or workers keep dying.
    """
    settings = settings or Settings.from_env()
    fewest, most = workers if isinstance(workers, tuple) else (workers, workers)
    if fewest < 0:
        raise ConfigError(f"workers is {workers}; it must be 0 (this process) or more.")
    if isinstance(workers, tuple) and not 1 <= fewest <= most:
        raise ConfigError(f"The fewest workers are {fewest} and the most {most}; 1 <= fewest <= most is needed.")
    job = prepare(data, config, out=out, seed=seed, until=until, source=source, since=since, settings=settings)
    check_workers(job, most)
    if gpu and most == 0:
        device_for(gpu)  # refused before anything is begun
    tracker = None
    if track:
        tracker = Tracker(
            job.out, settings, config=job.description(), name=name, dataset_fingerprint=job.fingerprint,
            register_as=register_as, tags=tags,
        )  # fmt: skip
        tracker.start()
    finished = job.finished(settings)
    try:
        if finished:
            logger.info("run=%s is finished already; its model lies in %s", job.run, model_uri(job))
        else:
            _train(job, settings, workers, gpu, max_failures)
    except BaseException as error:
        if tracker is not None:
            tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    outcome = tracker.finish("FINISHED") if tracker is not None else None
    return TrainingResult(job, model_uri(job), finished, outcome)


def _train(job: Job, settings: Settings, workers: int | tuple[int, int], gpu: bool, max_failures: int) -> None:
    with Progress(job.out, job.config.train.max_steps, settings):
        if workers == 0:
            steps = _train_here(job, settings, gpu)
        else:
            from stmp_platform.training.cluster import train_on_ray

            steps = train_on_ray(job, settings, workers=workers, gpu=gpu, max_failures=max_failures)
    logger.info("run=%s step=%d phase=end model=%s", job.run, steps, model_uri(job))


def _train_here(job: Job, settings: Settings, gpu: bool) -> int:
    try:
        return train_loop(job, settings, device_for(gpu))
    except StmpError:
        raise
    except Exception as error:  # storage raises what it likes when it is full or away
        raise TrainingError(
            f"The training in {job.out} has stopped: {type(error).__name__}: {error}. Repeat the command to go on from "
            "the newest checkpoint."
        ) from error


def check_workers(job: Job, workers: int) -> None:
    """Refuse more workers than there are shares of a batch.

    Raises
    ------
    ConfigError
        With the largest number of workers.
    """
    trained = len(Split.of(job.regions, job.config.validation.regions).train)
    most = Strata.of(trained, job.config.train).number
    if workers > most:
        raise ConfigError(
            f"{workers} workers are too many: {trained} training regions and train.batch_regions="
            f"{job.config.train.batch_regions} give work to {most}. Use {most} workers or fewer, or a larger batch."
        )


def model_uri(job: Job) -> str:
    """URI of the finished model's folder."""
    return Folder(job.out).child(MODEL)
