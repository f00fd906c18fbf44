"""Training on a GPU: `python -m benchmarks.gpu` writes results/gpu.json; it needs a GPU, and 16 GB of its memory.

*step*: one training step, for the presets, for batches small and large, in each precision, beside the forward and
    backward pass of the bare recurrent nets (`bare_step` of step.py) in the same precision on the same device, beside
    the loop over tasks, and beside the same step on this machine's processor.
*resident*: a step where many regions lie in the GPU's memory: a made-up city repeated. Its time must not depend on
    them.
*precision*: what arithmetic costs in accuracy: trainings that differ in nothing else, over seeds.

Medians over rounds, each waited for. Rounds of the bare nets and of ours take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.step import VIEWS, bare_step, loop_step, make_trainer, timed
from stmp.config import Config
from stmp.data.panel import Panel
from stmp.data.synthetic import generate
from stmp.evaluation.backtest import backtest
from stmp.learning.meta import set_precision
from stmp.learning.train import train

HERE = Path(__file__).resolve().parent
PRESETS = HERE.parent / "jobs" / "presets"
GPU, CPU = torch.device("cuda"), torch.device("cpu")
PRECISIONS = ("fp32", "tf32", "bf16")
REPEATED = ("sales", "observed", "closed", "past", "known", "static", "calendar_index")
"""What of a panel has a region axis."""
Row = dict[str, Any]


def city_of(regions: int) -> Panel:
    """A made-up city of three years."""
    city = generate(regions=regions, years=3.0, seed=0)
    return Panel.from_frame(
        city.sales, region="region_id", date="date", target="sales", past=["customers"], known=["promo", "price"],
        static=city.regions, events=city.calendar.query("scope == 'city'").drop(columns="scope"),
    )  # fmt: skip


def config_of(preset: str, batch: int, precision: str) -> Config:
    """A preset with a batch and a precision of its own."""
    return Config.load(PRESETS / f"{preset}.yaml", [f"train.batch_regions={batch}", f"train.precision={precision}"])


def one_of_each(step: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a step, the mean over the views."""
    return sum(timed(step, device)[0] for _ in VIEWS) / len(VIEWS)


def measure_step(city: Panel, preset: str, batch: int, precision: str, rounds: int, loop_rounds: int) -> Row:
    """A step on the GPU beside the bare nets and, where it is asked for, the loop over tasks."""
    config = config_of(preset, batch, precision)
    set_precision(precision)
    ours, on_gpu = make_trainer(city.to(GPU), config), torch.autocast("cuda", torch.bfloat16, precision == "bf16")
    with on_gpu:
        bare = bare_step(make_trainer(city.to(GPU), config), GPU)
    for _ in VIEWS:  # each is captured at its first step
        ours.train_step()
    torch.cuda.reset_peak_memory_stats()
    times: dict[str, list[float]] = {"bare": [], "ours": [], "loop": []}
    for number in range(rounds + 1):
        with on_gpu:
            seconds = timed(bare, GPU)[0]
        if number > 0:  # the first chooses its algorithms
            times["bare"].append(seconds / len(VIEWS))
        times["ours"].append(one_of_each(ours.train_step, GPU))
    memory = torch.cuda.max_memory_allocated()
    if loop_rounds:
        loop = loop_step(make_trainer(city.to(GPU), config))
        times["loop"] = [one_of_each(loop, GPU) for _ in range(loop_rounds + 1)][1:]
    middle = {name: statistics.median(values) for name, values in times.items() if values}
    rows, queries = ours.sampler.batch, config.train.queries
    row: Row = {"preset": preset, "regions": rows, "precision": precision, "seconds": middle}
    row |= {"quartiles": [float(q) for q in np.quantile(times["ours"], [0.25, 0.75])]}
    row |= {"over_bare": middle["ours"] / middle["bare"], "gigabytes": memory / 2**30}
    row |= {"regions_a_second": rows / middle["ours"], "queries_a_second": rows * queries / middle["ours"]}
    if loop_rounds:
        row["faster_than_loop"] = middle["loop"] / middle["ours"]
    return row


