"""The tracking server goes away at each step of a retraining, and comes back: one error, and in the end the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

import stmp_platform.rollout
from jobs import pipeline
from stmp.errors import RegistryError, TrackingError
from stmp_platform.dataset import ingest
from stmp_platform.registry import get_alias, list_versions, register, set_alias
from stmp_platform.retraining import Steps, patience
from stmp_platform.retraining.steps import ORDER
from stmp_platform.rollout import Rolled
from stmp_platform.tracking import tracker
from stmp_platform.training import train
from tests.retraining import EASY, deliveries, go, no_backtest
from tests.servers import Cable, MlflowServer
from tests.training import small_config

BEFORE = "the beginning"
NEEDED_BY = {BEFORE: "data", "data": "plan", "backtest": "register", "rollout": "forecast"}
"""In which step it is missed that is gone from another one on, if not in that one."""
large = pytest.mark.skipif(
    "STMP_TEST_LARGE" not in os.environ, reason="servers take seconds to start: STMP_TEST_LARGE=1"
)


class City:
    """Two registered models with the same champion, to be retrained on the same data; one of them in peace."""

    def __init__(self, folder: Path) -> None:
        first, second = deliveries(folder)
        self.folder, self.data = folder, str(folder / "data")
        ingest(first, self.data)
        model = train(self.data, small_config("train.max_steps=6"), out=str(folder / "first"), track=False).model
        ingest(second, self.data, append=True)
        (folder / "rules.yaml").write_text(json.dumps(EASY))
        for name in ("calm", "city"):
            register(model, name)
            set_alias(name, "champion", 1)
        self.calm = self.retrain("calm")

    def retrain(self, name: str) -> dict[str, Any]:
        means = {"url": "http://127.0.0.1:1"}
        return go(self.data, str(self.folder / name), str(self.folder / "rules.yaml"), name=name, means=means)

    def files(self, name: str) -> list[Path]:
        """All files of a model's retraining, none of which is half written."""
        found = [path for path in (self.folder / name).rglob("*") if path.is_file()]
        assert not [path for path in found if path.name.startswith(".")]
        for path in (path for path in found if path.suffix == ".json"):
            json.loads(path.read_text())
        return found


@pytest.fixture
def city(sqlite_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[City, Cable]]:
    cable = Cable(sqlite_server.port).plug()
    monkeypatch.setenv("STMP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cable.uri)
    monkeypatch.setenv("STMP_TRACKING_RETRIES", "0")
    monkeypatch.setenv("STMP_TRACKING_FLUSH_S", "20")  # while it is there; where it is not, one attempt tells
    monkeypatch.setattr(tracker, "LAST_ATTEMPTS", 1)
    monkeypatch.setattr(patience, "FIRST_S", 60.0)
    monkeypatch.setattr(pipeline, "backtest", no_backtest)
    monkeypatch.setattr(
        stmp_platform.rollout,
        "roll_out",
        lambda _, __, model, **___: Rolled(before="city/1", after=model, seconds=0.1, replicas={}),
    )
    yield City(tmp_path), cable
    cable.pull()


def begins(monkeypatch: pytest.MonkeyPatch, step: str, then: Callable[[], None]) -> None:
    """Do something when the work of a step begins."""
    run = Steps.run

    def watched(self: Steps, name: str, work: Callable[[], dict[str, Any]], /, **inputs: Any) -> dict[str, Any]:
        def after() -> dict[str, Any]:
            then()
            return work()

        return run(self, name, after if name == step else work, **inputs)

    monkeypatch.setattr(Steps, "run", watched)


@pytest.mark.parametrize(
    "killed",
    [pytest.param(False, marks=large), pytest.param(True, marks=[large, pytest.mark.slow])],
    ids=["cable", "killed"],
)
def test_a_server_that_goes_away_at_every_step_costs_nothing(
    city: tuple[City, Cable],
    sqlite_server: MlflowServer,
    capsys: pytest.CaptureFixture[str],
    killed: bool,
) -> None:
    place, cable = city
    gone, back = (sqlite_server.kill, sqlite_server.start) if killed else (cable.pull, cable.plug)
    done: list[str] = []
    for step in (BEFORE, *ORDER):
        with pytest.MonkeyPatch.context() as patch:
            if step == BEFORE:
                gone()
            begins(patch, step, gone)
            if step == "report":
                result = place.retrain("city")
                assert "stmp track" in capsys.readouterr().err
            else:
                with pytest.raises((RegistryError, TrackingError), match="no answer") as error:
                    place.retrain("city")
                assert "the same `stmp retrain` goes on from here" in str(error.value).replace("The", "the"), step
                assert "\n" not in str(error.value)
        steps = [path.stem.partition("-")[2] for path in sorted(Path(place.folder / "city").rglob("steps/*.json"))]
        reached = ORDER.index(NEEDED_BY.get(step, step)) if step != "report" else len(ORDER)
        assert steps == list(ORDER[:reached]), f"it goes on without the store as far as it can; gone at {step}"
        assert place.files("city") or step == BEFORE
        back()
        assert get_alias("city", "champion") == ("2" if "promote" in steps else "1")
        done = steps
    assert done == list(ORDER)
    again = place.retrain("city")
    assert (again["did"], again["steps"]) == ([], result["steps"])
    calm = place.calm
    assert result["steps"]["train"]["digest"] == calm["steps"]["train"]["digest"]
    frames = [pd.read_parquet(one["steps"]["forecast"]["out"]) for one in (result, calm)]
    named = ["model_version", "forecast_id"]
    pd.testing.assert_frame_equal(*(frame.drop(columns=named) for frame in frames))
    assert [v.version for v in list_versions("city")] == [v.version for v in list_versions("calm")]
    client = MlflowClient(cable.uri)
    experiment = client.get_experiment_by_name("stmp")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    for suffix in ("", "-train"):
        (run,) = [run for run in runs if run.info.run_name == f"{result['key']}{suffix}"]
        assert run.info.status == "FINISHED", "one run, whole"
