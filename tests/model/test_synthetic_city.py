"""Does meta-learning pay? On a city whose truth is known, over two seeds of city and network.

STMP, trained on all regions at once, is held against the same network without task features (neither psi nor attention:
nothing of the support days reaches a forecast), the same network trained on one region alone, and seasonal naive.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

import stmp
from stmp.data.panel import Panel
from stmp.data.synthetic import generate
from stmp.data.synthetic_files import write
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines.naive import SeasonalNaive
from stmp.forecast import Forecast
from stmp_platform.dataset.ingest import ingest
from stmp_platform.dataset.storage import read_panel

pytestmark = pytest.mark.timeout(900)

UNTIL, END, HORIZON = "2023-06-30", "2023-12-31", 14
SEEDS = (0, 1)
LARGE = "STMP_TEST_LARGE" in os.environ
ALONE = 4  # regions that get a network of their own: one is enough work for one test, four for an average

SMALL = [
    "model.hidden=32",
    "model.psi_size=8",
    "model.context=56",
    "model.horizon=14",
    "model.skip_periods=[7]",
    "train.batch_regions=24",
    "train.queries=24",
    "train.supports=96",
    "train.warmup=20",
    "train.learning_rate=0.005",
    "train.ema=0.98",
    "train.max_steps=600",
    "train.validate_every=150",
]


class Alone:
    """A network for each of some regions, trained on nothing else."""

    def __init__(self, panel: Panel, seed: int) -> None:
        # As many windows of each region as the shared network saw of it, and more.
        settings = [*SMALL, "train.batch_regions=8", "train.max_steps=150", "train.validate_every=25"]
        config = stmp.Config.from_mapping({}, settings)
        self.models = [stmp.train(panel.select([row]), config, seed=seed, until=UNTIL) for row in range(panel.shape[0])]

    def predict(self, panel: Panel, origin: np.datetime64, horizon: int) -> Forecast:
        parts = [model.predict(panel.select([row]), origin, horizon) for row, model in enumerate(self.models)]
        mean, quantiles = (np.concatenate([getattr(p, name) for p in parts]) for name in ("mean", "quantiles"))
        first = parts[0]
        return Forecast(panel.regions, panel.series, first.dates, first.levels, mean, quantiles)


def errors(predictors: dict[str, object], panel: Panel) -> dict[str, dict[str, float]]:
    """Mean squared error by predictor and slice, and the absolute error over sales under ``/wape``."""
    result = backtest(predictors, panel, UNTIL, END, HORIZON, HORIZON, draws=2, cold_histories=()).to_dict()  # type: ignore[arg-type]
    slices = {next(iter(predictors)): result["slices"], **result["baselines"]}
    return {
        name + ending: {part: values[score] for part, values in of.items() if values and values.get("n")}
        for name, of in slices.items()
        for score, ending in (("mse", ""), ("wape", "/wape"))
    }


def run_seed(seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """Errors over all regions, and under ``/few`` over the regions that have a network of their own."""
    torch.set_num_threads(1)
    spec = write(generate(regions=60, years=3, seed=seed), folder / "raw")
    ingest(str(spec), str(folder / "dataset"))
    panel = read_panel(str(folder / "dataset"))
    ours = stmp.train(panel, stmp.Config.from_mapping({}, SMALL), seed=seed, until=UNTIL)
    blindly = stmp.Config.from_mapping({}, [*SMALL, "model.psi=none", "model.pooling=mean"])
    blind = stmp.train(panel, blindly, seed=seed, until=UNTIL)
    everywhere = errors({"stmp": ours, "no task features": blind, "seasonal naive": SeasonalNaive()}, panel)
    if not LARGE:
        return everywhere
    few = panel.select(np.linspace(0, panel.shape[0] - 1, ALONE).round().astype(int))
    some = errors({"stmp": ours, "a network per region": Alone(few, seed)}, few)
    return everywhere | {f"{name}/few": values for name, values in some.items()}


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, dict[str, float]]]:
    """Errors of each seed, each in a process of its own."""
    folders = [tmp_path_factory.mktemp(f"city{seed}") for seed in SEEDS]
    with ProcessPoolExecutor(len(SEEDS), mp_context=get_context("spawn")) as pool:
        found = dict(zip(SEEDS, pool.map(run_seed, SEEDS, folders), strict=True))
    for seed, values in found.items():
        print(seed, {name: {part: round(error, 3) for part, error in of.items()} for name, of in values.items()})
    return found


@pytest.mark.parametrize("part", ["all", "weekday", "weekend", "festival"])
def test_ahead_of_seasonal_naive_on_every_day_type(scores: dict[int, dict[str, dict[str, float]]], part: str) -> None:
    for seed in SEEDS:
        assert scores[seed]["stmp"][part] < 0.6 * scores[seed]["seasonal naive"][part], seed


@pytest.mark.skipif(not LARGE, reason="networks of their own take a minute: STMP_TEST_LARGE=1")
@pytest.mark.parametrize("part", ["all", "festival"])
def test_ahead_of_a_network_per_region(scores: dict[int, dict[str, dict[str, float]]], part: str) -> None:
    assert mean_ratio(scores, part, "stmp/few", "a network per region/few") < 0.95


@pytest.mark.parametrize("part", ["all", "festival"])
def test_task_features_pay(scores: dict[int, dict[str, dict[str, float]]], part: str) -> None:
    """By the median's error: squared errors of one festival weigh more than all that two cities can tell."""
    assert mean_ratio(scores, part, "stmp/wape", "no task features/wape") < 0.99


def mean_ratio(scores: dict[int, dict[str, dict[str, float]]], part: str, ours: str, theirs: str) -> float:
    """Mean over the seeds of one error over another: a single city of sixty regions is a matter of luck."""
    ratios = [scores[seed][ours][part] / scores[seed][theirs][part] for seed in SEEDS]
    print(part, theirs, [round(ratio, 3) for ratio in ratios])
    return float(np.mean(ratios))
