"""Rolling-origin backtest of a model beside its baselines, on the same days, with the same information.

At each origin every predictor gets the panel *without* anything sold after the origin, so that nothing can leak,
whatever a predictor does. Only observed days are scored; closed days are not, since selling nothing then is no feat.
A series that had not sold by the origin is not scored either: there is nothing yet to forecast from.

Some regions are forecast and scored at a time, so that memory does not grow with a panel, which may lie on disk.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from stmp.data.panel import DateLike, Panel
from stmp.errors import ConfigError
from stmp.evaluation.result import Backtest, Cold
from stmp.evaluation.scoring import Part, Scorer
from stmp.evaluation.slices import region_groups
from stmp.forecast import Forecast, Predictor

REGIONS = 500
"""Regions that are forecast and scored together."""
_Work = TypeVar("_Work")


def backtest(
    predictors: Mapping[str, Predictor],
    panel: Panel,
    start: DateLike,
    end: DateLike,
    horizon: int,
    step: int | None = None,
    *,
    cold_histories: Sequence[int] = (7, 14, 28),
    unseen_regions: Sequence[str] | None = None,
    group_by: str | None = None,
    season: int | None = None,
    score_closed: bool = False,
    draws: int = 500,
    seed: int = 0,
    keep_regions: Sequence[str] | int = 4,
    progress: bool | None = None,
) -> Backtest:
    """Forecast from rolling origins and score what was forecast.

    Parameters
    ----------
    predictors : mapping of name to Predictor
        The model first, then the baselines. Each is given `REGIONS` regions at a time.
    panel : Panel
        Sales up to `end`, covariates known for each horizon.
    start, end : date
        The first origin (last day whose sales are known), and the last day that may be scored.
    horizon, step : int
        Periods forecast from each origin, and between origins (default: the horizon).
    cold_histories : sequence of int
        Days of history in the cold-start slices, for regions that the model never trained on.
    unseen_regions : sequence of str, optional
        Those regions; found from the model's ``trained_regions`` where not given.
    group_by : str, optional
        A categorical static column whose values are reported apart; without one, quartiles of sales.
    season : int, optional
        Periods in a season of MASE and SQL: by default 7 for daily data, for weekly data 52 with two years of history,
        else 1.
    score_closed : bool
        Score closed days as days that sold 0, as fev-bench does.
    draws, seed : int
        Bootstrap samples of the regions for the intervals, and their seed.
    keep_regions : sequence of str, or int
        Regions whose forecasts are kept for pictures: by name, or so many spread over the levels of sales.
    progress : bool, optional
        Show a progress bar; by default where stderr is a terminal.

    Raises
    ------
    ConfigError
        If no origin fits between `start` and `end`, or predictors disagree about the quantile levels.
    """
    step = horizon if step is None else step
    origins = _origins(panel, start, end, horizon, step)
    names = list(predictors)
    model = predictors[names[0]]
    unseen, reason = _unseen(model, panel, unseen_regions)
    scorer = Scorer(panel, names, horizon, len(origins), season or default_season(panel, origins[0]))
    kept = _kept_regions(panel, keep_regions, origins[0])
    frames: list[pd.DataFrame] = []
    cold = {}
    if len(unseen):
        cold = {days: Cold.empty(days, panel.regions[unseen], names, len(scorer.cells)) for days in cold_histories}

    def parts() -> Iterator[tuple[Part, Part, int]]:
        """Some regions, those of them that are new to the model, and the number of an origin."""
        for start in range(0, len(panel.regions), REGIONS):
            rows = np.arange(start, min(start + REGIONS, len(panel.regions)))
            part, new = (Part(panel, some, score_closed) for some in (rows, np.intersect1d(rows, unseen)))
            yield from ((part, new, number) for number in range(len(origins)))

    for part, new, number in _track(parts(), len(origins) * -(-len(panel.regions) // REGIONS), progress):
        origin = origins[number]
        date = panel.dates[origin]
        forecasts = _predict_all(predictors, part.panel.until(date), date, horizon)
        scorer.add(part, number, origin, forecasts)
        frames.append(_kept_frame(forecasts, kept))
        for days, young in cold.items() if len(new.rows) else ():
            made = _predict_all(predictors, new.panel.until(date).with_history(date, days), date, horizon)
            scorer.add_cold(young.totals, np.searchsorted(unseen, new.rows), new, origin, made)

    groups = region_groups(panel, group_by, origins[0])
    if len(unseen):
        is_unseen = np.isin(np.arange(len(panel.regions)), unseen)
        groups |= {"seen in training": ~is_unseen, "never seen in training": is_unseen}
    return Backtest(
        model=names[0],
        dataset_fingerprint=panel.fingerprint,
        regions=tuple(str(r) for r in panel.regions),
        series=panel.series,
        cells=scorer.cells,
        levels=scorer.levels,
        origins=panel.dates[np.asarray(origins)],
        totals=scorer.totals,
        by_origin=scorer.by_origin,
        by_event=scorer.by_event,
        by_series=scorer.by_series,
        reliability=scorer.reliability,
        events=panel.calendar.events,
        groups=groups,
        cold=cold,
        cold_histories=tuple(cold_histories),
        cold_reason=reason,
        examples=pd.concat(frames, ignore_index=True),
        settings={
            "start": str(panel.dates[origins[0]]),
            "end": str(np.datetime64(pd.Timestamp(end), "D")),
            "horizon": horizon,
            "step": step,
            "frequency": panel.frequency,
            "origins": len(origins),
            "season": scorer.season,
            "score_closed": score_closed,
            "bootstrap": {"over": "regions", "draws": draws, "seed": seed, "confidence": 0.95},
            "points": "mse, rmse and bias of the mean forecast; mae, wape and mase of the median",
            "not_scored": "closed days" * (not score_closed) or "nothing",
            "skipped_before_first_sale": scorer.skipped,
        },
        warnings=tuple(_warnings(model, panel.dates[origins[0]], horizon)),
    )


def _origins(panel: Panel, start: DateLike, end: DateLike, horizon: int, step: int) -> list[int]:
    if horizon < 1 or step < 1:
        raise ConfigError(f"horizon ({horizon}) and step ({step}) are numbers of periods and must be at least 1.")
    last = panel.last_observed
    first_day, last_day = (np.datetime64(pd.Timestamp(date), "D") for date in (start, end))
    if first_day < panel.dates[0] or last_day > last:
        raise ConfigError(
            f"The backtest from {first_day} to {last_day} goes past the data, whose sales lie between "
            f"{panel.dates[0]} and {last}. Choose --start and --end within."
        )
    begin = int(np.searchsorted(panel.dates, first_day, side="right")) - 1  # weekly data: the last week known by then
    stop = int(np.searchsorted(panel.dates, last_day, side="right")) - 1
    origins = list(range(begin, stop - horizon + 1, step))
    if not origins:
        raise ConfigError(
            f"No forecast of {horizon} periods fits between {first_day} and {last_day} ({stop - begin} periods). "
            "Choose a shorter --horizon, an earlier --start or a later --end."
        )
    return origins


def default_season(panel: Panel, origin: int) -> int:
    """Periods in a season of MASE and SQL: a week of days; a year of weeks with two years of history, else 1."""
    if panel.period_days == 1:
        return 7
    return 52 if origin + 1 >= 104 else 1


def _warnings(model: Predictor, first_origin: np.datetime64, horizon: int) -> Iterable[str]:
    """What makes the figures better or worse than the model is."""
    trained_until = getattr(model, "trained_until", None)
    if trained_until is not None and np.datetime64(pd.Timestamp(str(trained_until)), "D") > first_origin:
        yield (
            f"The model was trained on days up to {trained_until}, after the first origin {first_origin}: it has seen "
            "some of the days that it is scored on, and looks better than it is."
        )
    longest = getattr(model, "horizon", None)
    if longest is not None and horizon > longest:
        yield f"The model has learned to forecast {longest} periods ahead, and is scored on {horizon}."


def _unseen(model: Predictor, panel: Panel, named: Sequence[str] | None) -> tuple[np.ndarray, str | None]:
    """Positions of the regions that the model never saw, and why there are none."""
    if named is not None:
        unknown = sorted(set(named) - set(panel.regions))
        if unknown:
            raise ConfigError(f"{len(unknown)} of the unseen regions are not in the data, such as {unknown[:3]}.")
        positions = np.flatnonzero(np.isin(panel.regions.astype(str), list(named)))
    else:
        trained = getattr(model, "trained_regions", None)
        if trained is None:
            return np.zeros(0, dtype=np.int64), "the model does not say which regions it was trained on"
        positions = np.flatnonzero(~np.isin(panel.regions.astype(str), list(trained)))
    if len(positions) == 0:
        return positions, "the model was trained on every region; hold some out in training to see cold starts"
    return positions, None


def _predict_all(
    predictors: Mapping[str, Predictor], panel: Panel, origin: np.datetime64, horizon: int
) -> dict[str, Forecast]:
    forecasts = {}
    for name, predictor in predictors.items():
        forecast = predictor.predict(panel, origin, horizon)
        shape = (*panel.shape[::2][:1], horizon, panel.shape[2])
        if forecast.mean.shape != shape or list(forecast.regions) != list(panel.regions):
            raise ConfigError(
                f"The forecast of '{name}' has shape {forecast.mean.shape} instead of {shape}, or holds other regions "
                "than the panel."
            )
        forecasts[name] = forecast
    levels = {name: tuple(forecast.levels) for name, forecast in forecasts.items()}
    if len(set(levels.values())) > 1:
        raise ConfigError(f"The predictors forecast different quantile levels, which cannot be compared: {levels}.")
    return forecasts


def _kept_regions(panel: Panel, keep: Sequence[str] | int, origin: int) -> list[str]:
    """By name, or spread over the levels of sales: chosen before any forecast is made, so not the best ones."""
    if not isinstance(keep, int):
        return [str(r) for r in keep]
    lately = slice(max(0, origin - 90), origin + 1)
    known = panel.observed[:, lately].any(dim=2).float().mean(dim=1).cpu().numpy()
    level = panel.sales[:, : origin + 1].sum(dim=(1, 2)).cpu().numpy()
    order = np.argsort(level, kind="stable")
    order = order[known[order] > 0.5 * known.max()]  # a region that sells nowadays
    places = ((np.arange(min(keep, len(order))) + 0.5) / max(min(keep, len(order)), 1) * len(order)).astype(int)
    return [str(panel.regions[i]) for i in order[places]]


def _kept_frame(forecasts: Mapping[str, Forecast], kept: Sequence[str]) -> pd.DataFrame:
    name, forecast = next(iter(forecasts.items()))
    rows = np.flatnonzero(np.isin(forecast.regions.astype(str), kept))
    horizon, series = forecast.mean.shape[1], len(forecast.series)
    columns = {
        "region": np.repeat(forecast.regions[rows].astype(str), horizon * series),
        "series": np.tile(np.asarray(forecast.series, dtype=str), len(rows) * horizon),
        "date": np.tile(np.repeat(forecast.dates, series), len(rows)),
        "step": np.tile(np.repeat(np.arange(1, horizon + 1), series), len(rows)),
        "mean": forecast.mean[rows].reshape(-1),
    }
    columns |= {f"q{q:g}": forecast.quantiles[rows, :, :, i].reshape(-1) for i, q in enumerate(forecast.levels)}
    columns |= {f"mean|{other}": f.mean[rows].reshape(-1) for other, f in forecasts.items() if other != name}
    return pd.DataFrame(columns)


def _track(work: Iterable[_Work], total: int, progress: bool | None) -> Iterable[_Work]:
    shown = sys.stderr.isatty() if progress is None else progress
    if not shown:
        return work
    from rich.console import Console
    from rich.progress import track

    return track(work, description="Backtest", total=total, console=Console(stderr=True))
