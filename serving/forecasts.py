"""From requests to forecasts: several requests are looked up, decoded together and taken apart again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.futures import Future, day_index
from serving.livedata import LiveData
from serving.model import ServedModel
from serving.problems import ApiError, invalid
from serving.schema import ForecastRequest
from serving.settings import Settings
from stmp.data.panel import Panel


@dataclass(frozen=True)
class Query:
    """A request, looked up in the data.

    Attributes
    ----------
    regions : ndarray int64 [R]
    horizon : int
        Periods to decode.
    picked : ndarray int64 [R, H]
        Which of them are asked for.
    series : ndarray int64
    weights : ndarray [Q of the model, Q asked for]
        How the quantiles asked for come from the model's.
    levels : tuple of float
    """

    regions: np.ndarray
    horizon: int
    picked: np.ndarray
    series: np.ndarray
    weights: np.ndarray
    levels: tuple[float, ...]
    future: Future | None = None


@dataclass(frozen=True)
class Forecasts:
    """What an answer is written from; row r, day h, series g.

    Attributes
    ----------
    days : ndarray int64 [R, H]
        Indices into the panel's dates.
    mean : ndarray float32 [R, H, G]
    quantiles : ndarray float32 [R, H, G, Q]
    """

    panel: Panel
    names: np.ndarray
    calendar: np.ndarray
    cold: np.ndarray
    origin: np.ndarray
    days: np.ndarray
    series: tuple[str, ...]
    levels: tuple[float, ...]
    mean: np.ndarray
    quantiles: np.ndarray
    model_version: str
    forecast_id: str
    sequence: int


def forecast(
    requests: Sequence[ForecastRequest], model: ServedModel, settings: Settings, *, anew: bool = False
) -> list[Forecasts | Exception]:
    """Forecast what is asked, together; a request that cannot be answered does not hold up the others.

    Parameters
    ----------
    anew : bool
        Decode even what was decoded before.
    """
    out: list[Forecasts | Exception] = [ApiError(500, "not looked up")] * len(requests)
    queries = {}
    for i, request in enumerate(requests):
        try:
            queries[i] = look_up(request, model, settings)
        except Exception as error:  # noqa: BLE001  # whoever asked is told; the others go on
            out[i] = error
    for i, found in zip(queries, answer(list(queries.values()), model, anew), strict=True):
        out[i] = found
    return out


def look_up(request: ForecastRequest, model: ServedModel, settings: Settings) -> Query:
    """Find what a request names.

    Raises
    ------
    ApiError
        413 for too many regions or too large an answer, 422 for anything that is not there.
    """
    data, forecaster = model.data, model.forecaster
    regions = _regions(request, data, settings)
    series = series_index(request.series, data.panel.series)
    levels, weights = level_weights(request.quantiles, forecaster.config.model.levels)
    origin = data.origin[regions]
    if request.dates is not None:
        asked = np.asarray([day_index(data.panel, d, f"body.dates.{i}") for i, d in enumerate(request.dates)])
        picked = np.unique(asked)[None] - origin[:, None] - 1
        if (picked < 0).any():
            row = int(np.argmax(picked[:, 0] < 0))
            last = data.panel.dates[origin[row]]
            raise invalid(
                "body.dates",
                f"{data.panel.dates[asked.min()]} is not in the future of {data.panel.regions[regions[row]]}",
                f"Its last known day is {last}; ask for later ones.",
            )
        horizon = int(picked.max()) + 1
    else:
        horizon = request.horizon or forecaster.horizon
        picked = np.broadcast_to(np.arange(horizon), (len(regions), horizon))
    check_horizon(horizon, int(origin.max()), data.panel)
    _check_cost(request, len(regions), horizon * len(data.panel.series) * len(levels), settings)
    future = Future(request.known, request.what_if, origin) if request.known or request.what_if else None
    if future is None:
        _check_known(data, regions, horizon, model)
    return Query(regions, horizon, picked, series, weights, levels, future)


def answer(queries: Sequence[Query], model: ServedModel, anew: bool = False) -> list[Forecasts | Exception]:
    """Decode queries; those that leave the future as it is are decoded together."""
    out: list[Forecasts | Exception] = [ApiError(500, "not decoded")] * len(queries)
    predict = model.online.decode if anew else model.online.predict
    together = defaultdict(list)
    for i, query in enumerate(queries):
        if query.future is None:
            together[query.horizon].append(i)
            continue
        try:
            decoded = predict(query.regions, query.horizon, query.future)
            out[i] = _taken(query, decoded.mean, decoded.quantiles, model)
        except Exception as error:  # noqa: BLE001
            out[i] = error
    for horizon, mine in together.items():
        try:
            decoded = predict(np.concatenate([queries[i].regions for i in mine]), horizon)
        except Exception as error:  # noqa: BLE001
            for i in mine:
                out[i] = error
            continue
        first = 0
        for i in mine:
            part = slice(first, first + len(queries[i].regions))
            out[i] = _taken(queries[i], decoded.mean[part], decoded.quantiles[part], model)
            first = part.stop
    return out


def _taken(query: Query, mean: np.ndarray, quantiles: np.ndarray, model: ServedModel) -> Forecasts:
    data, rows = model.data, np.arange(len(query.regions))[:, None]
    origin = data.origin[query.regions]
    return Forecasts(
        panel=data.panel,
        names=data.panel.regions[query.regions],
        calendar=data.panel.calendar_index.numpy()[query.regions],
        cold=model.cold[query.regions],
        origin=origin,
        days=origin[:, None] + 1 + query.picked,
        series=tuple(data.panel.series[g] for g in query.series),
        levels=query.levels,
        mean=mean[rows, query.picked][:, :, query.series],
        quantiles=quantiles[rows, query.picked][:, :, query.series] @ query.weights,
        model_version=model.version,
        forecast_id=model.forecast_id,
        sequence=data.sequence,
    )


def _regions(request: ForecastRequest, data: LiveData, settings: Settings) -> np.ndarray:
    every = len(data.panel.regions)
    number = every if request.regions == "all" else len(request.regions)
    if number > settings.max_regions:
        raise invalid(
            "body.regions",
            f"{number} regions are asked for",
            f"Ask for at most {settings.max_regions} at once.",
            status=413,
        )
    if request.regions == "all":
        return np.arange(every)
    found = [data.position.get(region, -1) for region in request.regions]
    if -1 in found:
        i = found.index(-1)
        raise invalid(f"body.regions.{i}", f"there is no region '{request.regions[i]}'", "GET /v1/regions lists them.")
    return np.asarray(list(dict.fromkeys(found)), dtype=np.int64)


def _check_cost(request: ForecastRequest, regions: int, each: int, settings: Settings) -> None:
    """Refuse what would hold up all others: an answer of too many numbers, `each` a region, or too many what-ifs."""
    for field, wanted, most, told in (
        ("body.regions", regions * each, settings.max_numbers, "numbers (regions x periods x series x quantiles)"),
        ("body.what_if", regions * len(request.what_if), settings.max_changes, "changes (regions x what-ifs)"),
    ):
        if wanted > most:
            raise invalid(field, f"{wanted} {told} are asked for", f"Ask for at most {most} at once.", status=413)


def series_index(asked: Sequence[str] | None, series: tuple[str, ...]) -> np.ndarray:
    """Positions of the series that are asked for."""
    if asked is None:
        return np.arange(len(series))
    for i, name in enumerate(asked):
        if name not in series:
            raise invalid(f"body.series.{i}", f"there is no series '{name}'", f"There are {', '.join(series[:20])}.")
    return np.asarray([series.index(name) for name in dict.fromkeys(asked)])


def level_weights(asked: Sequence[float] | None, levels: tuple[float, ...]) -> tuple[tuple[float, ...], np.ndarray]:
    """Levels, and the matrix that makes their quantiles: linear between the two nearest that were learned."""
    if asked is None:
        return levels, np.eye(len(levels), dtype=np.float32)
    wanted = tuple(sorted(set(asked)))
    for i, level in enumerate(asked):
        if not levels[0] <= level <= levels[-1]:
            raise invalid(
                f"body.quantiles.{i}",
                f"the level {level} was not learned",
                f"Ask for levels from {levels[0]:g} to {levels[-1]:g}.",
            )
    columns = [np.interp(wanted, levels, row) for row in np.eye(len(levels))]
    return wanted, np.stack(columns).astype(np.float32)


def check_horizon(horizon: int, origin: int, panel: Panel) -> None:
    """Refuse what lies beyond the calendar."""
    most = len(panel.dates) - 1 - origin
    if horizon > most:
        raise invalid(
            "body.horizon",
            f"{horizon} periods ahead are asked for",
            f"The calendar reaches {most} further, to {panel.dates[-1]}.",
            status=413,
        )


def _check_known(data: LiveData, regions: np.ndarray, horizon: int, model: ServedModel) -> None:
    short = model.known_until[regions] < data.origin[regions] + horizon
    if not short.any():
        return
    row = int(regions[int(np.argmax(short))])
    first = int(model.known_until[row]) + 1
    missing = data.panel.known[row, first].isnan().numpy() & model.reads
    names = [name for name, gone in zip(data.panel.known_names, missing, strict=True) if gone]
    raise invalid(
        "body.known",
        f"{int(short.sum())} of {len(regions)} regions have no value of {names} from {data.panel.dates[first]} on "
        f"(region '{data.panel.regions[row]}')",
        "Send these covariates in `known`, ask for fewer days, or set a `fill` value in dataset.yaml.",
    )
