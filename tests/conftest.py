"""What all tests share: a quiet, repeatable environment, and fast tests before slow ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Set before torch, Ray or MLflow is imported, and inherited by the processes that tests start.
# One thread each: a second process with threads of its own makes LSTM steps ten times slower on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's workers starve beside other tests
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

KINDS = ("unit", "integration", "model", "e2e")


def kind_of(item: pytest.Item) -> str:
    """Name the folder under tests/ that a test lies in."""
    try:
        return item.path.relative_to(ROOT / "tests").parts[0]
    except ValueError:
        return KINDS[-1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by its folder, and run the fast ones first: unit, integration, model, e2e; slow ones last."""
    for item in items:
        if (kind := kind_of(item)) in KINDS:
            item.add_marker(kind)

    def rank(item: pytest.Item) -> tuple[int, bool]:
        kind = kind_of(item)
        return (KINDS.index(kind) if kind in KINDS else len(KINDS)), item.get_closest_marker("slow") is not None

    items.sort(key=rank)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of the real data sets, named by STMP_TEST_DATA; skip the test where it is not set."""
    folder = os.environ.get("STMP_TEST_DATA")
    if not folder:
        pytest.skip("STMP_TEST_DATA names no folder of real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray on this machine, started once."""
    import ray

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=True)
    yield
    ray.shutdown()
