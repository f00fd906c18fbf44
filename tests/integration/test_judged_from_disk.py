"""Backtest and gate on data that exceed memory: mapped from disk, some regions at a time; what they say is the same."""

from __future__ import annotations

import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

import stmp
from jobs.backtest import backtest
from stmp_platform import registry
from stmp_platform.dataset import load_manifest, mapped, read_panel
from stmp_platform.gate import Rules, promote
from stmp_platform.settings import Settings
from tests.training import small_config

UNTIL = "2022-04-30"
RULES = Rules.model_validate({"windows": {"most": 2, "cold_histories": []}, "test": {"draws": 200}})


@pytest.fixture(scope="module")
def model(city: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("model") / "model"
    stmp.train(read_panel(city), small_config("train.max_steps=10", "train.warmup=1"), until=UNTIL).save(folder)
    return str(folder)


def test_backtest_and_gate(city: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mapped, "BLOCK_BYTES", 100_000)
    judged, tested = [], []
    for regions, memory in ((500, ""), (5, "0")):
        monkeypatch.setattr("stmp.evaluation.backtest.REGIONS", regions)
        monkeypatch.setenv("STMP_PANEL_MEMORY_GB", memory)
        monkeypatch.setenv("STMP_HOME", str(tmp_path / "home"))
        settings = Settings.from_env()
        version = registry.register(Path(model), f"stores {regions}", settings=settings)
        judged.append(promote(version.uri, city, today=read_day(city), rules=RULES, settings=settings).report)
        judged[-1]["checks"] = [c for c in judged[-1]["checks"] if not c["rule"].startswith("budget.")]
        del judged[-1]["cost"]
        report = tmp_path / f"report {regions}"
        tested.append(backtest(city, model, start=UNTIL, baselines=["seasonal_naive"], report=report))
        del tested[-1]["report"]
    assert len(judged[0]["windows"]["origins"]) == 2 and tested[0]["slices"]["all"]["n"] > 100
    for one, other in (judged, tested):
        assert numbers_of(one) == pytest.approx(numbers_of(other), nan_ok=True)


def read_day(data: str) -> date:
    """The day after the last sale."""
    return date.fromisoformat(load_manifest(data).last_sales_date) + timedelta(days=1)


def numbers_of(value: Any, place: str = "") -> dict[str, Any]:
    """All numbers of nested JSON by their place."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in numbers_of(part, f"{place}/{key}").items()}
    if isinstance(value, list):
        return numbers_of(dict(enumerate(value)), place)
    return {place: value} if isinstance(value, int | float) else {}
