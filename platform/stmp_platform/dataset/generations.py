"""One generation of a dataset's files after the other: which one is the dataset, and how the next takes its place.

The manifest says which generation readers see. A new one takes the place of the one that it follows by creating that
one's ``successor.json``, which storage lets one alone do: of two ingests that began at the same generation the first to
end is its successor, and the other one learns of it. The file holds the new manifest, so that whoever comes after a
process that died before it wrote the dataset's own puts it in its place.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from stmp.errors import DataError
from stmp_platform.dataset.manifest import NAME, Manifest, load_manifest, save_manifest
from stmp_platform.files import Folder

DATA = "data"
SUCCESSOR = "successor.json"
STAMP = "%Y%m%dT%H%M%S"
LEFT = timedelta(days=7)
"""What an ingest that was killed has left is removed after this time; until then it may be one that is at work."""


def new_generation() -> str:
    """A folder for the files of an ingest, relative to the manifest."""
    return f"{DATA}/{datetime.now(UTC):{STAMP}}-{uuid.uuid4().hex[:8]}"


@contextmanager
def all_or_nothing(folder: Folder, generation: str, of: type[BaseException] = BaseException) -> Iterator[None]:
    """Take a generation's files away again where writing them fails, and the folders that are empty then.

    It stays where it may be the dataset by now: an error says that no answer came, not that nothing was written.
    """
    try:
        yield
    except of:
        if _may_be_named(folder, generation):
            raise
        folder.remove_folder(generation)
        if folder.local:
            for path in (Path(folder.path) / DATA, Path(folder.path)):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
        raise


def _may_be_named(folder: Folder, generation: str) -> bool:
    """Whether the manifest or a successor names a generation, or storage does not tell."""
    try:
        places = [NAME, *(f"{DATA}/{name}/{SUCCESSOR}" for name in folder.names(DATA))]
        return any(folder.read_json(place).get("data") == generation for place in places)
    except (OSError, ValueError):
        return True


def latest(uri: str) -> Manifest:
    """The manifest of a dataset; of a successor if its ingest died before it wrote that itself.

    Raises
    ------
    DataError
        As in `load_manifest`, or if the successor's is damaged.
    """
    folder, manifest = Folder(uri), load_manifest(uri)
    while folder.exists(name := f"{manifest.data}/{SUCCESSOR}"):
        try:
            manifest = Manifest.model_validate_json(folder.read(name))
        except ValidationError as error:
            raise DataError(f"{folder.child(name)} is corrupt. Write the dataset again with `stmp ingest`.") from error
        save_manifest(manifest, folder)
    return manifest


def publish(
    manifest: Manifest, folder: Folder, before: Manifest | None, append: bool
) -> tuple[Manifest, Manifest | None]:
    """Make a generation the dataset; its manifest, and that of the generation it replaces.

    Parameters
    ----------
    before : Manifest or None
        What was the dataset when the ingest began.
    append : bool
        The generation holds what was in `before`, and may follow no other.

    Raises
    ------
    DataError
        If another ingest has changed the dataset since, and this one appends.
    """
    while before is not None:
        manifest = manifest.model_copy(update={"replaces": before.data})
        claim = f"{before.data}/{SUCCESSOR}"
        if folder.create(claim, manifest.model_dump_json().encode()):
            break
        if append:
            raise DataError(
                f"{folder.uri} was changed by another ingest while this one was at work, whose rows would be lost. "
                "Nothing was changed; run it again."
            )
        before = latest(folder.uri)
    try:
        save_manifest(manifest, folder)
    except Exception:
        if before is not None:
            folder.remove(claim)
        raise
    return manifest, before


def tidy(folder: Folder, manifest: Manifest, before: Manifest | None) -> None:
    """Remove what dead ingests left, and the last generation but one; the last stays for readers that are at work."""
    kept = {manifest.data, before.data if before else ""}
    ended = {before.replaces if before else None}
    since = f"{datetime.now(UTC) - LEFT:{STAMP}}"
    for name in folder.names(DATA):
        generation = f"{DATA}/{name}"
        if generation in ended or (generation not in kept and name < since):
            folder.remove_folder(generation)
