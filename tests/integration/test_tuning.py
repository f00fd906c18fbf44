"""Tuning on Ray Tune: 0 and infinity tried, child runs, and no trial lost to a death or a failure."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import run
from stmp.forecaster import Forecaster
from stmp.learning.train import train
from stmp_platform.dataset import read_panel
from stmp_platform.report import tuning as report
from stmp_platform.settings import Settings
from stmp_platform.tuning import Tuning, driver
from stmp_platform.tuning.space import PLACE, lambda_of
from tests.training import small_config
from tests.tuning import SETTINGS, TRIALS, moody_trial, small_tuning

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow

SECRET = "a-password-of-nobody"


@pytest.fixture(scope="module")
def source(city: str) -> Forecaster:
    """A model of another city."""
    return train(read_panel(city), small_config("train.max_steps=40"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store of its own, and options of object storage with a secret in them."""
    home = tmp_path_factory.mktemp("home")
    env = {"STMP_HOME": str(home), "STMP_STORAGE_OPTIONS": json.dumps({"s3": {"secret": SECRET}})}
    return Settings.from_env(env=env)


@pytest.fixture(scope="module")
def tuned(
    ray_here: None, source: Forecaster, other_city: str, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tuning, Path]:
    """A tuning and its folder, with the source beside it."""
    out = tmp_path_factory.mktemp("tuned") / "out"
    source.save(out.with_name("source"))
    return small_tuning(source, other_city, out, settings=settings, register_as="tuned"), out


def test_zero_and_infinity_are_tried_to_the_end(tuned: tuple[Tuning, Path]) -> None:
    result, out = tuned
    assert len(result.trials) == TRIALS
    strengths = [trial.strength for trial in result.finished]
    assert strengths[0] == 0.0 and strengths[-1] == float("inf")
    assert {trial.status for trial in result.trials} <= {"finished", "stopped"}
    errors = [trial.result["error"] for trial in result.finished]
    assert min(errors) == errors[result.choice.best]
    assert len(set(errors)) == len(errors), "lambda must matter"
    assert (out / "report" / "tuning.html").stat().st_size > 10_000
    assert (out / "report" / "lambda.png").read_bytes()[:4] == b"\x89PNG"


def test_the_chosen_lambda_is_what_the_target_is_adapted_with(tuned: tuple[Tuning, Path]) -> None:
    result, out = tuned
    config = json.loads((out / "adapted" / "config.json").read_text())
    assert float(config["transfer"]["lambda_head"]) == pytest.approx(result.chosen.strength)
    assert config["run"]["until"] == "2022-05-31"
    assert Forecaster.load(out / "model").trained_until == "2022-05-31"


class SearchIsOver(Exception):
    """Raised in place of the last training, which is that of `stmp adapt` and tested there."""


