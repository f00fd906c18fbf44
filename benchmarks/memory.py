"""Memory of this process that belongs to no file: what the system cannot drop, unlike pages of a mapped file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Peak:
    """The most anonymous memory above that of the start, in bytes."""

    def __init__(self) -> None:
        self.start = self.most = anonymous()

    @property
    def bytes(self) -> int:
        """Known when what is watched has ended."""
        return self.most - self.start


def anonymous() -> int:
    """Bytes of this process that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def watched() -> Iterator[Peak]:
    """Look at the memory every few milliseconds."""
    peak, ended = Peak(), threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            peak.most = max(peak.most, anonymous())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()
