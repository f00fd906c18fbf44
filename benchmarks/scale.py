"""Scale: what each part of the work costs for one region, against the number of regions.

A made-up retailer of three years is ingested, and then worked on as one of several workers would: its shard is read,
trained on until as many regions are drawn as it has, and validated (an epoch), remembered for serving (psi
and attention's keys, what `Online` keeps), and forecast. Backtest and gate have all regions, mapped from disk, one
origin of 14 days and the seasonal naive beside the model. Each measurement runs in a process of its own, because peak
memory is that of a process; processor seconds, for the machine may have other work. Results are added to
`results/scale.json`.

    python -m benchmarks.scale --regions 1000
    python -m benchmarks.scale --regions 100000 --workers 10 --folder /where/there/is/10/GB
    python -m benchmarks.scale --regions 1000 --only step
    python -m benchmarks.scale --table
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ingest import size_of, write_raw
from benchmarks.memory import watched
from benchmarks.step import make_trainer
from stmp.config import Config
from stmp.data.panel import Panel
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import SeasonalNaive
from stmp.forecaster import Forecaster
from stmp.online import Online
from stmp_platform.dataset import ingest, load_manifest, open_panel, read_panel
from stmp_platform.gate import Rules
from stmp_platform.gate.evidence import gather
from stmp_platform.settings import Settings

RESULTS = Path(__file__).parent / "results" / "scale.json"
STEPS, WARM = 12, 3
SAMPLE = 1000
"""Regions of the shard that are remembered and forecast: both work in chunks, so that their number changes nothing."""
HORIZON = 14
TASKS = ("ingest", "shard", "step", "remember", "forecast", "backtest", "gate")


def used() -> float:
    """Processor seconds of this process."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    return times.ru_utime + times.ru_stime


def peak() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def shard_of(folder: Path, workers: int) -> Panel:
    """The first worker's regions."""
    return read_panel(str(folder / "dataset"), shard=(0, workers))


def forecaster_of(panel: Panel) -> Forecaster:
    """A model of the default size, which has learned nothing: that costs what a trained one does."""
    trainer = make_trainer(panel, Config())
    return Forecaster.from_trainer(trainer, regions=(), until=panel.last_observed, fingerprint="")


