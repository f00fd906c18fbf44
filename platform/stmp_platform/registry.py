"""Registered models: versions and aliases of trained forecasters, and what a model reference means.

A version is an MLflow pyfunc whose data is the Forecaster's own folder (safetensors and JSON); nothing is pickled.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from stmp.errors import ConfigError, RegistryError, TrackingError
from stmp_platform.files import Folder, cached, digest_of
from stmp_platform.settings import Settings, local_database, redact
from stmp_platform.tracking.client import connect, experiment_id, tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

MODEL_FILE = "forecaster.json"
"""The file by which a Forecaster's folder is known."""
DIGEST_TAG = "stmp.model_digest"
METRIC_TAG = "stmp.metric."
FINGERPRINT_TAG = "stmp.dataset_fingerprint"
LOG_TAG = "stmp.champions_of"
"""Marks a registered model that is a log of champions (`stmp_platform.gate`), and holds no models of its own."""

_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))$")
_ALIAS = re.compile(r"(?!v\d+$)[A-Za-z_][\w.\-]{0,254}$")
_DATA = "data/model"  # the Forecaster's folder inside a packaged model


@dataclass(frozen=True)
class Version:
    """One registered version of a model.

    Attributes
    ----------
    metrics : mapping
        Validation metrics at the end of its training.
    """

    name: str
    version: str
    aliases: tuple[str, ...] = ()
    created: datetime | None = None
    run_id: str | None = None
    dataset_fingerprint: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """``models:/name/version``"""
        return f"models:/{self.name}/{self.version}"


def register(
    model_dir: str | Path,
    name: str,
    *,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    settings: Settings | None = None,
) -> Version:
    """Add a trained forecaster to the registry as the next version of a model; no alias is moved.

    Can be repeated: the same files of the same run are registered once.

    Parameters
    ----------
    model_dir : path
        A local folder that `Forecaster.save` wrote.
    name : str
        Registered model, made if it is new.
    run_id : str, optional
        The MLflow run that trained it.
    tags, metrics : mapping, optional
        Kept at the version, and shown by `list_versions`.

    Raises
    ------
    RegistryError
        If the registry cannot be reached or refuses.
    ConfigError
        If the folder holds no forecaster.
    """
    settings = settings or Settings.from_env()
    folder = Path(model_dir)
    if not (folder / MODEL_FILE).is_file():
        raise ConfigError(f"{folder} holds no trained model ({MODEL_FILE} is missing).")
    client = _connect(settings)
    digest = digest_of(folder)
    with tracking_errors(settings, f"registering '{name}'", RegistryError):
        _ensure_model(client, name)
        same = f"name = '{name}' and tag.`{DIGEST_TAG}` = '{digest}'"
        for found in client.search_model_versions(same):
            if (found.run_id or None) == run_id:
                return _version(found)
        model = _upload(client, folder, name, digest, run_id, settings)
        created = client.create_model_version(
            name,
            # A registry in this process would look a model id up in MLflow's global store, which is not ours.
            source=model.artifact_location if settings.database else f"models:/{model.model_id}",
            run_id=run_id,
            model_id=None if settings.database else model.model_id,
            tags={
                DIGEST_TAG: digest,
                **{k: v for k, v in (tags or {}).items() if v},
                **{f"{METRIC_TAG}{k}": repr(float(v)) for k, v in (metrics or {}).items()},
            },
        )
    return _version(created)


def resolve(reference: str, settings: Settings | None = None) -> Path:
    """The local folder of the forecaster that a reference means; it is fetched if it lies elsewhere.

    Parameters
    ----------
    reference : str
        A training's output folder or its ``model/`` (path or fsspec URI), ``models:/name/version`` or
        ``models:/name@alias``.

    Raises
    ------
    RegistryError
        For a name, version or alias that does not exist (the message lists those that do), or a registry that cannot
        be reached.
    ConfigError
        For a folder without a finished model, or a reference of another form.
    """
    settings = settings or Settings.from_env()
    if not reference.startswith("models:"):
        return _resolve_folder(reference, settings)
    name, version = _named(reference, settings)
    with registry_client(settings, f"fetching {reference}") as client:
        _check(client, name, version)
        location = client.get_model_version_download_uri(name, version)
        return _fetch(location, reference, settings)


