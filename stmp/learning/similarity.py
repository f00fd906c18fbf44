"""How alike a source and a target are, and what of the source would carry over, before anything is fine-tuned.

Three looks, from the outside in:

- *traits*: what sales look like in both (`stmp.learning.traits`), one distance a kind of trait;
- *tasks*: the distributions of psi that the source's amortization network finds in the regions of both;
- *zero-shot*: how the source's network forecasts the target's own past, beside seasonal naive.

The first two say where source and target differ, the last says what it costs, so sources are ranked by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from stmp.data.episodes import full_episode
from stmp.data.panel import Panel
from stmp.errors import DataError
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import SeasonalNaive
from stmp.evaluation.metrics import SUMS
from stmp.forecaster import CHUNK, Forecaster
from stmp.learning.distance import TwoSample, energy_test, pairwise
from stmp.learning.train import train
from stmp.learning.traits import (
    FESTIVAL,
    KINDS,
    KNOWN,
    LEVEL,
    STATIC,
    VOLATILITY,
    WEEK,
    Traits,
    describe,
    matching_end,
    window_of,
)
from stmp.learning.transfer import adaptation_config
from stmp.learning.validation import history_of

NEAREST = 3
"""Source regions named for each target region."""
MAX_ORIGINS = 8
FEWEST_PERIODS = 8
ALL = "all"


@dataclass(frozen=True)
class Tasks:
    """What an amortization network makes of N rows of (region, series).

    Attributes
    ----------
    day_types : tuple of str, length D
    vectors : float64 [N, D, 2 psi]
        Mean and deviation of psi. Their Euclidean distance is the 2-Wasserstein distance of the distributions.
    days : int64 [N, D]
        Support days behind each.
    """

    day_types: tuple[str, ...]
    vectors: np.ndarray
    days: np.ndarray


@dataclass(frozen=True)
class ZeroShot:
    """The source's network on the target's past, untouched, beside seasonal naive on the same days.

    Attributes
    ----------
    skill : float
        1 - MSE / MSE of seasonal naive: above 0 the source is better. `interval` is its 95 % interval over regions.
    wape, wape_naive : float
    by_region : dict of region to float
        1 - absolute error / that of seasonal naive, where both are defined.
    origins, horizon : int
    warnings : tuple of str
    """

    skill: float
    interval: tuple[float, float] | None
    wape: float
    wape_naive: float
    by_region: dict[str, float]
    origins: int
    horizon: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Similarity:
    """One source beside one target.

    Attributes
    ----------
    source : str
        Its name.
    periods : dict
        First and last date of the windows compared: ``source`` and ``target``.
    traits : dict of kind to TwoSample or None
        None where the two share no such trait, or too few regions tell of it.
    medians : DataFrame
        One row a trait: ``kind, trait, source, target``.
    tasks : dict of day type (and ``all``) to TwoSample
        Distances of psi; empty without a model.
    zero_shot : ZeroShot or None
    regions : DataFrame
        One row a target (region, series): its nearest source regions, its distance relative to those among the source's
        regions, and the zero-shot skill of its region.
    """

    source: str
    periods: dict[str, tuple[str, str]]
    traits: dict[str, TwoSample | None]
    medians: pd.DataFrame
    tasks: dict[str, TwoSample]
    zero_shot: ZeroShot | None
    regions: pd.DataFrame

    @property
    def distance(self) -> float:
        """Mean excess distance of the traits that both have, but for the level, which a model scales away."""
        found = [test.excess for kind, test in self.traits.items() if test is not None and kind != LEVEL]
        return float(np.mean(found)) if found else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.source,
            "periods": {name: list(dates) for name, dates in self.periods.items()},
            "distance": self.distance,
            "traits": {kind: None if test is None else vars(test) for kind, test in self.traits.items()},
            "medians": self.medians.to_dict("records"),
            "tasks": {name: vars(test) for name, test in self.tasks.items()},
            "zero_shot": None if self.zero_shot is None else vars(self.zero_shot),
            "regions": self.regions.to_dict("records"),
        }


def compare(
    name: str,
    source: Panel,
    target: Panel,
    *,
    forecaster: Forecaster | None = None,
    seed: int = 0,
) -> Similarity:
    """Compare a source with a target's past.

    Parameters
    ----------
    name : str
        Of the source.
    source, target : Panel
        The target's sales are read up to its last day with any; the source is read over a window of the same length.
    forecaster : Forecaster, optional
        Trained on the source; without it only the traits are compared.
    seed : int
        Of the permutations and the bootstrap.

    Raises
    ------
    DataError
        If one is daily and the other weekly, or the target holds too little to compare.
    """
    if source.frequency[:1].upper() != target.frequency[:1].upper():
        raise DataError(
            f"The source is of frequency {source.frequency} and the target of {target.frequency}: a day is no week. "
            "Aggregate the daily one with `frequency: W` in its dataset.yaml."
        )
    last = target.last_observed
    first_sold = int(target.observed.any(dim=2).any(dim=0).int().argmax())
    periods = target.index_of(last) + 1 - first_sold
    there = window_of(target, last, periods)
    here = window_of(source, matching_end(source, last, periods), periods)
    ours, theirs = describe(here), describe(there)
    traits = {kind: _trait_test(ours, theirs, kind, seed) for kind in KINDS}
    tasks: dict[str, TwoSample] = {}
    zero = None
    vectors = _trait_vectors(ours, theirs)
    if forecaster is not None:
        zero, grafted = zero_shot(forecaster, there, seed)
        if forecaster.config.model.psi != "none":
            found = tasks_of(forecaster, here), tasks_of(grafted, there)
            tasks = _task_tests(*found, seed)
            vectors = _task_vectors(*found)
    return Similarity(
        source=name,
        periods={"source": (str(here.dates[0]), str(here.dates[-1])), "target": (str(there.dates[0]), str(last))},
        traits=traits,
        medians=_medians(ours, theirs),
        tasks=tasks,
        zero_shot=zero,
        regions=_regions(ours, theirs, vectors, zero),
    )


def rank(found: Sequence[Similarity]) -> list[Similarity]:
    """Sources by what carries over: the zero-shot skill, then, for those without a model, the distance of traits."""
    return sorted(found, key=lambda s: (s.zero_shot is None, -(s.zero_shot.skill if s.zero_shot else 0.0), s.distance))


@torch.no_grad()
def tasks_of(forecaster: Forecaster, panel: Panel) -> Tasks:
    """psi of every cell that a forecast from a panel's last period would use, for the rows that sold.

    Parameters
    ----------
    forecaster : Forecaster
    panel : Panel
        With the forecaster's columns.
    """
    rows = panel.split_series() if forecaster.config.model.series == "split" else panel
    rows = rows.select(rows.observed.any(dim=2).any(dim=1).nonzero()[:, 0])
    forecaster.schema.check(rows)
    forecaster.model.to(rows.device)
    vectors, days = [], []
    for begin in range(0, rows.shape[0], CHUNK):
        part = rows.select(np.arange(begin, min(begin + CHUNK, rows.shape[0])))
        noise = torch.zeros(part.shape[0], 1, forecaster.config.model.psi_size)
        episode = full_episode(part, part.shape[1] - 1, 1, forecaster.config.train.supports_forecast, noise)
        history = history_of(part, forecaster.schema, forecaster.config)
        psi, count = forecaster.model.describe_tasks(history, episode)
        vectors.append(torch.cat([psi.mu, psi.sigma], dim=-1).double().cpu().numpy())
        days.append(count.cpu().numpy())
    return Tasks(forecaster.schema.day_types, np.concatenate(vectors), np.concatenate(days))


def zero_shot(source: Forecaster, target: Panel, seed: int = 0) -> tuple[ZeroShot, Forecaster]:
    """Score a source's network on the second half of a target's past, without learning anything from it but psi.

    Returns
    -------
    ZeroShot
    Forecaster
        The source on the target's structure; its scales are those of the target's first half.

    Raises
    ------
    DataError
        If there are fewer than eight periods.
    """
    periods = target.shape[1]
    horizon = min(source.horizon, 14 // target.period_days, periods // 4)
    if periods < FEWEST_PERIODS:
        raise DataError(f"The target has sales over {periods} periods; a comparison needs {FEWEST_PERIODS} at least.")
    origins = min(MAX_ORIGINS, max(1, periods // 2 // horizon))
    start = target.dates[-1 - origins * horizon]
    config = adaptation_config(source, target.frequency, ["train.max_steps=0"])
    model = train(target, config, until=start, source=source)
    result = backtest(
        {"stmp": model, "seasonal_naive": SeasonalNaive(levels=model.config.model.levels)},
        target,
        start,
        target.dates[-1],
        horizon,
        cold_histories=(),
        keep_regions=0,
        seed=seed,
        progress=False,
    )
    content = result.to_dict()
    skill = content["skill"]["seasonal_naive"][ALL]
    ours, naive = content["slices"][ALL], content["baselines"]["seasonal_naive"][ALL]
    if not ours["n"] or skill["mse"] is None:
        raise DataError("No day of the target's second half can be scored: nothing was sold on any of them.")
    absolute = SUMS.index("absolute")
    errors = {m: totals[:, :, absolute].sum(axis=1) for m, totals in result.totals.items()}  # [R]
    found = ZeroShot(
        skill=float(skill["mse"]),
        interval=_pair(skill["ci"].get("mse")),
        wape=_number(ours["wape"]),
        wape_naive=_number(naive["wape"]),
        by_region={
            region: float(1.0 - model_error / naive_error)
            for region, model_error, naive_error in zip(
                result.regions, errors["stmp"], errors["seasonal_naive"], strict=True
            )
            if naive_error > 0
        },
        origins=len(result.origins),
        horizon=horizon,
        warnings=_seen_before(source, target, start),
    )
    return found, model


def _seen_before(source: Forecaster, target: Panel, first: np.datetime64) -> tuple[str, ...]:
    """Whether the network may have learned from the days it is scored on: regions and columns have the same names."""
    same = int(np.isin(target.regions.astype(str), source.trained_regions).sum())
    if not same or np.datetime64(source.trained_until, "D") <= first:
        return ()
    try:
        source.schema.check(target.split_series() if source.config.model.series == "split" else target)
    except DataError:
        return ()
    return (
        f"The source has learned from {same} regions of the same names up to {source.trained_until}, after the first "
        f"forecast on {first}. If they are the same regions, its skill here is flattered.",
    )


def _trait_test(source: Traits, target: Traits, kind: str, seed: int) -> TwoSample | None:
    """Compare the columns that both have, over the rows that tell all of them."""
    x, y, _ = _shared(source, target, kind)
    # A column that few rows know would leave none to compare.
    told = (np.isfinite(x).mean(axis=0) >= 0.5) & (np.isfinite(y).mean(axis=0) >= 0.5)
    x, y = x[:, told], y[:, told]
    if kind == STATIC:  # of many units, unlike changes of log sales
        spread = np.nanstd(np.concatenate([x, y]), axis=0)
        x, y = (np.divide(part, spread, out=np.zeros_like(part), where=spread > 0) for part in (x, y))
    x, y = (part[np.isfinite(part).all(axis=1)] for part in (x, y))
    return energy_test(x, y, seed=seed) if x.shape[1] and len(x) and len(y) else None


def _task_tests(source: Tasks, target: Tasks, seed: int) -> dict[str, TwoSample]:
    """Compare the psi of each day type over the rows that have such days, and all of them as one vector a row."""
    tests = {}
    for name in _shared_types(source, target):
        a, b = source.day_types.index(name), target.day_types.index(name)
        x, y = source.vectors[source.days[:, a] > 0, a], target.vectors[target.days[:, b] > 0, b]
        if len(x) and len(y):
            tests[name] = energy_test(x, y, seed=seed)
    vectors = _task_vectors(source, target)
    return {ALL: energy_test(*vectors, seed=seed), **tests} if vectors[0].shape[1] else tests


def _task_vectors(source: Tasks, target: Tasks) -> tuple[np.ndarray, np.ndarray]:
    """One vector a row over the day types that most rows of both have known."""
    names = _shared_types(source, target)
    places = [(source.day_types.index(n), target.day_types.index(n)) for n in names]
    places = [(a, b) for a, b in places if min((source.days[:, a] > 0).mean(), (target.days[:, b] > 0).mean()) >= 0.5]
    return (
        source.vectors[:, [a for a, _ in places]].reshape(len(source.vectors), -1),
        target.vectors[:, [b for _, b in places]].reshape(len(target.vectors), -1),
    )


def _shared_types(source: Tasks, target: Tasks) -> list[str]:
    return [name for name in source.day_types if name in target.day_types]


def _trait_vectors(source: Traits, target: Traits) -> tuple[np.ndarray, np.ndarray]:
    """How sales change in each row, in their own unit; what a row does not tell is average."""
    parts = []
    for kind in (WEEK, KNOWN, FESTIVAL, VOLATILITY):
        x, y, _ = _shared(source, target, kind)
        told = np.isfinite(x).any(axis=0) & np.isfinite(y).any(axis=0)
        both = np.concatenate([x[:, told], y[:, told]])
        parts.append(np.where(np.isfinite(both), both, np.nanmean(both, axis=0) if told.any() else 0.0))
    joined = np.concatenate(parts, axis=1)
    return joined[: len(source.rows)], joined[len(source.rows) :]


def _shared(source: Traits, target: Traits, kind: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    names = [name for name in source.names[kind] if name in target.names[kind]]
    return (
        source.values[kind][:, [source.names[kind].index(n) for n in names]],
        target.values[kind][:, [target.names[kind].index(n) for n in names]],
        names,
    )


def _medians(source: Traits, target: Traits) -> pd.DataFrame:
    rows = []
    for kind in KINDS:
        for name in dict.fromkeys([*source.names[kind], *target.names[kind]]):
            rows.append({"kind": kind, "trait": name, **{k: _median(t, kind, name) for k, t in
                         (("source", source), ("target", target))}})  # fmt: skip
    return pd.DataFrame(rows, columns=["kind", "trait", "source", "target"])


def _median(traits: Traits, kind: str, name: str) -> float:
    if name not in traits.names[kind]:
        return float("nan")
    values = traits.values[kind][:, traits.names[kind].index(name)]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")


def _regions(
    source: Traits, target: Traits, vectors: tuple[np.ndarray, np.ndarray], zero: ZeroShot | None
) -> pd.DataFrame:
    """Nearest source rows of each target row, and how far they are beside the source's own neighbours."""
    x, y = vectors
    if len(x) != len(source.rows):  # a joint model sees a region's series together
        names, targets = np.unique(source.regions), np.unique(target.regions)
    else:
        names, targets = source.rows, target.rows
    away = pairwise(y, x)  # [M, N]
    order = away.argsort(axis=1, kind="stable")[:, :NEAREST]
    among = pairwise(x, x)
    np.fill_diagonal(among, np.inf)
    usual = float(np.median(among.min(axis=1))) if len(x) > 1 else float("nan")
    region_of = dict(zip(target.rows, target.regions, strict=True))
    skills: Mapping[str, float] = zero.by_region if zero else {}
    return pd.DataFrame(
        {
            "region": targets,
            "nearest": [[str(names[i]) for i in row] for row in order],
            "distance": away.min(axis=1),
            "relative": away.min(axis=1) / usual if usual > 0 else float("nan"),
            "skill": [skills.get(str(region_of.get(name, name)), float("nan")) for name in targets],
        }
    )


def _pair(values: Sequence[float] | None) -> tuple[float, float] | None:
    return None if values is None else (float(values[0]), float(values[1]))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
