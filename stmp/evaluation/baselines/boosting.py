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
from stmp.evaluation.baselines.features import binary_known, build_features, from_ratio, to_ratio

CATEGORICAL = ("weekday", "event", "day_type")
ROUNDS = 800
EARLY = 40
MIN_RESIDUALS = 200
SPACE: dict[str, tuple[Any, ...]] = {
    "num_leaves": (31, 63, 127, 255),
    "learning_rate": (0.05, 0.1),
    "min_data_in_leaf": (20, 50, 100),
    "feature_fraction": (0.5, 0.7, 0.9),
    "lambda_l2": (0.0, 1.0, 10.0),
}
FIRST_TRY: dict[str, Any] = {
    "num_leaves": 63, "learning_rate": 0.1, "min_data_in_leaf": 50, "feature_fraction": 0.7, "lambda_l2": 1.0,
}  # fmt: skip


class _Booster(Protocol):
    best_iteration: int
    best_score: Any

    def predict(self, data: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Sample:
    """Training points: features [M, F], log ratios [M], day types [M], and the panel's row of each [M]."""

    features: np.ndarray
    target: np.ndarray
    day_type: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: np.ndarray) -> Sample:
        """Some of the points."""
        return Sample(self.features[index], self.target[index], self.day_type[index], self.row[index])


@dataclass(frozen=True)
class _Choice:
    settings: dict[str, Any]
    rounds: int
    loss: float


