"""Servers that several integration tests share; each is started once, when the first test asks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving.app import make_app
from serving.replica import Replica
from tests.servers import MlflowServer, postgres
from tests.serving import make_data, make_model, settings

Tell = Callable[[str, str, float], None]


@pytest.fixture(scope="session")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Yield an `mlflow server` on SQLite."""
    folder = tmp_path_factory.mktemp("mlflow_sqlite")
    server = MlflowServer(f"sqlite:///{folder / 'mlflow.db'}", folder).start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Yield an `mlflow server` on PostgreSQL."""
    # pytest's own folders are closed to other users, and the server runs as one.
    with tempfile.TemporaryDirectory(prefix="stmp-postgres-") as scratch:
        Path(scratch).chmod(0o755)
        with postgres(Path(scratch) / "server") as uri:
            server = MlflowServer(uri, tmp_path_factory.mktemp("mlflow_postgres")).start()
            yield server
            server.kill()


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the dataset of a synthetic city, small enough to train on in seconds."""
    return make_city(tmp_path_factory.mktemp("city"), seed=1)


@pytest.fixture(scope="session")
def other_city(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the dataset of another city of the same size."""
    return make_city(tmp_path_factory.mktemp("other_city"), seed=2)


def make_city(folder: Path, seed: int) -> str:
    """Write and ingest a synthetic city."""
    from stmp_platform.dataset import ingest
    from stmp_platform.dataset.sources.prepare import prepare_source

    spec = prepare_source("synthetic", folder / "raw", regions=14, years=1.5, seed=seed)
    ingest(spec, str(folder / "data"))
    return str(folder / "data")


@pytest.fixture
def tell() -> Tell:
    """Return a function that prints a fault, what was lost, and the seconds until work went on: docs/operations.md."""

    def told(fault: str, lost: str, seconds: float) -> None:
        print(f"\n| {fault} | {lost} | {seconds:.0f} s |")

    return told


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the dataset that the tests of serving serve."""
    return make_data(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def first_model(shop: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model of it."""
    return make_model(shop, tmp_path_factory.mktemp("models") / "first")


@pytest.fixture(scope="session")
def second_model(shop: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return another model of it, which forecasts otherwise."""
    return make_model(shop, tmp_path_factory.mktemp("models") / "second", seed=7)


@pytest.fixture
def replica(shop: str, first_model: Path, tmp_path: Path) -> Iterator[tuple[Replica, TestClient]]:
    """Yield a replica that answers with the first model, and a client of it."""
    replica = Replica(settings(shop, tmp_path), "one").begin(str(first_model))
    with TestClient(make_app(replica)) as client:
        yield replica, client
