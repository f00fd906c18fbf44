"""A driver that can kill itself, as a process of its own.

``python -m tests.train_and_die DATA OUT WORKERS DEATH [SETTING...]``, where DEATH says where SIGKILL comes: ``step:N``
before that step, ``write:N`` in the middle of writing the N-th checkpoint, ``publish:N`` after it was published and
before older ones are forgotten, ``model`` in the middle of writing the finished model, ``never`` not at all.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import stmp.forecaster
import stmp.learning.checkpoint
from stmp.learning.meta import MetaTrainer
from stmp_platform.training import train
from tests.training import small_config


def die(*_: Any) -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, function: Callable[..., Any], instead: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but for its call of that number."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return instead(*args, **kwargs) if calls == number else function(*args, **kwargs)

    return counted


def half(tensors: Any, path: Any) -> None:
    """Write half of a file, and die."""
    path.write_bytes(b"\0" * 100)
    die()


def arrange(death: str) -> None:
    """Put the death where it is wanted."""
    where, _, number = death.partition(":")
    if where == "step":
        step = MetaTrainer.train_step

        def train_step(self: MetaTrainer) -> None:
            if self.step == int(number):
                die()
            step(self)

        MetaTrainer.train_step = train_step  # type: ignore[method-assign]
    elif where == "write":  # two files of tensors a checkpoint: the optimiser's comes second
        module = stmp.learning.checkpoint
        module.save_file = at_call(2 * int(number), module.save_file, half)
    elif where == "publish":
        store = stmp.learning.checkpoint.LocalCheckpoints
        store.steps = at_call(int(number) + 1, store.steps, die)  # type: ignore[method-assign]
    elif where == "model":
        stmp.forecaster.save_file = half
    elif where != "never":
        raise SystemExit(f"unknown death {death}")


def main(data: str, out: str, workers: str, death: str, *settings: str) -> None:
    """Train, and die as asked."""
    logging.basicConfig(level=logging.WARNING)
    arrange(death)
    train(data, small_config(*settings), out=out, workers=int(workers), track=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
