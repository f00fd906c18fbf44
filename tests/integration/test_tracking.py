"""Tracking into the local store, and the metrics folder that is the truth behind every store."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from stmp.errors import ConfigError, TrackingError
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking import MetricsLog, Tracker, sync
from stmp_platform.tracking.client import connect
from stmp_platform.tracking.record import Forwarded, flat_params
from tests.servers import free_port

CONFIG = {"preset": "product", "model": {"hidden": 64, "levels": [0.1, 0.5]}, "train": {"lr": 0.001, "until": None}}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs: making its tables takes seconds, copying it does not."""
    home = tmp_path_factory.mktemp("store")
    connect(Settings.from_env(env={"STMP_HOME": str(home)}))
    return home / "mlflow.db"


@pytest.fixture
def settings(tmp_path: Path, empty_store: Path) -> Settings:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_store, tmp_path / "home" / "mlflow.db")
    return Settings.from_env(env={"STMP_HOME": str(tmp_path / "home")})


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def client_of(settings: Settings) -> MlflowClient:
    return MlflowClient(settings.tracking_uri.get_secret_value())


def history(settings: Settings, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client_of(settings).get_metric_history(run_id, key)]


def rows(step: int) -> list[dict[str, object]]:
    return [
        {"phase": "spatial", "loss": 1.0 / step},
        {"phase": "validation", "day_type": "festival", "wape": 0.5 / step},
        {"phase": "time", "forward": 0.01 * step},
    ]


# The surroundings


def test_local_store_is_the_default_and_lies_in_one_folder(tmp_path: Path) -> None:
    settings = Settings.from_env(env={"STMP_HOME": str(tmp_path)})
    assert settings.shown_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert settings.artifact_root == f"{tmp_path}/mlartifacts"
    elsewhere = Settings.from_env(f"sqlite:///{tmp_path}/other/a.db", env={"STMP_HOME": "/nowhere"})
    assert elsewhere.artifact_root == f"{tmp_path}/other/mlartifacts"


def test_several_that_meet_a_fresh_store_make_it_once(tmp_path: Path) -> None:
    script = (
        "from stmp_platform.settings import Settings\nfrom stmp_platform.tracking.client import connect\n"
        "print(len(connect(Settings.from_env()).search_experiments()))"
    )
    env = {**os.environ, "STMP_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": ""}
    command = [sys.executable, "-c", script]
    several = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate(timeout=120)[0], process.returncode) for process in several] == [("1\n", 0)] * 3


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env = {"MLFLOW_TRACKING_URI": "http://from-env:5000", "MLFLOW_EXPERIMENT_NAME": "stores"}
    assert Settings.from_env(env=env).shown_uri == "http://from-env:5000"
    assert Settings.from_env("http://given:5000", env=env).shown_uri == "http://given:5000"
    assert Settings.from_env(env=env).experiment == "stores"
    monkeypatch.chdir(tmp_path)  # a relative database stays where it was when a worker changes its folder
    assert Settings.from_env("sqlite:///a.db", env={}).shown_uri == f"sqlite:///{tmp_path.resolve()}/a.db"


def test_secrets_are_never_shown() -> None:
    env = {
        "MLFLOW_TRACKING_URI": "postgresql://me:hunter2@db.example:5432/mlflow?password=hunter2",
        "STMP_STORAGE_OPTIONS": '{"s3": {"secret": "hunter2"}}',
    }
    settings = Settings.from_env(env=env)
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()} {settings.shown_uri}"
    assert "hunter2" not in shown
    assert settings.options_for("s3://bucket/x") == {"secret": "hunter2"}
    with pytest.raises(ConfigError) as error:
        Settings.from_env(env={"STMP_STORAGE_OPTIONS": '{"secret": "hunter2"'})
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None
    nobody = Settings.from_env(f"postgresql+psycopg2://me:hunter2@127.0.0.1:{free_port()}/x", env={})
    with pytest.raises(TrackingError) as dead:
        connect(nobody)
    assert "hunter2" not in str(dead.value)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns"])
def test_the_retired_file_store_is_refused_with_a_remedy(uri: str) -> None:
    with pytest.raises(ConfigError, match="Use a database, such as"):
        Settings.from_env(uri, env={})


def test_unusable_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"http_timeout_s.*flush_s"):
        Settings.from_env(env={"STMP_TRACKING_TIMEOUT_S": "soon", "STMP_TRACKING_FLUSH_S": "-1"})