class LightGBM(Baseline):
    """One model of the log ratio of sales to level for all rows and horizon steps, on features known at the origin.

    A short random search picks the settings on the last part of the training days; the number of rounds is found there
    by early stopping, and the model is then fitted on all days. Its prediction is the median; the mean and the other
    quantiles add the residuals of held-out days and held-out regions, by day type. Some origins are trained on a cut
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
        held_out = max(2, min(max(horizon, 4 * (7 if panel.period_days == 1 else 1)), (last + 1) // 5))
        cut = last - held_out  # the last day to train on while choosing
        train = self._sample(known, self._draw_origins(rng, known, cut), cut, horizon, rng)
        late = np.unique(np.linspace(cut, max(cut, last - min(horizon, held_out)), 4).round().astype(int))
        valid = self._sample(known, [(int(o), None) for o in late], last, horizon, rng, after=cut)
        if len(train) < 100 or len(valid) < 20:
            raise DataError(
                f"LightGBM needs more days to learn from: {len(train)} points to train on and {len(valid)} to choose "
                f"by are left up to {panel.dates[last]} for a horizon of {horizon}. Start later, or leave it out."
            )
        best = self._search(train, valid, rng)
        self._shift, self._spread = self._residuals(train, valid, best, rng)
        whole = self._sample(known, self._draw_origins(rng, known, last), last, horizon, rng)
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

    def _draw_origins(self, rng: np.random.Generator, panel: Panel, last: int) -> list[tuple[int, int | None]]:
        """Training origins, spread over the days before `last`, each with the days of history to keep (None: all)."""
        week = 7 if panel.period_days == 1 else 1
        first = int(panel.observed.any(dim=2).any(dim=0).nonzero()[0]) + 2 * week
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
        last: int,
        horizon: int,
        rng: np.random.Generator,
        after: int = -1,
    ) -> Sample:
        """Observed days up to `last` (and after `after`) of the horizons of some origins, `max_rows` at most."""
        day_type = panel.day_type.cpu().numpy()
        sales = panel.sales[:, :, 0].cpu().numpy()
        observed = panel.observed[:, :, 0].cpu().numpy()
        quota = max(1, self.max_rows // max(len(origins), 1))
        parts: list[Sample] = []
        for origin, days in origins:
            steps = min(horizon, last - origin)
            if steps < 1:
                continue
            date = panel.dates[origin]
            known = panel if days is None else panel.with_history(date, days)
            rows = Rows.of(known, date, steps)
            features = build_features(rows, self._binary)
            target = observed[:, rows.future] & (np.arange(origin + 1, origin + 1 + steps) > after)
            row, step = np.nonzero(target & np.isfinite(features.level)[:, None])
            if len(row) > quota:
                kept = rng.choice(len(row), quota, replace=False)
                row, step = row[kept], step[kept]
            ratio = to_ratio(sales[row, origin + 1 + step], features.level[row])
            parts.append(Sample(features.values[row, step], ratio, day_type[row, origin + 1 + step], row))
            self._names = features.names
        if not parts:
            return Sample(
                np.zeros((0, 1), dtype=np.float32), np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, int)
            )
        return Sample(
            np.concatenate([p.features for p in parts]),
            np.concatenate([p.target for p in parts]),
            np.concatenate([p.day_type for p in parts]),
            np.concatenate([p.row for p in parts]),
        )

    def _search(self, train: Sample, valid: Sample, rng: np.random.Generator) -> _Choice:
        """The best of a few settings on the held-out days."""
        fast = (
            train if len(train) <= self.max_rows // 2 else train.take(rng.permutation(len(train))[: self.max_rows // 2])
        )
        tries = [FIRST_TRY]
        tries += [{k: v[rng.integers(len(v))] for k, v in SPACE.items()} for _ in range(self.trials - 1)]
        choices = []
        for settings in tries:
            booster = self._train(fast, settings, ROUNDS, valid)
            choices.append(_Choice(settings, booster.best_iteration, float(booster.best_score["valid"]["l2"])))
        return min(choices, key=lambda choice: choice.loss)

    def _residuals(
        self, train: Sample, valid: Sample, best: _Choice, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles of held-out residuals by day type: at the forecast's levels [D, Q], and an even spread [D, 20].

        Days after the training days measure the error of a forecast, but a month of them may hold no festival. Day
        types that they lack take the residuals of regions left out of training, widened as later days widen the others.
        """
        apart = np.isin(train.row, np.flatnonzero(rng.random(int(train.row.max()) + 1) < 0.15))
        if not apart.any() or apart.all():
            apart = rng.random(len(train)) < 0.15
        booster = self._train(train.take(~apart), best.settings, best.rounds)
        fold = train.take(apart)
        later = valid.target - booster.predict(valid.features)
        beside = fold.target - booster.predict(fold.features)
        common = np.intersect1d(valid.day_type, fold.day_type)
        widen = 1.0
        if len(common):
            spread = [np.std(r[np.isin(t, common)]) for r, t in ((later, valid.day_type), (beside, fold.day_type))]
            widen = float(np.clip(spread[0] / max(spread[1], 1e-9), 0.5, 3.0))
        even = (np.arange(20) + 0.5) / 20
        shift, spreads = [], []
        for d in range(len(self._day_types)):
            residuals = later[valid.day_type == d]
            if len(residuals) < MIN_RESIDUALS:
                residuals = np.concatenate([residuals, widen * beside[fold.day_type == d]])
            if len(residuals) < MIN_RESIDUALS:
                residuals = np.concatenate([residuals, later])
            # The trees predict the centre; only the spread around it is taken from held-out days.
            shift.append(np.quantile(residuals, self.levels) - np.median(residuals))
            spreads.append(np.quantile(residuals, even) - np.median(residuals))
        return np.array(shift), np.array(spreads)

    def _train(self, sample: Sample, settings: dict[str, Any], rounds: int, valid: Sample | None = None) -> _Booster:
        import lightgbm

        categorical = [i for i, name in enumerate(self._names) if name in CATEGORICAL]
        fixed = {
            "objective": "l2", "verbosity": -1, "deterministic": True, "force_row_wise": True, "seed": self.seed,
            "num_threads": self.threads, "bagging_fraction": 0.8, "bagging_freq": 1, "max_cat_to_onehot": 8,
        }  # fmt: skip
        data = lightgbm.Dataset(sample.features, sample.target, categorical_feature=categorical, free_raw_data=True)
        if valid is None:
            return lightgbm.train(fixed | settings, data, rounds)
        check = lightgbm.Dataset(valid.features, valid.target, reference=data, categorical_feature=categorical)
        stop = lightgbm.early_stopping(EARLY, verbose=False)
        return lightgbm.train(fixed | settings, data, rounds, [check], ["valid"], callbacks=[stop])
