"""`stmp similarity` from end to end: sources ranked by what carries over, their datasets found, bad input told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import run
from jobs.similarity import _compare, similarity
from stmp.data.panel import Panel
from stmp.errors import DataError
from stmp.forecaster import Forecaster
from stmp.learning.similarity import compare, zero_shot
from stmp_platform.dataset import read_panel
from stmp_platform.settings import Settings
from stmp_platform.training import train
from tests.training import small_config


@pytest.fixture(scope="module")
def trained(city: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training on one city."""
    out = tmp_path_factory.mktemp("trained") / "out"
    train(city, small_config("train.max_steps=60"), out=str(out), until="2022-02-28", track=False)
    return out


def test_sources_are_ranked_and_the_page_says_which(
    trained: Path, city: str, other_city: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, page = tmp_path / "result.json", tmp_path / "report"
    code = run(["similarity", city, str(trained), other_city, "--until", "2022-05-31", "--report", str(page),
                "--json", str(result)])  # fmt: skip
    assert code == 0, capsys.readouterr().err
    found = json.loads(result.read_text())
    first, second = found["ranking"]
    assert first["source"] == "out"  # the model comes before the dataset without one
    assert second["zero_shot"] is None and second["tasks"] == {}
    assert set(first["tasks"]) == {"all", "weekday", "weekend", "festival"}
    assert first["periods"]["target"][1] == "2022-05-31"
    assert first["traits"]["week"]["p_value"] > 0.01  # two cities of one make
    assert len(first["regions"]) == 14
    assert {len(row["nearest"]) for row in first["regions"]} == {3}
    assert "Of 2 sources, out carries over best" in (page / "similarity.html").read_text()


def test_of_many_regions_some_are_compared(
    trained: Path, city: str, other_city: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.similarity.MOST", 6)
    found = similarity([str(trained), city], other_city, until="2022-05-31")["ranking"]
    assert [len(one["regions"]) for one in found] == [6, 6]
    assert "has 14 regions; 6 of them, spread evenly, are compared" in capsys.readouterr().out


def test_zero_shot_skill_reads_nothing_that_it_is_scored_on(trained: Path, other_city: str) -> None:
    """A source that is grafted at the first origin knows nothing later: its forecasts there do not change."""
    source = Forecaster.load(trained / "model")
    panel = read_panel(other_city).until("2022-05-31")
    panel = panel.window(0, panel.index_of("2022-05-31") + 1)
    found, model = zero_shot(source, panel)
    assert model.trained_until == str(panel.dates[-1 - found.origins * found.horizon])
    assert found.skill < 1 and found.interval is not None
    assert found.interval[0] < found.skill < found.interval[1]
    assert set(found.by_region) <= set(panel.regions)


def test_a_source_of_the_same_regions_and_days_is_told(trained: Path, city: str) -> None:
    panel = read_panel(city)
    found = compare("itself", panel, panel.window(0, 300), forecaster=Forecaster.load(trained / "model"))
    assert found.zero_shot is not None
    assert "its skill here is flattered" in found.zero_shot.warnings[0]
    itself = [near[0] == name for name, near in zip(found.regions["region"], found.regions["nearest"], strict=True)]
    assert sum(itself) >= 12, "but for its scales, the grafted network is the source"


def test_the_dataset_of_a_source_may_have_grown_but_not_be_another(
    trained: Path, other_city: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compared(name: str, source: Panel, target: Panel, **more: Any) -> Panel:
        return source

    monkeypatch.setattr("stmp.learning.similarity.compare", compared)
    target, settings = read_panel(other_city), Settings.from_env()
    read: Any = _compare(str(trained), other_city, target, 0, settings)
    assert "has changed since" in capsys.readouterr().err
    assert str(read.last_observed) == "2022-02-28", "what the source has not seen is not compared"
    monkeypatch.setattr("stmp_platform.dataset.storage.region_names", lambda uri: list(target.regions[:2]))
    with pytest.raises(DataError, match="it lacks 11 of its regions"):
        _compare(str(trained), other_city, target, 0, settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "{target}"], "There is no folder nowhere"),
        (["{model}", "nowhere"], "nowhere"),
        (["{model}", "{target}", "--source-data", "a", "--source-data", "b"], "given 2 times for 1 sources"),
        (["{model}", "{target}", "--until", "1999-01-01"], "1999-01-01 is not in the data"),
        (["{model}", "{target}", "--until", "2021-01-05"], "needs 8 at least"),
    ],
)
def test_bad_input_is_one_message(
    arguments: list[str], message: str, trained: Path, other_city: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"model": str(trained), "target": other_city}
    assert run(["similarity", *(a.format(**named) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
