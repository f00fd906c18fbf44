"""Another model beside the one that answers: in its shadow, or answering for a share of the regions.

A *champion* answers; a *challenger* is on trial. Both forecast what is asked, and what differs is counted. In the
shadow no answer of the challenger is returned; as a canary it answers for the regions whose hash falls into its share,
always the same ones. Where it fails the champion answers in its place, and a challenger that fails, is slow, or
forecasts something else altogether is dropped by the replica itself.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.forecasts import Forecasts, forecast
from serving.model import ServedModel
from serving.problems import ApiError, invalid
from serving.schema import ForecastRequest
from serving.settings import Settings
from stmp.errors import CheckpointError

logger = logging.getLogger("serving")

PARTS = 10_000
"""Regions are told apart by their hash into so many parts."""
TOGETHER = 8
"""Requests of a batch that are compared at most, so that comparing holds up no one for long."""


class TrialSettings(BaseModel):
    """What a deployment's `user_config` says under ``trial``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, description="A pinned version or a folder.")
    share: float = Field(0.0, ge=0, le=1, description="Share of the regions it answers for; 0: in the shadow.")
    max_failure_rate: float = Field(0.0, ge=0, le=1, description="Share of the requests that it may fail.")
    max_slowdown: float = Field(3.0, gt=0, description="Its time over the champion's, for the same requests.")
    max_difference: float = Field(0.5, gt=0, description="Mean absolute difference of the means, over the champion's.")
    enough: int = Field(20, ge=1, description="Requests that are compared before slowness or difference count.")


@dataclass
class Tally:
    """What a trial has found so far.

    Attributes
    ----------
    answered : int
        Requests that the challenger has answered.
    failed : int
        Requests that it could not answer; the champion did.
    compared : int
        Requests that both have answered, for comparison.
    difference, sales : float
        Sums, over the region-days compared, of the means' absolute differences and of the champion's means.
    seconds, champion_seconds : float
        Time that each took for them.
    """

    answered: int = 0
    failed: int = 0
    compared: int = 0
    difference: float = 0.0
    sales: float = 0.0
    seconds: float = 0.0
    champion_seconds: float = 0.0


