"""Checkpoints: whole or not at all, readable without pickle, and the same training from each of them."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stmp.errors import CheckpointError
from stmp.learning.checkpoint import CheckpointStore, LocalCheckpoints, newest, read_checkpoint, write_checkpoint
from stmp.learning.meta import run
from stmp_platform.files import Folder
from stmp_platform.training.checkpoints import ObjectCheckpoints, open_checkpoints
from tests.training import furthest, make_trainer, small_config, small_panel, weights


@pytest.fixture(params=["local", "object"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    if request.param == "local":
        return open_checkpoints(str(tmp_path), keep=2)
    return open_checkpoints(f"memory://{uuid.uuid4().hex}/run", keep=2)


def small(step: int) -> Callable[[Path], None]:
    tensors = {"model/w": torch.full((3,), float(step))}
    return lambda folder: write_checkpoint(folder, tensors, {"w/exp_avg": torch.ones(2)}, {"step": step})


def quiet(step: int, rows: object) -> None:
    """Report to nobody."""


# The store


def test_a_checkpoint_comes_back_as_it_was(store: CheckpointStore) -> None:
    assert newest(store) is None
    for step in (5, 10):
        store.save(step, small(step))
    model, optimizer, state = newest(store) or pytest.fail("no checkpoint")
    assert model["model/w"].tolist() == [10.0] * 3
    assert optimizer["w/exp_avg"].tolist() == [1.0, 1.0]
    assert state["step"] == 10
    assert isinstance(store, LocalCheckpoints | ObjectCheckpoints)


def test_only_the_newest_are_kept(store: CheckpointStore) -> None:
    for step in (5, 10, 15, 20):
        store.save(step, small(step))
    assert store.steps() == [15, 20]


def test_a_checkpoint_is_written_again_in_place(store: CheckpointStore) -> None:
    store.save(5, small(5))
    store.save(5, small(7))
    found = newest(store)
    assert found is not None and found[2]["step"] == 7
    assert store.steps() == [5]


def test_a_write_that_fails_leaves_nothing(store: CheckpointStore) -> None:
    store.save(5, small(5))

    def fail(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save(10, fail)
    assert store.steps() == [5]
    found = newest(store)
    assert found is not None and found[2]["step"] == 5


class Died(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("puts", [0, 1, 2])
def test_an_upload_that_dies_on_the_way_leaves_no_checkpoint(puts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_checkpoints(f"memory://{uuid.uuid4().hex}/run", keep=2)
    store.save(5, small(5))
    done: list[str] = []
    write = Folder.write

    def die(self: Folder, name: str, data: bytes) -> None:
        if len(done) == puts:
            raise Died
        done.append(name)
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", die)
    with pytest.raises(Died):
        store.save(10, small(10))
    assert not any(name.endswith("state.json") for name in done)
    assert store.steps() == [5]
    monkeypatch.undo()
    store.save(10, small(10))
    assert store.steps() == [5, 10]


def test_an_overwrite_that_dies_leaves_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_checkpoints(f"memory://{uuid.uuid4().hex}/run", keep=2)
    for step in (5, 10):
        store.save(step, small(step))

    def die(*_: object) -> None:
        raise Died

    monkeypatch.setattr(Folder, "write", die)
    with pytest.raises(Died):
        store.save(10, small(10))
    assert store.steps() == [5]


def test_leftovers_of_a_killed_process_do_not_count_and_go_away(tmp_path: Path) -> None:
    store = LocalCheckpoints(tmp_path, keep=2)
    (tmp_path / ".step-00000009.abc").mkdir()
    assert store.steps() == []
    store.save(10, small(10))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "missing", "json", "bit", "bit of the state"])
def test_a_damaged_newest_is_passed_over_with_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = LocalCheckpoints(tmp_path, keep=3)
    for step in (5, 10):
        store.save(step, small(step))
    of_state = damage in ("json", "bit of the state")
    file = tmp_path / "step-00000010" / ("state.json" if of_state else "model.safetensors")
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        changed = {
            "cut": whole[:-4],
            "empty": b"",
            "garbage": b"x" * 64,
            "json": b"{",
            "bit": whole[:-1] + bytes([whole[-1] ^ 1]),  # another number, in a file that can be read
            "bit of the state": whole.replace(b'"step": 10', b'"step": 11'),
        }[damage]
        assert changed != whole
        file.write_bytes(changed)
    with caplog.at_level(logging.WARNING):
        found = newest(store)
    assert found is not None and found[2]["step"] == 5
    assert "step-00000010" in caplog.text and "Going on from an older one" in caplog.text


def test_a_format_of_the_future_is_told(tmp_path: Path) -> None:
    small(5)(tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99; this version reads 2"):
        read_checkpoint(tmp_path)


# The training in it


@pytest.mark.parametrize(("stop", "paper"), [(5, False), (9, False), (9, True)])
def test_a_resumed_training_ends_bit_for_bit_like_one_never_stopped(stop: int, paper: bool, tmp_path: Path) -> None:
    panel, config = small_panel(), small_config("train.max_steps=14", "train.validate_every=4", paper=paper)
    whole = make_trainer(panel, config)
    run(whole, LocalCheckpoints(tmp_path / "whole", 2), quiet)

    first = make_trainer(panel, config)
    store = LocalCheckpoints(tmp_path / "parts", 2)
    step = first.train_step

    def stop_at() -> None:
        if first.step == stop:
            raise Died
        step()

    first.train_step = stop_at  # type: ignore[method-assign]
    with pytest.raises(Died):
        run(first, store, quiet)
    second = make_trainer(panel, config)
    run(second, store, quiet)
    assert second.step == whole.step == 14
    for ours, theirs in ((weights(second), weights(whole)), (second.average, whole.average), (second.best, whole.best)):
        assert furthest(ours, theirs)[0] == 0
    assert second.best_scores == whole.best_scores
    assert second.bad_validations == whole.bad_validations


def test_a_checkpoint_holds_no_pickle_and_all_that_is_needed(tmp_path: Path) -> None:
    trainer = make_trainer(small_panel(), small_config("train.max_steps=4"))
    run(trainer, LocalCheckpoints(tmp_path, 2), quiet)
    folder = tmp_path / "step-00000004"
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    state = json.loads((folder / "state.json").read_text(), parse_constant=pytest.fail)
    assert state["step"] == 4 and state["seed"] == 0
    assert state["config"] == trainer.config.model_dump(mode="json")
    assert state["schema"]["day_types"] == ["weekday", "weekend", "festival"]


@pytest.mark.parametrize(("override", "seed"), [("train.learning_rate=0.01", 0), ("model.hidden=10", 0), ("", 1)])
def test_another_configuration_or_seed_is_refused(override: str, seed: int, tmp_path: Path) -> None:
    store = LocalCheckpoints(tmp_path, 2)
    run(make_trainer(small_panel(), small_config("train.max_steps=4")), store, quiet)
    other = make_trainer(small_panel(), small_config("train.max_steps=4", *filter(None, [override])), seed=seed)
    with pytest.raises(CheckpointError, match="another configuration or seed"):
        run(other, store, quiet)


def test_a_finished_training_does_nothing_more(tmp_path: Path) -> None:
    store = LocalCheckpoints(tmp_path, 2)
    run(make_trainer(small_panel(), small_config("train.max_steps=4")), store, quiet)
    again = make_trainer(small_panel(), small_config("train.max_steps=4"))
    again.train_step = lambda: pytest.fail("a step was made")  # type: ignore[method-assign]
    run(again, store, quiet)
    assert again.step == 4
