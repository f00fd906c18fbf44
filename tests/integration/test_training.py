"""Training a dataset on storage in this process, killing it, and going on."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stmp.data.panel import Panel
from stmp.errors import ConfigError, DataError
from stmp.forecaster import Forecaster
from stmp.learning.train import train as train_panel
from stmp_platform.dataset import ingest, load_manifest, mapped
from stmp_platform.dataset.sources.prepare import prepare_source
from stmp_platform.dataset.storage import read_panel, region_names
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.tracking import MetricsLog
from stmp_platform.training import TrainingResult, train
from tests.training import small_config

STEPS = ("train.max_steps=24",)


def go(data: str, out: Path | str, *settings: str, workers: int = 0, **options: object) -> TrainingResult:
    return train(data, small_config(*STEPS, *settings), out=str(out), workers=workers, track=False, **options)


def drive(data: str, out: Path, death: str, *settings: str, workers: int = 0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.train_and_die", data, str(out), str(workers), death, *STEPS, *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def files(out: Path) -> dict[str, bytes]:
    """What a training leaves, but for what holds times."""
    kept = [p for p in out.rglob("*") if p.is_file() and p.suffix == ".safetensors"]
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(kept)}


@pytest.fixture(scope="module")
def whole(city: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    go(city, out)
    return out


# One run


def test_a_training_leaves_a_forecaster_its_metrics_and_its_configuration(city: str, whole: Path) -> None:
    forecaster = Forecaster.load(whole / "model")
    panel = read_panel(city)
    assert np.isfinite(forecaster.predict(panel, panel.dates[-11], 10).mean).all()
    assert forecaster.fingerprint == panel.fingerprint
    assert forecaster.trained_until == str(panel.last_observed)
    assert len(forecaster.trained_regions) == 13
    log = MetricsLog(str(whole))
    assert log.steps() == [4, 8, 12, 16, 20, 24]
    told = {key for report in log.reports() for key in report.metrics()}
    assert {"spatial/loss", "temporal/loss", "time/load", "time/learn", "time/validate", "validation/all",
            "validation/weekday", "validation/held_out"} <= told  # fmt: skip
    config = json.loads((whole / "config.json").read_text())
    assert config["run"]["fingerprint"] == panel.fingerprint
    assert config["train"]["max_steps"] == 24 and config["model"]["horizon"] == 10
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["step-00000020", "step-00000024"]


def test_it_is_the_training_of_the_library(city: str, whole: Path) -> None:
    ours = train_panel(read_panel(city), small_config(*STEPS))
    theirs = load_file(whole / "model" / "weights.safetensors")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.model.state_dict().items())


def test_a_finished_training_returns_at_once(city: str, whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.name not in ("run.json",)}
    with caplog.at_level(logging.INFO, "stmp.training"):
        result = go(city, whole)
    assert result.finished_before
    assert "finished already" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.name not in ("run.json",)} == before


def test_log_lines_say_run_step_rank_and_phase(city: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "stmp.training"):
        go(city, tmp_path / "spoken", "train.max_steps=4")
    lines = [record.getMessage() for record in caplog.records if record.name == "stmp.training"]
    assert lines[0].startswith("run=spoken step=0 rank=0 phase=load ")
    assert any(line.startswith("run=spoken step=4 rank=0 phase=spatial ") and "loss=" in line for line in lines)
    assert any("phase=time " in line and "learn=" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("train.learning_rate=0.5",), "train.learning_rate was 0.002, now 0.5"),
        (("model.hidden=12",), "model.hidden was 8, now 12"),
    ],
)
def test_another_configuration_is_refused(city: str, whole: Path, change: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        go(city, whole, *change)
    assert "another --out" in str(error.value)


def test_another_seed_day_or_dataset_is_refused(city: str, other_city: str, whole: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.seed was 0, now 1"):
        go(city, whole, seed=1)
    with pytest.raises(ConfigError, match=r"run\.until"):
        go(city, whole, until="2022-03-01")
    with pytest.raises(ConfigError, match=r"run\.fingerprint"):
        go(other_city, whole)


def test_until_is_the_last_day_that_is_learned_from(city: str, tmp_path: Path) -> None:
    result = go(city, tmp_path / "out", "train.max_steps=2", until="2022-03-01")
    assert Forecaster.load(result.model).trained_until == "2022-03-01"
    with pytest.raises(DataError, match="nothing to learn from"):
        go(city, tmp_path / "early", until="2020-01-01")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_before_anything_begins(city: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--gpu asks for a GPU"):
        go(city, tmp_path / "out", gpu=True)


def test_more_workers_than_work_are_refused(city: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Use 9 workers or fewer"):
        go(city, tmp_path / "out", workers=10)


@pytest.mark.parametrize("workers", [-1, (0, 2), (3, 2), (2, 10)])
def test_numbers_of_workers_that_make_no_sense_are_refused(
    city: str, tmp_path: Path, workers: int | tuple[int, int]
) -> None:
    with pytest.raises(ConfigError, match="workers"):
        go(city, tmp_path / "out", workers=workers)


def test_a_dataset_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no dataset"):
        go(str(tmp_path / "nothing"), tmp_path / "out")


# Killed


@pytest.mark.parametrize("deaths", [("step:7", "step:18"), ("write:2", "publish:3"), ("model",)])
def test_a_killed_training_ends_bit_for_bit_like_one_never_killed(
    city: str, whole: Path, deaths: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for death in deaths:
        assert drive(city, out, death).wait(120) == -signal.SIGKILL
        assert not (out / "model").exists()
        for folder in (out / "checkpoints").glob("step-*"):
            assert sorted(p.name for p in folder.iterdir()) == [
                "model.safetensors", "optimizer.safetensors", "state.json"
            ]  # fmt: skip
    go(city, out)
    assert files(out) == files(whole)
    assert not [p for p in out.rglob(".*") if p.is_dir() and p.name.startswith(".step")]
    assert MetricsLog(str(out)).steps() == [4, 8, 12, 16, 20, 24]


def test_a_training_killed_at_any_moment_ends_like_one_never_killed(city: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    random = np.random.default_rng(int.from_bytes(out.name.encode(), "big") % 2**32)
    for _ in range(2):
        driver = drive(city, out, "never")
        seen = len(list(out.glob("checkpoints/step-*")))
        while driver.poll() is None and len(list(out.glob("checkpoints/step-*"))) == seen:
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.3))
        driver.kill()
        driver.wait()
    go(city, out)
    assert files(out) == files(whole)


def test_a_damaged_newest_checkpoint_costs_time_and_nothing_else(
    city: str, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert drive(city, out, "step:14").wait(120) == -signal.SIGKILL
    damaged = out / "checkpoints" / "step-00000012" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        go(city, out)
    assert "step-00000012" in caplog.text and "Going on from an older one" in caplog.text
    assert files(out) == files(whole)


# On object storage


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, Settings]]:
    """An S3-compatible store of our own, reached by options and not by the environment."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"s3": {"endpoint_url": f"http://{host}:{port}", "key": "test", "secret": "test"}}
    settings = Settings.from_env(env={"STMP_STORAGE_OPTIONS": json.dumps(options)})
    folder = Folder("s3://runs", settings)
    folder.fs.mkdir("runs")
    yield "s3://runs", settings
    type(folder.fs).clear_instance_cache()
    server.stop()


