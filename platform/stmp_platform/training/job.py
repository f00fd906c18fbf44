"""A training as it is asked for: resolved against the dataset, written into its folder, and refused if it differs."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stmp.config import Config
from stmp.data.calendar import period_days
from stmp.data.panel import DateLike
from stmp.errors import ConfigError
from stmp.forecaster import WEIGHTS
from stmp.learning.train import resolve_dates
from stmp_platform.dataset.manifest import load_manifest
from stmp_platform.dataset.storage import region_names
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking.record import CONFIG_FILE, RunRecord

logger = logging.getLogger(__name__)

MODEL = "model"
MODEL_MARKER = "forecaster.json"


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know.

    Attributes
    ----------
    run : str
        Name of the run, for log lines.
    data : str
        URI of the dataset; absolute.
    out : str
        URI of the output folder; absolute.
    config : Config, resolved
    seed : int
    until : str
        Last period to learn from, ``YYYY-MM-DD``.
    fingerprint : str
        Of the dataset.
    regions : int
        Number of regions that have not closed.
    source : str
        URI of the model that is adapted, which all workers can read; empty for a training from the start.
    source_digest : str
        Of its weights.
    since : str
        A region whose last sale is of an earlier day has closed, and is left out; empty to leave out none.
    """

    run: str
    data: str
    out: str
    config: Config
    seed: int
    until: str
    fingerprint: str
    regions: int
    source: str = ""
    source_digest: str = ""
    since: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a worker."""
        return asdict(self) | {"config": self.config.model_dump(mode="json")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Job:
        """The inverse of `to_json`."""
        return cls(**{**values, "config": Config.from_mapping(values["config"])})

    def description(self) -> dict[str, Any]:
        """The content of ``config.json``: what makes this training different from others."""
        run = {"data": self.data, "fingerprint": self.fingerprint, "seed": self.seed, "until": self.until}
        run |= {"source_digest": self.source_digest} if self.source else {}
        run |= {"since": self.since} if self.since else {}
        return {"run": run, **self.config.model_dump(mode="json")}

    def finished(self, settings: Settings | None = None) -> bool:
        """Whether the model is there."""
        return Folder(self.out, settings).exists(f"{MODEL}/{MODEL_MARKER}")


def prepare(
    data: str,
    config: Config,
    *,
    out: str,
    seed: int = 0,
    until: DateLike | None = None,
    source: str | None = None,
    since: str = "",
    settings: Settings | None = None,
) -> Job:
    """Resolve a training against its dataset, and claim its output folder.

    Writes ``config.json`` and begins ``run.json``.

    Parameters
    ----------
    source : str, optional
        URI of the folder of a model to adapt.
    since : str
        As in `Job`.

    Raises
    ------
    DataError
        If the dataset cannot be read, or holds too little history before `until`.
    ConfigError
        If the folder holds another training: one with another configuration, seed, last day or dataset.
    """
    if config.train.max_steps == 0 and not source:
        raise ConfigError("train.max_steps is 0, and without a source to adapt there would be no model. Set it higher.")
    folder = Folder(out, settings)
    manifest = load_manifest(data)
    resolved, last = resolve_dates(
        config,
        first=np.datetime64(manifest.first_date, "D"),
        last_sold=np.datetime64(manifest.last_sales_date, "D"),
        period_days=period_days(manifest.frequency),
        until=until,
    )
    job = Job(
        run=folder.uri.rsplit("/", 1)[-1],
        data=absolute(data),
        out=absolute(out),
        config=resolved,
        seed=seed,
        until=str(last),
        fingerprint=manifest.fingerprint,
        regions=len(region_names(data, since)) if since else manifest.regions,
        source=absolute(source) if source else "",
        source_digest=weights_digest(source, settings) if source else "",
        since=since,
    )
    ours, theirs = job.description(), folder.read_json(CONFIG_FILE)
    if "run" in theirs:
        _refuse_another(folder, ours, theirs)
    else:
        folder.write_json(CONFIG_FILE, ours)
    RunRecord.update(folder, dataset_fingerprint=job.fingerprint)
    return job


def weights_digest(model: str, settings: Settings | None = None) -> str:
    """SHA-256 of the weights in a model's folder."""
    return hashlib.sha256(Folder(model, settings).read(WEIGHTS)).hexdigest()


def _refuse_another(folder: Folder, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raise if a folder was begun with another training; where the data lies does not matter, what it holds does."""
    asked, there = _flat(ours), _flat(theirs)
    differ = [key for key in sorted(asked.keys() | there.keys()) if asked.get(key) != there.get(key)]
    differ = [key for key in differ if key != "run.data"]
    if not differ:
        return
    shown = "; ".join(f"{key} was {there.get(key)!r}, now {asked.get(key)!r}" for key in differ[:6])
    more = f"; and {len(differ) - 6} more" if len(differ) > 6 else ""
    what = "dataset" if differ == ["run.fingerprint"] else "configuration"
    raise ConfigError(
        f"{folder.uri} holds a training with another {what}: {shown}{more}. Repeat its command as it was to go on with "
        "it, or choose another --out."
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def absolute(uri: str) -> str:
    """A path as workers understand it, who start in folders of their own; URIs stay as they are."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())
