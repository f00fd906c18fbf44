"""A small city to train on, and workers of torch.distributed without Ray, for the tests of training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from stmp.config import Config
from stmp.data.panel import Panel
from stmp.data.synthetic import generate
from stmp.errors import TrainingError
from stmp.learning.meta import MetaTrainer, Shard
from stmp.learning.workers import Workers

SMALL: dict[str, dict[str, Any]] = {
    "model": {"hidden": 8, "psi_size": 4, "context": 42, "horizon": 10, "heads": 2, "ar_lags": 7},
    "train": {
        "max_steps": 24,
        "batch_regions": 9,
        "queries": 8,
        "supports": 20,
        "supports_forecast": 60,
        "log_every": 4,
        "validate_every": 8,
        "checkpoint_every": 4,
        "warmup": 4,
    },
}
PAPER = {"model": {"instances": "window", "samples": 2, "pooling": "mean", "known": False, "transform": "linear",
                   "head": "normal", "series": "joint", "last_year": False, "trend_periods": [], "dropout": 0.0},
         "train": {"day_type_temperature": 0.0, "cold_fraction": 0.0, "ema": 0.0, "hide_last_year": 0.0,
                   "level_step": 0.0}}  # fmt: skip


SCENES: dict[str, dict[str, Any]] = {
    "product": {},
    "product, two series": {"series": ("a", "b")},
    "paper": {"paper": True},
    "paper, two series": {"paper": True, "series": ("a", "b")},
    "pooled": {"settings": ("train.view_mode=pooled", "train.batch_regions=12")},
    "ensemble": {"settings": ("model.members=2",)},
    "kl": {"settings": ("model.beta_kl=0.1", "model.samples=2")},
}
"""What training must be independent of the number of workers in."""


def small_config(*overrides: str, paper: bool = False) -> Config:
    """A configuration that trains in a second or two."""
    sections = {name: {**SMALL[name], **(PAPER[name] if paper else {})} for name in SMALL}
    return Config.from_mapping(sections, overrides)


@cache
def small_panel(regions: int = 14, seed: int = 1, series: tuple[str, ...] = ("sales",), years: float = 1.5) -> Panel:
    """A synthetic city."""
    city = generate(regions=regions, years=years, seed=seed, series=series)
    return Panel.from_frame(
        city.sales,
        region="region_id",
        date="date",
        target="sales",
        series="series_id" if len(series) > 1 else None,
        past=["customers"],
        known=["promo", "price"],
        static=city.regions.rename(columns={"region_id": "region_id"}),
        events=city.calendar.query("scope == 'city'").drop(columns="scope"),
    )


def make_trainer(panel: Panel, config: Config, *, seed: int = 0, until: int | None = None) -> MetaTrainer:
    """The trainer of this worker, alone or in a process group."""
    workers = Workers()
    last = until or panel.index_of(panel.last_observed) + 1
    resolved = config.resolve(panel.period_days, last)
    train, positions, scored, held_out = Shard.plan(panel.shape[0], resolved, workers.rank, workers.size)
    regions = len(Shard.plan(panel.shape[0], resolved, 0, 1)[0])
    shard = Shard(panel.select(train), positions, regions, panel.select(scored), held_out)
    return MetaTrainer(shard, resolved, seed=seed, until=last, workers=workers)


def trainer_of(
    settings: tuple[str, ...] = (), paper: bool = False, series: tuple[str, ...] = ("sales",), seed: int = 0
) -> MetaTrainer:
    """The trainer of this worker in one of the scenes."""
    torch.set_num_threads(1)
    return make_trainer(small_panel(series=series), small_config(*settings, paper=paper), seed=seed)


def failure(region: int) -> str:
    """The message with which training stops where a region has values that no scaling can mend."""
    panel = small_panel()
    sales = panel.sales.clone()
    sales[region, 100:] = float("inf")
    trainer = make_trainer(replace(panel, sales=sales), small_config())
    try:
        for _ in range(20):
            trainer.train_step()
    except TrainingError as error:
        return str(error)
    return ""


def gradients(trainer: MetaTrainer) -> dict[str, torch.Tensor]:
    """Gradients of the last step, over all workers."""
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def weights(trainer: MetaTrainer) -> dict[str, torch.Tensor]:
    """The weights as they are."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def on_workers(number: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function in a process group of some workers, and return what each returns, by rank.

    One worker is this process, without a group.
    """
    if number == 1:
        return [work(*arguments)]
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.training"])  # imports torch once for all
    answers = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"  # a free port found now could be another's a moment later
        processes = [
            context.Process(target=_member, args=(rank, number, meeting, answers, work, arguments))
            for rank in range(number)
        ]
        for process in processes:
            process.start()
        got: dict[int, Any] = {}
        for _ in processes:
            rank, answer = answers.get()
            if isinstance(answer, Exception):
                for process in processes:  # the others would wait for it
                    process.kill()
                raise answer
            got[rank] = answer
        for process in processes:
            process.join()
    return [got[rank] for rank in range(number)]


def _member(
    rank: int, number: int, meeting: str, answers: Any, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=number)
        answer: Any = work(*arguments)
    except Exception as error:  # noqa: BLE001  # told to the test, which raises it
        answer = error
    answers.put((rank, to_numpy(answer)))
    dist.barrier()
    dist.destroy_process_group()


def to_numpy(value: Any) -> Any:
    """Tensors as arrays, which need no shared memory between processes."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, dict):
        return {key: to_numpy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_numpy(item) for item in value]
    return value


def furthest(left: dict[str, Any], right: dict[str, Any]) -> tuple[float, str]:
    """The largest difference between two sets of arrays, relative to the largest value of each, and where it is.

    What is a thousandth of the largest array or less is all rounding, and measured against that.
    """
    assert left.keys() == right.keys()
    pairs = {name: (np.asarray(left[name], float), np.asarray(right[name], float)) for name in left}
    largest = max(float(np.abs(a).max()) for a, _ in pairs.values())
    return max(
        (float(np.abs(a - b).max() / max(1e-12, np.abs(a).max(), 1e-3 * largest)), name)
        for name, (a, b) in pairs.items()
    )
