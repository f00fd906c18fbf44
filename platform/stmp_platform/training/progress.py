"""A progress bar for people, fed from the metrics folder, so that it is the same wherever the workers run."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Self

from stmp.errors import StmpError
from stmp_platform.settings import Settings
from stmp_platform.tracking import MetricsLog

logger = logging.getLogger(__name__)

POLL_S = 1.0


class Progress:
    """Shows steps and the latest loss on standard error while it is entered; nothing where that is no terminal.

    Parameters
    ----------
    out : str
        The training's output folder.
    steps : int
        Steps at most.
    """

    def __init__(self, out: str, steps: int, settings: Settings | None = None) -> None:
        self._log = MetricsLog(out, settings)
        self._steps = steps
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._show, name="stmp-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        with Bar(*columns, TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=self._steps)
            seen = -1
            losses: dict[str, float] = {}
            while True:
                ended = self._ended.is_set()
                try:
                    for report in self._log.reports(after=seen):
                        seen = report.step
                        losses |= {k: v for k, v in report.metrics().items() if k in SHOWN}
                except (StmpError, OSError) as error:
                    logger.debug("The metrics folder cannot be read now: %s", error)
                shown = "  ".join(f"{SHOWN[name]} {value:.3f}" for name, value in losses.items())
                bar.update(task, completed=max(0, seen), description=shown)
                if ended:
                    return
                self._ended.wait(POLL_S)


SHOWN = {"spatial/loss": "spatial", "temporal/loss": "temporal", "validation/all": "validation"}
