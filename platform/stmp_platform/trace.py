"""From a forecast's id to where it comes from: the model, what that was trained on and by which code, and the data."""

from __future__ import annotations

import json
import re
from typing import Any

from stmp.errors import DataError, RegistryError
from stmp_platform.dataset.manifest import former_manifest, load_manifest
from stmp_platform.files import Folder
from stmp_platform.forecast_id import ForecastId
from stmp_platform.gate import GATE_TAG, Champions
from stmp_platform.registry import Version, find, registry_client
from stmp_platform.retraining.steps import records
from stmp_platform.settings import Settings
from stmp_platform.tracking.record import CONFIG_FILE, RunRecord

_VERSION = re.compile(r"[^/]+/\d+$")
CODE = ("mlflow.source.git.commit", "stmp.version", "stmp.python", "stmp.torch")


def trace(text: str, data: str | None = None, settings: Settings | None = None) -> dict[str, Any]:
    """Find where a forecast comes from.

    Parameters
    ----------
    text : str
        The forecast's id.
    data : str, optional
        URI of the dataset; by default the one that the model was trained on.

    Returns
    -------
    dict
        ``forecast`` (the parts of the id), ``model``, ``lineage`` (versions that it was trained on from, the first of
        them last), ``data`` and ``retraining`` (steps by name; empty if another command has trained it).

    Raises
    ------
    ConfigError
        If the text is no id.
    RegistryError
        If the registry does not answer, or does not know the model.
    DataError
        If neither a dataset is given nor the model says which it was trained on.
    """
    settings = settings or Settings.from_env()
    forecast = ForecastId.parse(text)
    model = _registered(forecast.version, settings) if _VERSION.match(forecast.version) else None
    model = model or _unregistered(forecast.version, settings)
    uri = data or model["data"]
    if uri is None:
        raise DataError(f"{forecast.version} does not say which dataset it was trained on: name it with --data.")
    retraining = model["retraining"]
    return {
        "forecast": {**vars(forecast), "id": text},
        "model": model,
        "lineage": _lineage(model["source"], settings),
        "data": _data(uri, forecast.data),
        "retraining": records(Folder(retraining, settings)) if retraining else {},
    }


def _registered(name: str, settings: Settings) -> dict[str, Any] | None:
    """What the registry knows of a version; None if it has no such."""
    try:
        version = find(f"models:/{name}", settings)
    except RegistryError as error:
        if error.__cause__ is not None:  # it does not answer
            raise
        return None
    tags, params = _run_of(version, settings)
    outcome = version.tags.get(GATE_TAG)
    moves = [vars(move) for move in Champions(version.name, settings=settings).history()]
    return {
        "version": name,
        "registered": version.created.isoformat(timespec="seconds") if version.created else None,
        "run_id": version.run_id,
        "dataset_fingerprint": version.dataset_fingerprint,
        "data": params.get("run.data"),
        "until": params.get("run.until"),
        "seed": params.get("run.seed"),
        "source": version.tags.get("stmp.source", ""),
        "code": {key: tags[key] for key in CODE if key in tags},
        "gate": json.loads(outcome) if outcome else None,
        "promoted": [move for move in moves if move["after"] == version.version],
        "retraining": version.tags.get("stmp.retraining", ""),
    }


def _run_of(version: Version, settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """Tags and parameters of the run that trained a version."""
    if not version.run_id:
        return dict(version.tags), {}
    with registry_client(settings, f"looking up the training of {version.uri}") as client:
        run = client.get_run(version.run_id)
    return dict(run.data.tags), dict(run.data.params)


def _unregistered(place: str, settings: Settings) -> dict[str, Any]:
    """What the folder of a training says of itself.

    Raises
    ------
    RegistryError
        If there is none.
    """
    folder = Folder(place.rstrip("/").removesuffix("/model"), settings)
    record, run = RunRecord.read(folder), folder.read_json(CONFIG_FILE).get("run", {})
    if record is None:
        raise RegistryError(
            f"'{place}' is neither a version in {settings.shown_registry} nor the folder of a training that is here."
        )
    return {
        "version": place,
        "registered": None,
        "run_id": record.mlflow_run_id,
        "dataset_fingerprint": record.dataset_fingerprint,
        "data": run.get("data"),
        "until": run.get("until"),
        "seed": run.get("seed"),
        "source": record.tags.get("stmp.source", ""),
        "code": {key: record.tags[key] for key in CODE if key in record.tags},
        "gate": None,
        "promoted": [],
        "retraining": record.tags.get("stmp.retraining", ""),
    }


def _lineage(source: str, settings: Settings) -> list[str]:
    """Which version a model was trained on from, and that one from which, as far as they are known."""
    found: list[str] = []
    while source and source not in found:
        found.append(source)
        model = _registered(source, settings) if _VERSION.match(source) else None
        source = model["source"] if model else ""
    return found


def _data(uri: str, fingerprint: str) -> dict[str, Any]:
    """What a dataset was when a forecast was made of it."""
    manifest = load_manifest(uri)
    now = manifest.fingerprint.startswith(fingerprint)
    then = manifest if now else former_manifest(uri, fingerprint)
    if then is None:
        raise DataError(f"{uri} never had the fingerprint {fingerprint}: name the dataset of the forecast with --data.")
    names = ("name", "fingerprint", "regions", "first_date", "last_sales_date", "source", "created_at", "created_by")
    return {"uri": uri, "unchanged": now, **{name: getattr(then, name) for name in names}}
