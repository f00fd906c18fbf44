"""A process that writes observations until it is killed: what it was answered must be there afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from datetime import date, timedelta
from pathlib import Path

from serving.observations import Day, Observations

ROOT = Path(__file__).resolve().parents[1]
DAYS = 40
"""Days in one write."""


def days_of(number: int) -> list[Day]:
    """The days of one write, which tell their number."""
    return [Day(f"r{number}", "sales", date(2024, 1, 1) + timedelta(days=d), float(number)) for d in range(DAYS)]


def write_for_ever(uri: str, first: int) -> None:
    """Write, and say so after each answer."""
    store, number = Observations(uri, "city"), first
    while True:
        store.write(days_of(number))
        os.write(1, f"{number}\n".encode())
        number += 1


def kill_while_writing(folder: Path, seed: int) -> tuple[int, int]:
    """Kill a writer at a random moment; how many writes were answered, and how many are there, each whole.

    Raises
    ------
    AssertionError
        If a write that was answered is not there, or half of one is.
    """
    uri = f"sqlite:///{folder / 'killed.db'}"
    first = 100_000 * seed
    with subprocess.Popen(
        [sys.executable, "-m", "tests.killed_store", uri, str(first)], cwd=ROOT, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]  # it writes now
        timer = threading.Timer(random.Random(seed).uniform(0.0, 0.3), os.kill, (writer.pid, signal.SIGKILL))
        timer.start()
        lines += writer.stdout.readlines()
    answered = {int(line) for line in lines if line.endswith(b"\n")}
    mine = [day for day in Observations(uri, "city").since(0)[1] if int(day.region[1:]) >= first]
    kept = {int(day.region[1:]) for day in mine}
    assert len(mine) == DAYS * len(kept), "half of a write is there"
    assert answered <= kept, f"lost: {sorted(answered - kept)}"
    return len(answered), len(kept)


if __name__ == "__main__":
    write_for_ever(sys.argv[1], int(sys.argv[2]))