def run(task: str, folder: Path, workers: int) -> dict[str, float]:
    """One measurement: processor seconds, peak bytes, and the regions that they were for."""
    if task in ("backtest", "gate"):
        return judged(task, str(folder / "dataset"))
    if task == "ingest":
        before = used()
        ingest(folder / "dataset.yaml", str(folder / "dataset"))
        return {"processor_seconds": used() - before, "peak_bytes": peak()}
    idle = peak()
    before = used()
    panel = shard_of(folder, workers)
    if task == "shard":
        held = sum(
            t.numel() * t.element_size() for t in (panel.sales, panel.observed, panel.closed, panel.past, panel.known)
        )
        found = {"processor_seconds": used() - before, "peak_bytes": peak() - idle, "panel_bytes": held}
        return found | {"regions": panel.shape[0]}
    if task == "step":
        trainer = make_trainer(panel, Config())
        times = []
        once = -(-panel.shape[0] // trainer.config.train.batch_regions)  # steps that draw as many regions as there are
        for _ in range(WARM + max(once, STEPS)):
            before = time.process_time()
            trainer.train_step()
            times.append(time.process_time() - before)
        before = time.process_time()
        trainer.validate()
        epoch = float(np.sum(times[-once:])) + time.process_time() - before
        found = {"processor_seconds": float(np.median(times[WARM:])), "peak_bytes": peak() - idle}
        found |= {"epoch_steps": once, "epoch_processor_seconds": epoch}
        with FlopCounterMode(display=False) as products:  # matrix products; what an LSTM does inside is not counted
            trainer.train_step()
        parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        counted = {"flop_of_matrix_products": products.get_total_flops(), "parameters": parameters}
        return found | counted | {"regions": panel.shape[0]}
    some = panel.select(np.arange(min(SAMPLE, panel.shape[0])))
    model, origin = forecaster_of(some), panel.index_of(panel.last_observed) - HORIZON
    work: dict[str, Callable[[], Any]] = {
        "remember": lambda: Online(model, some, np.full(some.shape[0], origin)),
        "forecast": lambda: model.predict(some, some.dates[origin], HORIZON),
    }
    idle, before = peak(), used()
    kept = work[task]()
    found = {"processor_seconds": used() - before, "peak_bytes": peak() - idle, "regions": some.shape[0]}
    return found | ({"kept_bytes": size_in_memory(kept.memory)} if isinstance(kept, Online) else {})


def judged(task: str, data: str) -> dict[str, float]:
    """All regions forecast and scored, and what is told of them; the peak is of anonymous memory."""
    settings = Settings.from_env().model_copy(update={"panel_memory_gb": 0.0})
    before = used()
    with watched() as peak:
        panel = open_panel(data, settings)
        last = panel.index_of(panel.last_observed)
        start = panel.dates[last - HORIZON]
        model = forecaster_of(panel.select(np.arange(SAMPLE)).until(start))
        if task == "gate":
            rules = Rules.model_validate({"windows": {"most": 1, "least": 1, "cold_histories": []}})
            gather(model, None, panel, load_manifest(data), rules, datetime.date.today())
        else:
            rivals = {"stmp": model, "naive": SeasonalNaive()}
            backtest(rivals, panel, start, panel.dates[last], HORIZON, cold_histories=(), progress=False).to_dict()
    return {"processor_seconds": used() - before, "peak_bytes": peak.bytes, "regions": panel.shape[0]}


def size_in_memory(value: Any) -> int:
    """Bytes of all tensors in nested dataclasses and sequences."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value):
        return sum(size_in_memory(getattr(value, field.name)) for field in fields(value))
    return sum(map(size_in_memory, value)) if isinstance(value, list | tuple) else 0


def measure(task: str, folder: Path, workers: int) -> dict[str, float]:
    """Run a task in a process of its own."""
    root = Path(__file__).resolve().parent.parent
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--task", task, "--folder", str(folder), "--workers", str(workers)]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Cost by number of regions, as Markdown."""
    names = (
        "regions", "workers", "ingest, s of processor for 1,000 regions", "peak", "regions of a shard",
        "panel, kB a region", "peak", "step, ms of processor", "epoch, ms a region",
        "remember, ms a region", "peak, kB a region", "forecast, ms a region", "backtest, ms a region", "peak",
        "gate, ms a region", "peak",
    )  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|--:" * len(names) + "|"]
    for row in rows:
        at, cells = row["tasks"], [f"{row['regions']:,}", str(row["workers"])]
        count = at["shard"]["regions"]
        cells += [f"{at['ingest']['processor_seconds'] / row['regions'] * 1000:.2f}"]
        cells += [f"{at['ingest']['peak_bytes'] / 1e9:.2f} GB", f"{count:,}"]
        cells += [f"{at['shard']['panel_bytes'] / count / 1e3:.1f}", f"{at['step']['peak_bytes'] / 1e9:.2f} GB"]
        cells += [f"{at['step']['processor_seconds'] * 1e3:.0f}"]
        cells += [f"{at['step']['epoch_processor_seconds'] / count * 1e3:.2f}"]
        cells += [f"{at['remember']['processor_seconds'] / at['remember']['regions'] * 1e3:.2f}"]
        cells += [f"{at['remember']['peak_bytes'] / at['remember']['regions'] / 1e3:.0f}"]
        cells += [f"{at['forecast']['processor_seconds'] / at['forecast']['regions'] * 1e3:.2f}"]
        for task in ("backtest", "gate"):  # of all regions
            cells += [f"{at[task]['processor_seconds'] / row['regions'] * 1e3:.2f}"]
            cells += [f"{at[task]['peak_bytes'] / 1e9:.2f} GB"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make the raw table, measure, and add the figures to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--days", type=int, default=1096)
    parser.add_argument("--workers", type=int, default=1, help="among whom the regions are shared")
    parser.add_argument("--folder", type=Path, help="where there is disk; by default the temporary folder")
    parser.add_argument("--table", action="store_true", help="print the table of what has been measured")
    parser.add_argument("--only", choices=TASKS[1:], help="this alone, beside what has been measured of the rest")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if options.table:
        print(table(before))
        return
    if options.task:
        print(json.dumps(run(options.task, options.folder, options.workers)))
        return
    same = [row for row in before if (row["regions"], row["workers"]) == (options.regions, options.workers)]
    if options.only and not same:
        parser.error(
            f"{RESULTS.name} has no {options.regions:,} regions of {options.workers} workers: leave --only out"
        )
    folder = Path(tempfile.mkdtemp(prefix="stmp-bench-scale-", dir=options.folder))
    try:
        write_raw(folder, options.regions, options.days)
        result: dict[str, Any] = {"regions": options.regions, "days": options.days, "workers": options.workers}
        tasks = ("ingest", options.only) if options.only else TASKS
        found = {task: measure(task, folder, options.workers) for task in tasks}
        result["tasks"] = {**same[0]["tasks"], options.only: found[options.only]} if options.only else found
        result["dataset_gb"] = size_of(folder / "dataset")
        result["machine"] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "torch": torch.__version__}
    finally:
        shutil.rmtree(folder)
    kept = [row for row in before if (row["regions"], row["workers"]) != (options.regions, options.workers)]
    rows = sorted([*kept, result], key=lambda row: (row["regions"], row["workers"]))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
