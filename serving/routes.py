"""The routes of the API: each takes a typed request, asks the replica, and writes the answer."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic_core import to_json

from serving import incoming, views
from serving.answers import ARROW, PARQUET, wanted_format, write
from serving.auth import needs
from serving.cold import forecast_cold
from serving.observations import Conflict, StoreError
from serving.problems import ApiError
from serving.replica import Replica
from serving.schema import (
    PROBLEM,
    ColdRequest,
    Day,
    Fault,
    FestivalsAnswer,
    ForecastAnswer,
    ForecastRequest,
    GateAnswer,
    Health,
    ModelAnswer,
    ObservationsAnswer,
    ObservationsRequest,
    Problem,
    Readiness,
    RegionAnswer,
    RegionsAnswer,
)

INLINE = 500
"""Region-days whose answer is written sooner than another thread would begin."""

READ, WRITE = Depends(needs("read")), Depends(needs("write"))
_TABLES: dict[str, Any] = {ARROW: {}, PARQUET: {}}
_FORECAST: dict[int | str, dict[str, Any]] = PROBLEM | {200: {"model": ForecastAnswer, "content": _TABLES}}

router = APIRouter(responses=PROBLEM)


async def _replica(request: Request) -> Replica:  # async: FastAPI would run it in another thread
    replica: Replica = request.app.state.replica
    return replica


Served = Annotated[Replica, Depends(_replica)]


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


@router.post("/v1/forecasts", dependencies=[READ], responses=_FORECAST, tags=["forecasts"])
async def forecasts(
    body: ForecastRequest, replica: Served, accept: Annotated[str, Header(include_in_schema=False)] = ""
) -> Response:
    """Forecast regions, each from its last known day on."""
    kind = wanted_format(accept)
    found = await replica.forecast(body)
    if len(found.names) * found.days.shape[1] < INLINE:
        return write(found, kind)
    return await asyncio.to_thread(write, found, kind)


@router.post("/v1/forecasts:cold", dependencies=[READ], responses=_FORECAST, tags=["forecasts"])
async def forecasts_cold(
    body: ColdRequest, replica: Served, accept: Annotated[str, Header(include_in_schema=False)] = ""
) -> Response:
    """Forecast a region that the model never saw, from its few days of history, or none."""
    kind = wanted_format(accept)
    return write(await replica.ask(partial(forecast_cold, body)), kind)


@router.post(
    "/v1/observations", dependencies=[WRITE], responses={200: {"model": ObservationsAnswer}}, tags=["observations"]
)
async def observations(body: ObservationsRequest, replica: Served) -> Response:
    """Take in new days of sales. When the answer comes they are on disk, and the next forecast uses them."""
    days, there = await replica.ask(lambda model: incoming.check(body, model, replica.settings))
    try:
        written = await asyncio.to_thread(replica.store.write, days, revise=body.revise)
    except Conflict as found:
        raise incoming.conflict(
            [Fault(field="body.observations", reason=f"{day.region} on {day.date} is there") for day in found.days]
        ) from None
    except StoreError as error:
        raise ApiError(503, str(error), headers={"Retry-After": "5"}) from error
    counts = {"added": written.added, "revised": written.revised, "unchanged": written.unchanged + there}
    for what, number in counts.items():
        replica.metrics.observed.labels(what).inc(number)
    return _json(counts | {"sequence": written.sequence})


@router.get("/v1/regions", dependencies=[READ], responses={200: {"model": RegionsAnswer}}, tags=["data"])
async def regions(
    replica: Served,
    search: Annotated[str, Query(max_length=200, description="Part of an id.")] = "",
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List regions."""
    return _json(await replica.ask(lambda model: views.list_regions(model, search, offset, limit)))


@router.get("/v1/regions/{region:path}", dependencies=[READ], responses={200: {"model": RegionAnswer}}, tags=["data"])
async def region(
    region: Annotated[str, Path(max_length=200)],
    replica: Served,
    history: Annotated[int, Query(ge=1, le=1100, description="Periods of history.")] = 120,
) -> Response:
    """Show one region: recent history, calendar, known-future covariates and static features."""
    return _json(await replica.ask(lambda model: views.show_region(model, region, history)))


@router.get("/v1/model", dependencies=[READ], responses={200: {"model": ModelAnswer}}, tags=["model"])
async def model(replica: Served) -> Response:
    """Show the model that answers: what it was trained on, and what it can be asked."""
    card, trial = await replica.ask(lambda model: (views.show_model(model), replica.trial_card()))
    state = {"wanted": replica.wanted, "error": replica.rollout.error, "replica": replica.name, "trial": trial}
    return _json(card | state)


@router.get("/v1/model/gate", dependencies=[READ], responses={200: {"model": GateAnswer}}, tags=["model"])
async def gate(replica: Served) -> Response:
    """Show the report of the gate on the version that answers: every rule, and what was found."""
    version, tags = await replica.ask(lambda model: (model.version, model.tags))
    return _json(await asyncio.to_thread(views.show_gate, version, tags))


@router.get("/v1/festivals", dependencies=[READ], responses={200: {"model": FestivalsAnswer}}, tags=["data"])
async def festivals(
    replica: Served,
    region: Annotated[str | None, Query(max_length=200, description="Of one region; of all if not given.")] = None,
    first: Annotated[Day | None, Query()] = None,
    last: Annotated[Day | None, Query()] = None,
) -> Response:
    """List the festivals that the calendar knows, past and future."""
    return _json(await replica.ask(lambda model: views.list_festivals(model, region, first, last)))


@router.get("/healthz", responses={200: {"model": Health}}, tags=["health"])
async def healthz() -> Response:
    """Whether the process lives."""
    return _json({"status": "ok"})


@router.get("/readyz", responses={200: {"model": Readiness}}, tags=["health"])
async def readyz(replica: Served) -> Response:
    """Whether it can answer, and with which model and data."""
    version, sequence = await replica.ask(lambda model: (model.version, model.data.sequence))
    return _json({"ready": True, "model_version": version, "sequence": sequence, "error": replica.rollout.error})


@router.get("/metrics", dependencies=[READ], responses={200: {"content": {"text/plain": {}}}}, tags=["health"])
async def metrics(replica: Served) -> Response:
    """Counters of one replica, for Prometheus."""
    return Response(generate_latest(replica.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def document_problems(app: FastAPI) -> None:
    """Have the OpenAPI document name what every error looks like."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        own = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= own.pop("$defs", {}) | {"Problem": own}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
