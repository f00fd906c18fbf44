"""Waiting for a registry that does not answer, as long as a training waits for it at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from stmp.errors import RegistryError

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
LONGEST_S = 10.0
"""Between two attempts."""


def patiently(ask: Callable[[], Answer], limit_s: float) -> Answer:
    """Ask again and again while the registry does not answer.

    Raises
    ------
    RegistryError
        The last one, after the limit.
    """
    deadline, pause = time.monotonic() + limit_s, 1.0
    while True:
        try:
            return ask()
        except RegistryError as error:
            if time.monotonic() + pause > deadline:
                raise
            if pause == 1.0:
                logger.warning("It is tried again for up to %.0f s: %s", limit_s, error)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_S)
