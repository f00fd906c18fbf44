"""Serving under constant load while everything happens to it: promotions, rollbacks, bad models, trials and kills.

    python -m benchmarks.serving_endurance --seconds 300 --json benchmarks/results/serving_endurance.json

`stmp serve` answers from two replicas; another process asks all the while and checks each answer against what the
version that it names forecasts in batch (`serving_asker.py`). What fails is told apart by what had been killed just
before. The models are small and registered in a SQLite store; each is the one before it, trained a little further.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors.torch import load_file, save_file

from benchmarks.serving import running
from benchmarks.serving_asker import TOLERANCE, Truth
from jobs.rollback import rollback
from jobs.serve import rollout
from stmp.forecaster import Forecaster
from stmp_platform.gate import Champions
from stmp_platform.registry import register, resolve, set_alias
from stmp_platform.rollout import RolloutError
from stmp_platform.serve import connect, free_port
from tests.serving import HORIZON, REGIONS, make_data, whole_panel
from tests.training import make_trainer, small_config, small_panel

GOOD = 7
"""Versions that can be served: 1 to 7."""
FIRST, FURTHER = 20, 5
"""Steps of training of the first version, and by how many each later one has more."""
ROOT = Path(__file__).resolve().parents[1]


def train(data: str, folder: Path) -> list[Path]:
    """One training, saved every few steps: the good models, and one more."""
    torch.set_num_threads(1)
    panel = whole_panel(data)
    some = panel.select(range(REGIONS - 2))
    trainer = make_trainer(some, small_config("train.max_steps=200"), seed=0)
    saved = []
    for step in range(1, FIRST + FURTHER * GOOD + 1):
        trainer.train_step()
        if step >= FIRST and (step - FIRST) % FURTHER == 0:
            model = Forecaster.from_trainer(
                trainer, regions=tuple(some.regions), until=str(panel.last_observed), fingerprint="f"
            )
            saved.append(folder / f"model-{step}")
            model.save(saved[-1])
    return saved


def spoil(good: Path, folder: Path) -> dict[str, str]:
    """Register models that must not be served; their references by what is wrong with them."""
    damaged = register(good, "city").uri
    (resolve(damaged) / "weights.safetensors").write_bytes(b"no weights")  # the registry takes none that is like this
    nan = shutil.copytree(good, folder / "nan")
    weights = load_file(nan / "weights.safetensors")
    name = next(name for name in weights if name.startswith("head"))
    save_file(weights | {name: weights[name] * float("nan")}, nan / "weights.safetensors")
    other = folder / "other"
    Forecaster.from_trainer(
        make_trainer(small_panel(), small_config()), regions=(), until="2024-01-01", fingerprint="y"
    ).save(other)
    faults = {"NaN": nan, "other schema": other}
    return {"raises": damaged} | {fault: register(model, "city").uri for fault, model in faults.items()}


def truth_of(data: str) -> Truth:
    """What each good version forecasts in batch, and that no two of them can be taken for each other."""
    panel = whole_panel(data)
    mean, quantiles = {}, {}
    for version in range(1, GOOD + 1):
        forecaster = Forecaster.load(resolve(f"models:/city/{version}"))
        forecast = forecaster.predict(panel, panel.last_observed, HORIZON)
        mean[f"city/{version}"] = forecast.mean[:, :, 0]
        quantiles[f"city/{version}"] = forecast.quantiles[:, :, 0]
    for one, other in itertools.combinations(mean.values(), 2):
        alike = np.isclose(one, other, rtol=10 * TOLERANCE["rtol"], atol=10 * TOLERANCE["atol"])
        assert alike.mean() < 0.1, "two versions forecast much the same"  # on a closed day all forecast 0
    levels = list(forecaster.config.model.levels)
    return Truth([str(region) for region in panel.regions], levels, str(panel.last_observed), mean, quantiles)


@dataclass
class Event:
    """Something that was done to the server; times are seconds since the epoch."""

    name: str
    began: float
    ended: float
    told: Any


class Stage:
    """The running server, and what is done to it."""

    def __init__(self, url: str, dashboard: str, bad: dict[str, str]) -> None:
        self.url, self.dashboard, self.bad = url, dashboard, bad
        self.events: list[Event] = []

    def act(self, seconds: float, hold_s: float) -> None:
        """Do everything, each at its moment."""
        began = time.monotonic()
        for moment, name, what in self.plan(hold_s):
            time.sleep(max(0.0, began + moment * seconds - time.monotonic()))
            print(f"{time.monotonic() - began:5.0f} s  {name}", flush=True)
            then = time.time()
            told = what()
            self.events.append(Event(name, then, time.time(), told))
        time.sleep(max(0.0, began + seconds - time.monotonic()))

    def plan(self, hold_s: float) -> list[tuple[float, str, Callable[[], Any]]]:
        """What happens when, in shares of the whole time."""
        return [
            (0.02, "promotion", lambda: self.promote(2)),
            (0.08, "bad model: raises", lambda: self.refuse("raises")),
            (0.15, "promotion", lambda: self.promote(3)),
            (0.21, "shadow", lambda: self.try_out(4, hold_s, shadow=True)),
            (0.33, "promotion", lambda: self.promote(4)),
            (0.39, "kill a replica", self.kill_replica),
            (0.50, "rollback", self.go_back),
            (0.55, "bad model: NaN", lambda: self.refuse("NaN")),
            (0.60, "canary", lambda: self.try_out(5, hold_s, canary=(0.4,))),
            (0.70, "promotion", lambda: self.promote(6)),
            (0.75, "kill the proxy", self.kill_proxy),
            (0.86, "rollback", self.go_back),
            (0.90, "bad model: other schema", lambda: self.refuse("other schema")),
            (0.95, "promotion", lambda: self.promote(7)),
        ]

    def promote(self, version: int) -> dict[str, Any]:
        """Another champion, as the gate makes it once it has judged, and all replicas told so."""
        champions = Champions("city")
        champions.move("promotion", champions.current(), str(version))
        return self._roll("models:/city@champion")

    def go_back(self) -> dict[str, Any]:
        """The champion before, and all replicas told so."""
        rollback("models:/city@champion")
        return self._roll("models:/city@champion")

    def try_out(self, version: int, hold_s: float, **how: Any) -> dict[str, Any]:
        """Another model beside the champion."""
        return self._roll(f"models:/city/{version}", hold_s=hold_s, **how)

    def refuse(self, fault: str) -> str:
        """A model that must not be taken; returns why."""
        try:
            self._roll(self.bad[fault])
        except RolloutError as error:
            if "answer with" in (told := str(error)):
                return told.replace(tempfile.gettempdir(), "...")
            raise
        raise AssertionError(f"a bad model was taken: {fault}")

    def _roll(self, model: str, **how: Any) -> dict[str, Any]:
        return rollout(model, url=self.url, dashboard=self.dashboard, **how)

    def kill_replica(self) -> dict[str, Any]:
        """Kill one process that answers, and wait until as many answer again."""
        before = self._replicas()
        killed = min(before)
        os.kill(before[killed], signal.SIGKILL)
        seconds = _until(lambda: killed not in (now := self._replicas()) and len(now) == len(before))
        return {"back_after_s": seconds, "of": len(before)}

    def kill_proxy(self) -> dict[str, Any]:
        """Kill the process that takes requests in, and wait until another one does."""
        (proxy,) = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::ProxyActor")]
        proxy.kill()
        return {"back_after_s": _until(self._answers)}

    def _replicas(self) -> dict[str, int]:
        deployments = connect(self.dashboard).get_serve_details()["applications"]["stmp"]["deployments"]
        return {r["replica_id"]: r["pid"] for r in deployments["Api"]["replicas"] if r["state"] == "RUNNING"}

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _until(is_so: Callable[[], bool], limit_s: float = 120.0) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if is_so():
            return time.monotonic() - began
        time.sleep(0.1)
    raise TimeoutError(f"not so after {limit_s:.0f} s")


def sort_out(failures: list[tuple[float, str, str]], events: list[Event]) -> dict[str, dict[str, int]]:
    """Failures by kind, apart by what had been killed when they happened."""
    sorted_out: dict[str, Counter[str]] = {name: Counter() for name in ("kill the proxy", "kill a replica", "other")}
    for when, kind, _ in failures:
        during = [e.name for e in events if e.name in sorted_out and e.began <= when <= e.ended + 1.0]
        sorted_out[during[0] if during else "other"][kind] += 1
    return {name: dict(kinds) for name, kinds in sorted_out.items()}


def endure(folder: Path, seconds: float, hold_s: float, replicas: int, connections: int) -> dict[str, Any]:
    """Make everything, serve it, ask, and do what can be done to it."""
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "STMP_HOME": str(folder)}
    os.environ.update(env)
    data = make_data(folder, years=2.0)
    *good, another = train(data, folder)
    for version, model in enumerate(good, 1):
        assert register(model, "city").uri == f"models:/city/{version}"
    bad = spoil(another, folder)
    set_alias("city", "champion", 1)
    truth, found = folder / "truth.npz", folder / "found.json"
    truth_of(data).save(truth)
    ready, port = folder / "ready.json", str(free_port())
    command = ["-m", "jobs.cli", "serve", "--model", "models:/city@champion", "--data", data, "--port", port]
    with running([*command, "--replicas", str(replicas), "--json", str(ready)], ready, env) as url:
        stage = Stage(url, json.loads(ready.read_text())["dashboard"], bad)
        asking = ["-m", "benchmarks.serving_asker", url, str(truth), str(found), "--connections", str(connections)]
        with subprocess.Popen([sys.executable, *asking], cwd=ROOT) as asker:
            try:
                began = time.time()
                stage.act(seconds, hold_s)
                took = time.time() - began
            finally:
                asker.send_signal(signal.SIGTERM)
    return told(json.loads(found.read_text()), stage.events, began, took)


def told(found: dict[str, Any], events: list[Event], began: float, took: float) -> dict[str, Any]:
    """The result, from what the client found and what was done; times count from the beginning."""
    ordered, failed = sorted(found["seconds"]), sort_out(found["failures"], events)
    for event in events:
        event.began, event.ended = round(event.began - began, 1), round(event.ended - began, 1)
    return {
        "seconds": took, "answers": len(ordered), "answers_per_s": len(ordered) / took, "wrong": found["wrong"][:20],
        "wrong_answers": len(found["wrong"]), "answers_by_version": found["versions"],
        "p50_ms": 1e3 * ordered[len(ordered) // 2], "p99_ms": 1e3 * ordered[int(0.99 * len(ordered))],
        "longest_s": ordered[-1], "failed": failed,
        "failures": [(round(when - began, 2), *rest) for when, *rest in found["failures"]][:50],
        "events": [asdict(event) for event in events],
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--hold", type=float, default=12.0, help="seconds of the shadow and of the canary")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "load_average_before": os.getloadavg()[0], "replicas": given.replicas, "connections": given.connections,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        result |= endure(Path(scratch), given.seconds, given.hold, given.replicas, given.connections)
    result["load_average_after"] = os.getloadavg()[0]
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name not in ("events", "failures")}, indent=1))


if __name__ == "__main__":
    main()
