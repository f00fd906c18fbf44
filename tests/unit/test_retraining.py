"""Retraining: when it is due, from where it begins, who may do it, and what of it is done again."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stmp
from stmp.data.panel import Panel
from stmp.errors import ConfigError, RegistryError
from stmp.learning.transfer import adaptation_config
from stmp_platform.files import Folder
from stmp_platform.retraining import Busy, Event, Lease, Steps, lock, patience, records
from stmp_platform.retraining.lock import LOCK, Lost
from stmp_platform.retraining.plan import changed_columns, due, reasons_for_scratch
from tests.training import small_config, small_panel

# A store that is away


def test_a_store_that_is_away_is_waited_for_and_one_that_says_no_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_S", 0.01)
    asked: list[Exception | None] = []

    def ask(error: Exception | None, cause: Exception | None, times: int) -> int:
        asked.append(error)
        if len(asked) <= times and error is not None:
            raise error from cause
        return len(asked)

    away = RegistryError("no answer")
    assert patience.patiently(lambda: ask(away, ConnectionError(), 3), 30) == 4
    asked.clear()
    with pytest.raises(RegistryError, match="no answer"):
        patience.patiently(lambda: ask(away, ConnectionError(), 99), 0.1)
    assert 2 <= len(asked) < 10, "for no longer than it may"
    asked.clear()
    with pytest.raises(RegistryError, match="no such version"):
        patience.patiently(lambda: ask(RegistryError("no such version"), None, 99), 30)
    assert len(asked) == 1


# One at a time


@pytest.fixture(params=["disk", "objects"])
def data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    monkeypatch.setattr(lock, "PATIENCE_S", 1.0)
    return str(tmp_path) if request.param == "disk" else f"memory://{tmp_path}"


def left_by_the_dead(data: str) -> None:
    Folder(data).create(f"{LOCK}/000001.json", json.dumps({"id": "x", "by": "late@home", "since": "1999"}).encode())


def test_while_one_holds_it_another_leaves(data: str) -> None:
    with Lease(data) as lease:
        with pytest.raises(Busy, match="Another retraining holds these data, by"):
            Lease(data).__enter__()
        lease.check()
    assert Folder(data).names(LOCK) == []
    with Lease(data):
        pass


def test_a_dead_holder_does_not_keep_it(data: str) -> None:
    left_by_the_dead(data)
    begin = time.monotonic()
    with Lease(data):
        assert time.monotonic() - begin > 1.0, "it was looked at first"
    assert Folder(data).names(LOCK) == []


def test_of_several_who_find_a_dead_one_only_one_takes_it(data: str) -> None:
    left_by_the_dead(data)
    took: list[str] = []
    end = threading.Event()

    def take() -> None:
        try:
            with Lease(data):
                took.append("took")
                end.wait(5)
        except Busy:
            took.append("left")

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while len(took) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    end.set()
    for thread in threads:
        thread.join()
    assert sorted(took) == ["left"] * 5 + ["took"]


def test_a_holder_that_slept_too_long_stops(data: str) -> None:
    with Lease(data) as lease:
        Folder(data).create(f"{LOCK}/000002.json", b"{}")  # by another one, who took it for dead
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                lease.check()
            except Lost:
                break
            time.sleep(0.01)
        else:
            pytest.fail("it was not noticed")
    assert Folder(data).names(LOCK) == ["000001.json", "000002.json"], "what is another's is left alone"


# Steps


def test_a_step_is_done_once_and_again_for_other_inputs(tmp_path: Path) -> None:
    begun: list[str] = []
    with Lease(str(tmp_path)) as lease:
        folder = Folder(str(tmp_path / "run"))

        def once(**inputs: Any) -> tuple[dict[str, Any], list[str]]:
            steps = Steps(folder, lease, lambda: begun.append("begun"))
            return steps.run("train", lambda: {"model": inputs}, **inputs), steps.done

        assert once(seed=(1, 2)) == ({"model": {"seed": [1, 2]}}, ["train"])
        assert once(seed=(1, 2)) == ({"model": {"seed": [1, 2]}}, [])
        assert once(seed=3) == ({"model": {"seed": 3}}, ["train"])
    assert len(begun) == 2
    (record,) = records(folder).values()
    assert record["inputs"] == {"seed": 3} and record["code"]["stmp.python"] and "@" in record["by"]


def test_a_step_that_fails_leaves_no_record(tmp_path: Path) -> None:
    with Lease(str(tmp_path)) as lease, pytest.raises(ZeroDivisionError):
        Steps(Folder(str(tmp_path / "run")), lease, lambda: None).run("train", lambda: {"x": 1 / 0})
    assert records(Folder(str(tmp_path / "run"))) == {}


# Whether, and from where


@pytest.fixture(scope="module")
def champion() -> stmp.Forecaster:
    panel = replace(small_panel(), fingerprint="f00d")
    model = stmp.train(panel, small_config("train.max_steps=1"), until="2022-05-31")
    return model.with_version("city/3")


class Data:
    """What `due` reads of a manifest."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint


