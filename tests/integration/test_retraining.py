"""Retraining as one pipeline: each step once, whatever dies; what comes of it, and what is told of it afterwards."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

import stmp_platform.report
from jobs import pipeline
from jobs.backtest import backtest
from jobs.cli import run
from jobs.forecast import forecast
from jobs.prune import prune
from jobs.trace import trace
from stmp.errors import DataError, RegistryError, TrackingError
from stmp.forecaster import Forecaster
from stmp_platform import training
from stmp_platform.dataset import ingest
from stmp_platform.files import Folder
from stmp_platform.registry import get_alias, list_versions, register, resolve
from stmp_platform.retraining import Lease, lock
from stmp_platform.tracking import client
from stmp_platform.tracking.record import RunRecord
from tests.retraining import AHEAD, CLOSED, EASY, LATE, OPENED, SETTINGS, deliveries, go, no_backtest, plain_report


@dataclass(frozen=True)
class Place:
    """A folder with two deliveries of raw tables, the first of them ingested, and rules that anything passes."""

    folder: Path
    second: str

    @property
    def data(self) -> str:
        """The dataset."""
        return str(self.folder / "data")

    @property
    def out(self) -> str:
        """Where it is retrained."""
        return str(self.folder / "out")

    def go(self, **given: Any) -> dict[str, Any]:
        """Retrain in this process."""
        return go(self.data, self.out, str(self.folder / "rules.yaml"), **given)

    def files(self) -> dict[str, int]:
        """Every file of the retrainings, and when it was written."""
        return {str(path): path.stat().st_mtime_ns for path in Path(self.out).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "BEAT_S", 0.05)
        patch.setattr(stmp_platform.report, "write_report", plain_report)
        patch.setattr(pipeline, "backtest", no_backtest)
        yield patch


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("retraining")
    first, second = deliveries(folder)
    ingest(first, str(folder / "data"))
    (folder / "rules.yaml").write_text(json.dumps(EASY))
    return Place(folder, second)


@pytest.fixture(scope="module")
def killed(ingested: Place, root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, list[dict[str, Any]]]:
    """The same retraining as `first`, by processes that were killed one after the other."""
    place = Place(tmp_path_factory.mktemp("killed"), ingested.second)
    shutil.copytree(ingested.data, place.data)
    shutil.copy(ingested.folder / "rules.yaml", place.folder)
    command = [sys.executable, "-m", "tests.retraining", place.data, place.out, str(place.folder / "rules.yaml")]
    env = {**os.environ, "STMP_HOME": str(place.folder), "MLFLOW_TRACKING_URI": ""}
    done = subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return place, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def first(patched: pytest.MonkeyPatch, ingested: Place) -> tuple[Place, dict[str, Any]]:
    """The first retraining of all, without a champion and with a region of unknown plans, by one process."""
    patched.setenv("STMP_HOME", str(ingested.folder))
    patched.delenv("MLFLOW_TRACKING_URI", raising=False)
    return ingested, ingested.go()


@pytest.fixture(scope="module")
def second(first: tuple[Place, dict[str, Any]]) -> tuple[Place, dict[str, Any], list[str]]:
    """The next one, when the second delivery has come, and an API and a cluster are there."""
    place, _ = first
    rolled: list[str] = []
    asked: list[Any] = []

    def without_ray(job: Callable[..., Any]) -> Callable[..., Any]:
        def go_here(*given: Any, workers: Any, **named: Any) -> Any:
            asked.append(workers)
            return job(*given, workers=0, **named)

        return go_here

    def roll(model: str, **_: Any) -> dict[str, Any]:
        rolled.append(model)
        return {"before": "city/1", "replicas": {}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "rollout", roll)
        patch.setattr(pipeline, "backtest", backtest)
        patch.setattr(training, "train", without_ray(training.train))
        patch.setattr(pipeline, "forecast", without_ray(forecast))
        result = place.go(new=place.second, means={"url": "http://127.0.0.1:1", "workers": (1, 2)})
    assert asked == [(1, 2), 2], "the training is elastic, and the forecasts take all that comes"
    return place, result, rolled


def test_a_dataset_with_a_damaged_manifest_is_not_written_anew(ingested: Place, tmp_path: Path) -> None:
    place = Place(tmp_path, ingested.second)
    shutil.copytree(ingested.data, place.data)
    shutil.copy(ingested.folder / "rules.yaml", place.folder)
    manifest = Path(place.data, "manifest.json")
    manifest.write_text(manifest.read_text()[:100])
    left = {path: path.read_bytes() for path in Path(place.data).rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=r"manifest.json is corrupt"):
        place.go(new=place.second)
    assert {path: path.read_bytes() for path in Path(place.data).rglob("*") if path.is_file()} == left


def test_without_a_champion_one_is_trained_from_scratch(first: tuple[Place, dict[str, Any]]) -> None:
    _, result = first
    assert (result["status"], result["version"]) == ("promoted", "city/1")
    assert result["did"] == ["data", "plan", "train", "backtest", "register", "promote", "forecast", "report"]
    assert result["steps"]["plan"]["reasons"] == ["there is no champion"]
    assert get_alias("city", "champion") == "1"
    frame = pd.read_parquet(result["steps"]["forecast"]["out"])
    assert len(frame) == result["steps"]["forecast"]["rows"] == 10 * AHEAD
    assert "champion" in Path(result["report"]).read_text()


def test_the_same_again_does_nothing(first: tuple[Place, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    place, result = first
    before = place.files()
    again = place.go()
    assert (again["status"], again["did"], again["steps"]) == ("promoted", [], result["steps"])
    assert place.files() == before
    assert "Nothing was left to do" in capsys.readouterr().out


def test_a_retraining_that_is_killed_in_every_step_ends_the_same(
    killed: tuple[Place, list[dict[str, Any]]], first: tuple[Place, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place, told), (whole, result) = killed, first
    *deaths, ended = [line for line in told if "step" in line]
    assert all(death["killed"] for death in deaths) and len(deaths) == 8 and not ended["killed"]
    assert [line for line in told if "did" in line] == [{"did": ["report"], "status": "promoted"}]
    (other,) = Path(place.out, "runs").iterdir()
    assert other.name == result["key"]
    weights = [folder / "train" / "model" / "weights.safetensors" for folder in (other, Path(result["out"]))]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    frames = [pd.read_parquet(Path(p.out, "forecasts", result["key"])) for p in (place, whole)]
    pd.testing.assert_frame_equal(*frames)
    monkeypatch.setenv("STMP_HOME", str(place.folder))
    (version,) = list_versions("city")
    assert version.aliases == ("champion",)


def test_a_region_of_unknown_plans_is_told_wherever_the_retraining_is(
    first: tuple[Place, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    place, result = first
    assert list(result["missing"]) == [LATE] == list(result["steps"]["forecast"]["missing"])
    told = "1 of 11 regions could not be forecast (R000007: no value of promo, price, open for 10 days"
    assert told in Path(result["report"]).read_text()
    assert place.go()["missing"] == result["missing"] and told in capsys.readouterr().err
    client = mlflow.MlflowClient(f"sqlite:///{place.folder / 'mlflow.db'}")
    run_id = json.loads(Path(result["out"], "run.json").read_text())["mlflow_run_id"]
    record = json.loads(Path(client.download_artifacts(run_id, "steps/8-forecast.json")).read_text())
    assert record["outputs"]["missing"] == result["missing"]


def test_plans_that_are_given_later_make_the_forecast_whole(
    first: tuple[Place, dict[str, Any]], tmp_path: Path
) -> None:
    place, result = first
    days = pd.read_parquet(result["steps"]["forecast"]["out"])["date"].unique()
    plans = pd.DataFrame({"region_id": LATE, "date": days, "promo": 0, "price": 10.0, "open": 1})
    plans.to_csv(tmp_path / "plans.csv", index=False)
    whole = place.go(means={"known": str(tmp_path / "plans.csv")})
    assert (whole["did"], whole["missing"]) == (["forecast", "report"], {})
    assert pd.read_parquet(whole["steps"]["forecast"]["out"])["region"].nunique() == 11
    assert "could not be forecast" not in Path(whole["report"]).read_text()


def test_new_data_are_learned_from_the_champion_and_regions_come_and_go(
    second: tuple[Place, dict[str, Any], list[str]],
) -> None:
    _, result, rolled = second
    plan = result["steps"]["plan"]
    assert (result["version"], plan["start"], plan["champion"]) == ("city/2", "champion", "city/1")
    assert OPENED in plan["joined"] and plan["left"] == [CLOSED]
    model = Forecaster.load(resolve("models:/city/2"))
    assert OPENED in model.trained_regions and CLOSED not in model.trained_regions
    assert model.provenance.source == "city/1"
    forecast = pd.read_parquet(result["steps"]["forecast"]["out"])
    assert OPENED in set(forecast["region"]) and CLOSED not in set(forecast["region"])
    assert rolled == ["models:/city/2"]


def test_a_forecast_is_traced_to_its_data_and_code(second: tuple[Place, dict[str, Any], list[str]]) -> None:
    place, result, _ = second
    (identity,) = set(pd.read_parquet(result["steps"]["forecast"]["out"])["forecast_id"])
    found = trace(identity)
    assert found["data"]["source"]["sales"].endswith("delivery-2/sales.parquet") and found["data"]["unchanged"]
    assert (found["model"]["version"], found["lineage"]) == ("city/2", ["city/1"])
    assert found["model"]["code"]["stmp.torch"] and found["model"]["gate"]["passed"]
    assert list(found["retraining"]) == ["data", "plan", "train", "backtest", "register", "promote", "rollout",
                                         "forecast", "report"]  # fmt: skip
    assert found["retraining"]["train"]["outputs"]["digest"] == result["steps"]["train"]["digest"]
    (older,) = (folder for folder in Path(place.out, "forecasts").iterdir() if folder.name != result["key"])
    found = trace(json.loads((older / "_SUCCESS").read_text())["forecast_id"])
    assert found["data"]["source"]["sales"].endswith("delivery-1/sales.parquet") and not found["data"]["unchanged"]


def test_what_cannot_be_traced_is_told(first: tuple[Place, dict[str, Any]]) -> None:
    _, result = first
    data = result["steps"]["data"]
    by_folder = trace(f"{result['out']}/train:{data['fingerprint'][:12]}:{data['last_sales_date']}")
    assert by_folder["model"]["registered"] is None and by_folder["retraining"]["train"]
    with pytest.raises(RegistryError, match="neither a version in"):
        trace("city/99:f00d:2022-01-01")
    with pytest.raises(DataError, match="never had the fingerprint f00d"):
        trace("city/1:f00d:2022-01-01")


def test_while_one_retrains_another_leaves(
    first: tuple[Place, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = first
    with Lease(place.data):
        assert run(["retrain", "--data", place.data, "--out", place.out]) == 3
    assert "Another retraining holds these data" in capsys.readouterr().out


def test_nothing_is_due_where_the_champion_knows_the_data(second: tuple[Place, dict[str, Any], list[str]]) -> None:
    place, *_ = second
    assert place.go(seed=3) == {"status": "nothing"}
    assert place.go(seed=3, when="drift", event=str(place.folder / "no.json"))["status"] == "nothing"


@pytest.fixture(scope="module")
def refused(second: tuple[Place, dict[str, Any], list[str]]) -> tuple[list[str], int, dict[str, Any]]:
    """A retraining from the command line that the gate refuses: the command, its exit code and its result."""
    place, *_ = second
    (place.folder / "hard.yaml").write_text(json.dumps(EASY | {"overall": {"better_by": 0.99}}))
    file = place.folder / "refused.json"
    command = [
        "retrain", "--data", place.data, "--out", place.out, "--when", "always", "--max-minutes", "0.0000001",
        "--rules", str(place.folder / "hard.yaml"), "--closed-after", "20", "--hold-out", "20", "--json", str(file),
    ]  # fmt: skip
    return command, run(command), json.loads(file.read_text())


def test_a_refusal_ends_it_and_is_remembered(
    refused: tuple[list[str], int, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    command, code, result = refused
    assert (code, result["status"], list(result["steps"])[-2:]) == (3, "refused", ["promote", "report"])
    assert list(result["steps"]["promote"]["broken"]) == ["overall.better_by"]
    assert "the champion stays" in Path(result["report"]).read_text()
    assert result["steps"]["train"]["steps"] == 1, "the budget of time holds"
    assert get_alias("city", "champion") == "2"
    assert run(command) == 3
    assert "Nothing was left to do" in capsys.readouterr().out
    assert json.loads(Path(command[-1]).read_text())["did"] == []


def test_while_a_tracking_store_is_away_nothing_is_lost_and_nothing_done_twice(
    second: tuple[Place, dict[str, Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, *_ = second
    away = [True]

    def reach(*_: Any) -> None:
        if away:
            raise ConnectionError("nobody answers")

    def test_then_lose_the_store(*arguments: Any, **named: Any) -> Any:
        away.append(True)
        return no_backtest(*arguments, **named)

    monkeypatch.setenv("STMP_TRACKING_FLUSH_S", "0")
    monkeypatch.setattr(client, "_reachable", reach)
    with pytest.raises(RegistryError, match="nobody answers"):
        place.go(when="always", seed=1)
    away.clear()
    monkeypatch.setenv("STMP_TRACKING_FLUSH_S", "2")
    monkeypatch.setattr(pipeline, "backtest", test_then_lose_the_store)
    with pytest.raises(TrackingError, match="goes on from here"):
        place.go(when="always", seed=1)
    away.clear()
    result = place.go(when="always", seed=1)
    assert (result["status"], result["did"]) == ("promoted", ["register", "promote", "forecast", "report"])


def test_what_is_old_goes_and_what_anything_needs_stays(
    first: tuple[Place, dict[str, Any]],
    second: tuple[Place, dict[str, Any], list[str]],
    refused: tuple[list[str], int, dict[str, Any]],
) -> None:
    place, result = first
    number = refused[2]["version"].partition("/")[2]
    RunRecord.update(Folder(refused[2]["out"]), started_ms=0)
    newest = register(Path(result["steps"]["train"]["model"]), "city", run_id=None).version
    before, versions = place.files(), {v.version for v in list_versions("city")}
    begun = Folder(f"{place.out}/forecasts/by-hand")
    begun.write_json("_plan.json", {"forecast_id": "of nobody's retraining"})
    shown = prune(place.data, place.out, keep=1, days=0)["items"]
    assert [item["why"] for item in shown if item["name"] == "by-hand"] == ["it is not finished"]
    begun.remove_folder("")
    shown = prune(place.data, place.out, keep=1, days=0)["items"]
    assert place.files() == before and {v.version for v in list_versions("city")} == versions, "it only shows"
    going = {(item["kind"], item["name"]) for item in shown if not item["why"]}
    why = {item["name"]: item["why"] for item in shown if item["kind"] == "version"}
    assert ("version", number) in going and ("retraining", refused[2]["key"]) in going
    assert ("forecast", result["key"]) in going
    assert why["1"] == "it was champion" and "champion" in why["2"] and "newest" in why[newest]
    assert not {name for kind, name in going if kind == "state"}, "a version that stays has learned each of them"

    prune(place.data, place.out, keep=1, days=0, yes=True)
    assert {v.version for v in list_versions("city")} == versions - {number}
    assert not Path(refused[2]["out"]).exists() and not Path(result["steps"]["forecast"]["out"]).exists()
    assert Path(result["out"]).exists()
    told = trace(result["steps"]["forecast"]["forecast_id"])
    assert told["retraining"]["promote"] and told["data"]["source"]
    assert Forecaster.load(resolve("models:/city/1"))
    left = prune(place.data, place.out, keep=1, days=0, yes=True)["items"]
    assert all(item["why"] for item in left)


def test_commands_of_the_page_run(
    second: tuple[Place, dict[str, Any], list[str]], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, result, _ = second
    (tmp_path / "data").mkdir()
    for name, there in (("data/stores", place.data), ("retrainings", place.out), ("new", Path(place.second).parent)):
        (tmp_path / name).symlink_to(there)
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "retraining.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line)[1:] for line in "".join(blocks).splitlines()]
    assert [line[0] for line in lines] == ["retrain", "trace", "prune", "retrain"]
    asked = ["--rules", str(place.folder / "rules.yaml"), "--hold-out", "20", "--closed-after", "20"]
    asked += [part for setting in SETTINGS for part in ("--set", setting)]
    before = place.files()
    for command, *arguments in lines:
        if command == "trace":
            arguments = [result["steps"]["forecast"]["forecast_id"]]
        assert run([command, *arguments, *(asked if command == "retrain" else ())]) == 0
    assert place.files() == before, "all of it was done before, or is not due"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--data", "nowhere"), "is no dataset"),
        (("--when", "drift"), "needs --event"),
        (("--preset", "papers"), "There is no preset 'papers'"),
        (("--set", "train.max_step=5"), "max_step"),
        (("--rules", "none.yaml"), "none.yaml cannot be read"),
        (("--hold-out", "400"), "Set --hold-out lower"),
        (("--workers", "3:2"), "such as 2:8"),
        (("--known", "none.csv"), "none.csv cannot be read"),
        (("--horizon", "30"), "Give fewer by --horizon"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    first: tuple[Place, dict[str, Any]],
    wrong: tuple[str, str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["retrain", "--data", first[0].data, "--out", "out", "--when", "always", *wrong]) == 2
    assert words in capsys.readouterr().err
    assert not Path("nowhere").exists() and not list(Path("out").rglob("*-plan.json"))
