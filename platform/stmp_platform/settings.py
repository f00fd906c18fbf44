"""What the surroundings say: where runs are tracked, where models are registered, how storage is reached.

Everything comes from environment variables, so that a laptop, a container and a cluster run the same code. Secrets come
from there alone, and no value of this module shows them when it is printed or logged.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from stmp.errors import ConfigError

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Schemes of tracking URIs that name a database, which this process then writes itself."""

_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s]+@")
_SQLITE_FILE = re.compile(r"(?P<scheme>sqlite(?:\+\w+)?):///(?P<path>[^?:]+)(?P<query>\?.*)?$")
_PASSWORD_PARAMETER = re.compile(r"(?i)\b(password|passwd|pwd|token|secret)=[^&\s;]+")


def redact(text: str) -> str:
    """A text, or a URI, without the user names, passwords and tokens in the URIs it holds."""
    return _PASSWORD_PARAMETER.sub(r"\1=***", _CREDENTIALS.sub(r"\g<scheme>***@", text))


class Settings(BaseModel):
    """The surroundings of one process.

    Attributes
    ----------
    home : Path
        Folder of the local store: ``mlflow.db`` and ``mlartifacts`` lie here. ``STMP_HOME``, else the working folder.
    tracking_uri, registry_uri : SecretStr
        Where runs and models are kept; secret because database URIs hold passwords. `shown_uri` is for people.
    experiment : str
        MLflow experiment of the runs.
    artifact_root : str
        Where artifacts lie when the tracking URI is a database; a tracking server has its own place.
    cache : Path
        Where models are kept that were fetched from a server or an object store. ``STMP_CACHE``, else ``stmp`` in
        ``XDG_CACHE_HOME`` or ``~/.cache``.
    storage_options : SecretStr
        JSON object of fsspec options by protocol, such as ``{"s3": {"endpoint_url": "http://minio:9000"}}``. Seldom
        needed: the usual variables (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``...) work without it.
    http_timeout_s, http_retries : int
        Patience with a tracking server, in seconds and in further attempts, for one request.
    flush_s : float
        How long the end of a training waits at most for its last metrics, report and model to be sent, in seconds.
    cluster_wait_s : float or None
        How long a training waits for a Ray cluster to get the CPUs and GPUs that it asks for, in seconds. None: not at
        all for a single machine, else a minute.
    panel_memory_gb : float or None
        A panel (a training worker's shard, or all that a backtest, gate or monitor reads) that needs more memory than
        this is mapped from disk, in the temporary folder. None: than half of what the machine or container has, shared
        among its workers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    home: Path
    tracking_uri: SecretStr
    registry_uri: SecretStr
    experiment: str = Field(default="stmp", min_length=1)
    artifact_root: str
    cache: Path
    storage_options: SecretStr = SecretStr("{}")
    http_timeout_s: int = Field(default=10, ge=1)
    http_retries: int = Field(default=1, ge=0, le=5)
    flush_s: float = Field(default=60.0, ge=0)
    cluster_wait_s: float | None = Field(default=None, ge=0)
    panel_memory_gb: float | None = Field(default=None, ge=0)

    @classmethod
    def from_env(
        cls,
        tracking_uri: str | None = None,
        registry_uri: str | None = None,
        experiment: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Settings:
        """Read the environment; arguments that are given come before it.

        Reads ``STMP_HOME``, ``MLFLOW_TRACKING_URI``, ``MLFLOW_REGISTRY_URI``, ``MLFLOW_EXPERIMENT_NAME``,
        ``STMP_ARTIFACT_ROOT``, ``STMP_CACHE``, ``STMP_STORAGE_OPTIONS``, ``STMP_TRACKING_TIMEOUT_S``,
        ``STMP_TRACKING_RETRIES``, ``STMP_TRACKING_FLUSH_S``, ``STMP_CLUSTER_WAIT_S`` and
        ``STMP_PANEL_MEMORY_GB``.

        Raises
        ------
        ConfigError
            If a value cannot be used.
        """
        env = os.environ if env is None else env
        home = Path(env.get("STMP_HOME") or ".").expanduser().resolve()
        tracking = _absolute(tracking_uri or env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}")
        registry = registry_uri or env.get("MLFLOW_REGISTRY_URI")
        values: dict[str, Any] = {
            "home": home,
            "tracking_uri": tracking,
            "registry_uri": _absolute(registry) if registry else tracking,
            "experiment": experiment or env.get("MLFLOW_EXPERIMENT_NAME"),
            "artifact_root": env.get("STMP_ARTIFACT_ROOT") or str(_beside(tracking, home) / "mlartifacts"),
            "cache": env.get("STMP_CACHE") or Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "stmp",
            "storage_options": env.get("STMP_STORAGE_OPTIONS"),
            "http_timeout_s": env.get("STMP_TRACKING_TIMEOUT_S"),
            "http_retries": env.get("STMP_TRACKING_RETRIES"),
            "flush_s": env.get("STMP_TRACKING_FLUSH_S"),
            "cluster_wait_s": env.get("STMP_CLUSTER_WAIT_S"),
            "panel_memory_gb": env.get("STMP_PANEL_MEMORY_GB"),
        }
        try:
            settings = cls(**{name: value for name, value in values.items() if value not in (None, "")})
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
            raise ConfigError(f"The environment holds settings that cannot be used: {faults}.") from None
        settings.options_for("file")  # a fault in the JSON is told now, not at the first file
        return settings

    @property
    def shown_uri(self) -> str:
        """The tracking URI without credentials."""
        return redact(self.tracking_uri.get_secret_value())

    @property
    def shown_registry(self) -> str:
        """The registry URI without credentials."""
        return redact(self.registry_uri.get_secret_value())

    @property
    def scheme(self) -> str:
        """First part of the tracking URI: ``sqlite``, ``postgresql``, ``http``..."""
        return urlsplit(self.tracking_uri.get_secret_value()).scheme.partition("+")[0]

    @property
    def database(self) -> bool:
        """Whether this process writes the tracking database itself, without a server."""
        return self.scheme in DATABASES

    def options_for(self, uri: str) -> dict[str, Any]:
        """The fsspec options of a URI's protocol.

        Raises
        ------
        ConfigError
            If ``STMP_STORAGE_OPTIONS`` is not a JSON object of objects.
        """
        try:
            options = json.loads(self.storage_options.get_secret_value())
        except json.JSONDecodeError as error:
            # Not `from error`: the decoder's error carries the document, which holds secrets.
            raise ConfigError(f"STMP_STORAGE_OPTIONS is not JSON (position {error.pos}).") from None
        if not isinstance(options, dict) or not all(isinstance(v, dict) for v in options.values()):
            raise ConfigError('STMP_STORAGE_OPTIONS must be an object of objects, such as {"s3": {"anon": true}}.')
        protocol = uri.partition("://")[0] if "://" in uri else "file"
        return dict(options.get(protocol, {}))


def _absolute(uri: str) -> str:
    """A tracking URI that means the same in every working folder."""
    if urlsplit(uri).scheme in ("", "file"):
        raise ConfigError(
            f"The tracking URI '{redact(uri)}' is a folder, which MLflow no longer writes. Use a database, such as "
            "sqlite:///mlflow.db, or the address of a tracking server, such as http://localhost:5000. "
            "`mlflow migrate-filestore` brings old runs over."
        )
    local = _SQLITE_FILE.match(uri)
    if local is None:
        return uri
    return f"{local['scheme']}:///{Path(local['path']).expanduser().resolve()}{local['query'] or ''}"


def _beside(tracking_uri: str, home: Path) -> Path:
    """Folder of a local database, else home: a store and its artifacts move together."""
    local = _SQLITE_FILE.match(tracking_uri)
    return Path(local["path"]).parent if local else home


def local_database(uri: str) -> Path | None:
    """The file of a SQLite URI; None for every other kind of store."""
    local = _SQLITE_FILE.match(uri)
    return Path(local["path"]) if local else None
