"""What goes in and out of the API, as types: they check requests, and write the OpenAPI document.

Of a long list the first item that is wrong is told, and no other: collecting the faults of 100,000 takes seconds.
Answers are built from trusted values and not checked again; their types are for the document.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, model_validator


def _written_out(value: Any) -> Any:
    """Pydantic takes a number for the seconds since 1970; that is a mistake more often than a date."""
    if isinstance(value, datetime.date) or (
        isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value)
    ):
        return value
    raise ValueError("a date is written as YYYY-MM-DD")


Day = Annotated[datetime.date, BeforeValidator(_written_out)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
Sales = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e12)]
Level = Annotated[float, Field(gt=0, lt=1, description="Must lie within the levels that the model has learned.")]
Levels = Annotated[list[Level], Field(min_length=1, max_length=99)]
Values = Annotated[dict[Name, Number], Field(max_length=1000)]
Horizon = Annotated[
    int, Field(ge=1, le=10_000, description="Periods ahead of each region's last known day; by default all learned.")
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class KnownDay(_Request):
    """What is known of one future day: of a region, or of all that are asked for."""

    date: Day
    region: Name | None = Field(None, description="All regions of the request if not given.")
    series: Name | None = Field(None, description="Of a column that differs between series; all series if not given.")
    values: Values = Field({}, description="Known-future covariates by name, as `GET /v1/model` lists them.")
    closed: bool | None = Field(None, description="Whether the region sells nothing on that day.")


class Change(_Request):
    """A what-if: one covariate set, scaled or shifted on some days of some regions."""

    column: Name
    to: Number | None = Field(None, description="The value it takes.")
    scale: Number | None = Field(None, description="What it is multiplied by.")
    add: Number | None = Field(None, description="What is added to it.")
    regions: list[Name] | None = Field(None, max_length=100_000, description="All of the request if not given.")
    first: Day | None = Field(None, description="First day; the first that is forecast if not given.")
    last: Day | None = Field(None, description="Last day; the last that is forecast if not given.")

    @model_validator(mode="after")
    def _one_way(self) -> Change:
        if sum(way is not None for way in (self.to, self.scale, self.add)) != 1:
            raise ValueError("give exactly one of `to`, `scale` and `add`")
        return self


class _Asked(_Request):
    horizon: Horizon | None = None
    quantiles: Levels | None = Field(None, description="Levels wanted; by default all that the model has learned.")


class ForecastRequest(_Asked):
    """A forecast of known regions."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"regions": ["region-001"], "horizon": 14, "quantiles": [0.1, 0.5, 0.9]}]}
    )

    regions: Literal["all"] | Annotated[list[Name], Field(min_length=1, max_length=100_000)] = Field(
        description="Ids as `GET /v1/regions` lists them, or `all`."
    )
    dates: Annotated[list[Day], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="Only these days; instead of `horizon`."
    )
    series: Annotated[list[Name], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="All series if not given."
    )
    known: Annotated[list[KnownDay], FailFast()] = Field(
        [], max_length=100_000, description="Comes in place of what the data says."
    )
    what_if: list[Change] = Field([], max_length=1000, description="Changes to the covariates, applied in order.")
    by: Literal["champion", "challenger"] | None = Field(
        None, description="Which model, while another one is on trial; by default the one that the regions fall to."
    )

    @model_validator(mode="after")
    def _one_span(self) -> ForecastRequest:
        if self.horizon is not None and self.dates is not None:
            raise ValueError("give `horizon` or `dates`, not both")
        return self


class HistoryDay(_Request):
    """One day of a region that the model never saw."""

    date: Day
    sales: Sales | None = Field(None, description="Empty if it is not known.")
    series: Name | None = Field(None, description="Needed where the model has several series.")
    past: Values = Field({}, description="Past covariates by name.")
    known: Values = Field({}, description="Known-future covariates by name.")
    closed: bool = False


class ColdRequest(_Asked):
    """A region that the model never saw, with the few days that it has."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"region": "new", "horizon": 14, "history": []}]})

    region: Name = "new"
    history: Annotated[list[HistoryDay], FailFast()] = Field(
        [], max_length=20_000, description="Its days of sales, down to none."
    )
    static: Annotated[dict[Name, Number | Name], Field(max_length=1000)] = Field(
        {}, description="Static features by name; what is not given counts as unknown."
    )
    like: Name | None = Field(
        None,
        description="A region whose calendar, and whose known-future covariates where none are given, hold here too. "
        "Without it the most common calendar holds, and covariates that are not given count as unknown.",
    )
    origin: Day | None = Field(
        None, description="Last day before the forecast; by default the history's last, or else the data's."
    )
    series: Annotated[list[Name], Field(min_length=1, max_length=10_000)] | None = None
    known: Annotated[list[KnownDay], FailFast()] = Field([], max_length=20_000)


class SeriesForecast(_Answer):
    """The forecast of one series of one region; all lists run over `dates`."""

    region: str
    series: str
    cold: bool = Field(description="Whether the model has never learned from this region.")
    data_date: Day = Field(description="The last day whose sales were used.")
    dates: list[Day]
    day_types: list[str]
    events: list[str] = Field(description="The festival that a day belongs to, or an empty text.")
    mean: list[float]
    quantiles: dict[str, list[float]] = Field(description="By level, such as `0.1`.")


class ForecastAnswer(_Answer):
    """Forecasts by one version of the model, from one state of the data."""

    model_version: str
    forecast_id: str = Field(description="Which model, data and observations it is from; for `stmp trace`.")
    sequence: int = Field(description="Number of the last change of observations that was used.")
    forecasts: list[SeriesForecast]


class Observation(_Request):
    """What one region sold on one day."""

    region: Name
    date: Day
    series: Name | None = Field(None, description="Needed where the model has several series.")
    sales: Sales | None = Field(None, description="Empty to say that it is not known after all.")
    closed: bool = False
    past: Values = Field({}, description="Past covariates of that day by name.")
    known: Values = Field({}, description="Known-future covariates, as they came to be.")


class ObservationsRequest(_Request):
    """New days of sales. A repeated request changes nothing."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"observations": [{"region": "region-001", "date": "2022-12-31", "sales": 120.5}]}]
        }
    )

    observations: Annotated[list[Observation], FailFast()] = Field(min_length=1, max_length=100_000)
    revise: bool = Field(False, description="Whether values may replace other ones that are there.")


