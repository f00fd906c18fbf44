"""The job behind `stmp retrain`: what is new comes in, and a model that is better for it goes out; each step once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.asked import Asked, Means
from jobs.ingest import ingest
from jobs.pipeline import Pipeline
from jobs.screen import say
from jobs.train import load_preset
from stmp.errors import ConfigError

if TYPE_CHECKING:
    from stmp_platform.retraining import When


def retrain(
    data: str,
    out: str,
    *,
    new: str | None = None,
    revise: bool = False,
    when: When = "new",
    event: str | None = None,
    name: str | None = None,
    preset: str = "product",
    settings: Sequence[str] = (),
    max_minutes: float = 0.0,
    seed: int = 0,
    hold_out: int | None = None,
    closed_after: int = 56,
    means: Means,
) -> dict[str, Any]:
    """Retrain on a dataset if that is due, or go on with a retraining that was killed.

    Parameters
    ----------
    data, out : str
        Dataset, and the folder of all retrainings: ``OUT/runs/KEY`` and ``OUT/forecasts/KEY``.
    new, revise
        Raw tables to append first, as in `jobs.ingest.ingest`.
    when : {"new", "drift", "always"}
        What makes a retraining due.
    event : str, optional
        ``event.json`` of `stmp monitor`; it need not exist.
    name : str, optional
        Registered model; the dataset's name by default.
    preset, settings, seed
        As in `jobs.train.train`; the preset is for a training from scratch.
    max_minutes : float
        Of training; 0 for no limit.
    hold_out, closed_after
        As in `Asked`.

    Returns
    -------
    dict
        ``status`` is ``promoted``, ``refused``, ``nothing`` (it is not due) or ``busy`` (another one is at work).

    Raises
    ------
    DataError, ConfigError
        If data or settings cannot be used.
    StmpError
        If a step fails; the same command goes on with it.
    """
    from stmp_platform.dataset import load_manifest
    from stmp_platform.dataset.manifest import NAME as MANIFEST
    from stmp_platform.files import Folder
    from stmp_platform.gate import Rules
    from stmp_platform.retraining import Busy, Event, Lease
    from stmp_platform.tracking.tracker import check_model_name

    if when == "drift" and event is None:
        raise ConfigError("--when drift needs --event: the event.json of `stmp monitor --out`.")
    # What can be wrong with the question is told before anything is begun.
    found = Event.read(event) if event is not None else None
    rules = Rules.load(means.rules).model_dump(mode="json")
    settings = (*settings, *((f"train.max_minutes={max_minutes!r}",) if max_minutes else ()))
    load_preset(preset, settings)
    if name is not None:
        check_model_name(name)
    if new is None:
        load_manifest(data)
    try:
        with Lease(data) as lease:
            if new is not None:
                # A manifest that is damaged is one too: it is named, and nothing is put in its place.
                ingest(new, data, append=Folder(data).exists(MANIFEST), revise=revise)
            asked = Asked(
                name=name or re.sub(r"[^\w.-]+", "-", load_manifest(data).name),
                preset=preset,
                settings=settings,
                seed=seed,
                hold_out=hold_out,
                closed_after=closed_after,
                rules=rules,
                crossed=tuple(sorted(found.crossed)) if found is not None else (),
            )
            return Pipeline(data, out, asked, means, found, lease).run(when)
    except Busy as error:
        say(str(error))
        return {"status": "busy"}
