"""The steps of one retraining: each is done once, and says what it was given and what came of it.

The record of a step is written when the step is done, so a retraining that was killed goes on with the step that it was
in; what a step does must therefore bear being begun again. A step whose inputs have changed is done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from stmp_platform.files import Folder
from stmp_platform.gate.champions import now, whoami
from stmp_platform.retraining.lock import Lease
from stmp_platform.tracking.record import code_tags

STEPS = "steps"
ORDER = ("data", "plan", "train", "backtest", "register", "promote", "rollout", "forecast", "report")


class Steps:
    """The steps of one retraining, as files in its folder.

    Parameters
    ----------
    folder : Folder
        Of the retraining.
    lease : Lease
        Looked at before each step.
    begin : callable
        Called once, before the first step that is done and not only read.
    """

    def __init__(self, folder: Folder, lease: Lease, begin: Callable[[], None]) -> None:
        self._folder, self._lease, self._begin = folder, lease, begin
        self.done: list[str] = []
        """Steps that this process has done; those that were done before are not among them."""

    def begun(self) -> bool:
        """Whether an earlier process has decided to retrain."""
        return self._folder.exists(_file("plan"))

    def run(self, name: str, work: Callable[[], dict[str, Any]], /, **inputs: Any) -> dict[str, Any]:
        """The outputs of a step, from its record where that has the same inputs, else by doing it.

        Parameters
        ----------
        name : str
            One of `ORDER`.
        work : callable
            Does the step, and returns its outputs: values that JSON knows.
        inputs
            All that the outputs depend on.
        """
        self._lease.check()
        given = json.loads(json.dumps(inputs))
        record = self._folder.read_json(_file(name))
        if record and record["inputs"] == given:
            outputs: dict[str, Any] = record["outputs"]
            return outputs
        if not self.done:
            self._begin()
        began, start = now(), time.monotonic()
        outputs = json.loads(json.dumps(work()))
        self._lease.check()
        self._folder.write_json(
            _file(name),
            {
                "step": name, "inputs": given, "outputs": outputs, "began": began, "ended": now(),
                "seconds": round(time.monotonic() - start, 3), "by": whoami(), "code": code_tags(),
            },
        )  # fmt: skip
        self.done.append(name)
        return outputs


def records(folder: Folder) -> dict[str, dict[str, Any]]:
    """The records of a retraining's steps, by name, in their order."""
    found = {name: folder.read_json(_file(name)) for name in ORDER}
    return {name: record for name, record in found.items() if record}


def _file(name: str) -> str:
    return f"{STEPS}/{ORDER.index(name) + 1}-{name}.json"
