"""The same tasks give the same training, however many workers share them; process groups of gloo, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stmp.data.episodes import Episode
from stmp.learning.checkpoint import LocalCheckpoints
from stmp.learning.meta import MetaTrainer
from stmp.learning.validation import Split
from tests.training import (
    SCENES,
    failure,
    furthest,
    gradients,
    make_trainer,
    on_workers,
    small_config,
    small_panel,
    to_numpy,
    trainer_of,
    weights,
)


def some_steps() -> dict[str, Any]:
    """What ten steps of each scene come to, on each worker."""
    return {name: ten_steps(trainer_of(**scene)) for name, scene in SCENES.items()}


def ten_steps(trainer: MetaTrainer) -> dict[str, Any]:
    trainer.train_step()
    found: dict[str, Any] = {"gradient": gradients(trainer), "rows": rows_of(trainer)}
    found["loss"] = {key: value[0] for key, value in trainer.sums.items() if key.endswith("/loss")}
    for _ in range(9):
        trainer.train_step()
    found |= {"weights": weights(trainer), "validation": trainer.validate()}
    trainer.calibrate()
    found["lean"] = (trainer.leaning.rate, trainer.leaning.share)
    group = trainer.validator.group
    return {**found, "factors": np.array(trainer.conformal.factors), "group": {"index": group.index.nan_to_num(-1.0)}}


def rows_of(trainer: MetaTrainer, steps: int = 4) -> list[list[tuple[Any, ...]]]:
    """The tasks that this worker draws at some steps, in words that do not depend on its shard."""
    drawn: list[list[tuple[Any, ...]]] = []
    for step in range(steps):
        episode = trainer.sampler.draw(step)
        names = trainer.history.panel.regions
        drawn.append([] if episode is None else [task(episode, row, names) for row in range(len(episode.region))])
    return drawn


def task(episode: Episode, row: int, names: np.ndarray) -> tuple[Any, ...]:
    tensors = (episode.start, episode.end, episode.target, episode.origin, episode.support, episode.support_valid)
    return (str(names[int(episode.region[row])]), *(repr(t[row].tolist()) for t in tensors))


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return to_numpy(some_steps())


@pytest.fixture(scope="module", params=[2, 3])
def together(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return on_workers(request.param, some_steps)


# However many workers


@pytest.mark.parametrize("scene", list(SCENES))
def test_workers_make_the_steps_of_one(scene: str, alone: dict[str, Any], together: list[dict[str, Any]]) -> None:
    one, first = alone[scene], together[0][scene]
    assert furthest(one["loss"], first["loss"])[0] < 1e-5
    assert furthest(one["gradient"], first["gradient"])[0] < 2e-4, furthest(one["gradient"], first["gradient"])
    assert furthest(one["weights"], first["weights"])[0] < 2e-4, furthest(one["weights"], first["weights"])
    assert furthest(one["validation"], first["validation"])[0] < 1e-4
    assert any(np.abs(g).max() > 0 for g in one["gradient"].values())
    assert one["lean"] == first["lean"]
    assert furthest(one["group"], first["group"])[0] < 1e-6
    assert np.abs(one["factors"] - first["factors"]).max() < 0.05  # two bins
    assert one["factors"].std() > 0.01


@pytest.mark.parametrize("scene", list(SCENES))
def test_all_workers_end_with_the_same_weights(scene: str, together: list[dict[str, Any]]) -> None:
    for other in together[1:]:
        assert furthest(together[0][scene]["weights"], other[scene]["weights"])[0] == 0


@pytest.mark.parametrize("scene", list(SCENES))
def test_workers_share_out_the_tasks_of_one(scene: str, alone: dict[str, Any], together: list[dict[str, Any]]) -> None:
    for step, whole in enumerate(alone[scene]["rows"]):
        parts = [worker[scene]["rows"][step] for worker in together]
        assert all(parts), "a worker has nothing to do"
        assert sorted(row for part in parts for row in part) == sorted(whole)


def test_all_workers_stop_with_the_message_of_the_one_that_knows() -> None:
    region = int(Split.of(14, 0.1).train[-1])  # the second worker's
    first, second = on_workers(2, failure, region)
    assert first == second
    assert "rank 1" in first and small_panel().regions[region] in first


def training_of_few_sellers() -> dict[str, Any]:
    """Some steps on a city of two series of which the regions of its second half have not opened yet."""
    panel = small_panel(series=("a", "b"))
    unopened = torch.arange(panel.shape[0])[:, None, None] >= 6
    panel = replace(panel, sales=panel.sales.masked_fill(unopened, 0.0), observed=panel.observed & ~unopened)
    trainer = make_trainer(panel, small_config())
    return {"regions": len(trainer.history.panel.regions), "schema": trainer.schema.to_json(), **ten_steps(trainer)}


def test_a_worker_none_of_whose_regions_ever_sold_changes_nothing() -> None:
    one, (first, second) = to_numpy(training_of_few_sellers()), on_workers(2, training_of_few_sellers)
    assert second["regions"] == 0
    assert first["schema"] == second["schema"] == one["schema"]
    assert furthest(one["weights"], second["weights"])[0] < 2e-4
    assert furthest(one["validation"], second["validation"])[0] < 1e-4


# From one number of workers to another


def train_until(folder: str, stop: int) -> dict[str, Any]:
    """Train from the newest checkpoint in a folder up to a step, and leave one there."""
    store = LocalCheckpoints(folder, keep=2)
    trainer = trainer_of(("train.max_steps=12", "train.validate_every=4"))
    trainer.resume(store)
    while trainer.step < stop:
        trainer.train_step()
        if trainer.step % trainer.config.train.validate_every == 0:
            trainer.validate()
    trainer.save(store)
    return {**trainer.weights(), **{f"own/{name}": value for name, value in weights(trainer).items()}}


@pytest.mark.parametrize("later", [1, 3])
def test_a_checkpoint_of_two_workers_is_gone_on_with_by_any_number(later: int, tmp_path: Path) -> None:
    whole = to_numpy(train_until(str(tmp_path / "whole"), 12))
    on_workers(2, train_until, str(tmp_path / "parts"), 7)
    final = to_numpy(on_workers(later, train_until, str(tmp_path / "parts"), 12)[0])
    assert furthest(whole, final)[0] < 2e-4, furthest(whole, final)
