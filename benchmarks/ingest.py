"""Ingest: rows per second and peak memory, beside a bare pyarrow read-and-write of the same rows.

The raw table is in the order in which a retailer exports it, day by day, so that all of it must be sorted by region.
Each measurement runs in a process of its own, because peak memory is that of a process.

    python benchmarks/ingest.py --regions 5000
    python benchmarks/ingest.py --regions 100000 --folder /big/disk
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RESULTS = Path(__file__).parent / "results" / "ingest.json"
SPEC = """\
name: ingest_benchmark
frequency: D
tables:
  sales:
    {path: sales.parquet, region: region_id, date: date, target: sales, past: [customers], known: [open, promo, price]}
closed: {column: open, equals: 0}
"""


def write_raw(folder: Path, regions: int, days: int) -> int:
    """Write the raw table day by day; returns its rows. One region in fifty opens late, one value in 500 is empty."""
    rng = np.random.default_rng(0)
    ids = pa.array([f"{number:07d}" for number in range(regions)])
    level = rng.gamma(4.0, 50.0, regions)
    opened = np.where(rng.random(regions) < 0.02, rng.integers(0, days, regions), 0)
    price = rng.integers(100, 900, regions) / 100
    first, rows, writer = np.datetime64("2021-01-01"), 0, None
    for day in range(days):
        is_open = (rng.random(regions) > 0.01) & (day % 7 != 3)
        promo = rng.random(regions) < 0.2
        sales = np.where(is_open, rng.poisson(level * (1 + 0.5 * promo)), 0)
        empty = rng.random(regions) < 0.002
        there = pa.array(opened <= day)
        table = pa.table(
            {
                "region_id": ids,
                "date": pa.array(np.full(regions, first + day), pa.date32()),
                "sales": pa.array(sales.astype(np.float64), mask=empty),
                "customers": sales // 7,
                "open": is_open.astype(np.int8),
                "promo": promo.astype(np.int8),
                "price": price * np.where(promo, 0.8, 1.0),
            }
        ).filter(there)
        rows += table.num_rows
        writer = writer or pq.ParquetWriter(folder / "sales.parquet", table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None, "no days were asked for"
    writer.close()
    (folder / "dataset.yaml").write_text(SPEC)
    return rows


def run_ingest(folder: Path) -> None:
    """Ingest the raw table."""
    from stmp_platform.dataset import ingest

    ingest(folder / "dataset.yaml", str(folder / "dataset"))


def run_copy(folder: Path) -> None:
    """Read the raw table and write it again, row group by row group, and nothing else."""
    source = pq.ParquetFile(folder / "sales.parquet")
    with pq.ParquetWriter(folder / "copy.parquet", source.schema_arrow, compression="zstd", compression_level=1) as out:
        for batch in source.iter_batches(131_072):
            out.write_batch(batch)


def run_shard(folder: Path) -> None:
    """Read one of twelve shards of the dataset as a Panel, as a worker does."""
    from stmp_platform.dataset import read_panel

    panel = read_panel(str(folder / "dataset"), shard=(5, 12))
    assert panel.shape[0] > 0, "the shard is empty"


def measure(task: str, folder: Path) -> dict[str, float]:
    """Run a task in a process of its own: seconds, processor seconds and peak memory in GB."""
    root = Path(__file__).resolve().parent.parent
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}"}
    command = [sys.executable, __file__, "--task", task, "--folder", str(folder)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_task(task: str, folder: Path) -> None:
    """The inside of `measure`."""
    started = time.perf_counter()
    {"ingest": run_ingest, "copy": run_copy, "shard": run_shard}[task](folder)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_gb": used.ru_maxrss / 1024**2}
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


def size_of(folder: Path) -> float:
    """Gigabytes of all files in a folder."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9, 3)


def main() -> None:
    """Make the raw table, measure, and add the figures to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=5000)
    parser.add_argument("--days", type=int, default=1096)
    parser.add_argument("--folder", type=Path, help="where there is disk; by default the temporary folder")
    parser.add_argument("--task", choices=["ingest", "copy", "shard"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        run_task(options.task, options.folder)
        return
    folder = Path(tempfile.mkdtemp(prefix="stmp-bench-ingest-", dir=options.folder))
    try:
        rows = write_raw(folder, options.regions, options.days)
        result: dict[str, object] = {
            "regions": options.regions,
            "days": options.days,
            "rows": rows,
            "value_columns": 5,
            "raw_gb": size_of(folder),
        }
        for task in ("copy", "ingest", "shard"):
            found = measure(task, folder)
            result[task] = found | ({"rows_per_second": round(rows / found["seconds"])} if task != "shard" else {})
        result["dataset_gb"] = size_of(folder / "dataset")
        result["cores"] = os.cpu_count()
        result["load_at_end"] = round(os.getloadavg()[0], 1)  # other work on the machine slows both
        result["machine"] = platform.machine()
        result["at"] = datetime.now(UTC).isoformat(timespec="seconds")
    finally:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=1))
    RESULTS.parent.mkdir(exist_ok=True)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    kept = [item for item in before if (item["regions"], item["days"]) != (options.regions, options.days)]
    RESULTS.write_text(json.dumps([*kept, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
