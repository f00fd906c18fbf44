"""A shard larger than memory: what a training holds in memory with its shard there, and with it mapped from disk.

A made-up retailer of three years is ingested, and trained on for some steps by one worker, each way in a process of its
own. Told is the peak of anonymous memory, which no page cache is part of, and the processor seconds of a step.

    python -m benchmarks.shard --regions 20000
    python -m benchmarks.shard --table
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.ingest import write_raw
from benchmarks.memory import watched
from stmp.config import Config
from stmp.learning.meta import MetaTrainer
from stmp_platform.dataset import ingest, load_manifest
from stmp_platform.dataset.mapped import panel_bytes
from stmp_platform.training import train

RESULTS = Path(__file__).parent / "results" / "shard.json"
STEPS = 12
WAYS = {"memory": "1e9", "disk": "0"}
"""STMP_PANEL_MEMORY_GB of each way."""
SHOWN = {"memory": "in memory", "disk": "mapped from disk"}


def run(folder: Path, way: str) -> dict[str, Any]:
    """Train for some steps; peak of anonymous memory above that of the start, seconds of a step, and the weights."""
    times, step = list[float](), MetaTrainer.train_step

    def timed(self: MetaTrainer) -> None:
        before = time.process_time()
        step(self)
        times.append(time.process_time() - before)

    MetaTrainer.train_step = timed  # type: ignore[method-assign]
    config = Config.from_mapping({}, [f"train.max_steps={STEPS}"])
    with watched() as peak:
        result = train(str(folder / "dataset"), config, out=str(folder / way), track=False)
    weights = (Path(result.model) / "weights.safetensors").read_bytes()
    return {"anonymous_bytes": peak.bytes, "step_seconds": sorted(times)[len(times) // 2], "weights": hash(weights)}


def measure(folder: Path, way: str) -> dict[str, Any]:
    """Train in a process of its own."""
    root = Path(__file__).resolve().parent.parent
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}", "OMP_NUM_THREADS": "1"}
    env |= {"STMP_PANEL_MEMORY_GB": WAYS[way], "PYTHONHASHSEED": "0", "TMPDIR": str(folder)}
    command = [sys.executable, __file__, "--folder", str(folder), "--way", way]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Peaks by number of regions, as Markdown."""
    lines = ["| regions | panel | shard | anonymous memory at its peak | a step |", "|--:|--:|---|--:|--:|"]
    for row in rows:
        for way in WAYS:
            found = row[way]
            cells = (f"{row['regions']:,}", f"{row['panel_bytes'] / 1e9:.2f} GB", SHOWN[way])
            cells += (f"{found['anonymous_bytes'] / 1e9:.2f} GB", f"{found['step_seconds'] * 1e3:.0f} ms")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make the raw table, measure both ways, and add the figures to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=20000)
    parser.add_argument("--days", type=int, default=1096)
    parser.add_argument("--folder", type=Path, help="where there is disk; by default the temporary folder")
    parser.add_argument("--table", action="store_true", help="print the table of what has been measured")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.way:
        print(json.dumps(run(options.folder, options.way)))
        return
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if not options.table:
        folder = Path(tempfile.mkdtemp(prefix="stmp-bench-shard-", dir=options.folder))
        try:
            write_raw(folder, options.regions, options.days)
            ingest(folder / "dataset.yaml", str(folder / "dataset"))
            size = panel_bytes(load_manifest(str(folder / "dataset")), options.regions)
            row = {"regions": options.regions, "days": options.days, "panel_bytes": size}
            row |= {way: measure(folder, way) for way in WAYS}
        finally:
            shutil.rmtree(folder)
        same = {row[way].pop("weights") for way in WAYS}
        assert len(same) == 1, "the two ways must end with the same weights"
        rows = sorted([*(r for r in rows if r["regions"] != options.regions), row], key=lambda r: int(r["regions"]))
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