def dataset_of(reference: str, settings: Settings | None = None) -> str | None:
    """URI of the dataset that a registered version was trained on, as its run has it; None where no run says.

    Parameters
    ----------
    reference : str
        ``models:/name/version`` or ``models:/name@alias``.
    """
    settings = settings or Settings.from_env()
    name, version = _named(reference, settings)
    with registry_client(settings, f"looking up the training of {reference}") as client:
        _check(client, name, version)
        run_id = client.get_model_version(name, version).run_id
        data = client.get_run(run_id).data.params.get("run.data") if run_id else None
    return None if data is None else str(data)


def pin(reference: str, settings: Settings | None = None) -> str:
    """What a reference means now, as one that always means the same: an alias becomes the version it points at.

    Raises
    ------
    RegistryError
        If there is no such model or alias.
    """
    parts = _REFERENCE.match(reference)
    if parts is None or parts["alias"] is None:
        return reference
    return f"models:/{parts['name']}/{get_alias(parts['name'], parts['alias'], settings)}"


def list_versions(name: str | None = None, settings: Settings | None = None) -> list[Version]:
    """All versions in the registry, or those of one model; by name, newest first.

    Raises
    ------
    RegistryError
        If the registry cannot be reached, or holds no model of that name.
    """
    settings = settings or Settings.from_env()
    if name is None and not _store_exists(settings):
        return []
    with registry_client(settings, "listing models") as client:
        aliases = _models(client)
        if name is not None and name not in aliases:
            there = ", ".join(sorted(aliases)) or "none"
            raise RegistryError(f"There is no registered model '{name}'. Registered: {there}.")
        versions = []
        # The search of versions leaves their aliases empty; those of the models have them.
        for found in _pages(client.search_model_versions, f"name = '{name}'" if name else None):
            if found.name not in aliases:
                continue
            own = [a for a, number in aliases.get(found.name, {}).items() if int(number) == int(found.version)]
            versions.append(_version(found, tuple(sorted(own))))
    return sorted(versions, key=lambda v: (v.name, -int(v.version)))


def find(reference: str, settings: Settings | None = None) -> Version:
    """The registered version that a reference means: a folder means the version that was made of its files.

    Raises
    ------
    RegistryError
        If there is none.
    ConfigError
        As `resolve`.
    """
    settings = settings or Settings.from_env()
    if not reference.startswith("models:"):
        digest = digest_of(resolve(reference, settings))
        with registry_client(settings, f"looking for {reference}") as client:
            same = client.search_model_versions(f"tag.`{DIGEST_TAG}` = '{digest}'")
        if not same:
            raise RegistryError(
                f"{reference} is not registered in {settings.shown_registry}. Send it there with `stmp track --out`."
            )
        return _version(max(same, key=lambda found: found.creation_timestamp))
    name, number = _named(reference, settings)
    with registry_client(settings, f"looking for {reference}") as client:
        _check(client, name, number)
        return _version(client.get_model_version(name, number))


def annotate(version: Version, tag: str, value: str, settings: Settings | None = None) -> None:
    """Set a tag of a version, in place of one of that name.

    Raises
    ------
    RegistryError
        If the registry does not answer.
    """
    settings = settings or Settings.from_env()
    with registry_client(settings, f"tagging {version.uri}") as client:
        client.set_model_version_tag(version.name, version.version, tag, value)


def attach(version: Version, folder: Path, place: str, settings: Settings | None = None) -> None:
    """Put files beside those of a version, among its artifacts.

    Parameters
    ----------
    folder : Path
        Local files.
    place : str
        Folder among the artifacts, such as ``gate/2025-01-31``; new, for what is there may be replaced file by file.

    Raises
    ------
    RegistryError
        If the registry or the store of artifacts does not answer.
    """
    settings = settings or Settings.from_env()
    with registry_client(settings, f"attaching files to {version.uri}") as client:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        location = client.get_model_version_download_uri(version.name, version.version)
        tracking = settings.tracking_uri.get_secret_value()
        get_artifact_repository(location, tracking_uri=tracking).log_artifacts(str(folder), place)