class Died(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_of_those_who_create_an_object_one_is_told_that_it_has(bucket: tuple[str, Settings]) -> None:
    uri, settings = bucket
    folder = Folder(f"{uri}/lock", settings)
    assert [folder.create("1.json", text) for text in (b"one", b"two")] == [True, False]
    assert folder.read("1.json") == b"one"


def test_a_training_on_object_storage_dies_and_goes_on(
    city: str, whole: Path, bucket: tuple[str, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, settings = bucket
    out = f"{uri}/first"
    folder = Folder(out, settings)
    write = Folder.write

    def die(self: Folder, name: str, data: bytes) -> None:
        if name == "step-00000012/state.json":
            raise Died
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", die)
    with pytest.raises(Died):
        go(city, out, settings=settings)
    monkeypatch.undo()
    assert "step-00000012" in folder.names("checkpoints")
    assert not folder.exists("checkpoints/step-00000012/state.json")
    result = go(city, out, settings=settings)
    assert result.model == f"{out}/model"
    local = folder.download("model", tmp_path / "model")
    assert (local / "weights.safetensors").read_bytes() == (whole / "model/weights.safetensors").read_bytes()
    assert folder.names("checkpoints") == ["step-00000020", "step-00000024"]
    assert go(city, out, settings=settings).finished_before
    assert MetricsLog(out, settings).steps() == [4, 8, 12, 16, 20, 24]


@pytest.fixture(scope="module")
def two_items(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the dataset of a city with two series, whose regions follow several calendars."""
    folder = tmp_path_factory.mktemp("two_items")
    ingest(prepare_source("synthetic", folder / "raw", regions=14, years=1.5, series=["a", "b"]), str(folder / "data"))
    return str(folder / "data")


@pytest.mark.parametrize("dataset", ["city", "two_items"])
def test_a_shard_larger_than_memory_trains_the_same(
    dataset: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = request.getfixturevalue(dataset)
    monkeypatch.setattr(mapped, "BLOCK_BYTES", 100_000)  # some regions at a time
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    models = {}
    for memory in ("", "0"):
        monkeypatch.setenv("STMP_PANEL_MEMORY_GB", memory)
        with caplog.at_level(logging.INFO, "stmp.data"):
            models[memory] = Path(go(data, tmp_path / f"out{memory}").model)
        assert ("they are mapped from disk" in caplog.text) == bool(memory)
    for name in ("weights.safetensors", "forecaster.json"):
        assert (models[""] / name).read_bytes() == (models["0"] / name).read_bytes()
    assert not list(tmp_path.glob("stmp-shard-*"))


@pytest.mark.parametrize("split", [False, True])
def test_a_mapped_panel_is_the_panel(two_items: str, monkeypatch: pytest.MonkeyPatch, split: bool) -> None:
    monkeypatch.setattr(mapped, "BLOCK_BYTES", 100_000)
    names = region_names(two_items)[2:11]
    panel, of = mapped.read_mapped(two_items, names, split)
    expected = read_panel(two_items, regions=names)
    assert of.tolist() == (expected.series_rows()[0].tolist() if split else list(range(9)))
    expected = expected.split_series() if split else expected
    for field in fields(Panel):
        one, other = getattr(panel, field.name), getattr(expected, field.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype and torch.equal(one.nan_to_num(-1.0), other.nan_to_num(-1.0)), field.name
        elif field.name == "calendar":
            assert all(np.array_equal(vars(one)[name], vars(other)[name]) for name in vars(one))
        else:
            assert np.array_equal(one, other), field.name
    sizes = mapped.panel_bytes(load_manifest(two_items), 9, split)
    held = sum(getattr(panel, name).numel() * getattr(panel, name).element_size() for name in mapped.FIELDS)
    assert held <= sizes <= 1.6 * held
