"""The one door to MLflow: quiet, patient for seconds rather than minutes, and with errors that are ours.

Only `MlflowClient` is used, never the fluent API with its global active run: a driver may hold several trainings.
MLflow is imported inside functions, because it takes seconds and many commands never need it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stmp.errors import RegistryError, StmpError, TrackingError
from stmp_platform.settings import Settings, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def quiet(settings: Settings) -> None:
    """Set MLflow's own switches, where the user has not set them: they can be reached through the environment alone.

    MLflow's defaults retry a dead server for minutes (seven times, with a doubling pause, 120 s each) and print
    progress of the database's migrations to the terminal.
    """
    patience = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(settings.http_timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(settings.http_retries),
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    }
    for name, value in {**_QUIET, **patience}.items():
        os.environ.setdefault(name, value)
    level = getattr(logging, os.environ["MLFLOW_LOGGING_LEVEL"].upper(), logging.WARNING)
    import mlflow  # noqa: F401  # configures the loggers that are turned down here

    logging.getLogger("mlflow").setLevel(level)
    logging.getLogger("alembic").setLevel(max(level, logging.WARNING))
    # One line for each attempt to reach a dead server; our own warning says it once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def connect(settings: Settings) -> MlflowClient:
    """A client of the tracking store and the registry; a local database that is not there yet is made.

    Call it in the driver alone. Two processes that meet a fresh SQLite file would both create its tables, and one would
    fail, so the making is under a file lock; Ray workers never come here at all.

    Raises
    ------
    TrackingError
        If the store cannot be reached.
    """
    quiet(settings)
    from mlflow import MlflowClient

    with tracking_errors(settings, "opening the store"):
        _reachable(settings)
        uris = settings.tracking_uri.get_secret_value(), settings.registry_uri.get_secret_value()
        if settings.scheme != "sqlite":
            return MlflowClient(*uris)
        from filelock import FileLock

        settings.home.mkdir(parents=True, exist_ok=True)
        Path(settings.artifact_root).mkdir(parents=True, exist_ok=True)
        with FileLock(str(Path(settings.artifact_root) / ".mlflow.db.lock"), timeout=60):
            client = MlflowClient(*uris)  # creates the tables, or the first call does
            client.search_experiments(max_results=1)
        return client


def experiment_id(client: MlflowClient, settings: Settings) -> str:
    """The id of the settings' experiment, which is created if there is none of that name."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(settings.experiment)
    if found is None:
        location = None
        if settings.database:  # a server decides for itself where artifacts go
            root = settings.artifact_root
            location = root if "://" in root else Path(root).resolve().as_uri()
            location = f"{location}/{settings.experiment}"
        try:
            return str(client.create_experiment(settings.experiment, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(settings.experiment)  # another driver was faster
    if found is None or found.lifecycle_stage != "active":
        raise TrackingError(
            f"The experiment '{settings.experiment}' was deleted in {settings.shown_uri}. Restore it, or choose "
            "another with MLFLOW_EXPERIMENT_NAME."
        )
    return str(found.experiment_id)


@contextmanager
def tracking_errors(settings: Settings, action: str, kind: type[StmpError] = TrackingError) -> Iterator[None]:
    """Turn what MLflow, its HTTP client and its database raise into one error of ours, without credentials."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError, OSError, ImportError) as error:
        uri = settings.shown_registry if kind is RegistryError else settings.shown_uri
        raise kind(f"{uri} failed at {action}: {_reason(error)}") from error


def not_found(error: StmpError) -> bool:
    """Whether the store answered, and said that the thing does not exist."""
    return getattr(error.__cause__, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def unanswered(error: StmpError) -> bool:
    """Whether the store was away or failed, so that the same may go well another time."""
    cause = error.__cause__
    return cause is not None and not isinstance(cause, StmpError) and not not_found(error)


def _reason(error: BaseException) -> str:
    text = redact(" ".join(str(error).split()))
    if "Max retries exceeded" in text or "Failed to establish a new connection" in text:
        return "no answer (is the tracking server running, and reachable from here?)"
    return text if len(text) <= 300 else f"{text[:297]}..."


def _reachable(settings: Settings) -> None:
    """Knock at a database server first: MLflow itself would try for minutes before it says that nobody answers."""
    parts = urlsplit(settings.tracking_uri.get_secret_value())
    if settings.scheme in _DATABASE_PORTS and parts.hostname:
        address = (parts.hostname, parts.port or _DATABASE_PORTS[settings.scheme])
        socket.create_connection(address, timeout=settings.http_timeout_s).close()
