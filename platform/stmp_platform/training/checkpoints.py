"""Folders that are published whole or not at all, on local disk or on object storage: checkpoints, and the model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from stmp.learning.checkpoint import STATE, CheckpointStore, LocalCheckpoints, publish_folder, step_name
from stmp_platform.files import Folder
from stmp_platform.settings import Settings

CHECKPOINTS = "checkpoints"


def open_checkpoints(out: str, keep: int, settings: Settings | None = None) -> CheckpointStore:
    """The checkpoints of a run.

    Parameters
    ----------
    out : str
        The run's output folder: a path or a URI that fsspec knows.
    keep : int
        How many of the newest to keep.
    """
    folder = Folder(out, settings)
    if folder.local:
        return LocalCheckpoints(Path(folder.path) / CHECKPOINTS, keep)
    return ObjectCheckpoints(Folder(folder.child(CHECKPOINTS), settings), keep)


class ObjectCheckpoints:
    """Checkpoints on object storage, which has no rename.

    A checkpoint is there when its ``state.json`` is: that object is put last and taken away first, so a process that
    dies between two objects leaves none that counts.

    Parameters
    ----------
    folder : Folder
    keep : int
        How many of the newest to keep.
    """

    def __init__(self, folder: Folder, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._local = tempfile.TemporaryDirectory(prefix="stmp-checkpoints-")

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write into a local folder and upload it; then forget the oldest."""
        upload_folder(self.folder, step_name(step), write, marker=STATE)
        for old in self.steps()[: -self.keep]:
            remove_folder(self.folder, step_name(old), marker=STATE)

    def steps(self) -> list[int]:
        """Steps of all whole checkpoints, the newest last."""
        names = [name for name in self.folder.names() if name.startswith("step-")]
        return sorted(int(name.removeprefix("step-")) for name in names if self.folder.exists(f"{name}/{STATE}"))

    def open(self, step: int) -> Path:
        """A local copy of the checkpoint of a step."""
        return self.folder.download(step_name(step), Path(self._local.name) / step_name(step))


def publish(folder: Folder, name: str, write: Callable[[Path], None], marker: str) -> None:
    """Publish a sub-folder whole, in place of one of that name.

    Parameters
    ----------
    folder : Folder
    name : str
        Of the sub-folder.
    write : callable
        Fills a local folder with files.
    marker : str
        The file whose presence says, on object storage, that all others are there.
    """
    if folder.local:
        for left in Path(folder.path).glob(f".{name}.*"):  # by a process that was killed while it wrote
            shutil.rmtree(left)
        publish_folder(Path(folder.path) / name, write)
    else:
        upload_folder(folder, name, write, marker)


def upload_folder(folder: Folder, name: str, write: Callable[[Path], None], marker: str) -> None:
    """Put the files that `write` makes into an object store, the marker last."""
    remove_folder(folder, name, marker)
    with tempfile.TemporaryDirectory(prefix="stmp-upload-") as scratch:
        staging = Path(scratch)
        write(staging)
        for file in sorted(staging.iterdir(), key=lambda f: f.name == marker):
            folder.write(f"{name}/{file.name}", file.read_bytes())


def remove_folder(folder: Folder, name: str, marker: str) -> None:
    """Remove a sub-folder of an object store, the marker first."""
    for file in sorted(folder.names(name), key=lambda f: f != marker):
        folder.remove(f"{name}/{file}")
