"""A served city for the tests: a dataset, two trained models, and the application around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from fastapi.testclient import TestClient

from serving.app import make_app
from serving.replica import Replica
from serving.settings import Settings
from stmp.data.calendar import period_dates
from stmp.data.panel import Panel
from stmp.forecaster import Forecaster
from stmp_platform.dataset import ingest, load_manifest, read_panel
from stmp_platform.dataset.sources.prepare import prepare_source
from tests.training import make_trainer, small_config

REGIONS, HORIZON = 14, 10


def make_data(folder: Path, years: float = 1.2) -> str:
    """Ingest a synthetic city whose covariates are filled for days that it does not hold."""
    spec = Path(prepare_source("synthetic", folder / "raw", regions=REGIONS, years=years, seed=3))
    content = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump(content | {"fill": {"promo": 0, "price": 1.0, "open": 1}}))
    ingest(str(spec), str(folder / "data"))
    return str(folder / "data")


def whole_panel(data: str, ahead: int = 60) -> Panel:
    """The dataset with a future."""
    manifest = load_manifest(data)
    end = period_dates(pd.Timestamp(manifest.last_sales_date).to_datetime64(), ahead, manifest.frequency)[-1]
    return read_panel(data, end=end)


def make_model(data: str, to: Path, *, seed: int = 0, steps: int = 4) -> Path:
    """Train for a few steps on all regions but the last two, which are cold."""
    torch.set_num_threads(1)
    panel = whole_panel(data)
    some = panel.select(range(REGIONS - 2))
    trainer = make_trainer(some, small_config(), seed=seed)
    for _ in range(steps):
        trainer.train_step()
    last = str(panel.last_observed)
    Forecaster.from_trainer(trainer, regions=tuple(some.regions), until=last, fingerprint="f").save(to)
    return to


def settings(data: str, folder: Path, **given: Any) -> Settings:
    """Settings of a replica whose observations lie in a folder."""
    values: dict[str, Any] = {"data": data, "observations": f"sqlite:///{folder / 'observations.db'}"}
    return Settings.read(values | given)


@contextmanager
def served(model: Path | str, given: Settings) -> Iterator[TestClient]:
    """A client of an application that answers with a model."""
    replica = Replica(given, "test").begin(str(model))
    with TestClient(make_app(replica), raise_server_exceptions=False) as client:
        yield client
