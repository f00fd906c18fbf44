"""Trials as child runs in MLflow, sent by the driver: a thread mirrors the folder of each, as it does for any training.

Trials never talk to MLflow. A store that is away costs nothing but its picture of them: what it has not got is sent at
the end, or when the command is repeated.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from stmp.errors import StmpError
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking.mirror import Mirror
from stmp_platform.tracking.record import CONFIG_FILE, RunRecord, Status
from stmp_platform.tuning.space import FROZEN, PLACE, RATE, lambda_of
from stmp_platform.tuning.trial import RESULT, TRIALS

logger = logging.getLogger("stmp.tuning")

POLL_S = 3.0

Progress = Callable[[int, int], None]
"""Trials that have ended, and trials in all."""


class Children(threading.Thread):
    """Follows the trials' folders: sends them to the tracking store, and tells how many have ended.

    Parameters
    ----------
    out : Folder
        Of the tuning.
    trials : int
        In all.
    track : bool
        False only follows.
    progress : callable, optional
    """

    def __init__(self, out: Folder, settings: Settings, trials: int, *, track: bool, progress: Progress | None) -> None:
        super().__init__(name="stmp-trials", daemon=True)
        self._out, self._settings, self._trials, self._track = out, settings, trials, track
        self._progress = progress
        self._ending = threading.Event()
        self._mirrors: dict[str, Mirror] = {}
        self._away = False

    def run(self) -> None:
        """Until finished; see `threading.Thread`."""
        while not self._ending.wait(POLL_S):
            names = self._out.names(TRIALS)
            ended = [name for name in names if self._folder(name).exists(RESULT)]
            if self._progress is not None:
                self._progress(len(ended), self._trials)
            if self._track and not self._away:
                self._away = bool(self._push(dict.fromkeys(names, "RUNNING")))

    def finish(self, statuses: Mapping[str, Status]) -> str:
        """Stop following, and send how each trial ended. What is missing in the store, for people; empty if nothing."""
        self._ending.set()
        if self.ident is not None:
            self.join()
        problem = self._push(statuses) if self._track else ""
        return (
            f"The tracking store has not got all trials: {problem} Repeat the command to send them." if problem else ""
        )

    def _push(self, statuses: Mapping[str, Status]) -> str:
        """Send the folders of some trials; the first problem met, after which no further is tried."""
        parent = RunRecord.read(self._out)
        if parent is None or parent.mlflow_run_id is None:
            return "it has no run of the tuning yet."
        try:
            for name, status in statuses.items():
                folder = self._folder(name)
                if not folder.exists(CONFIG_FILE):
                    continue
                self._describe(folder, name, status, parent)
                self._mirrors.setdefault(name, Mirror(folder.uri, self._settings)).push()
        except StmpError as error:
            logger.warning("Tuning goes on, its trials are sent to the tracking store later: %s", error)
            return str(error)
        return ""

    def _describe(self, folder: Folder, name: str, status: Status, parent: RunRecord) -> None:
        """What makes a folder's mirror the child of another run."""
        record = RunRecord.read(folder)
        if record is not None and record.status == status:
            return
        values: dict[str, Any] = folder.read_json(CONFIG_FILE).get("tune", {})
        beside = {f"stmp.{key}": str(values[key]) for key in (RATE, FROZEN) if key in values}
        tags = {
            **{k: v for k, v in parent.tags.items() if k.startswith(("stmp.version", "mlflow.source.git"))},
            "mlflow.parentRunId": str(parent.mlflow_run_id),
            "mlflow.source.name": "stmp tune",
            "stmp.trial": name,
            "stmp.lambda": f"{lambda_of(values[PLACE]):.4g}",
            **beside,
        }  # fmt: skip
        ended = folder.read_json(RESULT).get("ended_ms") if status != "RUNNING" else None
        RunRecord.update(
            folder,
            name=f"lambda {tags['stmp.lambda']}",
            dataset_fingerprint=parent.dataset_fingerprint,
            status=status,
            ended_ms=ended,
            tags=tags,
        )

    def _folder(self, name: str) -> Folder:
        return Folder(self._out.child(f"{TRIALS}/{name}"), self._settings)
