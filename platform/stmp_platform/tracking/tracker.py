"""Track one training from its driver: a thread that mirrors the output folder while the training goes on.

The thread never blocks the training and never ends it: a tracking server that dies is told in one warning, and tried
again until it is back. What it has not got at the end, `sync` sends later.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from stmp.errors import ConfigError, StmpError
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking.metrics import MetricsLog
from stmp_platform.tracking.mirror import Mirror, Sent
from stmp_platform.tracking.record import CONFIG_FILE, Forwarded, RunRecord, Status, code_tags

logger = logging.getLogger("stmp.tracking")

POLL_S = 2.0
"""Seconds between two looks at the metrics folder."""
BACKOFF_S = 60.0
"""Longest pause, in seconds, between attempts to reach a server that does not answer."""
LAST_ATTEMPTS = 4
"""Failures in a row, with pauses of 1, 2 and 4 s, after which a training that has ended waits no longer."""


@dataclass(frozen=True)
class Outcome:
    """How tracking ended.

    Attributes
    ----------
    complete : bool
        Whether the store has everything.
    run_id, version : str, optional
        The MLflow run, and the version that was registered.
    warning : str
        For people: what is missing, where it lies and how to send it. Empty if complete.
    """

    complete: bool
    run_id: str | None
    version: str | None
    warning: str = ""


class Tracker:
    """Mirrors one training to MLflow; use it as a context manager around the training, or call start and finish.

    Parameters
    ----------
    out : str
        The training's output folder: a path or a URI that fsspec knows.
    settings : Settings, optional
        Read from the environment if not given.
    config : mapping, optional
        The training's configuration, written to ``config.json`` if that is not there yet; its leaves become parameters.
    name : str
        Name of the run for people; the folder's own name if empty.
    dataset_fingerprint : str
        Of the data that is trained on.
    register_as : str, optional
        Registered model to which a finished training adds a version.
    tags : mapping, optional
        Further tags of the run.

    Raises
    ------
    ConfigError
        If the model's name cannot be registered.
    """

    def __init__(
        self,
        out: str,
        settings: Settings | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        name: str = "",
        dataset_fingerprint: str = "",
        register_as: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        if register_as is not None:
            check_model_name(register_as)
        self.out = out
        self.settings = settings or Settings.from_env()
        self._folder = Folder(out, self.settings)
        if config is not None and not self._folder.exists(CONFIG_FILE):
            self._folder.write_json(CONFIG_FILE, dict(config))
        before = RunRecord.read(self._folder)
        self.record = RunRecord.update(
            self._folder,
            name=name or (before.name if before else "") or self._folder.uri.rsplit("/", 1)[-1],
            dataset_fingerprint=dataset_fingerprint or (before.dataset_fingerprint if before else ""),
            register_as=register_as or (before.register_as if before else None),
            tags={**(before.tags if before else {}), **code_tags(), **(tags or {})},
            status="RUNNING",
            ended_ms=None,
        )
        # A training that goes on may do so with newer code: its tags are sent again.
        state = Forwarded.read(self._folder, self.settings.shown_uri)
        state.described = False
        state.write(self._folder)
        self.log = MetricsLog(out, self.settings)
        self._forwarder = Forwarder(Mirror(out, self.settings))
        self._outcome: Outcome | None = None

    def start(self) -> Self:
        """Begin to mirror, in a thread."""
        self._forwarder.start()
        return self

    def finish(self, status: Status = "FINISHED", wait_s: float | None = None) -> Outcome:
        """Say how the training ended, and wait a bounded time until the store has everything.

        With status ``FINISHED`` the report is sent and the model registered. Never raises because of the store.

        Parameters
        ----------
        status : {"FINISHED", "FAILED", "KILLED"}
        wait_s : float, optional
            Longest wait in seconds; the settings' `flush_s` if not given.
        """
        if self._outcome is not None:
            return self._outcome
        self.record = RunRecord.update(self._folder, status=status, ended_ms=time.time_ns() // 1_000_000)
        sent, problem = self._forwarder.finish(self.settings.flush_s if wait_s is None else wait_s)
        if sent is not None:
            self._outcome = Outcome(True, sent.run_id, sent.version)
            return self._outcome
        state = Forwarded.read(self._folder, self.settings.shown_uri)
        warning = (
            f"The tracking store has not got everything: {problem} Nothing is lost: the metrics are in {self.log.uri}. "
            f"Send them when the store is back with `stmp track --out {self._folder.uri}`, or repeat the command."
        )
        if status != "FINISHED":  # the caller is raising its own error, and shows no outcome
            logger.warning(warning)
        self._outcome = Outcome(False, state.run_id, state.version, warning)
        return self._outcome

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")


class Forwarder(threading.Thread):
    """The thread that pushes a mirror again and again, more seldom while the store does not answer."""

    def __init__(self, mirror: Mirror, poll_s: float = POLL_S) -> None:
        # A daemon, so that a request that hangs cannot keep the process from ending.
        super().__init__(name="stmp-tracking", daemon=True)
        self._mirror = mirror
        self._poll_s = poll_s
        self._ending = threading.Event()
        self._deadline = float("inf")
        self._sent: Sent | None = None
        self._problem = ""

    def finish(self, wait_s: float) -> tuple[Sent | None, str]:
        """Push what is left; what was sent if that is everything, and else the problem."""
        self._deadline = time.monotonic() + wait_s
        self._ending.set()
        if self.ident is None:
            return None, "tracking was never started."
        self.join(wait_s)
        if self._sent is None and not self._problem:
            return None, f"it was still busy after {wait_s:.0f} s."
        return self._sent, self._problem

    def run(self) -> None:
        """Until finished; see `threading.Thread`."""
        failures = 0
        while not self._ending.is_set():
            failures = 0 if self._attempt(failures) else failures + 1
            self._ending.wait(min(2.0 ** (failures - 1), BACKOFF_S) if failures else self._poll_s)
        for attempt in range(LAST_ATTEMPTS):  # these see the final state of the folder
            self._sent = self._attempt(failures + attempt)
            pause = 2.0**attempt
            if self._sent is not None or time.monotonic() + pause > self._deadline:
                return
            if attempt < LAST_ATTEMPTS - 1:
                time.sleep(pause)

    def _attempt(self, failures: int) -> Sent | None:
        """One push; None if it failed, which is told once, however long the store is away."""
        try:
            sent = self._mirror.push()
        except StmpError as error:
            self._problem = str(error)
            if failures == 0 and not self._ending.is_set():
                logger.warning("Training goes on, tracking is tried again later: %s", self._problem)
            return None
        except Exception as error:  # a mirror must never end the training
            self._problem = f"{type(error).__name__}: {error}"
            if failures == 0:
                logger.error("Training goes on; tracking met a fault that was not foreseen.", exc_info=error)
            return None
        if failures:
            logger.warning("The tracking store answers again, and has got what was missing.")
        self._problem = ""
        return sent


def sync(out: str, settings: Settings | None = None) -> Sent:
    """Send what a tracking store has not got of a training: after its server was away, or to another store.

    Can be repeated: what is there already is not sent again.

    Raises
    ------
    TrackingError
        If the store cannot be reached, or the folder holds no training.
    RegistryError
        If the model cannot be registered.
    """
    return Mirror(out, settings or Settings.from_env()).push()


def check_model_name(name: str) -> None:
    """Refuse names that a registry or a ``models:/`` reference cannot hold.

    Raises
    ------
    ConfigError
        With the characters that may be used.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.\- ]{0,127}", name):
        raise ConfigError(
            f"'{name}' cannot name a registered model: use letters, digits, '_', '-', '.' and spaces, 128 at most."
        )