def beside_processor(city: Panel, row: Row, rounds: int) -> Row:
    """The same step on the processor, with all of its cores."""
    trainer = make_trainer(city, config_of(row["preset"], row["regions"], "fp32"))
    trainer.train_step()
    seconds = statistics.median(one_of_each(trainer.train_step, CPU) for _ in range(rounds))
    return {"processor_seconds": seconds, "faster_than_processor": seconds / row["seconds"]["ours"]}


def measure_resident(city: Panel, regions: int, batch: int, rounds: int) -> Row:
    """A step with this many regions in the GPU's memory."""
    times = -(-regions // city.shape[0])

    def repeated(values: Tensor) -> Tensor:
        return values.repeat(times, *(1,) * (values.ndim - 1))[:regions]

    parts: dict[str, Any] = {name: repeated(getattr(city.to(GPU), name)) for name in REPEATED}
    many = replace(city, **parts, regions=np.array([f"r{i:07d}" for i in range(regions)]))
    begin = time.perf_counter()
    trainer = make_trainer(many, config_of("product", batch, "fp32"))
    for _ in VIEWS:
        trainer.train_step()
    torch.cuda.synchronize()
    ready = time.perf_counter() - begin
    seconds = statistics.median(one_of_each(trainer.train_step, GPU) for _ in range(rounds))
    resident = torch.cuda.memory_allocated() / 2**30
    return {"resident": regions, "regions": batch, "seconds": seconds, "gigabytes": resident, "ready_seconds": ready}


def measure_precision(city: Panel, steps: int, seeds: range) -> list[Row]:
    """Errors after trainings in each precision on the GPU."""
    until = city.dates[-1] - np.timedelta64(56, "D")
    rows = []
    for seed in seeds:
        for precision in PRECISIONS:
            settings = [f"train.precision={precision}", f"train.max_steps={steps}"]
            config = Config.load(PRESETS / "product.yaml", settings)
            begin = time.perf_counter()
            model = train(city.to(GPU), config, seed=seed, until=until)
            seconds = time.perf_counter() - begin
            found = backtest(
                {"stmp": model}, city, until, city.last_observed, 14,
                cold_histories=(), draws=0, keep_regions=0, progress=False,
            )  # fmt: skip
            errors = {key: found.to_dict()["slices"]["all"][key] for key in ("wape", "wql")}
            rows.append({"precision": precision, "seed": seed, "steps": steps, "seconds": seconds, **errors})
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--loop-rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[48, 512])
    parser.add_argument("--resident", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=300, help="of the trainings that compare precisions; 0 for none")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json")
    arguments = parser.parse_args()
    machine = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "cores": os.cpu_count(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    found: Row = {"machine": machine, "step": [], "resident": [], "precision": []}
    city = city_of(max(arguments.batch))

    def keep(part: str, row: Row) -> None:
        found[part].append(row)
        told = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items() if k != "quartiles"}
        print(part, told, flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    for preset in ("product", "paper"):
        for batch in arguments.batch:
            for precision in PRECISIONS:
                loops = arguments.loop_rounds if precision == "fp32" and batch == min(arguments.batch) else 0
                row = measure_step(city, preset, batch, precision, arguments.rounds, loops)
                if precision == "fp32":
                    row |= beside_processor(city, row, rounds=3)
                keep("step", row)
    set_precision("fp32")
    for regions in arguments.resident:
        torch.cuda.empty_cache()
        keep("resident", measure_resident(city, regions, min(arguments.batch), arguments.rounds))
    if arguments.steps:
        for row in measure_precision(city.select(np.arange(60)), arguments.steps, range(arguments.seeds)):
            keep("precision", row)


if __name__ == "__main__":
    main()
