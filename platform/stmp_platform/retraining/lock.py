"""One retraining at a time: a lease on a dataset, on any storage, that a dead holder does not keep.

A lease is a numbered file that its holder rewrites every few seconds. To take it is to create the file of the next
number, which storage lets one alone do. Whoever finds a lease looks at it for a while: if it is rewritten, its holder
lives, and the finder leaves; if not, the holder is dead, and the finder takes the next number. No clock is compared
with another machine's. A holder that was only asleep finds the higher number, and stops.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Self

from stmp.errors import ConfigError, StmpError
from stmp_platform.files import Folder
from stmp_platform.gate.champions import now, whoami

logger = logging.getLogger(__name__)

LOCK = "retraining.lock"
BEAT_S = 3.0
"""Seconds between two signs of life."""
PATIENCE_S = 30.0
"""Seconds without one after which a holder counts as dead."""


class Busy(StmpError):
    """Another retraining is at work on the same data."""


class Lost(StmpError):
    """Another retraining has taken over."""


class Lease:
    """The right to retrain on a dataset, while it is entered.

    Parameters
    ----------
    data : str
        URI of the dataset's folder; the lease lies in it.

    Raises
    ------
    Busy
        When it is entered, if another holder lives.
    ConfigError
        If the folder cannot be written to.
    """

    def __init__(self, data: str) -> None:
        self._folder = Folder(Folder(data).child(LOCK))
        self._me = {"id": uuid.uuid4().hex, "by": whoami(), "since": now()}
        self._number = 0
        self._beats = 0
        self._ended = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._live, name="stmp-lease", daemon=True)

    def __enter__(self) -> Self:
        self._number = self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if not self._lost:
            for number in self._numbers():
                if number <= self._number:
                    self._folder.remove(_name(number))

    def check(self) -> None:
        """See that the lease is still ours.

        Raises
        ------
        Lost
            If this process was silent for so long that another one has taken over.
        """
        if self._lost:
            raise Lost(
                f"This retraining was silent for {PATIENCE_S:.0f} s and more, and another one has taken over. It goes "
                "on from where this one was."
            )

    def _take(self) -> int:
        seen: bytes | None = None
        since = time.monotonic()
        while True:
            newest = max(self._numbers(), default=0)
            content = self._read(newest)
            if content is None or (seen == content and time.monotonic() - since > PATIENCE_S):
                self._create(newest + 1)
                return newest + 1
            if seen is None:
                seen, since = content, time.monotonic()
                logger.warning("%s; looking whether it is alive", _told(content))
            elif seen != content:
                raise Busy(f"{_told(content)}. Nothing was done; try again when it has ended.")
            time.sleep(BEAT_S / 5)

    def _create(self, number: int) -> None:
        data = self._folder.uri.removesuffix(f"/{LOCK}")
        try:
            created = self._folder.create(_name(number), self._sign())
        except PermissionError as error:
            raise ConfigError(f"A retraining keeps its lease in {data}, and may not write there: {error}") from error
        if not created:
            raise Busy(f"Another retraining has just begun on {data}.")

    def _live(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                newest = max(self._numbers(), default=0)
                mine = self._read(self._number)
                if newest != self._number or mine is None or _parsed(mine)["id"] != self._me["id"]:
                    self._lost = True
                    return
                self._folder.write(_name(self._number), self._sign())
            except Exception as error:  # noqa: BLE001  # whatever it is, the next beat tries again; a finder sees no sign
                logger.warning("The lease on %s was not renewed: %s", self._folder.uri, error)

    def _sign(self) -> bytes:
        self._beats += 1
        return json.dumps({**self._me, "beat": self._beats}).encode()

    def _numbers(self) -> list[int]:
        return [int(name.removesuffix(".json")) for name in self._folder.names() if name[:1].isdigit()]

    def _read(self, number: int) -> bytes | None:
        try:
            return self._folder.read(_name(number))
        except FileNotFoundError:
            return None


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        return {"id": "", "by": "somebody", "since": "just now", **json.loads(content)}
    except ValueError:  # it is being created
        return {"id": "", "by": "somebody", "since": "just now"}


def _told(content: bytes) -> str:
    holder = _parsed(content)
    return f"Another retraining holds these data, by {holder['by']} since {holder['since']}"
