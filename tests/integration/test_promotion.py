"""Promotion on real registries: what passes, what is refused, what races, and what dies half-way."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stmp
from jobs.cli import run
from serving import views
from stmp.errors import ConfigError, RegistryError
from stmp_platform import registry
from stmp_platform.dataset import read_panel
from stmp_platform.gate import GATE_TAG, Champions, Rules, promote, promotion, rollback
from stmp_platform.gate.champions import Overtaken
from stmp_platform.gate.rules import SliceRule
from stmp_platform.registry import Version, registry_client
from stmp_platform.settings import Settings
from tests.servers import MlflowServer
from tests.serving import served
from tests.serving import settings as settings_of_a_replica
from tests.training import small_config

UNTIL, TODAY = "2022-04-30", date(2022, 7, 10)
EASY = Rules.model_validate(
    {
        "overall": {"better_by": -9},
        "slices": {"festival": {"worse_by": 9}},
        "groups": {"worse_by": 9},
        "calibration": {"tolerance": 1, "by_day_type": 1},
        "limits": {"wape": 9, "bias": 9},
        "windows": {"most": 2, "cold_histories": []},
        "test": {"draws": 200},
    }
)
"""Whatever forecasts passes."""
STRICT = {"weekday": SliceRule(worse_by=0.02), "weekend": SliceRule(worse_by=0.02), "festival": None}
WINDOWS = EASY.windows.model_copy(update={"most": 4})
FAIR = EASY.model_copy(update={"overall": Rules().overall, "slices": STRICT, "windows": WINDOWS})
"""Better on the whole and on no ordinary day worse; four windows say too little of festivals, groups and quantiles."""


# Registries, and versions in them


@pytest.fixture(scope="module")
def models(city: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train a model hardly and another a little longer."""
    panel, folders = read_panel(city), {}
    for name, steps in (("raw", 2), ("trained", 30)):
        settings = (f"train.max_steps={steps}", "train.warmup=1", "train.learning_rate=0.01", "train.ema=0")
        folders[name] = tmp_path_factory.mktemp(name) / "model"
        stmp.train(panel, small_config(*settings), until=UNTIL).save(folders[name])
    return folders


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("home")
    return Settings.from_env(env={"STMP_HOME": str(folder), "STMP_CACHE": str(folder / "cache")})


@pytest.fixture(scope="module")
def shelf(home: Settings, models: dict[str, Path]) -> list[Version]:
    """Register the two models: version 1 is raw, version 2 is trained. What tests change are copies."""
    return [registry.register(models[key], "shelf", settings=home) for key in ("raw", "trained")]


@pytest.fixture
def stores(home: Settings, shelf: list[Version]) -> list[Version]:
    """The two models under a name of their own."""
    return copies(shelf, home)


@pytest.fixture(params=["database", "postgres_server"])
def anywhere(request: pytest.FixtureRequest, home: Settings) -> Settings:
    if request.param == "database":
        return home
    server: MlflowServer = request.getfixturevalue(request.param)
    return Settings.from_env(server.uri, env={"STMP_CACHE": str(home.cache)})


def copies(versions: list[Version], settings: Settings, name: str = "") -> list[Version]:
    """Versions that point at others', under a new name."""
    name = name or f"stores {uuid.uuid4().hex[:6]}"
    with registry_client(settings, "copying") as client:
        client.create_registered_model(name)
        for version in versions:
            client.create_model_version(name, source=version.uri, tags=dict(version.tags))
    return registry.list_versions(name, settings)[::-1]


@pytest.fixture
def many(anywhere: Settings, models: dict[str, Path]) -> str:
    """The name of a model with nine versions, anywhere."""
    first = registry.register(models["raw"], "raw", settings=anywhere)
    return copies([first] * 9, anywhere)[0].name


@pytest.fixture(scope="module")
def promoters(root: Path) -> Iterator[Callable[..., Any]]:
    """Yield a function that lets promoters race or die in processes of their own."""
    command = [sys.executable, "-m", "tests.promoters"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=root, text=True, **pipes) as process:  # type: ignore[call-overload]

        def ask(**request: Any) -> Any:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


