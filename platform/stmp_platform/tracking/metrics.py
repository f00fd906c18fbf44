"""The metrics of a training, as files in its output folder: the truth, whatever becomes of the tracking server.

One file a report, ``metrics/step-XXXXXXXX.jsonl``, whose lines are ``{"step": 10, "phase": "spatial", "loss": 0.7}``.
Its first line has phase ``log`` and the time of the report; that time belongs to the metric's identity in MLflow, which
is why a report that is sent twice is stored once.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stmp.errors import TrackingError
from stmp_platform.files import Folder
from stmp_platform.settings import Settings

METRICS = "metrics"
_FILE = re.compile(r"step-(\d+)\.jsonl$")
_NOT_A_KEY = re.compile(r"[^\w\-./ ]")


@dataclass(frozen=True)
class Report:
    """What one step reported: when, and rows of a phase, numbers, and text that says which part of it they describe."""

    step: int
    at_ms: int
    rows: tuple[dict[str, Any], ...]

    def metrics(self) -> dict[str, float]:
        """Flat metrics by key: the phase, the row's texts, then the name, as in ``validation/festival/wape``."""
        flat: dict[str, float] = {}
        for row in self.rows:
            texts = [v for k, v in row.items() if isinstance(v, str) and k != "phase" and v not in _NON_FINITE]
            prefix = "/".join([str(row["phase"]), *texts])
            for name, value in row.items():
                if name == "step" or value is None or (isinstance(value, str) and value not in _NON_FINITE):
                    continue
                flat[_NOT_A_KEY.sub("_", f"{prefix}/{name}")[:250]] = float(value)
        return flat


_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""JSON has no such numbers, so they are written as text."""


class MetricsLog:
    """Writer and reader of the metrics folder; written by one process alone (rank 0, or the only one).

    Parameters
    ----------
    out : str
        The training's output folder: a path or a URI that fsspec knows.
    """

    def __init__(self, out: str, settings: Settings | None = None) -> None:
        self._folder = Folder(out, settings)
        self._last = -1

    @property
    def uri(self) -> str:
        """Where the files lie, for messages."""
        return self._folder.child(METRICS)

    def append(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write all that a step reports, whole or not at all.

        A training that was killed and goes on from a checkpoint reports some steps again. Their first report stays:
        training is deterministic, and the timings of the first time are as true as those of the second.

        Parameters
        ----------
        step : int
            Must rise from call to call.
        rows : iterable of mappings
            Each with a ``phase`` and named numbers; text values say what the row describes, such as a day type.
        """
        step = int(step)
        if step <= self._last:
            raise ValueError(f"Step {step} comes after step {self._last}; gather all rows of a step into one report.")
        name = f"{METRICS}/step-{step:08d}.jsonl"
        if not self._folder.exists(name):
            lines = [{"step": step, "phase": "log", "at_ms": time.time_ns() // 1_000_000}]
            lines += [{"step": step, **{key: _to_json(value) for key, value in row.items()}} for row in rows]
            assert all("phase" in line for line in lines), f"a row of step {step} has no phase"
            self._folder.write(name, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())
        self._last = step

    def steps(self) -> list[int]:
        """All steps that have reported, rising."""
        matches = (_FILE.match(name) for name in self._folder.names(METRICS))
        return sorted(int(match[1]) for match in matches if match)

    def reports(self, after: int = -1) -> Iterator[Report]:
        """The reports of all steps after one, in order.

        Raises
        ------
        TrackingError
            If a file is not what `append` writes.
        """
        for step in self.steps():
            if step > after:
                yield self._read(step)

    def frame(self) -> pd.DataFrame:
        """All rows as one table: step, phase, and a column for each name."""
        rows = [{k: _NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in row.items()} for row in self._rows()]
        return pd.DataFrame(rows, columns=list(dict.fromkeys(["step", "phase", *(k for row in rows for k in row)])))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for report in self.reports():
            yield from report.rows

    def _read(self, step: int) -> Report:
        name = f"{METRICS}/step-{step:08d}.jsonl"
        try:
            lines = [json.loads(line) for line in self._folder.read(name).decode().splitlines()]
            rows = tuple(line for line in lines if line["phase"] != "log")
            return Report(step, next(int(line["at_ms"]) for line in lines if line["phase"] == "log"), rows)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, StopIteration) as error:
            raise TrackingError(
                f"The metrics file {self._folder.child(name)} is damaged ({type(error).__name__}: {error}). "
                "Delete it; the metrics of that step are lost, the training is not."
            ) from error


def _to_json(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)  # NumPy and torch scalars too
    if math.isfinite(number):
        return number
    return "nan" if math.isnan(number) else ("inf" if number > 0 else "-inf")
