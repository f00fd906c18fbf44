"""Load of the API: one region a request beside a no-op endpoint of the same application, and forecasts in bulk.

    python -m benchmarks.serving --json benchmarks/results/serving.json

The application runs on Ray Serve (`stmp serve`), and once more on plain uvicorn. The load comes from another process,
in a closed loop. The model has the default size and is hardly trained, which costs the same to run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stmp.config import Config
from stmp.forecaster import Forecaster
from stmp.online import Online
from stmp_platform.dataset import ingest, load_manifest, read_panel
from stmp_platform.dataset.sources.prepare import prepare_source
from stmp_platform.serve import free_port
from tests.training import make_trainer

HORIZON = 14
KINDS = ("noop", "forecast", "decoded")
"""What is asked: nothing, a forecast, and one that must be decoded for the request."""
ROOT = Path(__file__).resolve().parents[1]


def make(folder: Path, regions: int) -> tuple[str, str]:
    """A synthetic city of three years and a model of the default size."""
    import yaml

    spec = Path(prepare_source("synthetic", folder / "raw", regions=regions, years=3, seed=0))
    fill = {"fill": {"promo": 0, "price": 1.0, "open": 1}}
    spec.write_text(yaml.safe_dump(yaml.safe_load(spec.read_text()) | fill))
    data = str(folder / "data")
    ingest(str(spec), data)
    panel = read_panel(data)
    trainer = make_trainer(panel, Config.from_mapping({"train": {"max_steps": 1}}))
    trainer.train_step()
    last = str(panel.last_observed)
    Forecaster.from_trainer(trainer, regions=tuple(panel.regions), until=last, fingerprint="x").save(folder / "model")
    return data, str(folder / "model")


def bulk(data: str, model: str, seconds: float) -> dict[str, float]:
    """Region-days with all their quantiles that one core decodes in a second, and what the batch does."""
    torch.set_num_threads(1)
    forecaster = Forecaster.load(model)
    end = np.datetime64(load_manifest(data).last_sales_date) + np.timedelta64(60, "D")
    panel = read_panel(data, end=end)
    last = panel.index_of(panel.last_observed)
    regions, horizon = np.arange(panel.shape[0]), forecaster.horizon
    began = time.perf_counter()
    online = Online(forecaster, panel, np.full(len(regions), last))
    memory_s = time.perf_counter() - began
    online.decode(regions, horizon)
    began, cpu, rounds = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        online.decode(regions, horizon)
        rounds += 1
    done = rounds * len(regions) * horizon
    decoded, by_cpu = done / (time.perf_counter() - began), done / (time.process_time() - cpu)
    began = time.perf_counter()
    forecaster.predict(panel, panel.dates[last], horizon)
    batch = len(regions) * horizon / (time.perf_counter() - began)
    return {
        "region_days_per_s": decoded, "region_days_per_cpu_s": by_cpu, "batch_region_days_per_s": batch,
        "memory_s": memory_s, "regions": len(regions), "horizon": horizon,
    }  # fmt: skip


async def load(url: str, kind: str, regions: list[str], connections: int, seconds: float) -> dict[str, float]:
    """Requests a second and their times, of as many connections as ask one after the other."""
    import aiohttp

    times: list[float] = []
    failed = 0
    end = time.perf_counter() + seconds
    connector = aiohttp.TCPConnector(limit=connections)

    async def ask(session: Any, seed: int) -> None:
        nonlocal failed
        draw = random.Random(seed)
        while time.perf_counter() < end:
            began = time.perf_counter()
            async with _call(session, url, kind, draw.choice(regions)) as answer:
                await answer.read()
                failed += answer.status != 200
            times.append(time.perf_counter() - began)

    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(ask(session, seed) for seed in range(connections)))
    ordered = sorted(times)
    return {
        "requests_per_s": len(times) / seconds, "p50_ms": 1e3 * statistics.median(ordered),
        "p99_ms": 1e3 * ordered[int(0.99 * len(ordered))], "failed": failed, "requests": len(times),
    }  # fmt: skip


def _call(session: Any, url: str, kind: str, region: str) -> Any:
    if kind == "noop":
        return session.get(f"{url}/healthz")
    body = {"regions": [region], "horizon": HORIZON, "quantiles": [0.1, 0.5, 0.9]}
    if kind == "decoded":  # a what-if that changes nothing: no forecast that is kept can answer it
        body["what_if"] = [{"column": "promo", "add": 0}]
    return session.post(f"{url}/v1/forecasts", json=body)


def measure(url: str, regions: list[str], seconds: float) -> dict[str, Any]:
    """The no-op and forecasts, idle and under load, in turn, so that all meet the same machine."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        asyncio.run(load(url, kind, regions, 4, 2.0))  # warm
        found[f"{kind}_idle"] = asyncio.run(load(url, kind, regions, 1, seconds / 2))
    for connections in (2, 8):
        under = {kind: asyncio.run(load(url, kind, regions, connections, seconds)) for kind in KINDS}
        for kind in KINDS[1:]:
            under[kind]["over_noop"] = under[kind]["requests_per_s"] / under["noop"]["requests_per_s"]
            under[kind]["p99_over_idle_p50"] = under[kind]["p99_ms"] / found[f"{kind}_idle"]["p50_ms"]
        found[f"{connections}_connections"] = under
    return found


@contextmanager
def running(command: list[str], ready: Path, env: dict[str, str]) -> Iterator[str]:
    """A server in another process; yields its address."""
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, env=os.environ | env) as server:
        try:
            while not ready.exists():
                assert server.poll() is None, "the server did not start"
                time.sleep(0.2)
            yield str(json.loads(ready.read_text())["url"])
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def serve_plainly(data: str, model: str, port: int, ready: Path) -> None:
    """The same application on uvicorn, without Ray."""
    import uvicorn

    from serving.app import make_app
    from serving.replica import Replica
    from serving.settings import Settings

    torch.set_num_threads(1)
    given = {"data": data, "observations": f"sqlite:///{ready.parent / 'plain.db'}"}
    app = make_app(Replica(Settings.read(given), "plain").begin(model))
    ready.write_text(json.dumps({"url": f"http://127.0.0.1:{port}"}))
    uvicorn.run(app, port=port, log_level="warning")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plainly", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.plainly:
        data, model, port, ready = asked.plainly
        serve_plainly(data, model, int(port), Path(ready))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, model = make(folder, asked.regions)
        result: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"}
        result["load_average_before"] = os.getloadavg()[0]
        result["bulk"] = bulk(data, model, asked.seconds)
        print(json.dumps(result["bulk"], indent=1), flush=True)
        ids = [str(region) for region in read_panel(data).regions]
        env = {"STMP_HOME": scratch}
        port, ready = str(free_port()), folder / "serve.json"
        command = ["-m", "jobs.cli", "serve", "--data", data, "--model", model, "--port", port, "--json", str(ready)]
        with running(command, ready, env) as url:
            result["ray_serve"] = measure(url, ids, asked.seconds)
        print(json.dumps(result["ray_serve"], indent=1), flush=True)
        port, ready = str(free_port()), folder / "plain.json"
        with running(["-m", "benchmarks.serving", "--plainly", data, model, port, str(ready)], ready, env) as url:
            time.sleep(1)
            result["uvicorn"] = measure(url, ids, asked.seconds)
        print(json.dumps(result["uvicorn"], indent=1), flush=True)
        result["load_average_after"] = os.getloadavg()[0]
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