def attached(reference: str, file: str, settings: Settings | None = None) -> bytes:
    """Read a file that `attach` has put beside those of a version.

    Parameters
    ----------
    reference : str
        ``models:/name/version`` or ``models:/name@alias``.
    file : str
        Path among the artifacts, such as ``gate/2025-01-31/gate.json``.

    Raises
    ------
    RegistryError
        If the registry or the store of artifacts does not answer, or there is no such file.
    """
    settings = settings or Settings.from_env()
    name, version = _named(reference, settings)
    with (
        registry_client(settings, f"reading {file} of {reference}") as client,
        tempfile.TemporaryDirectory() as scratch,
    ):
        from mlflow.artifacts import download_artifacts

        location = client.get_model_version_download_uri(name, version).rstrip("/")
        tracking = settings.tracking_uri.get_secret_value()
        return Path(download_artifacts(f"{location}/{file}", dst_path=scratch, tracking_uri=tracking)).read_bytes()


def set_alias(name: str, alias: str, version: str | int, settings: Settings | None = None) -> None:
    """Point an alias at a version, in place of the one it pointed at.

    Raises
    ------
    RegistryError
        If there is no such version.
    ConfigError
        If the alias cannot be one: MLflow keeps ``latest`` and ``v1``, ``v2``... for itself.
    """
    settings = settings or Settings.from_env()
    if not _ALIAS.match(alias) or alias == "latest":
        raise ConfigError(
            f"'{alias}' cannot be an alias: use letters, digits, '_', '-' and '.', but not 'latest' or 'v1'."
        )
    with registry_client(settings, f"moving the alias '{alias}'") as client:
        _check(client, name, str(version))
        client.set_registered_model_alias(name, alias, str(version))


def get_alias(name: str, alias: str, settings: Settings | None = None) -> str:
    """The version that an alias points at.

    Raises
    ------
    RegistryError
        If there is no such model or alias (the message lists those that exist), or no answer.
    """
    settings = settings or Settings.from_env()
    with registry_client(settings, f"reading the alias '{alias}'") as client:
        models = _models(client, name)
        if alias in models.get(name, {}):
            return str(models[name][alias])
        if name not in models:
            there = ", ".join(sorted(_models(client))) or "none"
            raise RegistryError(f"There is no registered model '{name}'. Registered: {there}.")
        there = ", ".join(f"{a} (version {v})" for a, v in sorted(models[name].items())) or "none"
        raise RegistryError(f"The model '{name}' has no alias '{alias}'. It has: {there}.")


def _named(reference: str, settings: Settings) -> tuple[str, str]:
    """Name and number of the version that a ``models:`` reference means."""
    parts = _REFERENCE.match(reference)
    if parts is None:
        raise ConfigError(f"'{reference}' is no model reference. Use models:/name/version or models:/name@alias.")
    return parts["name"], parts["version"] or get_alias(parts["name"], parts["alias"], settings)


def _upload(
    client: MlflowClient, folder: Path, name: str, digest: str, run_id: str | None, settings: Settings
) -> LoggedModel:
    """Store the packaged model; an upload that broke off is taken up again."""
    experiment = client.get_run(run_id).info.experiment_id if run_id else experiment_id(client, settings)
    begun = [
        model
        for model in client.search_logged_models([experiment], f"tags.`{DIGEST_TAG}` = '{digest}'")
        if (model.source_run_id or None) == run_id
    ]
    model = (
        begun[0]
        if begun
        else client.create_logged_model(
            experiment, name=name, source_run_id=run_id, tags={DIGEST_TAG: digest}, model_type="forecaster"
        )
    )
    if str(model.status) != "READY":
        from stmp_platform.pyfunc import package

        with tempfile.TemporaryDirectory() as scratch:
            packaged = package(folder, Path(scratch) / "packaged", model.model_id, run_id)
            client.log_model_artifacts(model.model_id, str(packaged))
        client.finalize_logged_model(model.model_id, "READY")
    return model


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _resolve_folder(reference: str, settings: Settings) -> Path:
    folder = Folder(reference, settings)
    if not folder.exists():
        raise ConfigError(
            f"There is no folder {reference}. Give a training's --out, its model folder, or models:/name/version."
        )
    if folder.exists(MODEL_FILE):
        return _local_copy(folder, settings)
    if folder.exists(f"model/{MODEL_FILE}"):
        return _local_copy(Folder(folder.child("model"), settings), settings)
    if folder.exists("checkpoints"):
        raise ConfigError(
            f"{reference} holds checkpoints, but no finished model: the training has not ended. Repeat its "
            "command to go on."
        )
    raise ConfigError(f"{reference} holds no trained model ({MODEL_FILE} is missing, there and in its model folder).")