def alias_of(name: str, settings: Settings) -> str | None:
    (aliases,) = {v.aliases for v in registry.list_versions(name, settings) if v.aliases} or {()}
    assert len([v for v in registry.list_versions(name, settings) if "champion" in v.aliases]) == len(aliases) <= 1
    return registry.get_alias(name, "champion", settings) if aliases else None


# Through the gate


def test_a_model_is_held_against_seasonal_naive_then_against_the_champion(
    stores: list[Version], city: str, home: Settings, tmp_path: Path
) -> None:
    raw, trained = stores
    refused = promote(raw.uri, city, today=TODAY, rules=FAIR, settings=home, report=tmp_path / "report")
    assert not refused.champion
    assert refused.report["failed"]
    assert alias_of(raw.name, home) is None
    assert json.loads((tmp_path / "report" / "gate.json").read_text()) == refused.report

    first = promote(raw.uri, city, today=TODAY, rules=EASY, settings=home)
    assert (first.before, first.report["opponent"]) == (None, "seasonal naive")
    assert alias_of(raw.name, home) == "1"

    second = promote(trained.uri, city, today=TODAY, rules=FAIR, settings=home)
    assert second.champion, second.report["failed"]
    assert (second.before, second.report["opponent"]) == ("1", "champion")
    assert alias_of(raw.name, home) == "2"
    assert second.report["slices"]["all"]["high"] < 0

    back = promote(raw.uri, city, today=TODAY, rules=FAIR, settings=home)
    assert not back.champion
    assert {"overall.better_by", "slices.weekday"} <= set(back.report["failed"])
    assert alias_of(raw.name, home) == "2"
    assert promote(trained.uri, city, today=TODAY, settings=home).champion  # is champion already; nothing is measured
    assert [m.after for m in Champions(raw.name, settings=home).history()] == ["1", "2"]


def test_the_result_is_kept_with_the_version(
    stores: list[Version], city: str, home: Settings, models: dict[str, Path]
) -> None:
    trained = stores[1]
    promote(str(models["trained"]), city, today=TODAY, rules=EASY, settings=home)  # found by its files
    newest = registry.find(trained.uri, home)
    outcome = json.loads(newest.tags[GATE_TAG])
    assert (outcome["passed"], outcome["failed"], outcome["against"]) == (True, [], None)
    packaged = registry.resolve(newest.uri, home).parent.parent
    content = json.loads((packaged / outcome["report"]).with_name("gate.json").read_text())
    assert (packaged / outcome["report"]).read_text().startswith("<!doctype html>")
    assert (content["by"], content["at"]) == (outcome["by"], outcome["at"])
    assert promotion.report_of(newest.uri, newest.tags[GATE_TAG], home) == content
    (move,) = Champions(newest.name, settings=home).history()
    assert (move.kind, move.by, f"{move.report}/gate.html") == ("promotion", outcome["by"], outcome["report"])
    assert stmp.Forecaster.load(registry.resolve(newest.uri, home))  # the model is as it was


def test_the_report_is_shown_by_what_serves_the_version(
    stores: list[Version],
    city: str,
    home: Settings,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STMP_HOME", str(home.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    raw = stores[0]
    decided = promote(raw.uri, city, today=TODAY, rules=FAIR, settings=home)
    with served(raw.uri, settings_of_a_replica(city, tmp_path)) as client:
        shown = client.get("/v1/model/gate").json()
        assert (shown["model_version"], shown["passed"], shown["against"]) == (f"{raw.name}/1", False, "seasonal naive")
        assert shown["checks"] == [
            {"rule": check.rule, "passed": check.passed, "text": check.text} for check in decided.checks
        ]
        monkeypatch.setattr(views, "report_of", unanswered)
        assert client.get("/v1/model/gate").status_code == 503
    with served(models["trained"], settings_of_a_replica(city, tmp_path)) as client:
        assert client.get("/v1/model/gate").status_code == 404


def unanswered(*_: Any) -> None:
    raise RegistryError("The registry does not answer.")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda f: f.mean.__setitem__((0, 0, 0), np.nan), "forecasts.finite"),
        (lambda f: f.quantiles.__setitem__((0, 0, 0, 0), -1.0), "forecasts.non_negative"),
        (lambda f: 1 / 0, "forecasts.complete"),
    ],
)
def test_a_model_whose_forecasts_are_broken_is_refused(
    stores: list[Version], city: str, home: Settings, monkeypatch: pytest.MonkeyPatch, spoil: Any, rule: str
) -> None:
    whole = stmp.Forecaster.predict

    def broken(self: stmp.Forecaster, *arguments: Any) -> Any:
        forecast = whole(self, *arguments)
        if self.provenance.version == f"{stores[1].name}/2":
            spoil(forecast)
        return forecast

    registry.set_alias(stores[0].name, "champion", 1, home)
    monkeypatch.setattr(stmp.Forecaster, "predict", broken)
    decision = promote(stores[1].uri, city, today=TODAY, rules=EASY, settings=home)
    assert rule in decision.report["failed"]
    assert alias_of(stores[0].name, home) == "1"


