"""The job behind `stmp train`: a preset and settings become a configuration, and that becomes a model."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.screen import say, warn
from stmp.errors import ConfigError

if TYPE_CHECKING:
    from stmp.config import Config

PRESETS = Path(__file__).resolve().parent / "presets"


def train(
    data: str,
    out: str,
    *,
    preset: str = "product",
    settings: Sequence[str] = (),
    workers: int | tuple[int, int] = 0,
    gpu: bool = False,
    seed: int = 0,
    until: str | None = None,
    name: str | None = None,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Train on a dataset, or go on with an unfinished training in the same folder.

    Parameters
    ----------
    data, out : str
        Dataset, and the folder of the run; the finished model lies in ``OUT/model``.
    preset : str
        Name of a file in jobs/presets/, or a path to a YAML file.
    settings : sequence of ``section.key=value``
    workers : int, or the fewest and the most
        Ray workers; 0 trains in this process.
    gpu : bool
        One GPU a worker.
    seed : int
    until : str, optional
        The last day to learn from, itself included.
    name : str, optional
        Register the model under this name; the dataset's by default.
    tracking_uri : str, optional
        Tracking server or database; from the environment if not given.

    Raises
    ------
    ConfigError, DataError
        If the configuration or the dataset cannot be used, or the folder holds another training.
    TrainingError
        If training cannot go on.
    """
    config = load_preset(preset, settings)
    from stmp_platform.dataset.manifest import load_manifest
    from stmp_platform.files import Folder
    from stmp_platform.settings import Settings
    from stmp_platform.training import train as run_training

    began = time.monotonic()
    surroundings = Settings.from_env(tracking_uri)
    name = name or re.sub(r"[^\w.-]+", "-", load_manifest(data).name)
    result = run_training(
        data, config, out=out, seed=seed, workers=workers, gpu=gpu, until=until, settings=surroundings,
        register_as=name, tags={"stmp.preset": preset, "stmp.workers": _shown(workers)},
    )  # fmt: skip
    seconds = time.monotonic() - began
    description = json.loads(Folder(result.model, surroundings).read("forecaster.json"))
    learned = description["provenance"]
    done = "was finished before" if result.finished_before else f"{learned['steps']} steps in {seconds:.0f} s"
    say(f"Trained: {done}; learned from {len(learned['trained_regions']):,} regions up to {learned['trained_until']}")
    say(f"Model: {result.model}")
    tracking = result.tracking
    if tracking is not None:
        if tracking.version is not None:
            say(f"Registered: models:/{name}/{tracking.version} in {surroundings.shown_registry}")
        if tracking.warning:
            warn(tracking.warning)
    return {
        "out": out,
        "model": result.model,
        "finished_before": result.finished_before,
        "steps": learned["steps"],
        "seconds": seconds,
        "validation": learned["validation"],
        "trained_until": learned["trained_until"],
        "trained_regions": len(learned["trained_regions"]),
        "dataset_fingerprint": learned["fingerprint"],
        "run_id": tracking.run_id if tracking else None,
        "name": name,
        "version": tracking.version if tracking else None,
        "tracked": tracking.complete if tracking else None,
    }


def _shown(workers: int | tuple[int, int]) -> str:
    return str(workers) if isinstance(workers, int) else ":".join(map(str, workers))


def load_preset(preset: str, settings: Sequence[str] = ()) -> Config:
    """Read a preset by its name, or a YAML file by its path, with settings that change it.

    Raises
    ------
    ConfigError
        If there is no such preset, or a setting cannot be used.
    """
    from stmp.config import Config

    path = PRESETS / f"{preset}.yaml"
    if preset.endswith((".yaml", ".yml")):
        path = Path(preset)
    elif not path.is_file():
        known = ", ".join(sorted(found.stem for found in PRESETS.glob("*.yaml")))
        raise ConfigError(f"There is no preset '{preset}'; there are {known}, or give the path of a YAML file.")
    return Config.load(path, settings)
