"""Checkpoints: tensors as safetensors, everything else as JSON, published whole or not at all. Never pickle."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stmp.errors import CheckpointError

logger = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]
FORMAT = 2
STATE = "state.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"


class CheckpointStore(Protocol):
    """Where a run keeps its checkpoints. All workers read it, the first writes it."""

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Publish what `write` puts into a folder as the checkpoint of a step; whole or not at all."""
        ...

    def steps(self) -> list[int]:
        """Steps of all checkpoints, the newest last."""
        ...

    def open(self, step: int) -> Path:
        """A local folder that holds the checkpoint of a step."""
        ...


class LocalCheckpoints:
    """Checkpoints in a folder of this machine, or of a file system that all workers share.

    Parameters
    ----------
    folder : path
    keep : int
        How many of the newest to keep.
    """

    def __init__(self, folder: str | Path, keep: int) -> None:
        self.folder, self.keep = Path(folder), keep

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write into a hidden folder beside the final one and rename it: a crash leaves no half checkpoint."""
        publish_folder(self.folder / step_name(step), write)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / step_name(old))
        for left in self.folder.glob(".step-*"):  # by a process that was killed while it wrote
            shutil.rmtree(left)

    def steps(self) -> list[int]:
        """Steps of all checkpoints, the newest last."""
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*"))

    def open(self, step: int) -> Path:
        """The folder of a step."""
        return self.folder / step_name(step)


def step_name(step: int) -> str:
    """``step-00000250``: names that sort as numbers do."""
    return f"step-{step:08d}"


def publish_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder out of sight and rename it into place, replacing what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        write(staging)
        for file in staging.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        staging.chmod(0o755)
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, retired / "was")
            os.replace(staging, path)
            shutil.rmtree(retired)
        else:
            os.replace(staging, path)
    finally:
        if staging.exists():
            shutil.rmtree(staging)


def write_checkpoint(folder: Path, model: Tensors, optimizer: Tensors, state: Mapping[str, Any]) -> None:
    """Fill a folder with one checkpoint; its state names the checksums of all that it holds, of itself as well."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.items()}, folder / MODEL)
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in optimizer.items()}, folder / OPTIMIZER)
    content = {"format": FORMAT, **state}
    text = json.dumps({**content, "sha256": _checksums(folder, content)}, indent=1)
    (folder / STATE).write_text(text, encoding="utf-8")


def _checksums(folder: Path, content: Mapping[str, Any]) -> dict[str, str]:
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (MODEL, OPTIMIZER)}
    return found | {STATE: hashlib.sha256(json.dumps(content).encode()).hexdigest()}


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Model tensors, optimiser tensors and state.

    Raises
    ------
    CheckpointError
        If a file is missing, truncated or changed, or the format is another than this version reads.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError(f"{STATE} holds no object")
        written = state.pop("sha256", {})
        if state.get("format") != FORMAT:
            raise CheckpointError(
                f"The checkpoint {folder} has format {state.get('format')}; this version reads {FORMAT}."
            )
        damaged = [name for name, found in _checksums(folder, state).items() if written.get(name) != found]
        if damaged:
            raise ValueError(f"{' and '.join(damaged)} changed since they were written (another SHA-256)")
        model, optimizer = load_file(folder / MODEL), load_file(folder / OPTIMIZER)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint {folder} is missing a file or damaged: {error}. Delete that folder to go on "
            "from the one before."
        ) from error
    return model, optimizer, state


def newest(store: CheckpointStore) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that can be read; None where there is none.

    A damaged one is passed over with a warning: training is a function of its seed and step, so an older checkpoint
    leads to the same result.
    """
    for step in reversed(store.steps()):
        try:
            return read_checkpoint(store.open(step))
        except CheckpointError as error:
            logger.warning("%s Going on from an older one.", error)
    return None
