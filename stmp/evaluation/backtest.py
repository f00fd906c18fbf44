"""Rolling-origin backtest of a model beside its baselines, on the same days, with the same information.

At each origin every predictor gets the panel *without* anything sold after the origin, so that nothing can leak,
whatever a predictor does. Only observed days are scored; closed days are not, since selling nothing then is no feat.
A series that had not sold by the origin is not scored either: there is nothing yet to forecast from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from stmp.data.panel import DateLike, Panel
from stmp.errors import ConfigError
from stmp.evaluation.calibration import Reliability, reliability
from stmp.evaluation.metrics import SUMS, Points, point_sums, seasonal_scale
from stmp.evaluation.result import Backtest, Cold
from stmp.evaluation.slices import Cells, region_groups
from stmp.forecast import Forecast, Predictor


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
        The model first, then the baselines.
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
    model = next(iter(predictors))
    unseen, reason = _unseen(predictors[model], panel, unseen_regions)
    scorer = _Scorer(panel, list(predictors), horizon, season or default_season(panel, origins[0]), score_closed)
    kept = _kept_regions(panel, keep_regions, origins[0])
    frames: list[pd.DataFrame] = []
    cold = {
        days: Cold.empty(days, panel.regions[unseen], list(predictors), len(scorer.cells)) for days in cold_histories
    }
    cold = cold if len(unseen) else {}

    for origin in _track(origins, progress):
        date = panel.dates[origin]
        history = panel.until(date)
        forecasts = _predict_all(predictors, history, date, horizon)
        scorer.add(origin, forecasts)
        frames.append(_kept_frame(forecasts, kept))
        for days, part in cold.items():
            young = history.select(unseen).with_history(date, days)
            scorer.add_cold(part, unseen, origin, _predict_all(predictors, young, date, horizon))

    groups = region_groups(panel, group_by, origins[0])
    if len(unseen):
        is_unseen = np.isin(np.arange(len(panel.regions)), unseen)
        groups |= {"seen in training": ~is_unseen, "never seen in training": is_unseen}
    return Backtest(
        model=model,
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
        warnings=tuple(_warnings(predictors[model], panel.dates[origins[0]], horizon)),
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
        "series": np.tile(np.asarray(forecast.series, dtype=object), len(rows) * horizon),
        "date": np.tile(np.repeat(forecast.dates, series), len(rows)),
        "step": np.tile(np.repeat(np.arange(1, horizon + 1), series), len(rows)),
        "mean": forecast.mean[rows].reshape(-1),
    }
    columns |= {f"q{q:g}": forecast.quantiles[rows, :, :, i].reshape(-1) for i, q in enumerate(forecast.levels)}
    columns |= {f"mean|{other}": f.mean[rows].reshape(-1) for other, f in forecasts.items() if other != name}
    return pd.DataFrame(columns)


def _track(origins: list[int], progress: bool | None) -> Iterable[int]:
    shown = sys.stderr.isatty() if progress is None else progress
    if not shown:
        return origins
    from rich.console import Console
    from rich.progress import track

    return track(origins, description="Backtest", console=Console(stderr=True))


@dataclass
class _Scorer:
    """Adds up the sums of one backtest, origin by origin."""

    panel: Panel
    names: list[str]
    horizon: int
    season: int
    score_closed: bool
    levels: tuple[float, ...] = ()
    skipped: int = 0
    by_origin: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        panel = self.panel
        self.cells = Cells.of(panel, self.horizon)
        self.region_of, self.series_of = panel.series_rows()
        self.sales = panel.sales.cpu().numpy()[self.region_of, :, self.series_of]  # [N, T]
        self.sold = panel.observed.cpu().numpy()[self.region_of, :, self.series_of]
        self.counted = self.sold  # days that are scored, and that make the scale
        if self.score_closed:
            self.counted = self.sold | panel.closed.cpu().numpy()[self.region_of]
        index = panel.calendar_index.cpu().numpy()
        self.day_type = panel.calendar.day_type[index]  # [R, T]
        self.post = panel.calendar.post_festival()[index]
        self.event = panel.calendar.event[index]
        k = len(SUMS)
        self.totals = {m: np.zeros((len(panel.regions), len(self.cells), k)) for m in self.names}
        self.by_event = {m: np.zeros((len(panel.calendar.events), k)) for m in self.names}
        self.by_series = {m: np.zeros((len(panel.series), k)) for m in self.names}
        self.by_origin = {m: [] for m in self.names}
        self.reliability: dict[str, Reliability] = {}

    def add(self, origin: int, forecasts: Mapping[str, Forecast]) -> None:
        """Score the forecasts of all regions from one origin."""
        everywhere = np.arange(len(self.panel.regions))
        if not self.levels:
            self.levels = tuple(next(iter(forecasts.values())).levels)
            self.reliability = {m: Reliability.empty(self.cells.day_types, self.levels) for m in self.names}
        points = self._points(origin, everywhere, forecasts)
        self.skipped += points.skipped
        for m, (ids, sums) in self._sums(points).items():
            row, cell = np.divmod(ids, len(self.cells))
            np.add.at(self.totals[m], (self.region_of[row], cell), sums)
            np.add.at(self.by_series[m], self.series_of[row], sums)
            self.by_origin[m].append(sums.sum(axis=0))
            part = points.forecasts[m]
            self.reliability[m] += reliability(
                points.day_type, self.cells.day_types, points.actual, part.quantiles, self.levels
            )
        events = len(self.panel.calendar.events)
        for m, (ids, sums) in self._sums(points, points.row * events + points.event).items():
            np.add.at(self.by_event[m], ids % events, sums)

    def add_cold(self, cold: Cold, regions: np.ndarray, origin: int, forecasts: Mapping[str, Forecast]) -> None:
        """Score the forecasts of some regions whose history was cut."""
        place = np.full(len(self.panel.regions), -1)
        place[regions] = np.arange(len(regions))
        for m, (ids, sums) in self._sums(self._points(origin, regions, forecasts)).items():
            row, cell = np.divmod(ids, len(self.cells))
            np.add.at(cold.totals[m], (place[self.region_of[row]], cell), sums)

    def _sums(self, points: _Scored, ids: np.ndarray | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        keys = points.row * len(self.cells) + points.cell if ids is None else ids
        return point_sums(keys, points.actual, points.scale, points.forecasts, self.levels)

    def _points(self, origin: int, regions: np.ndarray, forecasts: Mapping[str, Forecast]) -> _Scored:
        """The days to score, flat, of the rows of some regions; `regions` are the rows of the forecasts."""
        place = np.full(len(self.panel.regions), -1)
        place[regions] = np.arange(len(regions))
        rows = np.flatnonzero(place[self.region_of] >= 0)  # [M] series of these regions
        days = slice(origin + 1, origin + 1 + self.horizon)
        past = slice(0, origin + 1)
        begun = np.asarray(self.sold[rows, past].any(axis=1))
        scale = seasonal_scale(self.sales[rows, past], self.counted[rows, past], self.season)
        target: np.ndarray = self.counted[rows, days]
        scored = np.asarray(target & begun[:, None])
        m, h = np.nonzero(scored)
        region, series = self.region_of[rows], self.series_of[rows]
        cell = self.cells.index(self.day_type[region, days], self.post[region, days])
        flat = {
            name: Points(
                forecast.mean[place[region[m]], h, series[m]], forecast.quantiles[place[region[m]], h, series[m]]
            )
            for name, forecast in forecasts.items()
        }
        return _Scored(
            row=rows[m],
            cell=cell[m, h],
            day_type=self.day_type[region, days][m, h].astype(np.int64),
            event=self.event[region, days][m, h].astype(np.int64),
            actual=self.sales[rows, days][m, h],
            scale=scale[m],
            forecasts=flat,
            skipped=int((target & ~begun[:, None]).sum()),
        )


@dataclass(frozen=True)
class _Scored:
    """Flat points of one origin; all arrays [N]."""

    row: np.ndarray
    cell: np.ndarray
    day_type: np.ndarray
    event: np.ndarray
    actual: np.ndarray
    scale: np.ndarray
    forecasts: dict[str, Points]
    skipped: int
