"""Work for the one thread that has the model: what has queued up while it worked is its next batch.

So a single request waits for nothing, and under load batches grow by themselves. No event loop is blocked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from serving.problems import ApiError

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Batcher(Generic[Job, Answer]):
    """Runs a function on batches of jobs, in a thread of its own.

    Parameters
    ----------
    work : function
        From the jobs of a batch to an answer or an exception for each.
    limit : int
        Jobs that may wait; more are refused with 503.
    largest : int
        Jobs in a batch at most.
    """

    def __init__(self, work: Callable[[Sequence[Job]], Sequence[Answer | Exception]], limit: int, largest: int = 32):
        self.work, self.limit, self.largest = work, limit, largest
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.waiting: list[tuple[Job, asyncio.Future[Answer]]] = []
        self.task: asyncio.Task[None] | None = None

    async def ask(self, job: Job) -> Answer:
        """The answer to a job.

        Raises
        ------
        ApiError
            503 where too many wait already.
        """
        if len(self.waiting) >= self.limit:
            raise ApiError(503, f"{len(self.waiting)} requests are waiting. Try again.", headers={"Retry-After": "1"})
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiting.append((job, future))
        if self.task is None or self.task.done():
            self.task = asyncio.get_running_loop().create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            # Whoever has gone away is asked for no more.
            batch = [item for item in self.waiting[: self.largest] if not item[1].done()]
            del self.waiting[: self.largest]
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(self.thread, self.work, [job for job, _ in batch])
            except Exception as error:  # noqa: BLE001  # a fault of one batch must not stop those after it
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def close(self) -> None:
        """End the thread; jobs that run are finished."""
        self.thread.shutdown(wait=True, cancel_futures=True)
