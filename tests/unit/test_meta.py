"""Meta-training: the same tasks give the same gradients however many workers share them, and what stops a training."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.step import loop_step
from stmp.config import Config
from stmp.data.episodes import Episode, Strata, make_plan
from stmp.errors import DataError, TrainingError
from stmp.learning.checkpoint import LocalCheckpoints
from stmp.learning.meta import MetaTrainer, Shard, run
from stmp.learning.validation import Split
from tests.training import SCENES, failure, furthest, make_trainer, small_config, small_panel, trainer_of, weights


def test_no_worker_does_much_more_than_another() -> None:
    config = small_config("train.batch_regions=48")
    for regions, workers in ((1115, 3), (83, 2), (100_000, 7)):
        strata = Strata.of(regions, config.train)
        owner = strata.owner(np.arange(regions), workers)
        rows = np.bincount(strata.owner(np.unique(owner, return_index=True)[1], workers), minlength=workers)
        assert (rows > 0).all()
        sizes = np.bincount(owner, minlength=workers)
        assert sizes.max() <= 1.35 * sizes.min()


def test_plans_of_neighbouring_seeds_and_steps_share_nothing() -> None:
    config = small_config().resolve(1, 500)
    rows = torch.arange(9)
    first, step, seed = (
        make_plan(*at, 9, rows, config.model, config.train).tensors() for at in ((0, 1), (0, 2), (1, 1))
    )
    for name, numbers in first.items():
        assert float(torch.isclose(numbers, step[name]).float().mean()) < 0.001, name
        assert float(torch.isclose(numbers, seed[name]).float().mean()) < 0.001, name
        assert name == "day_type" or len(numbers.unique(dim=0)) == 9, "no row is another's"


def test_a_row_has_the_same_numbers_whoever_draws_it() -> None:
    config = small_config().resolve(1, 500)
    whole, some = (
        make_plan(3, 5, 9, rows, config.model, config.train).tensors()
        for rows in (torch.arange(9), torch.tensor([2, 7]))
    )
    for name, numbers in whole.items():
        assert torch.equal(numbers if name == "day_type" else numbers[[2, 7]], some[name]), name


@pytest.mark.parametrize(("period_days", "quarter_learned"), [(1, 13 * 7 + 52 * 7 + 28), (7, 13 + 52 + 8)])
def test_last_year_is_read_where_a_quarter_of_training_has_one(period_days: int, quarter_learned: int) -> None:
    enough, too_few = (Config().resolve(period_days, quarter_learned - less) for less in (0, 1))
    assert enough.model.last_year
    assert too_few.model.last_year is False
    means, fewer = enough.model.trend_periods, too_few.model.trend_periods
    assert means is not None and len(means) == 3 and fewer == means[:2]  # a year's mean is learned where last year is
    assert Config.from_mapping({}, ["model.last_year=true"]).resolve(period_days, 60).model.last_year


@pytest.mark.parametrize("period_days", [1, 7])
def test_the_turn_of_the_month_is_told_of_days(period_days: int) -> None:
    assert Config().resolve(period_days, 200).model.turn_of_month == (period_days == 1)


# What is drawn


def many_draws(trainer: MetaTrainer, steps: int = 300) -> list[Episode]:
    return [e for step in range(steps) if (e := trainer.sampler.draw(step)) is not None]


@pytest.mark.parametrize("scene", ["product", "paper", "pooled"])
def test_nothing_of_the_future_is_drawn(scene: str) -> None:
    trainer = trainer_of(**SCENES[scene])
    panel, sampler = trainer.history.panel, trainer.sampler
    for episode in many_draws(trainer, 60):
        valid = episode.query_valid
        assert valid.any()
        horizon = episode.horizon[valid]
        assert horizon.min() >= 1 and horizon.max() <= sampler.horizon
        assert (episode.target[valid] < sampler.last).all()
        observed = panel.observed.any(dim=-1)[episode.region]
        assert observed.gather(1, episode.target)[valid].all()
        assert (episode.origin < episode.end[:, None])[valid].all()
        assert (episode.origin >= episode.start[:, None])[valid].all()
        assert (episode.end <= sampler.last).all()
        taken = episode.support_valid
        assert observed.gather(1, episode.support)[taken].all()
        assert (episode.support < episode.end[:, None])[taken].all()
        assert (episode.support >= episode.start[:, None])[taken].all()
        doubled = [len(set(s[t].tolist())) < int(t.sum()) for s, t in zip(episode.support, taken, strict=True)]
        assert not any(doubled), "a support day is drawn twice"


@pytest.mark.parametrize(("temperature", "power"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_queries_are_balanced_over_day_types(temperature: float, power: float) -> None:
    trainer = trainer_of((f"train.day_type_temperature={temperature}",))
    panel, sampler = trainer.history.panel, trainer.sampler
    assert len(panel.calendar.day_types) == 3
    counts = sampler.day_counts().numpy()
    wanted = (counts / counts.sum()) ** power
    wanted /= wanted.sum()
    for view in ("spatial", "temporal"):
        drawn = np.zeros(3)
        for episode in many_draws(trainer):
            if episode.view == view:
                types = panel.day_type[episode.region].gather(1, episode.target)[episode.query_valid]
                drawn += np.bincount(types.numpy(), minlength=3)
        # A young region may have had no festival yet, and a step that holds one type draws that type alone.
        room = 0.12 if view == "spatial" else 0.06
        assert np.abs(drawn / drawn.sum() - wanted).max() < room, (view, drawn / drawn.sum(), wanted)


def test_a_spatial_step_holds_one_day_type_where_regions_have_it() -> None:
    trainer = trainer_of()
    panel = trainer.history.panel
    held = []
    for episode in many_draws(trainer, 100):
        if episode.view == "spatial":
            types = panel.day_type[episode.region].gather(1, episode.target)[episode.query_valid]
            held.append(float(np.bincount(types.numpy(), minlength=3).max() / len(types)))
    assert np.mean(np.array(held) == 1.0) > 0.8
    assert min(held) > 0.5


def test_the_share_of_cold_rows_is_the_one_asked_for() -> None:
    trainer = trainer_of(("train.cold_fraction=0.5", "train.batch_regions=9"))
    first = trainer.history.panel.observed.any(dim=-1).int().argmax(dim=1)
    cut = torch.cat([(e.start > first[e.region]).float() for e in many_draws(trainer, 100)])
    assert 0.35 < float(cut.mean()) <= 0.55  # a cut that is longer than the history is none


def test_held_out_regions_and_days_are_never_learned_from() -> None:
    panel, config = small_panel(), small_config()
    trainer = make_trainer(panel, config)
    split = Split.of(panel.shape[0], config.validation.regions)
    assert len(split.held_out) == 1
    names = set(panel.regions[split.held_out])
    assert not names & set(trainer.history.panel.regions)
    assert trainer.sampler.last == panel.index_of(panel.last_observed) + 1 - trainer.config.validation.periods
    plan = Shard.plan(panel.shape[0], config, 0, 1)
    assert set(panel.regions[plan[2][plan[3]]]) == names


@pytest.mark.parametrize("field", ["sales", "past"])
def test_held_out_days_do_not_reach_the_gradient(field: str) -> None:
    panel = small_panel()
    begin = make_trainer(panel, small_config()).sampler.last
    values = getattr(panel, field).clone()
    values[:, begin:] = values[:, begin:] * 7 + 3
    found = []
    for part in (panel, replace(panel, **{field: values})):
        trainer = make_trainer(part, small_config())
        for _ in range(3):
            trainer.train_step()
        found.append(weights(trainer))
    assert furthest(*found)[0] == 0


# What stops a training


def test_a_loss_that_is_not_finite_names_step_rank_and_cells() -> None:
    region = int(Split.of(14, 0.1).train[-1])
    name = small_panel().regions[region]
    message = failure(region)
    assert "not finite at step" in message and "rank 0" in message
    assert f"({name}, " in message and "on 202" in message


def test_a_gradient_that_is_not_finite_stops_and_leaves_the_checkpoint_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer, store = trainer_of(("train.checkpoint_every=2",)), LocalCheckpoints(tmp_path, keep=1)
    clip = torch.nn.utils.clip_grad_norm_

    def poisoned(parameters: list[torch.nn.Parameter], norm: float) -> torch.Tensor:
        if trainer.step == 3 and parameters[0].grad is not None:
            parameters[0].grad.fill_(float("nan"))
        return clip(parameters, norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", poisoned)
    with pytest.raises(TrainingError, match="gradient is not finite at step 3"):
        run(trainer, store, lambda *_: None)
    again = trainer_of(("train.checkpoint_every=2",))
    assert again.resume(store) and again.step == 2
    assert all(values.isfinite().all() for values in weights(again).values())


def test_training_stops_when_validation_no_longer_improves(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(("train.patience=2", "train.validate_every=3", "train.max_steps=60"))
    scores = iter([1.0, 0.5, 0.7, 0.6, 0.1])
    monkeypatch.setattr(trainer.validator, "score", lambda *_: {"all": next(scores)})
    run(trainer, None, lambda *_: None)
    assert trainer.step == 12  # best at 6, then two that were worse
    assert trainer.best_scores == {"all": 0.5}


def test_training_stops_at_its_budget_of_time_with_what_it_has(tmp_path: Path) -> None:
    trainer = trainer_of(("train.max_minutes=0.0000001", "train.max_steps=500"))
    store = LocalCheckpoints(tmp_path, keep=1)
    run(trainer, store, lambda *_: None)
    assert trainer.step == 1
    assert trainer.best_scores, "it was validated, although no validation was due"
    again = trainer_of(("train.max_minutes=0.0000001", "train.max_steps=500"))
    run(again, store, lambda *_: None)
    assert again.step == 1, "a restart has no time of its own"


def test_the_best_weights_forecast() -> None:
    trainer = trainer_of(("train.validate_every=2", "train.max_steps=4"))
    run(trainer, None, lambda *_: None)
    assert trainer.best
    assert furthest(trainer.weights(), trainer.best)[0] == 0


def test_without_any_history_the_data_is_refused() -> None:
    panel = small_panel()
    with pytest.raises(DataError, match="Train on more history"):
        make_trainer(replace(panel, observed=torch.zeros_like(panel.observed)), small_config(), until=400)


def test_a_region_without_history_does_no_harm() -> None:
    panel = small_panel()
    observed = panel.observed.clone()
    observed[int(Split.of(14, 0.1).train[0])] = False
    trainer = make_trainer(replace(panel, observed=observed), small_config())
    for _ in range(6):
        trainer.train_step()
    assert all(torch.isfinite(w).all() for w in weights(trainer).values())


# What is told


def test_losses_are_told_by_phase_and_times_by_what_they_went_to() -> None:
    told: dict[int, list[dict[str, Any]]] = {}
    trainer = trainer_of(("train.max_steps=8", "train.log_every=4"))
    run(trainer, None, lambda step, rows: told.update({step: rows}))
    assert sorted(told) == [4, 8]
    names = {(row["phase"], row["name"]) for row in told[4]}
    assert {("spatial", "loss"), ("temporal", "loss"), ("time", "draw"), ("time", "learn"),
            ("time", "reduce"), ("time", "update")} <= names  # fmt: skip
    assert {row["name"] for row in told[8] if row["phase"] == "validation"} >= {"all", "seen", "held_out", "weekday"}
    assert all(np.isfinite(row["value"]) for rows in told.values() for row in rows)


def test_training_lowers_the_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    trainer = trainer_of(("train.max_steps=40", "train.log_every=10", "train.learning_rate=0.01"))
    losses: list[float] = []

    def report(step: int, rows: list[dict[str, Any]]) -> None:
        losses.append(np.mean([row["value"] for row in rows if row["name"] == "loss"]).item())

    run(trainer, None, report)
    assert losses[-1] < losses[0]


def test_the_shares_that_drop_out_and_are_hidden_are_those_asked_for() -> None:
    episodes = many_draws(trainer_of(("model.dropout=0.2", "train.hide_last_year=0.6")), 60)
    kept = torch.stack([e.kept.float() for e in episodes if e.kept is not None])
    hidden = torch.stack([e.last_year_hidden.float() for e in episodes if e.last_year_hidden is not None])
    assert len(kept) == len(hidden) == 60
    assert float(kept.mean()) == pytest.approx(0.8, abs=0.01) and float(hidden.mean()) == pytest.approx(0.6, abs=0.03)
    assert float(kept.mean(dim=(0, 1, 2)).std()) < 0.02  # no unit more than another
    (none,) = many_draws(trainer_of(paper=True), 1)
    assert none.kept is None and none.last_year_hidden is None


@pytest.mark.parametrize("scene", ["product", "paper"])
def test_a_step_learns_what_a_loop_over_its_tasks_and_windows_does(scene: str) -> None:
    """The yardstick of benchmarks/step.py: one task after another, each window encoded for itself."""
    looped, ours = trainer_of(**SCENES[scene]), trainer_of(**SCENES[scene])
    loop = loop_step(looped)
    for _ in range(4):
        ours.sums.clear()
        ours.train_step()
        view = ours.sampler.view(ours.step - 1)
        assert loop() == pytest.approx(ours.sums[f"{view}/loss"][0], rel=1e-4)
    assert furthest(weights(looped), weights(ours))[0] < 1e-4
