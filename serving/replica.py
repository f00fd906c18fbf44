"""One replica: a model with its memory of all regions, the observations, and the thread that works on them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from serving.batching import Batcher
from serving.forecasts import Forecasts, forecast
from serving.livedata import LiveData
from serving.metrics import Metrics
from serving.model import ServedModel
from serving.observations import Observations, StoreError
from serving.rollout import Rollout
from serving.schema import ForecastRequest
from serving.settings import Settings
from serving.trial import Trial, TrialSettings, no_challenger

logger = logging.getLogger("serving")
Result = TypeVar("Result")

Job = ForecastRequest | Callable[[ServedModel], Any]
"""A forecast, which is decoded together with others, or anything else that is asked of the model."""

REST_S = 5.0
"""Seconds for which a store that did not answer is not asked again: forecasts wait for each question."""

SPARSE = 10
"""While requests wait, one batch in so many is compared between two models on trial."""


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
        self.trial: Trial | None = None
        self.trials = Rollout(ServedModel.load, lambda: self.model, self._put_beside)
        self.batches = 0
        self.ask_store_at = 0.0

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

    def want_trial(self, settings: TrialSettings | None) -> None:
        """Be told which model to try beside the one that answers, and for which share of the regions; None for none."""
        model = self.batcher.thread.submit(self._set_trial, settings).result()
        if settings is not None and model is None:
            self.trials.want(settings.model, self._copy)

    def trial_card(self) -> dict[str, Any] | None:
        """What is known of the trial; a challenger that could not be loaded is told as one that was stopped."""
        if self.trial is None:
            return None
        card = self.trial.card()
        return card | {"stopped": card["stopped"] or self.trials.error}

    @property
    def wanted(self) -> str:
        """The model it was told to answer with, as forecasts name it."""
        return self.rollout.wanted.removeprefix("models:/")

    def close(self) -> None:
        """End the threads and the connections."""
        self.rollout.wait()
        self.trials.wait()
        self.batcher.close()
        self.store.close()

    def _work(self, jobs: Sequence[Job]) -> list[Any]:
        self.metrics.batch.observe(len(jobs))
        self.metrics.waiting.set(len(self.batcher.waiting))
        model = self.model
        self._catch_up(model)
        if self.trial is not None and self.trial.model is not None:
            self._catch_up(self.trial.model)
        results: list[Any] = [None] * len(jobs)
        asked = {i: job for i, job in enumerate(jobs) if isinstance(job, ForecastRequest)}
        for i, found in zip(asked, self._forecast(list(asked.values())), strict=True):
            results[i] = found
            if isinstance(found, Forecasts):
                self.metrics.forecasts.inc(found.days.size)
        for i, job in enumerate(jobs):
            if isinstance(job, ForecastRequest):
                continue
            try:
                results[i] = job(model)
            except Exception as error:  # noqa: BLE001  # whoever asked is told; the others of the batch go on
                results[i] = error
        return results

    def _forecast(self, requests: Sequence[ForecastRequest]) -> list[Forecasts | Exception]:
        trial = self.trial
        if trial is None or trial.model is None or not requests:
            found = forecast(requests, self.model, self.settings)
            return [no_challenger() if a.by == "challenger" else f for a, f in zip(requests, found, strict=True)]
        found = trial.forecast(requests, self.model, self.settings)
        self.batches += 1
        if not self.batcher.waiting or self.batches % SPARSE == 0:
            # Behind this batch's answers, in the same thread.
            self.batcher.thread.submit(self._compare, trial, [request for request in requests if request.by is None])
        return found

    def _compare(self, trial: Trial, requests: Sequence[ForecastRequest]) -> None:
        if trial is self.trial:  # else it was called off meanwhile
            trial.compare(requests, self.model, self.settings)
            self.metrics.tell_trial(trial.card())

    def _catch_up(self, model: ServedModel) -> None:
        """Take new observations in; without an answer of the store go on with those that are known."""
        if time.monotonic() < self.ask_store_at:
            return
        try:
            model.catch_up(self.store)
        except StoreError as error:
            self.ask_store_at = time.monotonic() + REST_S
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

    def _set_trial(self, settings: TrialSettings | None) -> ServedModel | None:
        """Begin a trial, with the model of the one before where it is the same."""
        before, self.trial = self.trial, None if settings is None else Trial(settings)
        if self.trial is None:
            self.metrics.tell_trial(None)
            return None
        if self.trial.version == self.model.version:
            self.trial.stop("it is the model that answers")
        elif before is not None and before.version == self.trial.version:
            self.trial.model = before.model
        return self.trial.model

    def _put_beside(self, new: ServedModel) -> None:
        def put() -> None:
            new.catch_up(self.store)
            # Meanwhile the trial may have been called off, or be one of another model.
            if self.trial is not None and self.trial.version == new.version:
                self.trial.model = new

        self.batcher.thread.submit(put).result()

    def _tell_version(self) -> None:
        self.metrics.model.clear()
        self.metrics.model.labels(self.model.version).set(1)