@pytest.mark.skipif("STMP_TEST_LARGE" not in os.environ, reason="groups of workers take a minute: STMP_TEST_LARGE=1")
def test_trials_on_workers_find_what_trials_in_one_process_find(
    tuned: tuple[Tuning, Path], source: Forecaster, other_city: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group of Ray Train workers in each trial, as for large targets."""

    def stop(*_: Any, **__: Any) -> None:
        raise SearchIsOver

    monkeypatch.setattr(driver, "adapt", stop)
    with pytest.raises(SearchIsOver):
        driver.tune(
            source,
            other_city,
            out=str(tmp_path),
            trials=2,
            overrides=SETTINGS,
            until="2022-05-31",
            workers=2,
            track=False,
        )
    found = {}
    for file in tmp_path.glob("trials/*/trial.json"):
        trial = json.loads(file.read_text())
        found[lambda_of(trial["values"][PLACE])] = trial["error"]
    alone = {trial.strength: trial.result["error"] for trial in tuned[0].finished}
    assert set(found) == {0.0, float("inf")}
    assert found == pytest.approx({strength: alone[strength] for strength in found}, rel=1e-3)


def test_trials_are_child_runs_of_the_tuning(tuned: tuple[Tuning, Path], settings: Settings) -> None:
    from mlflow import MlflowClient

    result, _ = tuned
    assert result.tracking is not None and result.tracking.complete
    client = MlflowClient(settings.tracking_uri.get_secret_value(), settings.registry_uri.get_secret_value())
    experiment = client.get_experiment_by_name(settings.experiment)
    parent = client.get_run(str(result.tracking.run_id))
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {child.data.tags["stmp.trial"] for child in children} == {trial.id for trial in result.trials}
    for child in children:
        trial = next(t for t in result.trials if t.id == child.data.tags["stmp.trial"])
        assert child.info.status == driver.STATUSES[trial.status]
        assert "transfer.lambda_head" in child.data.params
        assert "validation/all" in child.data.metrics
        if trial.status == "finished":
            assert child.data.metrics["tune/error"] == pytest.approx(trial.result["error"])
    assert [f.path for f in client.list_artifacts(parent.info.run_id, "report")] == [
        "report/lambda.png",
        "report/tuning.html",
    ]
    assert client.get_registered_model("tuned").name == "tuned"


def test_no_secret_is_written(tuned: tuple[Tuning, Path]) -> None:
    _, out = tuned
    files = [path for path in out.rglob("*") if path.is_file()]
    assert any(path.suffix == ".pkl" for path in files), "Ray's own state is looked at too"
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_what_was_sold_after_until_is_not_read(
    tuned: tuple[Tuning, Path], source: Forecaster, other_city: str, tmp_path: Path
) -> None:
    """A trial measured here, on data whose test days hold nonsense, has the error that it had."""
    from dataclasses import replace

    from stmp.evaluation.guard import compare
    from stmp.learning.transfer import adaptation_config
    from stmp_platform.tuning.space import overrides

    result, _ = tuned
    trial = result.finished[0]
    panel = read_panel(other_city)
    after = panel.index_of("2022-05-31") + 1
    sales = panel.sales.clone()
    sales[:, after:] *= 1000
    spoiled = replace(panel, sales=sales)
    config = adaptation_config(source, panel.frequency, [*overrides(trial.values), *SETTINGS])
    first = trial.result["origins"][0]
    model = train(spoiled, config, until=first, source=source)
    windows = after - 1 - panel.index_of(first)
    found = compare({"here": model}, spoiled, until="2022-05-31", periods=windows)
    assert found.error("here") == pytest.approx(trial.result["error"], rel=1e-4)


def test_a_tuning_that_has_ended_is_not_run_again(
    tuned: tuple[Tuning, Path],
    other_city: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command once more, on the command line."""
    result, out = tuned
    before = written(out)
    monkeypatch.setenv("STMP_HOME", str(settings.home))
    command = ["tune", "--source", str(out.with_name("source")), "--data", other_city, "--out", str(out),
               "--trials", str(TRIALS), "--until", "2022-05-31", "--name", "tuned"]  # fmt: skip
    command += [f"--set={setting}" for setting in SETTINGS]
    numbers = out.with_name("result.json")
    assert run([*command, "--json", str(numbers)]) == 0, capsys.readouterr().err
    assert written(out) == before
    told = json.loads(numbers.read_text())
    assert told["lambda"] == report.written(result.chosen.strength)
    assert len(told["trials"]) == TRIALS
    assert told["version"] == (result.adaptation.tracking.version if result.adaptation.tracking else None)
    assert "Validation on the target, by lambda" in capsys.readouterr().out
    assert run([*command, "--seed", "1"]) == 2
    assert "holds another tuning: seed was 0, now 1" in capsys.readouterr().err


def written(out: Path) -> dict[str, int]:
    """When each trial wrote its result."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("trials/*/trial.json")}


@pytest.mark.skipif("STMP_TEST_LARGE" not in os.environ, reason="trials that die take a minute: STMP_TEST_LARGE=1")
def test_a_trial_that_dies_goes_on_and_one_that_fails_is_passed_over(
    ray_here: None, source: Forecaster, other_city: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "run_trial", moody_trial)
    out = tmp_path / "out"
    result = small_tuning(source, other_city, out, track=False)
    assert (out / "died").read_text() == "6"
    assert len(result.trials) == TRIALS
    failed = [trial for trial in result.trials if trial.status == "failed"]
    assert [trial.strength for trial in failed] == [0.0]
    assert failed[0].result["failure"] == "TrainingError: The loss is not finite at step 0."
    assert len(result.finished) >= 2
    assert "A trial has failed" in (out / "report" / "tuning.html").read_text()


@pytest.mark.skipif("STMP_TEST_LARGE" not in os.environ, reason="a killed search takes a minute: STMP_TEST_LARGE=1")
def test_a_killed_driver_is_gone_on_with(ray_here: None, source: Forecaster, other_city: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source.save(tmp_path / "source")
    command = [sys.executable, "-m", "tests.tuning", other_city, str(tmp_path / "source"), str(out), "2"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    killed = subprocess.Popen(command, env=environment)
    family: list[Any] = []
    while killed.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(killed.pid).children(recursive=True) or family
        time.sleep(0.2)
    assert killed.wait() == -signal.SIGKILL
    for process in psutil.wait_procs(family, timeout=5)[1]:  # Ray's own agents take their time
        process.kill()
    before = written(out)
    assert len(before) >= 2
    assert not (out / "model").exists()
    result = small_tuning(source, other_city, out, track=False)
    after = written(out)
    assert len(result.trials) == TRIALS
    assert {name: after[name] for name in before} == before, "a trial that had ended was run again"
    assert (out / "model").is_dir()
