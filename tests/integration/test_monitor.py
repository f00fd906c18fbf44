"""`stmp monitor` on a dataset and a log of forecasts: exit codes, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from jobs.cli import run
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import SeasonalNaive
from stmp_platform.dataset import read_panel

ORIGINS = ("2022-04-30", "2022-05-14", "2022-05-28", "2022-06-11")


@pytest.fixture(scope="module")
def shop(city: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of seasonal naive, one file an origin, its backtest, and a log that is twice too high."""
    folder, panel, model = tmp_path_factory.mktemp("shop"), read_panel(city), SeasonalNaive()
    (folder / "data").symlink_to(city)
    backtest({"naive": model}, panel, ORIGINS[0], "2022-06-25", 14, progress=False).write_json(folder / "backtest.json")
    for name, factor in (("forecasts", 1.0), ("twice", 2.0)):
        (folder / name).mkdir()
        for origin in ORIGINS:
            log = model.predict(panel.until(origin), origin, 14).to_frame()
            values = ["mean", *(c for c in log if c.startswith("q"))]
            log[values] *= factor
            log.assign(model_version="naive/1", origin=pd.Timestamp(origin)).to_parquet(
                folder / name / f"{origin}.parquet"
            )
    return folder


def monitor(shop: Path, forecasts: str, *more: str) -> int:
    baseline = () if "--baseline" in more else ("--baseline", str(shop / "backtest.json"))
    paths = ("--data", str(shop / "data"), "--forecasts", str(shop / forecasts), "--out", str(shop / "out"))
    return run(["monitor", *paths, *baseline, "--set", "drift=99", *more])


def test_an_alarm_is_an_exit_code_and_an_event(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert monitor(shop, "twice", "--json", str(shop / "result.json")) == 3
    shown = capsys.readouterr().out
    assert "CROSSED" in shown
    assert "wape of all: " in shown
    result = json.loads((shop / "result.json").read_text())
    assert result == json.loads((shop / "out" / "monitor.json").read_text())
    assert json.loads((shop / "out" / "event.json").read_text())["crossed"] == result["crossed"]
    assert {"monitor.html", "metrics.prom"} <= {path.name for path in (shop / "out").iterdir()}
    assert monitor(shop, "forecasts", "--set", "wape=9", "--set", "bias=9", "--set", "coverage_80=1") == 0
    assert "0 thresholds crossed" in capsys.readouterr().out
    assert not (shop / "out" / "event.json").exists()


def test_data_that_exceed_memory_are_watched_from_disk(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert monitor(shop, "twice", "--json", str(shop / "result.json")) == 3
    monkeypatch.setenv("STMP_PANEL_MEMORY_GB", "0")
    assert monitor(shop, "twice", "--json", str(shop / "mapped.json")) == 3
    assert json.loads((shop / "mapped.json").read_text()) == json.loads((shop / "result.json").read_text())


def test_inputs_that_changed_are_told(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert monitor(shop, "forecasts", "--set", "wape=9", "--set", "bias=9", "--set", "coverage_80=1",
                   "--set", "drift=1e-9") == 3  # fmt: skip
    assert "drift of price: " in capsys.readouterr().out


def test_what_cannot_be_used_is_told(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "list.json").write_text("[]")
    old = json.loads((shop / "backtest.json").read_text())
    old["settings"]["start"] = "1999-01-01"
    (shop / "old.json").write_text(json.dumps(old))
    for arguments, words in (
        (("nowhere",), "There are no forecasts at"),
        (("forecasts", "--baseline", str(shop / "none.json")), "cannot be read"),
        (("forecasts", "--baseline", str(shop / "list.json")), "is no backtest"),
        (("forecasts", "--baseline", str(shop / "old.json")), "of days that the data do not have"),
        (("forecasts", "--set", "window=5"), "multiple of the step"),
    ):
        assert monitor(shop, *arguments) == 2
        assert words in capsys.readouterr().err
