"""A replica's side of a rollout: the new model is loaded and tried beside the old one, and takes its place in one step.

The rollout's other side, which tells all replicas and takes back what one of them cannot load, is
`stmp_platform.rollout`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from serving.livedata import LiveData
from serving.model import ServedModel
from stmp.errors import StmpError

logger = logging.getLogger("serving")

Load = Callable[[str, LiveData], ServedModel]


class Rollout:
    """Which model is wanted, which one answers, and why they differ.

    Parameters
    ----------
    load : function
        From a reference and data to a model that was tried out.
    current : function
        The model that answers now.
    swap : function
        Puts another one in its place, at a moment when nothing is being answered.
    """

    def __init__(self, load: Load, current: Callable[[], ServedModel], swap: Callable[[ServedModel], None]) -> None:
        self.load, self.current, self.swap = load, current, swap
        self.wanted = ""
        self.error: str | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def want(self, reference: str, copy: Callable[[], LiveData]) -> None:
        """Load a model in the background; what is wanted last wins.

        Parameters
        ----------
        copy : function
            The data as it is now, for the new model to grow on its own.
        """
        with self._lock:
            self.wanted, self.error = reference, None
            if self._thread is not None and self._thread.is_alive():
                return  # it looks again at what is wanted when it is done
            self._thread = threading.Thread(target=self._follow, args=(copy,), name="rollout", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until nothing is being loaded."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _follow(self, copy: Callable[[], LiveData]) -> None:
        while True:
            reference = self.wanted
            error = self._try(reference, copy)
            with self._lock:
                if self.wanted == reference:
                    self.error, self._thread = error, None
                    return

    def _try(self, reference: str, copy: Callable[[], LiveData]) -> str | None:
        """Load and swap, or say why not; the old model answers all the while."""
        if reference.startswith("models:/") and self.current().version == reference.removeprefix("models:/"):
            return None  # it answers already: another one was refused meanwhile
        try:
            new = self.load(reference, copy())
            self.current().check_successor(new)
            self.swap(new)
        except StmpError as error:
            logger.error("The model %s is not taken: %s", reference, error)
            return str(error)
        except Exception as error:  # a model may fail in any way, and must not take the old one with it
            logger.exception("The model %s is not taken", reference)
            return f"{type(error).__name__}: {error}"
        logger.info("The model %s answers from now on", reference)
        return None
