"""The whole way through the command line, as a user goes it: a made-up city in, registered model and forecasts out."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from tests.e2e.conftest import Stmp

SETTINGS = (
    "train.max_steps=12",
    "train.checkpoint_every=6",
    "train.validate_every=6",
    "train.log_every=4",
    "model.hidden=8",
)
UNTIL, START, END = "2022-10-31", "2022-10-31", "2022-12-26"
ORIGIN = ("--origin", "2022-12-01", "--horizon", "14")


@pytest.fixture(scope="module")
def walked(stmp: Stmp) -> dict[str, Any]:
    """Go the whole way once; the tests look at what each command left."""
    results = {"ingest": stmp.json("ingest", "synthetic", "--set", "regions=12", "--set", "years=2", "--out", "data")}
    results["describe"] = stmp.json("data", "describe", "data")
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    train = ("train", "--data", "data", "--until", UNTIL, "--seed", "1", "--out", "run", "--name", "city", *sets)
    results["train"] = stmp.json(*train)
    results["again"] = stmp.json(*train)
    window = ("--start", START, "--end", END, "--horizon", "14", "--step", "14")
    results["backtest"] = stmp.json("backtest", "--data", "data", "--model", "run", *window, "--report", "report")
    results["forecast"] = stmp.json(
        "forecast", "--data", "data", "--model", "models:/city/1", *ORIGIN, "--out", "f.parquet"
    )
    results["models"] = stmp.json("models", "city")
    return results


def test_ingest_and_describe_tell_what_is_there(walked: dict[str, Any]) -> None:
    described = walked["describe"]
    assert described["regions"]["count"] == 12
    assert described["fingerprint"] == walked["ingest"]["fingerprint"]
    assert set(described["day_types"]) >= {"weekday", "weekend", "festival"}


def test_training_leaves_a_model_and_its_records(stmp: Stmp, walked: dict[str, Any]) -> None:
    run = stmp.folder / "run"
    assert (run / "model" / "forecaster.json").exists()
    assert json.loads((run / "config.json").read_text())["train"]["max_steps"] == 12
    assert list((run / "metrics").glob("step-*.jsonl"))
    assert list((run / "checkpoints").glob("step-*/model.safetensors"))


def test_the_same_out_again_does_nothing_twice(walked: dict[str, Any]) -> None:
    assert walked["again"]["version"] == walked["train"]["version"] == "1"


def test_backtest_has_all_slices_and_baselines(stmp: Stmp, walked: dict[str, Any]) -> None:
    result = walked["backtest"]
    slices = ("all", "weekday", "weekend", "festival", "post_festival", "cold_7", "cold_14", "cold_28")
    assert result["dataset_fingerprint"] == walked["ingest"]["fingerprint"]
    assert {"seasonal_naive", "lightgbm"} <= set(result["baselines"])
    for table in (result["slices"], *result["baselines"].values()):
        assert set(slices) <= set(table)
        assert table["all"]["n"] > 0
        assert {"mse", "wape", "bias", "wql", "coverage_80"} <= set(table["all"])
    (page,) = (stmp.folder / "report").glob("*.html")
    assert page.stat().st_size > 100_000
    assert "http" not in page.read_text().partition("<script")[0], "the page must not load anything"


def test_forecast_file_holds_every_region_and_day(stmp: Stmp, walked: dict[str, Any]) -> None:
    frame = pd.read_parquet(stmp.folder / "f.parquet")
    assert len(frame) == 12 * 14 == walked["forecast"]["rows"]
    assert frame["date"].min() == pd.Timestamp("2022-12-02")
    assert frame["date"].max() == pd.Timestamp("2022-12-15")
    assert set(frame["origin"]) == {pd.Timestamp("2022-12-01")}
    quantiles = frame[[c for c in frame if c.startswith("q0")]]
    assert quantiles.shape[1] == 9
    assert quantiles.notna().all(axis=None)
    assert (quantiles.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None), "quantiles cross"


def test_forecast_as_csv_is_the_same(stmp: Stmp, walked: dict[str, Any]) -> None:
    stmp.ok("forecast", "--data", "data", "--model", "run", *ORIGIN, "--out", "f.csv")
    left, right = pd.read_csv(stmp.folder / "f.csv"), pd.read_parquet(stmp.folder / "f.parquet")
    assert left["mean"].to_numpy() == pytest.approx(right["mean"].to_numpy(), rel=1e-5)


def test_forecast_beyond_the_data_needs_what_is_known_then(stmp: Stmp, walked: dict[str, Any]) -> None:
    command = ("forecast", "--data", "data", "--model", "run", "--horizon", "7", "--out", "f.csv")
    assert "--known" in stmp.refused(*command)
    days = pd.date_range("2023-01-01", periods=7)
    known = pd.DataFrame({"date": days, "promo": 0, "price": 9.0, "open": [1, 1, 1, 0, 1, 1, 1]})
    known.to_csv(stmp.folder / "known.csv", index=False)
    stmp.ok(*command, "--known", "known.csv")
    frame = pd.read_csv(stmp.folder / "f.csv", parse_dates=["date"])
    assert len(frame) == 12 * 7
    assert set(frame.loc[frame["mean"] == 0, "date"]) == {days[3]}, "closed days sell nothing"


def test_explanation_says_what_each_cause_adds(stmp: Stmp, walked: dict[str, Any]) -> None:
    stmp.ok("explain", "--data", "data", "--model", "run", *ORIGIN, "--out", "causes.csv")
    left, right = pd.read_csv(stmp.folder / "causes.csv"), pd.read_parquet(stmp.folder / "f.parquet")
    assert left["mean"].to_numpy() == pytest.approx(right["mean"].to_numpy(), rel=1e-5)
    assert {"ordinary", "promo", "price", "festivals", "recent trend"} <= set(left)
    assert left["promo"].abs().sum() > 0


def test_models_lists_the_version(walked: dict[str, Any]) -> None:
    (version,) = walked["models"]["versions"]
    assert version["uri"] == "models:/city/1"
    assert version["dataset_fingerprint"] == walked["ingest"]["fingerprint"]


def test_nothing_but_results_is_left(stmp: Stmp, walked: dict[str, Any]) -> None:
    left = {path.name for path in stmp.folder.iterdir()}
    known = {"data", "data-raw", "run", "report", "f.parquet", "f.csv", "known.csv"}
    assert left <= known | {"causes.csv", "mlflow.db", "mlartifacts"}
