"""Small files in a folder that is a local path or any fsspec URI.

A reader never meets half a file: local files are written beside their place and renamed, and object stores put whole
objects.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stmp_platform.settings import Settings

CLIENTS = ("aiohttp", "aiobotocore", "botocore", "gcsfs", "google")
"""Packages below fsspec whose errors are no OSError."""


@contextlib.contextmanager
def _beside(target: Path, data: bytes) -> Iterator[Path]:
    """A file with some content beside another's place, on disk when it is yielded; removed if it is not moved."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _link(written: Path, target: Path) -> None:
    """Give a file another name, if nothing has that name yet."""
    try:
        target.hardlink_to(written)
    except FileExistsError:
        raise
    except OSError:  # a file system without links; what is copied may be met by half
        with target.open("xb") as file:
            file.write(written.read_bytes())


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Let what a store raises be an OSError, as all who read and write expect, whatever its client calls it."""
    try:
        yield
    except OSError as error:
        if type(error) is OSError and str(error).startswith("Forbidden"):  # what gcsfs makes of status 403
            raise PermissionError(str(error)) from error
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        kind = PermissionError if getattr(error, "code", None) == 401 else OSError
        raise kind(f"{type(error).__name__}: {error}") from error


class Folder:
    """One folder on local disk or on object storage.

    Parameters
    ----------
    uri : str
        A path, or a URI that fsspec knows, such as ``s3://bucket/folder``.
    settings : Settings, optional
        Holds the storage options; read from the environment if not given.
    """

    def __init__(self, uri: str | os.PathLike[str], settings: Settings | None = None) -> None:
        from fsspec.core import url_to_fs

        self.uri = os.fspath(uri).rstrip("/") or "/"
        options = (settings or Settings.from_env()).options_for(self.uri)
        self.fs, self.path = url_to_fs(self.uri, **options)
        self.local = "file" in self.fs.protocol if not isinstance(self.fs.protocol, str) else self.fs.protocol == "file"

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def child(self, name: str) -> str:
        """URI of something in this folder, for messages and for `Folder`."""
        return f"{self.uri}/{name}"

    @_os_errors()
    def exists(self, name: str = "") -> bool:
        """Whether a file or folder is there, as storage sees it now and not as it was cached."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self._at(name)))

    @_os_errors()
    def names(self, folder: str = "") -> list[str]:
        """Sorted names of what lies in a sub-folder; empty where there is none."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found} - {""})

    @_os_errors()
    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        return bytes(self.fs.cat_file(self._at(name)))

    @_os_errors()
    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, in place of one of that name."""
        at = self._at(name)
        if not self.local:
            self.fs.pipe_file(at, data)
            return
        with _beside(Path(at), data) as written:
            written.replace(at)

    @_os_errors()
    def create(self, name: str, data: bytes) -> bool:
        """Write a file whole where there is none; of several that do so at once only one is told that it has.

        What each of them writes must be its own: a store's client whose answer was lost asks again, and then finds the
        file that it has made itself, which only its content tells.
        """
        at = self._at(name)
        try:
            if self.local:
                with _beside(Path(at), data) as written:
                    _link(written, Path(at))
            else:
                self.fs.pipe_file(at, data, mode="create")
        except FileExistsError:
            return not self.local and self._holds(name, data)
        return True

    @_os_errors()
    def remove(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._at(name))

    @_os_errors()
    def remove_folder(self, name: str) -> None:
        """Remove a sub-folder and all in it; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self._at(name), recursive=True)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where the file is not there."""
        try:
            content = json.loads(self.read(name))
        except FileNotFoundError:
            return {}
        assert isinstance(content, dict), f"{self.child(name)} holds no JSON object"
        return content

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON object, with its keys in their order."""
        self.write(name, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    @_os_errors()
    def download(self, name: str, to: Path) -> Path:
        """Bring a file or a sub-folder to a local path, or say where it lies if it is local already."""
        if self.local:
            return Path(self._at(name))
        if self.fs.isfile(self._at(name)):
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(self.read(name))
            return to
        to.mkdir(parents=True, exist_ok=True)
        self.fs.invalidate_cache()
        root = self._at(name).rstrip("/")
        for path in self.fs.find(root):
            target = to / str(path)[len(root) :].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(path, str(target))
        return to

    @_os_errors()
    def state(self) -> str:
        """A short text that changes when a file in this folder does, found without reading them."""
        self.fs.invalidate_cache()
        keys = [(path, self.fs.ukey(path)) for path in sorted(self.fs.find(self.path))]
        return hashlib.sha256(repr((self.uri, keys)).encode()).hexdigest()[:32]

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.read(name) == data
        except FileNotFoundError:  # whoever made it has removed it since
            return False

    def _at(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}" if name else self.path


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        total.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def cached(settings: Settings, key: str, fetch: Callable[[Path], object]) -> Path:
    """A folder in the cache of models, fetched whole before it takes its name; two processes may do so at once."""
    target = settings.cache / "models" / key
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".fetching-", dir=target.parent))
    try:
        fetch(scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise the other process was faster
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
