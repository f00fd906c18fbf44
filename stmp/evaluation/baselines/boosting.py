"""A gradient-boosted tabular model (LightGBM), tuned on the same information as the model it is measured against."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from stmp.data.panel import DateLike, Panel
from stmp.errors import ConfigError, DataError
from stmp.evaluation.baselines.base import LEVELS, Baseline, Rows, require
from stmp.evaluation.baselines.features import CATEGORY, binary_known, build_features, from_ratio, to_ratio

CATEGORICAL = ("weekday", "event", "day_type")
ROUNDS = 800
EARLY = 40
MIN_RESIDUALS = 200
SPACE: dict[str, tuple[Any, ...]] = {
    "num_leaves": (15, 31, 63, 127),
    "learning_rate": (0.05, 0.1),
    "min_data_in_leaf": (20, 50, 100),
    "feature_fraction": (0.5, 0.7, 0.9),
    "lambda_l2": (0.0, 1.0, 10.0),
}
FIRST_TRY: dict[str, Any] = {
    "num_leaves": 31, "learning_rate": 0.1, "min_data_in_leaf": 100, "feature_fraction": 0.5, "lambda_l2": 10.0,
}  # fmt: skip


class _Booster(Protocol):
    best_iteration: int
    best_score: Any

    def predict(self, data: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Sample:
    """Training points: features [M, F], log ratios [M] and day types [M]."""

    features: np.ndarray
    target: np.ndarray
    day_type: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: np.ndarray) -> Sample:
        """Some of the points."""
        return Sample(self.features[index], self.target[index], self.day_type[index])


@dataclass(frozen=True)
class _Choice:
    settings: dict[str, Any]
    rounds: int
    loss: float


class LightGBM(Baseline):
    """One model of the log ratio of sales to level for all rows and horizon steps, on features known at the origin.

    A short random search picks the settings on held-out days; the number of rounds is found there by early stopping,
    and the model is then fitted on all days. Its prediction is the median; the mean and the other quantiles add the
    residuals of the held-out days, by day type. Some origins are trained on a cut
    history, so that new regions are forecast as well as this kind of model can.

    Parameters
    ----------
    trials : int
        Settings tried, the first a fixed one.
    max_rows : int
        Points that the model is fitted on, a random sample: bounds the time.
    origins : int
        Forecast origins that the points are drawn from, spread over the training days.
    cold_share : float
        Part of the origins whose history is cut to 1 to 8 weeks.
    threads : int
        Of LightGBM; 0: all cores.
    """

    name = "lightgbm"

    def __init__(
        self,
        trials: int = 3,
        max_rows: int = 150_000,
        origins: int = 80,
        cold_share: float = 0.2,
        seed: int = 0,
        threads: int = 0,
        levels: tuple[float, ...] = LEVELS,
    ) -> None:
        self.trials, self.max_rows, self.origins, self.cold_share = trials, max_rows, origins, cold_share
        self.seed, self.threads, self.levels = seed, threads, levels
        self.settings: dict[str, Any] = {}
        self.seconds = 0.0
        self._booster: _Booster | None = None

    def fit(self, panel: Panel, until: DateLike, horizon: int) -> LightGBM:
        """Train on days up to and with `until`, for all steps up to `horizon`.

        Raises
        ------
        DataError
            If there are too few days to train and validate on.
        """
        require("lightgbm", "lightgbm")
        began = time.monotonic()
        rng = np.random.default_rng(self.seed)
        last = panel.index_of(until)
        known = panel.until(until).split_series()
        self._binary = binary_known(known)
        self._day_types = panel.calendar.day_types
        everything = np.arange(len(panel.dates)) <= last
        apart = self._held_out(panel, last, horizon)
        origins = self._draw_origins(rng, known, last)
        train = self._sample(known, origins, everything & ~apart, horizon, rng)
        valid = self._sample(known, self._draw_origins(rng, known, last, apart), apart, horizon, rng, part=4)
        if len(train) < 100 or len(valid) < 20:
            raise DataError(
                f"LightGBM needs more days to learn from: {len(train)} points to train on and {len(valid)} to choose "
                f"by are left up to {panel.dates[last]} for a horizon of {horizon}. Start later, or leave it out."
            )
        best, booster = self._search(train, valid, rng)
        self._shift, self._spread = self._residuals(valid, booster)
        whole = self._sample(known, self._draw_origins(rng, known, last), everything, horizon, rng)
        self._booster = self._train(whole, best.settings, best.rounds)
        self.settings = best.settings | {"rounds": best.rounds, "points": len(whole)}
        self.seconds = time.monotonic() - began
        return self

    def forecast_rows(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Median from the trees, mean and quantiles from held-out residuals."""
        if self._booster is None:
            raise ConfigError("The LightGBM baseline has not been fitted; call fit(panel, until, horizon) first.")
        features = build_features(rows, self._binary)
        n, horizon, width = features.values.shape
        center = np.asarray(self._booster.predict(features.values.reshape(-1, width))).reshape(n, horizon)
        day_type = rows.panel.day_type[:, rows.future].cpu().numpy()
        shift = self._shift[day_type]  # [N, H, Q]
        level = np.nan_to_num(features.level)[:, None]
        quantiles = from_ratio(center[:, :, None] + shift, level[:, :, None])
        # The mean of sales, as opposed to their median: over the residuals' own quantiles.
        mean = np.zeros((n, horizon))
        for residual in np.moveaxis(self._spread[day_type], 2, 0):
            mean += from_ratio(center + residual, level)
        return mean / self._spread.shape[1], quantiles

    def _held_out(self, panel: Panel, last: int, horizon: int) -> np.ndarray:
        """Days to choose settings by, bool [T]: the last ones, and each fifth week of the last year.

        The last days alone would be closest to what is asked of a forecast, but often hold no festival.
        """
        week = 7 if panel.period_days == 1 else 1
        position = np.arange(len(panel.dates))
        latest = max(2, min(max(horizon, 4 * week), (last + 1) // 5))
        in_year = position > max(last - 364 // panel.period_days, (last + 1) // 5)
        fifth = (last - position) // week % 5 == 2
        return np.asarray((position <= last) & ((position > last - latest) | (in_year & fifth)))

    def _draw_origins(
        self, rng: np.random.Generator, panel: Panel, last: int, days: np.ndarray | None = None
    ) -> list[tuple[int, int | None]]:
        """Origins spread over the days before `last`, each with the days of history to keep (None: all).

        With `days`, bool [T], origins lie right before such days, and keep their history.
        """
        week = 7 if panel.period_days == 1 else 1
        first = int(panel.observed.any(dim=2).any(dim=0).nonzero()[0]) + 2 * week
        if days is not None:
            starts = np.flatnonzero(days[1:] & ~days[:-1])  # the day before each run
            starts = starts[starts >= first]
            return [(int(o), None) for o in np.unique(np.concatenate([starts, [max(first, last - week)]]))]
        count = min(self.origins, max(last - first, 0))
        edges = np.linspace(first, last, count + 1)
        drawn = [int(rng.integers(int(a), max(int(a) + 1, int(b)))) for a, b in pairwise(edges)]
        short = rng.random(count) < self.cold_share
        cuts = rng.integers(1, 9, count) * week * panel.period_days
        return [(o, int(days) if cold else None) for o, cold, days in zip(drawn, short, cuts, strict=True)]

    def _sample(
        self,
        panel: Panel,
        origins: list[tuple[int, int | None]],
        wanted: np.ndarray,
        horizon: int,
        rng: np.random.Generator,
        part: int = 1,
    ) -> Sample:
        """Observed days among `wanted`, bool [T], in the horizons of some origins, `max_rows / part` at most."""
        day_type = panel.day_type.cpu().numpy()
        sales = panel.sales[:, :, 0].cpu().numpy()
        observed = panel.observed[:, :, 0].cpu().numpy() & wanted
        quota = max(1, self.max_rows // part // max(len(origins), 1))
        last = int(np.flatnonzero(wanted)[-1])
        parts: list[Sample] = []
        for origin, days in origins:
            steps = min(horizon, last - origin)
            if steps < 1:
                continue
            date = panel.dates[origin]
            some = np.arange(len(sales))
            if len(some) * steps > 4 * quota:  # features of a few rows are enough to draw a few points from
                some = np.sort(rng.choice(len(some), max(1, 4 * quota // steps), replace=False))
            known = panel.select(some)
            rows = Rows.of(known if days is None else known.with_history(date, days), date, steps)
            features = build_features(rows, self._binary)
            target = observed[some, rows.future]
            row, step = np.nonzero(target & np.isfinite(features.level)[:, None])
            if len(row) > quota:
                kept = rng.choice(len(row), quota, replace=False)
                row, step = row[kept], step[kept]
            place, day = some[row], origin + 1 + step
            ratio = to_ratio(sales[place, day], features.level[row])
            parts.append(Sample(features.values[row, step], ratio, day_type[place, day]))
            self._names = features.names
        if not parts:
            return Sample(np.zeros((0, 1), dtype=np.float32), np.zeros(0), np.zeros(0, dtype=np.int64))
        return Sample(
            np.concatenate([p.features for p in parts]),
            np.concatenate([p.target for p in parts]),
            np.concatenate([p.day_type for p in parts]),
        )

    def _search(self, train: Sample, valid: Sample, rng: np.random.Generator) -> tuple[_Choice, _Booster]:
        """The best of a few settings on the held-out days, and the model that it gave."""
        half = self.max_rows // 2
        fast = train if len(train) <= half else train.take(rng.permutation(len(train))[:half])
        tries = [FIRST_TRY]
        tries += [{k: v[rng.integers(len(v))] for k, v in SPACE.items()} for _ in range(self.trials - 1)]
        found = []
        for settings in tries:
            booster = self._train(fast, settings, ROUNDS, valid)
            choice = _Choice(settings, booster.best_iteration, float(booster.best_score["valid"]["l2"]))
            found.append((choice, booster))
        return min(found, key=lambda pair: pair[0].loss)

    def _residuals(self, valid: Sample, booster: _Booster) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles of held-out residuals by day type: at the forecast's levels [D, Q], and an even spread [D, 20].

        The trees give the centre, so residuals count from their median. Day types with few of them take all.
        """
        residuals = valid.target - booster.predict(valid.features)
        even = (np.arange(20) + 0.5) / 20
        shift, spread = [], []
        for d in range(len(self._day_types)):
            own = residuals[valid.day_type == d]
            own = own if len(own) >= MIN_RESIDUALS else residuals
            shift.append(np.quantile(own, self.levels) - np.median(own))
            spread.append(np.quantile(own, even) - np.median(own))
        return np.array(shift), np.array(spread)

    def _train(self, sample: Sample, settings: dict[str, Any], rounds: int, valid: Sample | None = None) -> _Booster:
        import lightgbm

        categorical = [i for i, name in enumerate(self._names) if name in CATEGORICAL or name.startswith(CATEGORY)]
        fixed = {
            "objective": "l2", "verbosity": -1, "deterministic": True, "force_row_wise": True, "seed": self.seed,
            "num_threads": self.threads, "bagging_fraction": 0.8, "bagging_freq": 1, "max_cat_to_onehot": 8,
        }  # fmt: skip
        least = min(settings["min_data_in_leaf"], max(5, len(sample) // 200))  # small data have small leaves
        settings = settings | {"min_data_in_leaf": least}
        data = lightgbm.Dataset(sample.features, sample.target, categorical_feature=categorical, free_raw_data=True)
        if valid is None:
            return lightgbm.train(fixed | settings, data, rounds)
        check = lightgbm.Dataset(valid.features, valid.target, reference=data, categorical_feature=categorical)
        stop = lightgbm.early_stopping(EARLY, verbose=False)
        return lightgbm.train(fixed | settings, data, rounds, [check], ["valid"], callbacks=[stop])
