"""The job behind `stmp adapt`: a trained model goes to other data, if that is worth it."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.load import load_forecaster
from jobs.screen import say, table, warn

if TYPE_CHECKING:
    from stmp.evaluation.guard import Comparison

SHOWN = ("mse", "wape", "bias", "wql", "coverage_80")
NAMES_SHOWN = 8


def adapt(
    source: str,
    data: str,
    out: str,
    *,
    strength: float | None = None,
    by_group: Mapping[str, float | None] | None = None,
    reset_periods: bool = False,
    settings: Sequence[str] = (),
    workers: int | tuple[int, int] = 0,
    gpu: bool = False,
    seed: int = 0,
    until: str | None = None,
    name: str | None = None,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Adapt a model to a dataset, compare it with its rivals, and register the best.

    Parameters
    ----------
    source : str
        Model reference.
    data, out : str
        The target's dataset, and the folder of the adaptation; the best model lies in ``OUT/model``.
    strength : float, optional
        Lambda of all groups of parameters.
    by_group : mapping of group to float, optional
        Lambda of single groups: ``extractor``, ``amortization``, ``head``.
    reset_periods : bool
        Let a daily model go to weekly data, or back.
    settings : sequence of ``section.key=value``
    workers, gpu, seed, until, tracking_uri
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
        If training cannot go on.
    """
    from stmp_platform.dataset.manifest import load_manifest
    from stmp_platform.settings import Settings
    from stmp_platform.training import adapt as run_adaptation

    began = time.monotonic()
    surroundings = Settings.from_env(tracking_uri)
    name = name or re.sub(r"[^\w.-]+", "-", load_manifest(data).name)
    forecaster = load_forecaster(source, surroundings)
    found = run_adaptation(
        forecaster, data, out=out, overrides=_overrides(strength, by_group or {}, reset_periods, settings), seed=seed,
        workers=workers, gpu=gpu, until=until, settings=surroundings, register_as=name,
    )  # fmt: skip
    _print(found.inheritance, found.comparison)
    steps = {key: _steps(result.model, surroundings) for key, result in found.candidates.items()}
    say(found.comparison.verdict())
    if found.model is None:
        warn("Nothing is registered: no model is better than last season's sales.")
    else:
        say(f"Model: {found.model} ({found.comparison.winner})")
    tracking = found.tracking
    if tracking is not None:
        if tracking.version is not None:
            say(f"Registered: models:/{name}/{tracking.version} in {surroundings.shown_registry}")
        if tracking.warning:
            warn(tracking.warning)
    return {
        "out": out,
        "model": found.model,
        "source": forecaster.name,
        **found.comparison.to_dict(),
        "inheritance": found.inheritance,
        "steps": steps,
        "seconds": time.monotonic() - began,
        "run_id": tracking.run_id if tracking else None,
        "name": name,
        "version": tracking.version if tracking else None,
        "tracked": tracking.complete if tracking else None,
    }


def _overrides(
    strength: float | None, by_group: Mapping[str, float | None], reset_periods: bool, settings: Sequence[str]
) -> list[str]:
    """The settings that the options stand for; later ones come first in force."""
    from stmp.nets.names import GROUPS

    lambdas = {group: strength for group in GROUPS if strength is not None}
    lambdas |= {group: value for group, value in by_group.items() if value is not None}
    chosen = [f"transfer.lambda_{group}={_yaml(value)}" for group, value in lambdas.items()]
    return [*chosen, *(["transfer.reset_periods=true"] if reset_periods else []), *settings]


def _yaml(value: float) -> str:
    return ".inf" if value == math.inf else repr(value)


def _steps(model: str, settings: Any) -> int:
    from stmp_platform.files import Folder

    return int(json.loads(Folder(model, settings).read("forecaster.json"))["provenance"]["steps"])


def _print(inheritance: Mapping[str, Any], comparison: Comparison) -> None:
    """What the target has of its source, and how the candidates forecast it."""
    parts = inheritance["parameters"]
    rows = [(part, row["group"], row["reused"], row["new"], row["dropped"]) for part, row in parts.items()]
    total = [sum(int(row[what]) for row in parts.values()) for what in ("reused", "new", "dropped")]
    table(("parameters", "group", "reused", "new", "dropped"), [*rows, ("all", "", *total)])
    for role, names in inheritance["inputs"].items():
        told = "; ".join(f"{what} {_some(found)}" for what, found in names.items() if found)
        say(f"{role}: {told or 'none'}")
    windows = "1 window" if len(comparison.origins) == 1 else f"{len(comparison.origins)} windows"
    when = f"{windows} of {comparison.horizon} periods from {comparison.origins[0]}"
    content = comparison.to_dict()["candidates"]
    errors = [(name, *(found[metric] for metric in SHOWN)) for name, found in content.items()]
    table(("candidate", *SHOWN), errors, f"Validation on the target: {when}")


def _some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
