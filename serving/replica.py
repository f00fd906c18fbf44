"""One replica: a model with its memory of all regions, the observations, and the thread that works on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from serving.batching import Batcher
from serving.forecasts import Forecasts, answer, look_up
from serving.livedata import LiveData
from serving.metrics import Metrics
from serving.model import ServedModel
from serving.observations import Observations, StoreError
from serving.rollout import Rollout
from serving.schema import ForecastRequest
from serving.settings import Settings

logger = logging.getLogger("serving")
Result = TypeVar("Result")

Job = ForecastRequest | Callable[[ServedModel], Any]
"""A forecast, which is decoded together with others, or anything else that is asked of the model."""


class Replica:
    """What answers requests, apart from HTTP.

    Everything that touches the model or the data runs in one thread, batch by batch; between two batches new
    observations are taken in, and a new model takes the old one's place. So an answer never mixes two versions.

    Parameters
    ----------
    settings : Settings
    name : str
        By which it is told from others.

    Raises
    ------
    StmpError
        If the data or the store of observations cannot be used.
    """

    model: ServedModel

    def __init__(self, settings: Settings, name: str = "") -> None:
        self.settings, self.name = settings, name
        self.metrics = Metrics()
        self.data = LiveData.read(settings)
        self.store = Observations(settings.store, self.data.name)
        self.batcher: Batcher[Job, Any] = Batcher(self._work, settings.max_waiting)
        self.rollout = Rollout(ServedModel.load, lambda: self.model, self._swap)

    def begin(self, reference: str) -> Replica:
        """Load the first model; afterwards it answers.

        Raises
        ------
        StmpError
            If it cannot be used.
        """
        self.data.apply(*self.store.since(0))
        self.model = ServedModel.load(reference, self.data)
        self.rollout.wanted = reference
        self._tell_version()
        return self

    async def forecast(self, request: ForecastRequest) -> Forecasts:
        """Forecast known regions."""
        forecasts: Forecasts = await self.batcher.ask(request)
        return forecasts

    async def ask(self, job: Callable[[ServedModel], Result]) -> Result:
        """Run something on the model, when its thread is free."""
        result: Result = await self.batcher.ask(job)
        return result

    def want(self, reference: str) -> None:
        """Be told which model to answer with; it is loaded beside the old one."""
        if reference != self.rollout.wanted or self.rollout.error is not None:
            self.rollout.want(reference, self._copy)

    @property
    def wanted(self) -> str:
        """The model it was told to answer with, as forecasts name it."""
        return self.rollout.wanted.removeprefix("models:/")

    def close(self) -> None:
        """End the threads and the connections."""
        self.rollout.wait()
        self.batcher.close()
        self.store.close()

    def _work(self, jobs: Sequence[Job]) -> list[Any]:
        self.metrics.batch.observe(len(jobs))
        self.metrics.waiting.set(len(self.batcher.waiting))
        self._catch_up(self.model)
        model = self.model
        results: list[Any] = [None] * len(jobs)
        queries = {}
        for i, job in enumerate(jobs):
            try:
                if isinstance(job, ForecastRequest):
                    queries[i] = look_up(job, model, self.settings)
                else:
                    results[i] = job(model)
            except Exception as error:  # noqa: BLE001  # whoever asked is told; the others of the batch go on
                results[i] = error
        for i, found in zip(queries, answer(list(queries.values()), model), strict=True):
            results[i] = found
            if isinstance(found, Forecasts):
                self.metrics.forecasts.inc(found.days.size)
        return results

    def _catch_up(self, model: ServedModel) -> None:
        """Take new observations in; without an answer of the store go on with those that are known."""
        try:
            model.catch_up(self.store)
        except StoreError as error:
            self.metrics.store_failures.inc()
            logger.warning("The observations do not answer; forecasts go on without new ones: %s", error)
        self.metrics.sequence.set(model.data.sequence)

    def _copy(self) -> LiveData:
        """The data as it is between two batches."""
        return self.batcher.thread.submit(self.data.copy).result()

    def _swap(self, new: ServedModel) -> None:
        def swap() -> None:
            new.catch_up(self.store)
            self.model, self.data = new, new.data
            self._tell_version()

        self.batcher.thread.submit(swap).result()

    def _tell_version(self) -> None:
        self.metrics.model.clear()
        self.metrics.model.labels(self.model.version).set(1)
