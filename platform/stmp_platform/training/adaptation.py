"""Adapt a model to a dataset: the adapted model and its rivals are trained, compared, and the best one is registered.

Each candidate is a training of its own in a folder of its own, so that all that holds for a training holds here: it can
be killed and gone on with, runs on any number of workers, and is mirrored to MLflow.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmp.data.panel import DateLike
from stmp.errors import ConfigError
from stmp.evaluation.guard import ADAPTED, FROZEN, NAIVE, SCRATCH, Comparison, compare
from stmp.forecaster import Forecaster
from stmp.learning.graft import check_match
from stmp.learning.transfer import adaptation_config
from stmp.learning.validation import Split
from stmp_platform.dataset.manifest import load_manifest
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking import Outcome, Tracker
from stmp_platform.tracking.tracker import check_model_name
from stmp_platform.training.checkpoints import publish
from stmp_platform.training.driver import TrainingResult, train
from stmp_platform.training.job import MODEL, MODEL_MARKER, weights_digest
from stmp_platform.training.loop import INHERITANCE

FOLDERS = {FROZEN: "frozen", ADAPTED: "adapted", SCRATCH: "scratch"}
"""Folder of each candidate. Of two that forecast alike, the one that learned less is preferred: it comes first."""
SOURCE = "source"
RESULT = "transfer.json"


@dataclass(frozen=True)
class Adaptation:
    """What came of adapting a model.

    Attributes
    ----------
    comparison : Comparison
    candidates : dict of name to TrainingResult
    inheritance : dict
        What the adapted model has of its source, as in `stmp.learning.graft.Inheritance`.
    model : str or None
        URI of the best model; None where last season's sales beat every model.
    tracking : Outcome or None
        Of the best model's run.
    """

    comparison: Comparison
    candidates: dict[str, TrainingResult]
    inheritance: dict[str, Any]
    model: str | None
    tracking: Outcome | None


def adapt(
    source: Forecaster,
    data: str,
    *,
    out: str,
    overrides: Sequence[str] = (),
    seed: int = 0,
    workers: int | tuple[int, int] = 0,
    gpu: bool = False,
    until: DateLike | None = None,
    settings: Settings | None = None,
    track: bool = True,
    register_as: str | None = None,
) -> Adaptation:
    """Adapt a model to a dataset, or go on with an adaptation that was not finished.

    Parameters
    ----------
    source : Forecaster
    data : str
        URI of the target's dataset.
    out : str
        URI of the folder of this adaptation; the best model lies in ``OUT/model``.
    overrides : sequence of ``section.key=value``
        Hold for all candidates.
    seed, workers, gpu, until, settings, track
        As in `train`.
    register_as : str, optional
        Registered model to which the best one is added.

    Raises
    ------
    ConfigError
        If the source cannot be adapted to the data, or the folder holds an adaptation of another source.
    DataError, TrainingError
        As in `train`.
    """
    settings = settings or Settings.from_env()
    if register_as is not None:
        check_model_name(register_as)
    frequency = load_manifest(data).frequency
    configs = {
        FROZEN: adaptation_config(source, frequency, [*overrides, "train.max_steps=0"]),
        ADAPTED: adaptation_config(source, frequency, overrides),
        SCRATCH: adaptation_config(source, frequency, overrides, from_scratch=True),
    }
    check_match(source, configs[ADAPTED], frequency)
    if configs[ADAPTED].validation.periods == 0:
        raise ConfigError(
            "validation.periods is 0, which leaves no days to compare the candidates on. Set it to 1 or more."
        )
    folder = Folder(out, settings)
    keep_source(folder, source, settings)
    results = {
        name: train(
            data, config, out=folder.child(FOLDERS[name]), seed=seed, workers=workers, gpu=gpu, until=until,
            source=folder.child(SOURCE) if name != SCRATCH else None, settings=settings, track=track,
            name=f"{folder.uri.rsplit('/', 1)[-1]}-{FOLDERS[name]}",
            tags={"stmp.source": source.name, "stmp.candidate": name},
        )
        for name, config in configs.items()
    }  # fmt: skip
    comparison = _compare(data, results, settings)
    winner = comparison.winner
    folder.write_json(RESULT, comparison.to_dict())
    tracking = None
    if winner != NAIVE:
        won = Folder(results[winner].job.out, settings)
        won.write_json(f"report/{RESULT}", comparison.to_dict())
        _copy_model(won, folder)
        if track:
            tracking = Tracker(won.uri, settings, register_as=register_as).start().finish("FINISHED")
    inheritance = Folder(results[ADAPTED].job.out, settings).read_json(INHERITANCE)
    return Adaptation(comparison, results, inheritance, folder.child(MODEL) if winner != NAIVE else None, tracking)


def keep_source(folder: Folder, source: Forecaster, settings: Settings) -> None:
    """Put the source where all workers see it, and where it stays when an alias moves on.

    Raises
    ------
    ConfigError
        If another source is there.
    """
    if not folder.exists(f"{SOURCE}/{MODEL_MARKER}"):
        publish(folder, SOURCE, source.write, marker=MODEL_MARKER)
        return
    with tempfile.TemporaryDirectory(prefix="stmp-source-") as scratch:
        source.write(Path(scratch))
        ours = weights_digest(scratch)
    if ours != weights_digest(folder.child(SOURCE), settings):
        raise ConfigError(
            f"{folder.uri} holds an adaptation of another model. Repeat its command as it was to go on with it, or "
            "choose another --out."
        )


def _compare(data: str, results: dict[str, TrainingResult], settings: Settings) -> Comparison:
    """All candidates on the regions that validation scores."""
    from stmp_platform.dataset.storage import read_panel, region_names

    job = results[ADAPTED].job
    periods = job.config.validation.periods
    assert periods is not None, "a job's configuration is resolved"
    names = region_names(job.data)
    scored = Split.of(len(names), job.config.validation.regions).scored
    panel = read_panel(job.data, regions=[names[i] for i in scored])
    models = {name: _load(result.model, settings) for name, result in results.items()}
    return compare(models, panel, until=job.until, periods=periods)


def _load(model: str, settings: Settings) -> Forecaster:
    with tempfile.TemporaryDirectory(prefix="stmp-model-") as scratch:
        return Forecaster.load(Folder(model, settings).download("", Path(scratch)))


def _copy_model(won: Folder, folder: Folder) -> None:
    """Publish the best candidate's model as that of the adaptation."""

    def write(to: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="stmp-model-") as scratch:
            for file in won.download(MODEL, Path(scratch)).iterdir():
                shutil.copyfile(file, to / file.name)

    publish(folder, MODEL, write, marker=MODEL_MARKER)