class ObservationsAnswer(_Answer):
    """What became of observations; all of them are on disk."""

    added: int
    revised: int
    unchanged: int
    sequence: int = Field(description="Number of the change; forecasts that know it say so, or name a later one.")


class RegionSummary(_Answer):
    """A region in a list."""

    id: str
    cold: bool
    data_date: Day
    mean_sales: float = Field(description="Mean of the last 28 observed days, summed over series.")


class RegionsAnswer(_Answer):
    """Regions, in the order of the data."""

    total: int = Field(description="All regions that match, on this page or not.")
    regions: list[RegionSummary]


class SeriesHistory(_Answer):
    """What a series sold; null where nothing was observed."""

    series: str
    sales: list[float | None]


class RegionAnswer(_Answer):
    """Everything about one region; lists run over `dates`, those of `history` over its first days."""

    id: str
    cold: bool
    data_date: Day
    known_until: Day = Field(description="Last day that can be forecast without further covariates.")
    static: dict[str, float | None]
    dates: list[Day] = Field(description="The last days of history, and the days that can be forecast.")
    day_types: list[str]
    events: list[str]
    closed: list[bool]
    known: dict[str, list[float | None]]
    history: list[SeriesHistory]


class KnownColumn(_Answer):
    """A known-future covariate, with the range that it had."""

    name: str
    low: float | None
    high: float | None
    binary: bool
    read: bool = Field(description="Whether forecasts depend on it; not if it hardly ever changed in training.")


class TrialAnswer(_Answer):
    """A challenger on trial beside the model that answers, in one replica."""

    model_version: str
    loaded: bool
    share: float = Field(description="Share of the regions that it answers for; 0 in the shadow.")
    stopped: str | None = Field(None, description="Why the trial has ended by itself.")
    answered: int = Field(description="Requests that it has answered.")
    failed: int = Field(description="Requests that it could not answer; the champion did.")
    compared: int = Field(description="Requests that both have answered, for comparison.")
    difference: float = Field(description="Sum of the means' absolute differences, over what was compared.")
    sales: float = Field(description="Sum of the champion's means, over the same.")
    seconds: float = Field(description="Time that it took for them.")
    champion_seconds: float = Field(description="Time that the champion took.")


class ModelAnswer(_Answer):
    """The model that this replica answers with."""

    model_version: str
    wanted: str = Field(description="The version it was told to load; another one while it loads, or after a failure.")
    error: str | None = Field(None, description="Why the wanted version could not be loaded.")
    replica: str
    trial: TrialAnswer | None = None
    horizon: int
    levels: list[float]
    frequency: str
    series: list[str]
    day_types: list[str]
    known: list[KnownColumn]
    past: list[str]
    static: list[str]
    trained_until: Day
    trained_regions: int
    fingerprint: str = Field(description="Of the data it was trained on.")
    validation: dict[str, float]
    tags: dict[str, str] = Field({}, description="Of the registered version, results of its gate among them.")


class GateCheck(_Answer):
    """One rule of the gate."""

    rule: str
    passed: bool | None = Field(description="Null where there was too little to tell, and no more was asked for.")
    text: str = Field(description="What was found, in words.")


class GateAnswer(_Answer):
    """The report of the gate on the version that answers."""

    model_version: str
    passed: bool
    against: str = Field(description="The champion of that time, or what stood in for one.")
    at: str
    by: str
    origins: list[Day] = Field(description="Last known days of the windows that were forecast.")
    horizon: int = Field(description="Periods in each of them.")
    checks: list[GateCheck]


class Festival(_Answer):
    """One date of a festival, and the days around it that count as one."""

    name: str
    date: Day
    first: Day
    last: Day
    regions: int = Field(description="Regions that keep it.")


class FestivalsAnswer(_Answer):
    """Festivals in the order of time."""

    festivals: list[Festival]


class Health(_Answer):
    """That the process lives."""

    status: Literal["ok"] = "ok"


class Readiness(_Answer):
    """Whether it can answer, and what with."""

    ready: bool
    model_version: str
    sequence: int
    error: str | None = None


class Fault(_Answer):
    """One thing that is wrong with a request."""

    field: str = Field(description="Where: a path into the request, such as `body.regions.0`.")
    reason: str
    remedy: str | None = None


class Problem(_Answer):
    """An error, after RFC 9457 (`application/problem+json`)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[Fault] = []


_SCHEMA = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEM: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": _SCHEMA}
    for code, text in {
        400: "The body cannot be read", 401: "No token, or an unknown one", 403: "The token lacks the scope",
        404: "There is no such region", 406: "There is no such format", 409: "It does not go with what is there",
        413: "Too much at once", 422: "A field cannot be used", 429: "Too many requests", 503: "Busy; try again",
    }.items()
}  # fmt: skip