def test_a_champion_that_cannot_forecast_is_an_error_and_not_a_pass(
    stores: list[Version], city: str, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stmp.Forecaster.predict

    def broken(self: stmp.Forecaster, *arguments: Any) -> Any:
        if self.provenance.version == f"{stores[0].name}/1":
            raise ValueError("no")
        return whole(self, *arguments)

    registry.set_alias(stores[0].name, "champion", 1, home)
    monkeypatch.setattr(stmp.Forecaster, "predict", broken)
    with pytest.raises(RegistryError, match=r"champion .* cannot forecast"):
        promote(stores[1].uri, city, today=TODAY, rules=EASY, settings=home)


def test_seasonal_naive_stands_in_for_a_champion_whose_columns_are_gone(
    stores: list[Version], city: str, home: Settings, models: dict[str, Path], tmp_path: Path
) -> None:
    name, old = stores[0].name, stmp.Forecaster.load(models["raw"])
    old.schema = replace(old.schema, past_names=("visitors",))
    old.save(tmp_path / "old")
    champion = registry.register(tmp_path / "old", name, settings=home)
    registry.set_alias(name, "champion", champion.version, home)
    refused = promote(stores[1].uri, city, today=TODAY, rules=EASY, settings=home)
    assert refused.report["opponent"] == "seasonal naive"
    assert refused.report["failed"] == ["serving.new_inputs"], "clients must know of the new column first"
    (told,) = [check.text for check in refused.checks if check.rule == "serving.champion"]
    assert "visitors" in told
    asked = EASY.model_copy(update={"serving": EASY.serving.model_copy(update={"new_inputs": True})})
    assert promote(stores[1].uri, city, today=TODAY, rules=asked, settings=home).champion


def test_days_that_a_model_has_learned_from_are_no_evidence(stores: list[Version], city: str, home: Settings) -> None:
    strict = EASY.model_copy(update={"windows": EASY.windows.model_copy(update={"least": 40})})
    decision = promote(stores[0].uri, city, today=TODAY, rules=strict, settings=home)
    assert decision.report["failed"] == ["windows.least"]
    assert decision.report["windows"]["origins"] == sorted(decision.report["windows"]["origins"])
    assert min(decision.report["windows"]["origins"]) >= UNTIL


def test_only_an_alias_of_the_same_model_can_be_moved(stores: list[Version], city: str, home: Settings) -> None:
    for champion in ("models:/other@champion", stores[0].uri, "runs/first"):
        with pytest.raises(ConfigError, match="is no alias of the challenger's model"):
            promote(stores[1].uri, city, today=TODAY, champion=champion, settings=home)


# Back again


def test_rollback_goes_back_one_champion_at_a_time(home: Settings, shelf: list[Version]) -> None:
    name = copies(shelf * 2, home)[0].name
    champions = Champions(name, settings=home)
    for before, after in ((None, "1"), ("1", "2"), ("2", "3"), ("3", "4")):
        champions.move("promotion", before, after)
    with registry_client(home, "deleting") as client:
        client.delete_model_version(name, "3")
    assert rollback(f"models:/{name}@champion", home).after == "2"
    assert rollback(f"models:/{name}@champion", home).after == "1"
    assert alias_of(name, home) == "1"
    with pytest.raises(RegistryError, match="no earlier champion to return to: version 1 is the first"):
        rollback(f"models:/{name}@champion", home)
    with pytest.raises(ConfigError, match="names no alias"):
        rollback(f"models:/{name}/1", home)


def test_what_was_moved_by_hand_is_respected_and_recorded(home: Settings, shelf: list[Version]) -> None:
    name = copies(shelf * 2, home)[0].name
    registry.set_alias(name, "champion", 1, home)
    champions = Champions(name, settings=home)
    assert champions.current() == "1"
    champions.move("promotion", "1", "2")
    registry.set_alias(name, "champion", 3, home)
    assert champions.current() == "3"
    assert [(m.kind, m.before, m.after) for m in champions.history()] == [
        ("by hand", None, "1"), ("promotion", "1", "2"), ("by hand", "2", "3"),
    ]  # fmt: skip
    with registry_client(home, "deleting") as client:
        client.delete_registered_model_alias(name, "champion")
    assert champions.current() is None


def test_a_champion_that_was_deleted_can_be_followed(home: Settings, shelf: list[Version]) -> None:
    name = copies(shelf * 2, home)[0].name
    champions = Champions(name, settings=home)
    for before, after in ((None, "1"), ("1", "2"), ("2", "3")):
        champions.move("promotion", before, after)
    with registry_client(home, "deleting") as client:
        client.delete_model_version(name, "3")
    assert champions.current() is None
    assert rollback(f"models:/{name}@champion", home).after == "2"
    assert champions.move("promotion", "2", "4").after == "4"
    assert alias_of(name, home) == "4"


def test_the_log_is_no_model(home: Settings, stores: list[Version], shelf: list[Version]) -> None:
    name = stores[0].name
    Champions(name, settings=home).move("promotion", None, "1")
    assert {v.name for v in registry.list_versions(settings=home)} & {f"{name}.champion"} == set()
    with pytest.raises(RegistryError, match="no registered model"):
        registry.list_versions(f"{name}.champion", home)
    taken = copies(shelf, home)[0].name
    copies(shelf, home, f"{taken}.champion")
    with pytest.raises(RegistryError, match="holds something else"):
        Champions(taken, settings=home).move("promotion", None, "1")


# Many at once, and deaths


def test_of_promoters_that_run_at_once_one_wins(anywhere: Settings, many: str, promoters: Callable[..., Any]) -> None:
    name = many
    uri, champion, winners = anywhere.tracking_uri.get_secret_value(), None, []
    for versions in (["1", "2", "3"], ["4", "5", "6", "7"]):
        outcomes = promoters(do="race", uri=uri, name=name, before=champion, versions=versions)
        assert sorted(outcomes.values()) == ["Overtaken"] * (len(versions) - 1) + ["promoted"]
        champion = next(version for version, outcome in outcomes.items() if outcome == "promoted")
        assert alias_of(name, anywhere) == champion
        winners.append(champion)
    champions = Champions(name, settings=anywhere)
    assert [m.after for m in champions.history()] == winners
    assert champions.current() == champion
    with pytest.raises(Overtaken, match="changed its champion meanwhile"):
        champions.move("promotion", winners[0], "9")


STEPS = ["attach", "set_model_version_tag", "create_registered_model", "create_model_version",
         "set_registered_model_alias", "set_model_version_tag"]  # fmt: skip


@pytest.mark.parametrize("anywhere", ["postgres_server"], indirect=True)  # benchmarks/promoters.py has SQLite too
def test_a_promoter_killed_before_any_step_leaves_one_champion(
    anywhere: Settings, many: str, promoters: Callable[..., Any]
) -> None:
    name = many
    uri = anywhere.tracking_uri.get_secret_value()
    champions = Champions(name, settings=anywhere)
    champion: str | None = None
    for step in range(len(STEPS)):
        challenger = str(step + 1)
        died = promoters(do="die", uri=uri, name=name, before=champion, version=challenger, step=step)
        assert died == {"killed": True, "steps": STEPS[:step]}
        assert alias_of(name, anywhere) in (champion, challenger)
        decided = "create_model_version" in STEPS[:step]
        assert champions.current() == (challenger if decided else champion)  # settled by whoever comes next
        assert alias_of(name, anywhere) == (challenger if decided else champion)
        champion = challenger if decided else champion
    unhurt = promoters(do="die", uri=uri, name=name, before=champion, version=str(len(STEPS) + 1), step=None)
    assert unhurt == {"killed": False, "steps": [*STEPS, "=promoted"]}
    assert alias_of(name, anywhere) == str(len(STEPS) + 1)
    assert all(move.settled for move in champions.history()[-1:])


def test_a_champion_that_changes_during_the_measurement_is_not_replaced(
    stores: list[Version], city: str, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, measure = stores[0].name, promotion.gather

    def slow(*arguments: Any, **named: Any) -> Any:
        found = measure(*arguments, **named)
        Champions(name, settings=home).move("promotion", None, "1")
        return found

    monkeypatch.setattr(promotion, "gather", slow)
    with pytest.raises(Overtaken, match="version 1 is champion, and not none"):
        promote(stores[1].uri, city, today=TODAY, rules=EASY, settings=home)
    assert alias_of(name, home) == "1"
    assert json.loads(registry.find(stores[1].uri, home).tags[GATE_TAG])["passed"]


# From the command line


@pytest.fixture
def shop(
    city: str,
    home: Settings,
    models: dict[str, Path],
    shelf: list[Version],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., int]:
    """Yield the command line in a folder like that of docs/promotion.md, as of a day when its data were fresh."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stores").symlink_to(city)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "second").symlink_to(models["trained"].parent)
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (root / "docs" / "promotion.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "rules.yaml").write_text(text)
    easy = EASY.model_dump(mode="json") | {"slices": dict.fromkeys(Rules().slices)}
    (tmp_path / "easy.yaml").write_text(json.dumps(easy))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    shutil.copyfile(home.home / "mlflow.db", tmp_path / "mlflow.db")  # its artifacts stay where they are
    copies(shelf, Settings.from_env(), "stores")

    def call(*arguments: str) -> int:
        return run([*arguments, *(("--today", str(TODAY)) if arguments[0] == "promote" else ())])

    return call


def test_commands_of_the_page_run(shop: Callable[..., int], root: Path) -> None:
    block = re.search(r"^```sh\n(.*?)^```", (root / "docs" / "promotion.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    *lines, last = [shlex.split(line)[1:] for line in block[1].splitlines()]
    assert [line[0] for line in (*lines, last)] == ["promote", "promote", "models", "rollback"]
    for line in lines:
        assert shop(*line) in (0, 3)
    assert Path("gate/gate.html").exists()
    for challenger in ("models:/stores/1", "models:/stores/2"):
        assert shop("promote", "--challenger", challenger, "--data", "data/stores", "--rules", "easy.yaml") == 0
    assert shop(*last) == 0
    assert registry.get_alias("stores", "champion") == "1"


def test_exit_codes_and_what_is_shown(shop: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    ask = ("promote", "--data", "data/stores", "--challenger")
    assert shop("rollback", "models:/stores@champion") == 1
    assert shop("rollback", "models:/shops@champion") == 1
    assert shop(*ask, "models:/stores/1", "--rules", "easy.yaml", "--json", "first.json") == 0
    capsys.readouterr()
    Path("hard.yaml").write_text("overall: {better_by: 0.9}\nwindows: {most: 3}\n")
    assert shop(*ask, "models:/stores/2", "--rules", "hard.yaml", "--json", "second.json") == 3
    shown = capsys.readouterr()
    assert "stores/2 against stores/1" in shown.out
    assert "overall.better_by: wql " in shown.out
    assert "Refused: " in shown.out
    first, second = (json.loads(Path(f"{name}.json").read_text()) for name in ("first", "second"))
    assert (first["promoted"], first["before"], first["move"]["after"]) == (True, None, "1")
    assert (second["promoted"], second["before"], second["move"]) == (False, "1", None)
    (rule,) = [check for check in second["checks"] if check["rule"] == "overall.better_by"]
    assert rule["broken_by"] == pytest.approx(rule["value"] + 0.9)
    assert shop(*ask, "models:/stores/1") == 0
    assert "champion already" in capsys.readouterr().out
    for wrong in (("--rules", "none.yaml"), ("--champion", "models:/other@champion")):
        assert shop(*ask, "models:/stores/2", *wrong) == 2
    assert shop("models", "stores", "--json", "models.json") == 0
    shown = capsys.readouterr()
    for words in ("champion", "passed", "refused: ", "promotion"):
        assert words in shown.out
    listed = json.loads(Path("models.json").read_text())
    assert [v["gate"]["passed"] for v in listed["versions"]] == [False, True]
    assert [(m["model"], m["after"]) for m in listed["champions"]] == [("stores", "1")]
