"""Training on Ray Train: the same as in one process, through the deaths of workers and of the driver."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from stmp.errors import ConfigError, DataError, TrainingError
from stmp_platform.training import train
from tests.integration.conftest import Tell
from tests.training import furthest, small_config, to_numpy

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow

STEPS = ("train.max_steps=24",)
SLOW = ("train.max_steps=24", "train.queries=60", "train.supports=150", "train.checkpoint_every=2")
"""Steps that take long enough to be interrupted."""


def go(data: str, out: Path, *settings: str, workers: int | tuple[int, int]) -> dict[str, Any]:
    """The weights that a training ends with."""
    result = train(data, small_config(*settings), out=str(out), workers=workers, track=False)
    return to_numpy(load_file(Path(result.model) / "weights.safetensors"))


def workers_of_ray(parent: int | None = None) -> list[Any]:
    """Ray's training workers among the processes that a process started."""
    family = psutil.Process(parent).children(recursive=True)
    return [p for p in family if "RayTrainWorker" in "".join(p.cmdline())]


def when(
    happened: Callable[[], bool], then: Callable[[], None], done: list[str], limit_s: float = 120
) -> threading.Thread:
    """Do something as soon as something else has happened, beside the training."""

    def watch() -> None:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if happened():
                then()
                done.append("done")
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def alone(city: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return go(city, tmp_path_factory.mktemp("alone"), *SLOW, workers=0)


@pytest.mark.usefixtures("ray_here")
def test_ray_workers_end_like_one_process_although_one_is_killed(
    city: str, alone: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], tell: Tell
) -> None:
    """And although their number may change: Ray Train decides it anew, by what the cluster has."""
    out, killed = tmp_path / "out", list[str]()
    began = 0.0

    def kill_one() -> None:
        nonlocal began
        began = time.monotonic()
        workers_of_ray()[-1].send_signal(signal.SIGKILL)

    watcher = when((out / "checkpoints" / "step-00000004").exists, kill_one, killed)
    weights = go(city, out, *SLOW, workers=(1, 2))
    watcher.join()
    assert killed, "no worker was killed"
    lasted = time.monotonic() - began
    assert furthest(alone, weights)[0] < 1e-4, furthest(alone, weights)
    assert "start again from the newest checkpoint" in "".join(capfd.readouterr())
    with capfd.disabled():
        tell("a training worker is killed", "steps since the last checkpoint, made again", lasted)


@pytest.mark.usefixtures("ray_here")
def test_a_loss_that_is_not_finite_surfaces_as_our_error_at_once(city: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as error:
        go(city, tmp_path / "out", *STEPS, "train.learning_rate=1e30", "train.warmup=0", workers=2)
    message = str(error.value)
    assert "not finite at step" in message and "rank" in message
    assert "Traceback" not in message and "failed 4 times" not in message


@pytest.mark.usefixtures("ray_here")
def test_bad_data_of_a_worker_surfaces_as_our_error_at_once(city: str, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(city, copy)
    for file in (p for p in copy.rglob("*.parquet") if "region" not in p.name):
        file.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        go(str(copy), tmp_path / "out", *STEPS, workers=2)


@pytest.mark.usefixtures("ray_here")
def test_more_than_one_machine_has_is_refused(city: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"4 workers need 4 CPUs \(it has 3\)"):
        train(city, small_config(*STEPS), out=str(tmp_path), workers=(4, 6), track=False)


@pytest.mark.usefixtures("ray_here")
def test_more_gpus_than_there_are_is_refused(city: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 workers asks for 2 GPUs, and Ray sees 0"):
        train(city, small_config(*STEPS), out=str(tmp_path), workers=2, gpu=True, track=False)


@pytest.mark.skipif("STMP_TEST_LARGE" not in os.environ, reason="a killed driver takes a minute: STMP_TEST_LARGE=1")
def test_a_driver_on_ray_is_killed_and_one_process_goes_on(
    city: str, alone: dict[str, Any], tmp_path: Path, tell: Tell
) -> None:
    """The checkpoint of two workers, gone on with by one; and nothing is left running."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.train_and_die", city, str(out), "2", "never", *SLOW]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    driver = subprocess.Popen(command, env=environment)
    end = time.monotonic() + 180
    while driver.poll() is None and not (out / "checkpoints" / "step-00000006").exists():
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.05)
    family = psutil.Process(driver.pid).children(recursive=True)
    working = workers_of_ray(driver.pid)
    assert len(working) == 2
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert not (out / "model").exists()
    assert not psutil.wait_procs(working, timeout=60)[1], "workers of the killed driver go on"
    for process in psutil.wait_procs(family, timeout=5)[1]:  # Ray's own agents take their time
        process.kill()
    began = time.monotonic()
    weights = go(city, out, *SLOW, workers=0)
    tell("the driver is killed", "steps since the last checkpoint, made again", time.monotonic() - began)
    assert furthest(alone, weights)[0] < 1e-4, furthest(alone, weights)
