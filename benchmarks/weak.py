"""Weak scaling: N times the regions on N workers; `python -m benchmarks.weak` writes results/weak.json.

*alone*: one worker takes steps of its regions while the other cores rest.
*apart*: N processes take such steps side by side and never speak to each other: what the cores and their
    memory allow.
*together*: N workers that share the step, with N times the regions, and so sum their gradients.

The efficiency is what the workers together reach of what they reach apart. Blocks of steps take turns, so that a busy
machine slows them alike; seconds are the clock's, one thread each, medians over blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from benchmarks.gpu import city_of
from stmp.config import Config
from stmp.data.panel import Panel
from stmp.learning.meta import MetaTrainer, Shard
from stmp.learning.workers import Workers

HERE = Path(__file__).resolve().parent
PRESETS = HERE.parent / "jobs" / "presets"


class Apart(Workers):
    """A worker that takes its share and tells nobody."""

    def reduce(self, values: Tensor, how: str) -> Tensor:
        """Its own values."""
        return values

    def reduce_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Its own gradients."""


def trainer_of(city: Panel, config: Config, rank: int, number: int, workers: Workers) -> MetaTrainer:
    """The trainer of one of a number of workers."""
    last = city.index_of(city.last_observed) + 1
    resolved = config.resolve(city.period_days, last)
    train, positions, scored, held_out = Shard.plan(city.shape[0], resolved, rank, number)
    regions = len(Shard.plan(city.shape[0], resolved, 0, 1)[0])
    shard = Shard(city.select(train), positions, regions, city.select(scored), held_out)
    return MetaTrainer(shard, resolved, seed=0, until=last, workers=workers)


def work(rank: int, folder: str, preset: str, number: int, regions: int, blocks: int, steps: int) -> None:
    """What each process does; the first writes the seconds of a step by block."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/meeting", number)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=number)
    city = city_of(number * regions)
    config = Config.load(
        PRESETS / f"{preset}.yaml", [f"train.batch_regions={number * regions}", "validation.regions=0"]
    )
    together, apart = (trainer_of(city, config, rank, number, kind) for kind in (Workers(), Apart()))
    times: dict[str, list[float]] = {"together": [], "apart": [], "alone": []}
    for block in range(blocks + 1):
        for name, trainer in (("together", together), ("apart", apart), ("alone", apart)):
            dist.barrier()
            begin = time.perf_counter()
            if name != "alone" or rank == 0:
                for _ in range(steps):
                    trainer.train_step()
            if block > 0:
                times[name].append((time.perf_counter() - begin) / steps)
    Path(folder, f"{rank}.json").write_text(json.dumps(times), encoding="utf-8")
    dist.destroy_process_group()


def measure(preset: str, number: int, regions: int, blocks: int, steps: int) -> dict[str, Any]:
    """Medians of the slowest worker, and what the workers together reach of what they reach apart."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (folder, preset, number, regions, blocks, steps), nprocs=number)
        found = [json.loads(Path(folder, f"{rank}.json").read_text(encoding="utf-8")) for rank in range(number)]
    slowest = {name: [max(group) for group in zip(*(f[name] for f in found), strict=True)] for name in found[0]}
    middle = {name: statistics.median(values) for name, values in slowest.items()}
    by_block = [a / t for a, t in zip(slowest["apart"], slowest["together"], strict=True)]
    return {
        "preset": preset,
        "workers": number,
        "regions_a_worker": regions,
        "seconds": middle,
        "of_apart": statistics.median(by_block),
        "quartiles": statistics.quantiles(by_block, n=4)[::2],
        "of_alone": middle["alone"] / middle["together"],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[2], help="a measurement for each number; one core each"
    )
    parser.add_argument("--preset", nargs="+", default=["product", "paper"])
    parser.add_argument("--regions", type=int, default=48, help="of a step, for each worker")
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="in a block")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "weak.json")
    arguments = parser.parse_args()
    results = [
        measure(preset, number, arguments.regions, arguments.blocks, arguments.steps)
        for preset in arguments.preset
        for number in arguments.workers
    ]
    for row in results:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    machine = {"cores": os.cpu_count(), "torch": torch.__version__, "load_average": os.getloadavg()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
