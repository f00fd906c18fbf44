"""Storage that is full, away, or gives back other bytes than it was given."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from stmp.errors import DataError, TrainingError
from stmp_platform.dataset import generations, ingest, read_panel
from stmp_platform.dataset.manifest import Manifest, load_manifest
from stmp_platform.dataset.scratch import scratch_folder
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.training import train
from tests.integration.conftest import Tell
from tests.raw_tables import shops
from tests.training import small_config


def weights(model: str, settings: Settings | None = None) -> bytes:
    return Folder(model, settings).read("weights.safetensors")


@pytest.fixture(scope="module")
def whole(city: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a training that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(city, small_config(), out=str(out), track=False)
    return out


# Full


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a disk of its own, of four megabytes."""
    at = tmp_path / "disk"
    at.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a disk of one's own needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "stmp", str(at)], check=False).returncode:
        pytest.skip("a disk of one's own may not be mounted here")
    yield at
    subprocess.run(["umount", "--lazy", str(at)], check=True)  # what was read from it may still be mapped


def test_a_full_disk_leaves_the_last_checkpoint(city: str, whole: Path, disk: Path, tell: Tell) -> None:
    checkpoint = max(whole.glob("checkpoints/step-*"))
    size = sum(file.stat().st_size for file in checkpoint.iterdir())
    out = disk / "out"
    (disk / "filler").write_bytes(bytes(2**22 - int(2.5 * size)))  # two checkpoints fit, and no third beside them
    began = time.monotonic()
    with pytest.raises(TrainingError, match=r"No space left.*\n?.*Repeat the command") as error:
        train(city, small_config(), out=str(out), track=False)
    assert str(out) in str(error.value)
    left = sorted(path.name for path in out.glob("checkpoints/*") if not path.name.startswith("."))
    assert left and all((out / "checkpoints" / name / "state.json").stat().st_size for name in left)
    (disk / "filler").unlink()
    result = train(city, small_config(), out=str(out), track=False)
    tell("the disk is full when a checkpoint is written", "that checkpoint", time.monotonic() - began)
    assert weights(result.model) == weights(str(whole / "model"))


# Away


def test_a_store_that_is_away_leaves_the_last_checkpoint(
    city: str, whole: Path, monkeypatch: pytest.MonkeyPatch, tell: Tell
) -> None:
    """The server is stopped in the middle, and later started again with what it held."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    options = {"s3": {"endpoint_url": f"http://127.0.0.1:{port}", "key": "test", "secret": "test"}}
    options["s3"]["config_kwargs"] = {"retries": {"total_max_attempts": 1}}  # s3fs tries again by itself
    settings = Settings.from_env(env={"STMP_STORAGE_OPTIONS": json.dumps(options)})
    folder = Folder("s3://outage", settings)
    folder.fs.mkdir("outage")
    write = Folder.write

    def stop_first(self: Folder, name: str, data: bytes) -> None:
        if name == "step-00000012/model.safetensors":
            server.stop()
            server._server.server_close()
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", stop_first)
    with pytest.raises(TrainingError, match="Repeat the command"):
        train(city, small_config(), out="s3://outage/run", settings=settings, track=False)
    monkeypatch.undo()
    again = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    again.start()
    try:
        whole_ones = [n for n in folder.names("run/checkpoints") if folder.exists(f"run/checkpoints/{n}/state.json")]
        assert whole_ones[-1] == "step-00000008"
        began = time.monotonic()
        result = train(city, small_config(), out="s3://outage/run", settings=settings, track=False)
        tell("the object store is away when a checkpoint is written", "that checkpoint", time.monotonic() - began)
        assert weights(result.model, settings) == weights(str(whole / "model"))
    finally:
        type(folder.fs).clear_instance_cache()
        again.stop()


# Other bytes


def damage(file: Path, how: str, random: np.random.Generator) -> None:
    """Flip one bit of a file, or cut its end off."""
    content = bytearray(file.read_bytes())
    place = int(random.integers(len(content)))
    if how == "cut":
        del content[place:]
    else:
        content[place] ^= 1 << int(random.integers(8))
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "how"),
    [("model.safetensors", "flipped"), ("optimizer.safetensors", "cut"), ("state.json", "flipped")],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    name: str, how: str, city: str, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, tell: Tell
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "model")
    newest = max(out.glob("checkpoints/step-*"))
    damage(newest / name, how, np.random.default_rng(len(name)))
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        result = train(city, small_config(), out=str(out), track=False)
    tell(f"{name} of the newest checkpoint is {how}", "nothing", time.monotonic() - began)
    assert str(newest) in caplog.text and "Going on from an older one" in caplog.text
    assert weights(result.model) == weights(str(whole / "model"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a dataset with files of every kind."""
    folder = tmp_path_factory.mktemp("shops")
    ingest(shops().write(folder / "raw"), str(folder / "data"))
    return str(folder / "data")


