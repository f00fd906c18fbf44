"""Tracking with real servers, on SQLite and on PostgreSQL, that are killed while a training goes on."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from stmp_platform.settings import Settings
from stmp_platform.tracking import MetricsLog, Tracker, sync
from tests.servers import MlflowServer

WAIT = {"STMP_TRACKING_FLUSH_S": "20", "STMP_TRACKING_TIMEOUT_S": "5"}


@pytest.fixture(params=["sqlite_server", "postgres_server"])
def server(request: pytest.FixtureRequest) -> MlflowServer:
    server: MlflowServer = request.getfixturevalue(request.param)
    return server


def steps(uri: str, run_id: str, key: str) -> list[int]:
    return [m.step for m in MlflowClient(uri).get_metric_history(run_id, key)]


def test_a_whole_training_reaches_the_server(server: MlflowServer, tmp_path: Path) -> None:
    settings = Settings.from_env(server.uri, env=WAIT)
    config = {"data": "s3://bucket/läden", "wide": {f"key{i}": i for i in range(150)}, "long": "x" * 7000}
    out = tmp_path / "run"
    tracker = Tracker(str(out), settings, config=config, dataset_fingerprint="f00d")
    with tracker:
        # More than a request of 1000 metrics holds, in one report and over several.
        tracker.log.append(1, [{"phase": "validation", **{f"region{i}": i / 7 for i in range(1100)}}])
        for step in range(2, 122):
            tracker.log.append(step, [{"phase": "temporal", "loss": 1 / step, "nan": float("nan"), "grad": 2.0}])
        (out / "report").mkdir()
        (out / "report" / "curves.png").write_bytes(b"\x89PNG")
    outcome = tracker.finish()
    assert outcome.complete, outcome.warning
    run_id = str(outcome.run_id)
    client = MlflowClient(server.uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 152
    assert run.data.params["data"] == "s3://bucket/läden"
    assert run.data.params["wide.key149"] == "149"
    assert len([k for k in run.data.metrics if k.startswith("validation/")]) == 1100
    assert run.data.metrics["validation/region1099"] == 1099 / 7
    assert steps(server.uri, run_id, "temporal/loss") == list(range(2, 122))
    assert [f.path for f in client.list_artifacts(run_id, "report")] == ["report/curves.png"]
    # Sent again from the start, as after a crash before the note: nothing is there twice.
    (out / "forwarded.json").unlink()
    assert sync(str(out), settings).run_id == run_id
    assert steps(server.uri, run_id, "temporal/loss") == list(range(2, 122))
    assert steps(server.uri, run_id, "temporal/nan") == list(range(2, 122))


def test_a_server_that_is_killed_and_comes_back_loses_nothing(postgres_server: MlflowServer, tmp_path: Path) -> None:
    server = postgres_server
    settings = Settings.from_env(server.uri, env=WAIT)
    slowest = 0.0
    step = 0
    tracker = Tracker(str(tmp_path / "run"), settings, config={})

    def train_for(condition: threading.Event, seconds: float) -> None:
        nonlocal slowest, step
        end = time.monotonic() + seconds
        while time.monotonic() < end and not condition.is_set():
            step += 1
            began = time.monotonic()
            tracker.log.append(step, [{"phase": "spatial", "loss": 1 / step}])
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.02)

    with tracker:
        train_for(threading.Event(), 3)
        server.kill()
        before = step
        back = threading.Event()

        def revive() -> None:
            server.start()
            back.set()

        reviver = threading.Thread(target=revive)
        train_for(threading.Event(), 1)
        reviver.start()
        train_for(back, 90)
        reviver.join()
        assert step > before + 20  # it went on without the server
    outcome = tracker.finish()
    assert outcome.complete, outcome.warning
    assert steps(server.uri, str(outcome.run_id), "spatial/loss") == list(range(1, step + 1))
    assert slowest < 2.0  # a thread that waited for the server would take the timeout of 5 s


def test_a_driver_that_is_killed_goes_on_with_its_run(sqlite_server: MlflowServer, tmp_path: Path) -> None:
    code = """
import sys, time
from stmp_platform.settings import Settings
from stmp_platform.tracking import Tracker
out, uri, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with Tracker(out, Settings.from_env(uri), config={}) as tracker:
    for step in range(first, last):
        tracker.log.append(step, [{"phase": "spatial", "loss": 1 / step}])
        if step % 10 == 0:
            print(step, flush=True)
        time.sleep(0.02)
print("done", tracker.finish().complete, flush=True)
"""
    out = str(tmp_path / "run")
    arguments = [sys.executable, "-c", code, out, sqlite_server.uri]
    driver = subprocess.Popen([*arguments, "1", "100000"], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    deadline = time.monotonic() + 60
    while not Path(out, "forwarded.json").is_file() or '"step": -1' in Path(out, "forwarded.json").read_text():
        driver.stdout.readline()
        assert time.monotonic() < deadline
    driver.kill()
    driver.communicate()
    written = MetricsLog(out).steps()[-1]
    ended = subprocess.run(
        [*arguments, str(written - 5), str(written + 20)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.endswith("done True\n")
    assert "http" not in ended.stdout  # MLflow would print addresses of runs
    assert ended.stderr == ""
    run_id = json.loads(Path(out, "run.json").read_text())["mlflow_run_id"]
    assert steps(sqlite_server.uri, run_id, "spatial/loss") == list(range(1, written + 20))
    assert MlflowClient(sqlite_server.uri).get_run(run_id).info.status == "FINISHED"


def test_a_server_that_never_answers_holds_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes the connection, says nothing
        settings = Settings.from_env(f"http://127.0.0.1:{deaf.getsockname()[1]}", env=WAIT)
        began = time.monotonic()
        with Tracker(str(tmp_path / "run"), settings, config={}) as tracker:
            tracker.log.append(1, [{"phase": "spatial", "loss": 1.0}])
            assert time.monotonic() - began < 2
            outcome = tracker.finish(wait_s=2)
        assert time.monotonic() - began < 6
    assert not outcome.complete
    assert "stmp track --out" in outcome.warning