EVENT = Event("2022-06-30", ("city/3",), (("drift", "price"), ("wape", "all")))


@pytest.mark.parametrize(
    ("when", "fingerprint", "event", "is_due"),
    [
        ("new", "f00d", None, False),
        ("new", "beef", None, True),
        ("new", "f00d", EVENT, False),
        ("always", "f00d", None, True),
        ("drift", "beef", None, False),
        ("drift", "f00d", EVENT, True),
        ("drift", "f00d", replace(EVENT, versions=("city/2",)), False),  # it is about an earlier champion
        ("drift", "f00d", replace(EVENT, last="2022-05-01"), False),  # the champion has learned those days
    ],
)
def test_when_it_is_due(champion: stmp.Forecaster, when: Any, fingerprint: str, event: Event, is_due: bool) -> None:
    assert bool(due(when, Data(fingerprint), champion, event)) == is_due  # type: ignore[arg-type]
    assert due(when, Data(fingerprint), None, event)  # type: ignore[arg-type]


def test_from_where_it_begins(champion: stmp.Forecaster) -> None:
    panel = small_panel()
    config = adaptation_config(champion, "D")
    assert reasons_for_scratch(None, config, panel, None) == ["there is no champion"]
    assert reasons_for_scratch(champion, config, panel, None) == []
    assert reasons_for_scratch(champion, config, panel, EVENT) == ["inputs have drifted: price"]
    assert reasons_for_scratch(champion, config, panel, replace(EVENT, crossed=(("wape", "all"),))) == []
    (other,) = reasons_for_scratch(champion, adaptation_config(champion, "D", ["model.hidden=16"]), panel, None)
    assert "model.hidden is 8 in the source, not 16" in other


def test_columns_count_and_kinds_of_regions_do_not(champion: stmp.Forecaster) -> None:
    panel = small_panel()

    def renamed(**names: Any) -> Panel:
        return replace(panel, **names)

    assert changed_columns(champion, panel) == []
    assert changed_columns(champion, renamed(known_names=("promo", "discount"))) == [
        "known-future: new discount", "known-future: gone price",
    ]  # fmt: skip
    kinds = tuple(name.replace("=", "=other ") for name in panel.static_names)
    assert kinds != panel.static_names and changed_columns(champion, renamed(static_names=kinds)) == []
    two = small_panel(series=("a", "b"))
    assert "series" in " ".join(changed_columns(champion, two))


def test_an_event_is_read_as_the_monitor_writes_it(tmp_path: Path) -> None:
    assert Event.read(str(tmp_path / "event.json")) is None
    content = {"event": "stmp.threshold_crossed", "last": "2022-06-30", "versions": ["city/3"],
               "crossed": [{"measure": "drift", "part": "price", "value": 0.4}]}  # fmt: skip
    (tmp_path / "event.json").write_text(json.dumps(content))
    assert Event.read(str(tmp_path / "event.json")) == replace(EVENT, crossed=(("drift", "price"),))
    (tmp_path / "event.json").write_text("{}")
    with pytest.raises(ConfigError, match="no event"):
        Event.read(str(tmp_path / "event.json"))