@dataclass
class Trial:
    """A challenger on trial in one replica. Only the model's thread may touch it.

    Attributes
    ----------
    model : ServedModel or None
        None until it is loaded, and after it was stopped.
    stopped : str or None
        Why the trial has ended by itself.
    """

    settings: TrialSettings
    model: ServedModel | None = None
    tally: Tally = field(default_factory=Tally)
    stopped: str | None = None

    def forecast(
        self, requests: Sequence[ForecastRequest], champion: ServedModel, settings: Settings
    ) -> list[Forecasts | Exception]:
        """Answer each request by the model that it falls to, and by the champion where the other one fails."""
        own = {i: request for i, request in enumerate(requests) if self.model is not None and self.answers(request)}
        tried = dict(zip(own, self._ask(list(own.values()), settings), strict=True))
        answered = {i: found for i, found in tried.items() if isinstance(found, Forecasts)}
        rest = [i for i in range(len(requests)) if i not in answered]
        by_champion = dict(zip(rest, forecast([requests[i] for i in rest], champion, settings), strict=True))
        self.tally.answered += sum(requests[i].by is None for i in answered)
        self._blame((found, by_champion[i]) for i, found in tried.items() if i not in answered)
        # Who asks for the challenger by name is told that it failed.
        named = {i: found for i, found in tried.items() if requests[i].by is not None}
        everything = answered | by_champion | named
        return [everything[i] for i in range(len(requests))]

    def answers(self, request: ForecastRequest) -> bool:
        """Whether the challenger is asked by name, or all regions are in its share: an answer is of one model."""
        if request.by is not None:
            return request.by == "challenger"
        if self.settings.share >= 1:
            return True
        if request.regions == "all":
            return False
        most = self.settings.share * PARTS
        return all(zlib.crc32(region.encode()) % PARTS < most for region in request.regions)

    def compare(self, requests: Sequence[ForecastRequest], champion: ServedModel, settings: Settings) -> None:
        """Have both models forecast what was asked, one after the other and anew, and count what differs."""
        if self.model is None or not requests:
            return
        same = [_alike(request, champion) for request in requests[:TOGETHER]]
        began = time.perf_counter()
        theirs = forecast(same, champion, settings, anew=True)
        between = time.perf_counter()
        own = self._ask(same, settings, anew=True)
        seconds = time.perf_counter() - between
        for mine, other in zip(own, theirs, strict=True):
            if isinstance(mine, Forecasts) and isinstance(other, Forecasts):
                self.tally.compared += 1
                self.tally.difference += float(np.abs(mine.mean - other.mean).sum(dtype=np.float64))
                self.tally.sales += float(other.mean.sum(dtype=np.float64))
        self.tally.seconds += seconds
        self.tally.champion_seconds += between - began
        self._blame(zip(own, theirs, strict=True))
        self._judge()

    @property
    def version(self) -> str:
        """The challenger, as forecasts name it."""
        return self.settings.model.removeprefix("models:/")

    def card(self) -> dict[str, Any]:
        """What ``GET /v1/model`` tells of it."""
        told = {"model_version": self.version, "loaded": self.model is not None, "stopped": self.stopped}
        return told | {"share": self.settings.share} | asdict(self.tally)

    def stop(self, reason: str) -> None:
        """End the trial in this replica; the champion answers everything again."""
        logger.error("The trial of %s has ended: %s", self.settings.model, reason)
        self.model, self.stopped = None, reason

    def _ask(
        self, requests: Sequence[ForecastRequest], settings: Settings, *, anew: bool = False
    ) -> list[Forecasts | Exception]:
        """The challenger's forecasts, or why there are none."""
        if self.model is None or not requests:
            return []
        found = forecast(requests, self.model, settings, anew=anew)
        unusable = CheckpointError("a forecast is not finite, or negative")
        return [unusable if isinstance(one, Forecasts) and not _usable(one) else one for one in found]

    def _blame(self, pairs: Iterable[tuple[Forecasts | Exception, Forecasts | Exception]]) -> None:
        """Count what the challenger could not answer and the champion could: other faults are the request's own."""
        errors = [mine for mine, other in pairs if isinstance(mine, Exception) and isinstance(other, Forecasts)]
        self.tally.failed += len(errors)
        asked = self.tally.answered + self.tally.compared + self.tally.failed
        if errors and self.tally.failed > self.settings.max_failure_rate * asked:
            self.stop(f"it failed {self.tally.failed} of {asked} requests: {type(errors[0]).__name__}: {errors[0]}")

    def _judge(self) -> None:
        tally, limits = self.tally, self.settings
        if self.stopped is not None or tally.compared < limits.enough:
            return
        difference = tally.difference / max(tally.sales, 1e-9)
        slowdown = tally.seconds / max(tally.champion_seconds, 1e-9)
        if difference > limits.max_difference:
            self.stop(
                f"its forecasts differ by {100 * difference:.0f} % from the champion's, more than the "
                f"{100 * limits.max_difference:.0f} % that are allowed ({tally.compared} requests)"
            )
        elif slowdown > limits.max_slowdown:
            self.stop(
                f"it takes {slowdown:.1f} times as long as the champion, more than the {limits.max_slowdown:g} that "
                f"are allowed ({tally.compared} requests)"
            )


def no_challenger() -> ApiError:
    """The answer to a request for a challenger where there is none."""
    return invalid("body.by", "no challenger is on trial", "Leave `by` out; GET /v1/model shows a trial.", status=409)


def _alike(request: ForecastRequest, champion: ServedModel) -> ForecastRequest:
    """The request with its horizon written out, as models may have learned different ones."""
    if request.dates is not None or request.horizon is not None:
        return request
    return request.model_copy(update={"horizon": champion.forecaster.horizon})


def _usable(found: Forecasts) -> bool:
    return bool(np.isfinite(found.mean).all() and np.isfinite(found.quantiles).all() and (found.mean >= 0).all())
