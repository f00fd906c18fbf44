"""Object stores: what their clients raise, and what is known of a file whose answer was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stmp.errors import ConfigError
from stmp_platform.files import Folder
from stmp_platform.retraining import lock
from stmp_platform.retraining.lock import LOCK, Lease

pytestmark = pytest.mark.unit


class HttpError(Exception):
    """Stands for gcsfs's, which is no OSError."""

    __module__ = "gcsfs.retry"

    def __init__(self, code: int) -> None:
        super().__init__(f"made up, {code}")
        self.code = code


class EndpointError(Exception):
    """Stands for botocore's, which s3fs passes on as it is."""

    __module__ = "botocore.exceptions"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(f"memory://{tmp_path}")


def fail(error: Exception) -> Any:
    def call(*arguments: Any, **options: Any) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HttpError(503), OSError),
        (HttpError(401), PermissionError),
        (EndpointError("Could not connect"), OSError),
        (OSError("Forbidden: https://..."), PermissionError),
        (FileNotFoundError("gone"), FileNotFoundError),
        (KeyError("a fault of ours"), KeyError),
    ],
    ids=str,
)
def test_what_a_store_raises_is_an_os_error(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    for name in ("cat_file", "pipe_file"):
        monkeypatch.setattr(folder.fs, name, fail(error))
    for call in (lambda: folder.read("a"), lambda: folder.write("a", b""), lambda: folder.create("a", b"")):
        with pytest.raises(Exception) as raised:
            call()
        assert type(raised.value) is kind


def test_a_file_whose_answer_was_lost_is_ones_own(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks again by itself, and finds what it has made."""
    make = folder.fs.pipe_file

    def twice(*arguments: Any, **options: Any) -> None:
        make(*arguments, **options)
        make(*arguments, **options)

    monkeypatch.setattr(folder.fs, "pipe_file", twice)
    assert folder.create("claim", b"one")
    monkeypatch.undo()
    assert not folder.create("claim", b"two")
    assert folder.read("claim") == b"one"


@pytest.mark.parametrize(
    "error", [HttpError(503), EndpointError("no route"), KeyError("a client's own fault")], ids=str
)
def test_a_lease_outlives_a_store_that_is_away(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    with Lease(folder.uri) as lease:
        with monkeypatch.context() as away:
            away.setattr(folder.fs, "cat_file", fail(error))
            lease._thread.join(0.2)
        assert lease._thread.is_alive(), "it is tried again"
        lease.check()
    monkeypatch.setattr(folder.fs, "pipe_file", fail(OSError("Forbidden: https://...")))
    with pytest.raises(ConfigError, match="may not write there"):
        Lease(folder.uri).__enter__()
    assert folder.names(LOCK) == []