def _local_copy(folder: Folder, settings: Settings) -> Path:
    """The folder itself, or its copy in the cache, which is made anew when a file of it has changed."""
    if folder.local:
        return Path(folder.path)
    return cached(settings, folder.state(), lambda to: folder.download("", to))


def _fetch(location: str, reference: str, settings: Settings) -> Path:
    """The Forecaster's folder inside a registered version, which never changes once it is there."""
    from mlflow.artifacts import download_artifacts

    at = f"{location.rstrip('/')}/{_DATA}"
    if at.startswith(("file:", "/")):
        path = Path(url2pathname(urlsplit(at).path))
    else:
        uri = settings.tracking_uri.get_secret_value()
        key = hashlib.sha256(f"{settings.shown_uri} {location}".encode()).hexdigest()[:32]
        path = cached(settings, key, lambda to: download_artifacts(at, dst_path=str(to), tracking_uri=uri))
        path = path if (path / MODEL_FILE).is_file() else path / Path(_DATA).name
    if not (path / MODEL_FILE).is_file():
        raise RegistryError(
            f"{reference} is registered, but its files are not at {redact(at)}. They were deleted or moved, or another "
            "program registered this version."
        )
    return path


@contextmanager
def registry_client(settings: Settings, action: str) -> Iterator[MlflowClient]:
    """A client of a registry that is there, whose errors are `RegistryError`; reading makes no database."""
    if not _store_exists(settings):
        raise RegistryError(
            f"There is no registry at {settings.shown_registry} yet. Register a model with `stmp train --name`, or "
            "name another place with --tracking-uri or MLFLOW_TRACKING_URI."
        )
    client = _connect(settings)
    with tracking_errors(settings, action, RegistryError):
        yield client


def _connect(settings: Settings) -> MlflowClient:
    try:
        return connect(settings)
    except TrackingError as error:
        raise RegistryError(str(error)) from error


def _store_exists(settings: Settings) -> bool:
    database = local_database(settings.registry_uri.get_secret_value())
    return database is None or database.is_file()


def _models(client: MlflowClient, name: str | None = None) -> dict[str, Mapping[str, Any]]:
    """Aliases of each model, or of one: {name: {alias: version}}."""
    found = _pages(client.search_registered_models, f"name = '{name}'" if name else None)
    return {str(model.name): dict(model.aliases) for model in found if LOG_TAG not in (model.tags or {})}


def _versions(client: MlflowClient, name: str) -> list[int]:
    return sorted(int(v.version) for v in _pages(client.search_model_versions, f"name = '{name}'"))


def _check(client: MlflowClient, name: str, version: str) -> None:
    """See that a version exists, or say what does."""
    models = _models(client, name)
    if name not in models:
        there = ", ".join(sorted(_models(client))) or "none"
        raise RegistryError(f"There is no registered model '{name}'. Registered: {there}.")
    versions = _versions(client, name)
    if int(version) not in versions:
        there = ", ".join(map(str, versions)) or "none"
        raise RegistryError(f"The model '{name}' has no version {version}. It has: {there}.")


def _pages(search: Callable[..., Any], where: str | None = None) -> list[Any]:
    """All pages of a search."""
    page = search(filter_string=where)
    found = list(page)
    while page.token:
        page = search(filter_string=where, page_token=page.token)
        found += page
    return found


def _version(found: Any, aliases: tuple[str, ...] = ()) -> Version:
    tags = dict(found.tags or {})
    created = found.creation_timestamp
    return Version(
        name=str(found.name),
        version=str(found.version),
        aliases=aliases,
        created=datetime.fromtimestamp(created / 1000, UTC) if created else None,
        run_id=found.run_id or None,
        dataset_fingerprint=tags.get(FINGERPRINT_TAG, ""),
        metrics={k.removeprefix(METRIC_TAG): float(v) for k, v in tags.items() if k.startswith(METRIC_TAG)},
        tags={k: v for k, v in tags.items() if not k.startswith(METRIC_TAG)},
    )