DYING = """
import os, signal, sys
from stmp_platform.dataset import ingest
from stmp_platform.dataset.writing import Writer
put, written = Writer.put, []

def die_at_the_third(self, name, table):
    written.append(name)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, name, table)

Writer.put = die_at_the_third
ingest(*sys.argv[1:])
"""


def test_an_ingest_that_is_killed_leaves_the_dataset_as_it_was(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, raw = tmp_path / "data", shops(seed=1).write(tmp_path / "raw")
    shutil.copytree(shop, copy)
    before = load_manifest(str(copy))
    killed = subprocess.run([sys.executable, "-c", DYING, raw, str(copy)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((copy / "data").iterdir())) == 2, "nothing of the new one was written"
    assert load_manifest(str(copy)) == before
    assert len(read_panel(str(copy)).regions) == before.regions
    assert ingest(raw, str(copy)).fingerprint != before.fingerprint
    assert len(list((copy / "data").iterdir())) == 3, "who is at work and who is dead cannot be told yet"
    monkeypatch.setattr(generations, "LEFT", timedelta(seconds=-2))  # a generation's name tells whole seconds
    ingest(raw, str(copy))
    assert len(list((copy / "data").iterdir())) == 2, "what the killed one had written is gone"


@pytest.mark.parametrize("storage", ["disk", "objects"])
def test_the_scratch_of_a_killed_ingest_goes_with_the_next_one_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    raw, out = shops().write(tmp_path / "raw"), str(tmp_path / "data") if storage == "disk" else "memory://scratch/data"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def left() -> list[Path]:
        return sorted(tmp_path.glob(".stmp-ingest-*"))

    def kill_one() -> Path:
        before = set(left())
        killed = subprocess.run([sys.executable, "-c", DYING, raw, out], check=False)
        assert killed.returncode == -signal.SIGKILL
        (scratch,) = set(left()) - before
        return scratch

    kill_one()
    with scratch_folder(Folder(out)) as living:
        ingest(raw, out)
        assert left() == [living]
        spoilt = shops()
        spoilt.tables["sales"]["units"] = "many"
        with pytest.raises(DataError):
            ingest(spoilt.write(tmp_path / "spoilt"), out)
        assert left() == [living]
    # What another machine is at work on cannot be told from what it has left, until nothing has happened for long.
    others = kill_one().rename(tmp_path / ".stmp-ingest-another0-abc")
    ingest(raw, out)
    assert left() == [others]
    for path in (*others.rglob("*"), others):
        os.utime(path, (0, 0))
    ingest(raw, out)
    assert left() == []


def files_of(manifest: Manifest) -> list[str]:
    more = (manifest.regions_file, manifest.events_file, manifest.defaults_file)
    return [file.path for file in (*(f for table in manifest.tables for f in table.files), *more) if file is not None]


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_damaged_file_of_a_dataset_is_named(how: str, shop: str, tmp_path: Path) -> None:
    """Any bit of any file; and what is damaged is not taken over into a dataset that is appended to."""
    manifest, random = load_manifest(shop), np.random.default_rng(1)
    assert len(files_of(manifest)) > 6
    raw = shops().write(tmp_path / "raw")
    for number, name in enumerate(files_of(manifest)):
        copy = tmp_path / str(number)
        shutil.copytree(shop, copy)
        file = copy / manifest.data / name
        damage(file, how, random)
        with pytest.raises(DataError, match="SHA-256 is another") as error:
            read_panel(str(copy))
        assert str(file) in str(error.value)
        if name != "defaults.parquet":  # which is made anew
            with pytest.raises(DataError, match="SHA-256 is another"):
                ingest(raw, str(copy), append=True)
            assert load_manifest(str(copy)) == manifest
