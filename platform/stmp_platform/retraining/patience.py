"""Waiting for a tracking store or registry that does not answer, as long as a training waits for it at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from stmp.errors import RegistryError, TrackingError
from stmp_platform.tracking.client import unanswered

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
FIRST_S, LONGEST_S = 1.0, 10.0
"""Between two attempts: the pause doubles from one to the other."""


def patiently(ask: Callable[[], Answer], limit_s: float) -> Answer:
    """Ask again and again while the store does not answer.

    Raises
    ------
    RegistryError, TrackingError
        The last one, after the limit; at once, where the store has answered.
    """
    deadline, pause = time.monotonic() + limit_s, FIRST_S
    while True:
        try:
            return ask()
        except (RegistryError, TrackingError) as error:
            if not unanswered(error) or time.monotonic() + pause > deadline:
                raise
            if pause == FIRST_S:
                logger.warning("It is tried again for up to %.0f s: %s", limit_s, error)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_S)
