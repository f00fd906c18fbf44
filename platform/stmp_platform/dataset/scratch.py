"""Where an ingest keeps what does not fit into memory, and what killed ones have left there.

The owner of a scratch folder holds a lock in it, which the system releases when the process dies, however it dies. Who
comes later takes the lock of each folder that it finds, and removes those whose lock it gets. Locks are only sure
between processes of one machine, so a folder's name tells its machine, and a folder of another one, or of the time
before a restart, counts as left behind when nothing in it has changed for a week.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from stmp_platform.files import Folder

PREFIX = ".stmp-ingest-"
LOCK = "lock"
SILENCE_S = 7 * 86400.0
"""Seconds without a change after which the folder of another machine counts as left behind."""


@contextmanager
def scratch_folder(folder: Folder) -> Iterator[Path]:
    """A local folder that is removed at the end: beside a dataset's folder if that is local, where there is room."""
    place = Path(tempfile.gettempdir())
    if folder.local:
        parent = Path(folder.path).absolute().parent
        if parent.is_dir() and os.access(parent, os.W_OK):
            place = parent
    work = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{_machine()}-", dir=place))
    try:
        # It gets its name when it is locked: nobody meets a lock that is not yet held.
        with (work / f"{LOCK}.new").open("wb") as lock:
            _take(lock)
            (work / f"{LOCK}.new").rename(work / LOCK)
            _remove_left(place, work.stat().st_mtime)
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_left(place: Path, now: float) -> None:
    """Remove what dead ingests have left; `now` is a time by the clock of the file system, which may be a server's."""
    for other in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody else's, or removed meanwhile
            if other.name.startswith(f"{PREFIX}{_machine()}-"):
                with (other / LOCK).open("r+b") as lock:
                    dead = _take(lock)
            else:
                dead = now - max(path.stat().st_mtime for path in (other, *other.rglob("*"))) > SILENCE_S
            if dead:
                shutil.rmtree(other)


def _take(lock: IO[bytes]) -> bool:
    """Whether a lock is free, and ours from now on; where a file system knows no locks none is ever free."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _machine() -> str:
    """This machine since its last start, containers on it included."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:  # no Linux
        return f"{uuid.getnode():012x}"
