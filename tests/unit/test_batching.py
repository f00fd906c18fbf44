"""Batches: what queues up while one is worked on is the next, faults stay with their own, and too much is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from serving.batching import Batcher
from serving.problems import ApiError


class Gate:
    """Work that waits until it is let through, and remembers its batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        self.open.wait(10)
        return [ValueError("odd") if job == 3 else 10 * job for job in jobs]


def run(work: Gate, jobs: int, limit: int, largest: int = 4) -> list[object]:
    """Ask for some jobs at once, and open the gate when all have asked."""

    async def ask() -> list[object]:
        batcher: Batcher[int, int] = Batcher(work, limit, largest)
        asked = [asyncio.create_task(batcher.ask(job)) for job in range(jobs)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - began < 1.0, "the event loop is held up by the work"
        work.open.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return list(answers)

    return asyncio.run(ask())


def test_what_waits_is_the_next_batch() -> None:
    gate = Gate()
    answers = run(gate, jobs=8, limit=100)
    assert [answer for answer in answers if not isinstance(answer, Exception)] == [0, 10, 20, 40, 50, 60, 70]
    assert str(answers[3]) == "odd"
    assert [job for batch in gate.batches for job in batch] == list(range(8))
    assert max(map(len, gate.batches)) == 4


def test_too_many_are_told_to_come_again() -> None:
    answers = run(Gate(), jobs=12, limit=5)
    refused = [answer for answer in answers if isinstance(answer, ApiError)]
    assert refused
    assert {(error.status, error.headers["Retry-After"]) for error in refused} == {(503, "1")}
    assert len(refused) < 12


def test_a_fault_of_a_batch_is_told_and_the_next_goes_on() -> None:
    def explode(jobs: Sequence[int]) -> list[int | Exception]:
        if 0 in jobs:
            raise RuntimeError("boom")
        return list(jobs)

    async def ask() -> None:
        batcher: Batcher[int, int] = Batcher(explode, 10)
        with pytest.raises(RuntimeError, match="boom"):
            await batcher.ask(0)
        assert await batcher.ask(1) == 1
        batcher.close()

    asyncio.run(ask())


def test_whoever_has_gone_is_not_worked_for() -> None:
    gate = Gate()

    async def ask() -> None:
        batcher: Batcher[int, int] = Batcher(gate, 10, largest=1)
        first, gone, last = (asyncio.create_task(batcher.ask(job)) for job in (0, 1, 2))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        assert (await first, await last) == (0, 20)
        batcher.close()

    asyncio.run(ask())
    assert gate.batches == [[0], [2]]
