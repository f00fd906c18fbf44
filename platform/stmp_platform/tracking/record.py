"""What a training says about itself: ``run.json`` in its folder, from which a tracking run can be made at any time."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stmp_platform.files import Folder

RUN_FILE = "run.json"
CONFIG_FILE = "config.json"
FORWARDED_FILE = "forwarded.json"

_RECORD_LOCK = threading.Lock()

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_LIBRARIES = ("torch", "ray", "mlflow", "numpy", "pandas", "pyarrow")
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000  # of PostgreSQL's column; MLflow's own limit is 8000


class RunRecord(BaseModel):
    """The content of ``run.json``.

    ``training_id`` is made once for an output folder and tags the MLflow run, so that a run is found again even where
    its id was not written down. Keys that others add to the file are kept.
    """

    model_config = ConfigDict(extra="allow")

    training_id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    name: str = ""
    started_ms: int = Field(default_factory=lambda: int(datetime.now(UTC).timestamp() * 1000))
    ended_ms: int | None = None
    status: Status = "RUNNING"
    dataset_fingerprint: str = ""
    register_as: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    tracking_uri: str | None = None
    mlflow_run_id: str | None = None

    @classmethod
    def read(cls, folder: Folder) -> RunRecord | None:
        """The record of an output folder; None where no tracked training has begun."""
        content = folder.read_json(RUN_FILE)
        return cls.model_validate(content) if "training_id" in content else None

    @classmethod
    def update(cls, folder: Folder, **changes: Any) -> RunRecord:
        """Change some fields of the record, or begin one; safe between the driver's threads."""
        with _RECORD_LOCK:
            record = cls.model_validate({**folder.read_json(RUN_FILE), **changes})
            folder.write_json(RUN_FILE, record.model_dump(mode="json"))
        return record

    def all_tags(self) -> dict[str, str]:
        """Tags of the MLflow run."""
        own = {
            "mlflow.runName": self.name,
            "mlflow.source.name": "stmp train",
            "mlflow.source.type": "JOB",
            "stmp.training_id": self.training_id,
            "stmp.dataset_fingerprint": self.dataset_fingerprint,
        }
        return {key: value[:_TAG_LENGTH] for key, value in {**own, **self.tags}.items() if value}


class Forwarded(BaseModel):
    """The content of ``forwarded.json``: how much of the folder one tracking store has got already."""

    store: str = ""
    run_id: str | None = None
    described: bool = False
    step: int = -1
    files: dict[str, str] = Field(default_factory=dict)
    version: str | None = None
    model: str | None = None
    status: Status | None = None

    @classmethod
    def read(cls, folder: Folder, store: str) -> Forwarded:
        """The state for one store; a new one if the folder was sent elsewhere before."""
        state = cls.model_validate(folder.read_json(FORWARDED_FILE))
        return state if state.store == store else cls(store=store)

    def write(self, folder: Folder) -> None:
        """Write the state, whole."""
        folder.write_json(FORWARDED_FILE, self.model_dump(mode="json"))


def flat_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as MLflow's parameters: ``{"train": {"lr": 0.1}}`` becomes ``{"train.lr": "0.1"}``."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flat_params(value, f"{name}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[name[:250]] = text if len(text) <= _PARAM_LENGTH else f"{text[: _PARAM_LENGTH - 3]}..."
    return flat


def code_tags() -> dict[str, str]:
    """Version of this package, git commit where it runs from a checkout, and versions of the libraries that matter."""
    tags = {"stmp.version": version_of("stmp-platform"), "stmp.python": platform.python_version()}
    commit = os.environ.get("STMP_GIT_COMMIT") or _git_commit(Path(__file__).resolve().parent)
    if commit:
        tags["mlflow.source.git.commit"] = commit
    tags.update({f"stmp.{name}": version_of(name) for name in _LIBRARIES})
    return {key: value for key, value in tags.items() if value}


def version_of(distribution: str) -> str:
    """Installed version of a distribution; empty if it is not installed (a source tree on the path)."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _git_commit(folder: Path) -> str:
    """Commit of the checkout that holds a folder, with ``-dirty`` if tracked files differ; empty outside of one."""
    git = shutil.which("git")
    if git is None:
        return ""

    def ask(*arguments: str) -> str:
        answer = subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    # An installed package may lie inside a stranger's checkout, such as a .venv in a project, which does not track it.
    if not ask("ls-files", str(Path(__file__).resolve())):
        return ""
    commit = ask("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and ask("status", "--porcelain", "--untracked-files=no") else commit