def test_importing_the_platform_does_not_import_mlflow() -> None:
    code = (
        "import sys, stmp_platform.tracking, stmp_platform.registry, stmp_platform.settings;"
        "print([m for m in ('mlflow', 'ray', 'sqlalchemy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# The metrics folder


def test_reports_come_back_as_they_were(out: str) -> None:
    log = MetricsLog(out)
    log.append(10, [{"phase": "spatial", "loss": np.float32(0.5), "worst": math.inf, "empty": math.nan, "no": None}])
    log.append(20, [{"phase": "validation", "day_type": "öst/lich", "wape": 0.25}])
    again = MetricsLog(out)
    first, second = again.reports()
    assert again.steps() == [10, 20]
    assert [r.step for r in again.reports(after=10)] == [20]
    metrics = first.metrics()
    assert metrics["spatial/loss"] == 0.5
    assert metrics["spatial/worst"] == math.inf
    assert math.isnan(metrics["spatial/empty"])
    assert "spatial/no" not in metrics
    assert second.metrics() == {"validation/öst/lich/wape": 0.25}
    frame = again.frame()
    assert list(frame["step"]) == [10, 20]
    assert frame["worst"][0] == math.inf
    json.loads(Path(out, "metrics", "step-00000010.jsonl").read_text().splitlines()[1], parse_constant=pytest.fail)


def test_a_resumed_training_leaves_earlier_reports_as_they_are(out: str) -> None:
    first = MetricsLog(out)
    first.append(10, rows(10))
    first.append(20, rows(20))
    before = {p.name: p.read_bytes() for p in Path(out, "metrics").iterdir()}
    resumed = MetricsLog(out)
    resumed.append(20, [{"phase": "time", "forward": 99.0}])
    resumed.append(30, rows(30))
    after = {p.name: p.read_bytes() for p in Path(out, "metrics").iterdir()}
    assert {name: after[name] for name in before} == before
    assert sorted(after) == ["step-00000010.jsonl", "step-00000020.jsonl", "step-00000030.jsonl"]


def test_a_step_reports_once(out: str) -> None:
    log = MetricsLog(out)
    log.append(10, rows(10))
    with pytest.raises(ValueError, match="all rows of a step"):
        log.append(10, rows(10))


def test_a_damaged_file_is_named(out: str) -> None:
    MetricsLog(out).append(10, rows(10))
    path = Path(out, "metrics", "step-00000010.jsonl")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(TrackingError, match=r"step-00000010\.jsonl is damaged"):
        list(MetricsLog(out).reports())


def test_metrics_lie_on_any_file_system() -> None:
    out = f"memory://{uuid.uuid4().hex}/run"
    log = MetricsLog(out)
    log.append(1, rows(1))
    assert MetricsLog(out).steps() == [1]
    assert Folder(out).names("metrics") == ["step-00000001.jsonl"]


# Runs


def test_parameters_fit_the_limits_of_mlflow() -> None:
    flat = flat_params({"a": {"b": {"c": 1}, "d": [1, "x"]}, "e": None, "f": {}, "long": "x" * 7000})
    assert flat["a.b.c"] == "1"
    assert flat["a.d"] == '[1, "x"]'
    assert flat["e"] == "null"
    assert flat["f"] == "{}"
    assert len(flat["long"]) == 6000


def test_one_run_holds_the_whole_training(settings: Settings, out: str) -> None:
    tracker = Tracker(out, settings, config=CONFIG, dataset_fingerprint="f00d", tags={"team": "north"})
    with tracker:
        for step in (10, 20, 30):
            tracker.log.append(step, rows(step))
        Path(out, "report").mkdir()
        Path(out, "report", "report.html").write_text("<html>")
    outcome = tracker.finish()
    assert outcome.complete
    assert outcome.run_id is not None
    client = client_of(settings)
    run = client.get_run(outcome.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.levels"] == "[0.1, 0.5]"
    assert run.data.params["train.lr"] == "0.001"
    assert run.data.tags["stmp.dataset_fingerprint"] == "f00d"
    assert run.data.tags["team"] == "north"
    assert run.data.tags["stmp.torch"].startswith("2.13")
    assert history(settings, outcome.run_id, "spatial/loss") == [(s, 1.0 / s) for s in (10, 20, 30)]
    assert history(settings, outcome.run_id, "validation/festival/wape")[-1] == (30, 0.5 / 30)
    assert sorted(f.path for f in client.list_artifacts(outcome.run_id)) == ["config.json", "report"]
    assert json.loads(Path(out, "run.json").read_text())["mlflow_run_id"] == outcome.run_id
    assert Path(settings.home, "mlflow.db").is_file()


def test_a_resumed_training_goes_on_with_its_run(settings: Settings, out: str) -> None:
    first = Tracker(out, settings, config=CONFIG, dataset_fingerprint="f00d").start()
    for step in (10, 20, 30):
        first.log.append(step, rows(step))
    begun = first.finish("KILLED")
    # From a checkpoint at step 20; the caller may have changed settings that are not part of the model.
    with Tracker(out, settings, config={**CONFIG, "preset": "other"}) as again:
        for step in (30, 40):
            again.log.append(step, rows(step))
    ended = again.finish()
    assert ended.run_id == begun.run_id
    assert history(settings, str(ended.run_id), "spatial/loss") == [(s, 1.0 / s) for s in (10, 20, 30, 40)]
    run = client_of(settings).get_run(str(ended.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.tags["stmp.dataset_fingerprint"] == "f00d"
    assert len(client_of(settings).search_runs([run.info.experiment_id])) == 1


def test_what_was_sent_but_not_noted_is_not_there_twice(settings: Settings, out: str) -> None:
    with Tracker(out, settings, config=CONFIG) as tracker:
        for step in (10, 20, 30):
            tracker.log.append(step, rows(step))
    sent = tracker.finish()
    folder = Folder(out)
    # As if the driver had been killed after the server had stored all, and before it had written that down.
    Forwarded(store=settings.shown_uri).write(folder)
    folder.write_json("run.json", {**folder.read_json("run.json"), "mlflow_run_id": None})
    again = sync(out, settings)
    assert again.run_id == sent.run_id
    assert history(settings, again.run_id, "spatial/loss") == [(s, 1.0 / s) for s in (10, 20, 30)]


def test_a_training_that_fails_is_told_apart(settings: Settings, out: str) -> None:
    tracker = Tracker(out, settings, config=CONFIG, register_as="never")

    def fail() -> None:
        with tracker:
            tracker.log.append(1, rows(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    run = client_of(settings).get_run(str(tracker.finish().run_id))
    assert run.info.status == "FAILED"
    assert run.data.metrics["spatial/loss"] == 1.0


def test_the_same_training_can_be_sent_to_a_second_store(
    settings: Settings, empty_store: Path, out: str, tmp_path: Path
) -> None:
    with Tracker(out, settings, config=CONFIG) as tracker:
        tracker.log.append(10, rows(10))
    (tmp_path / "second").mkdir()
    shutil.copy(empty_store, tmp_path / "second" / "mlflow.db")
    second = Settings.from_env(f"sqlite:///{tmp_path}/second/mlflow.db", env={})
    sent = sync(out, second)
    assert sent.run_id != tracker.finish().run_id
    assert history(second, sent.run_id, "spatial/loss") == [(10, 0.1)]


def test_a_store_that_was_emptied_is_filled_again(settings: Settings, out: str) -> None:
    with Tracker(out, settings, config=CONFIG) as tracker:
        tracker.log.append(10, rows(10))
    client_of(settings).delete_run(str(tracker.finish().run_id))
    with Tracker(out, settings) as again:
        again.log.append(20, rows(20))
    outcome = again.finish()
    assert outcome.run_id != tracker.finish().run_id
    assert history(settings, str(outcome.run_id), "spatial/loss") == [(10, 0.1), (20, 0.05)]


def test_a_report_that_came_later_is_sent_by_sync(settings: Settings, out: str) -> None:
    with Tracker(out, settings, config=CONFIG) as tracker:
        tracker.log.append(10, rows(10))
    Path(out, "report").mkdir()
    Path(out, "report", "slices.png").write_bytes(b"png")
    run_id = sync(out, settings).run_id
    assert [f.path for f in client_of(settings).list_artifacts(run_id, "report")] == ["report/slices.png"]


def test_sync_wants_a_training(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"no run\.json"):
        sync(str(tmp_path), settings)


def test_names_that_no_registry_takes_are_refused_before_training(settings: Settings, out: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a registered model"):
        Tracker(out, settings, register_as="a/b")


def test_the_terminal_stays_quiet(tmp_path: Path) -> None:
    code = f"""
from stmp_platform.settings import Settings
from stmp_platform.tracking import Tracker
with Tracker({str(tmp_path / "run")!r}, Settings.from_env(env={{"STMP_HOME": {str(tmp_path)!r}}}), config={{}}) as t:
    t.log.append(1, [{{"phase": "spatial", "loss": 1.0}}])
assert t.finish().complete
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_dead_server_costs_a_training_nothing_but_seconds(
    out: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    dead = Settings.from_env(f"http://127.0.0.1:{free_port()}", env={})
    began = time.monotonic()
    with Tracker(out, dead, config=CONFIG, register_as="stores") as tracker:
        tracker.log.append(10, rows(10))
        assert time.monotonic() - began < 2
        while "Training goes on, tracking is tried again later" not in caplog.text:
            assert time.monotonic() - began < 10
            time.sleep(0.05)
    outcome = tracker.finish()
    assert time.monotonic() - began < 30
    assert not outcome.complete
    assert f"{out}/metrics" in outcome.warning
    assert f"stmp track --out {out}" in outcome.warning
    assert history(settings, sync(out, settings).run_id, "spatial/loss") == [(10, 0.1)]
