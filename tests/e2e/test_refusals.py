"""Bad input ends with exit code 2, one message that helps, no traceback, and nothing half written."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Stmp


@pytest.fixture(scope="module")
def city(stmp: Stmp) -> Stmp:
    stmp.ok("ingest", "synthetic", "--set", "regions=8", "--set", "years=1", "--out", "data")
    return stmp


DATASET = """
tables:
  sales: {path: sales.csv, region: store, date: day, target: sold, known: [promo, price]}
"""


def test_no_such_file(stmp: Stmp) -> None:
    assert "nowhere.yaml" in stmp.refused("ingest", "nowhere.yaml", "--out", "d")


def test_all_faults_of_a_table_are_told_at_once(stmp: Stmp) -> None:
    days = [f"2024-02-{day:02d}" for day in range(1, 29)]
    rows = [f"a,{day},1.5,0" for day in days] + [f"a,{day},1.5,0" for day in days[:3]]
    rows[10] = f"a,{days[10]},many,0"
    rows[20] = "a,2024-02-31,1.5,0"
    (stmp.folder / "sales.csv").write_text("\n".join(["store,day,sold,promo", *rows]) + "\n")
    (stmp.folder / "dataset.yaml").write_text(DATASET)
    message = stmp.refused("ingest", "dataset.yaml", "--out", "d")
    for words in ("price", "many", "2024-02-31", "2024-02-01"):  # a column, a value, a date, a row that is there twice
        assert words in message
    assert not (stmp.folder / "d" / "manifest.json").exists()


def test_a_long_table_with_text_for_sales(stmp: Stmp) -> None:
    (stmp.folder / "long.csv").write_text("unique_id,ds,y\na,2024-01-01,1\na,2024-01-02,many\na,2024-01-03,2\n")
    message = stmp.refused("ingest", "long.csv", "--country", "DE", "--out", "d")
    assert "'y'" in message
    assert "many" in message


def test_a_folder_that_is_no_dataset(stmp: Stmp) -> None:
    (stmp.folder / "empty").mkdir()
    for command in (("data", "describe", "empty"), ("train", "--data", "empty", "--out", "r")):
        assert "no dataset" in stmp.refused(*command)


@pytest.mark.parametrize("command", [("train",), ("adapt", "--source", "r"), ("retrain",)], ids=lambda c: c[0])
def test_workers_that_are_no_number(stmp: Stmp, command: tuple[str, ...]) -> None:
    assert "such as 2:8" in stmp.refused(*command, "--data", "data", "--out", "r", "--workers", "2:many")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.max_step=5", "max_step"),
        ("train.max_steps=many", "train.max_steps"),
        ("train.learning_rate=-1", "greater than 0"),
        ("max_steps=5", "section.key=value"),
    ],
)
def test_bad_settings(city: Stmp, setting: str, words: str) -> None:
    assert words in city.refused("train", "--data", "data", "--out", "r", "--set", setting)
    assert not (city.folder / "r").exists()


def test_unknown_preset_names_those_there_are(city: Stmp) -> None:
    message = city.refused("train", "--data", "data", "--out", "r", "--preset", "papers")
    assert "papers" in message
    assert "paper" in message
    assert "product" in message


def test_until_outside_the_data(city: Stmp) -> None:
    assert "1999-01-01" in city.refused("train", "--data", "data", "--out", "r", "--until", "1999-01-01")


@pytest.fixture(scope="module")
def trained(city: Stmp) -> Stmp:
    city.ok("train", "--data", "data", "--out", "short", "--set", "train.max_steps=2", "--set", "model.hidden=8")
    return city


def test_origin_after_the_last_sale(trained: Stmp) -> None:
    message = trained.refused(
        "forecast", "--data", "data", "--model", "short", "--origin", "2031-01-01", "--out", "f.csv"
    )
    assert "2031-01-01" in message
    assert "--append" in message
    assert not (trained.folder / "f.csv").exists()


def test_no_model_there(city: Stmp) -> None:
    message = city.refused("forecast", "--data", "data", "--model", "nowhere", "--out", "f.csv")
    assert "nowhere" in message


def test_no_such_registered_model(trained: Stmp) -> None:
    command = ("forecast", "--data", "data", "--model", "models:/ghost/1", "--out", "f.csv")
    assert "ghost" in trained.refused(*command, code=1)
    message = trained.refused(*command, "--tracking-uri", "sqlite:///nowhere.db", code=1)
    assert "nowhere.db" in message
    assert not (trained.folder / "nowhere.db").exists()


def test_unknown_file_ending(city: Stmp) -> None:
    message = city.refused("forecast", "--data", "data", "--model", "nowhere", "--out", "f.xlsx")
    assert ".parquet" in message


@pytest.mark.parametrize(
    "arguments", [("train",), ("forecast", "--horizon", "0"), ("fly",), ("train", "--until", "soon")]
)
def test_arguments_that_cannot_be(stmp: Stmp, arguments: tuple[str, ...]) -> None:
    assert "Usage" in stmp.refused(*arguments)


def test_debug_shows_where(stmp: Stmp) -> None:
    done = stmp("ingest", "nowhere.yaml", "--out", "d", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_fault_of_ours_is_exit_code_1(stmp: Stmp, tmp_path: Path) -> None:
    """Standing in for a bug: a module of ours that cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['jobs.models'] = None")
    done = stmp("models", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "--debug" in done.stderr


def test_interrupted_by_hand(city: Stmp) -> None:
    """Ctrl-C ends with 130 and no traceback, and the training can be gone on with."""
    steps = ("--set", "train.max_steps=2000", "--set", "train.log_every=1", "--set", "model.hidden=8")
    with city.start("train", "--data", "data", "--out", "cut", *steps) as process:
        end = time.monotonic() + 120
        while not list((city.folder / "cut" / "metrics").glob("step-*")) and time.monotonic() < end:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not (city.folder / "cut" / "model").exists()


@pytest.mark.parametrize("option", ["--report", "--json"])
def test_a_report_that_would_lie_in_a_folder_named_as_a_store(stmp: Stmp, option: str) -> None:
    place = "s3://bucket/report"
    message = stmp.refused("backtest", "--data", "data", "--model", "r", "--start", "2021-06-01", option, place)
    assert "local folders only" in message
    assert not (stmp.folder / "s3:").exists()
