"""L2-SP: the pull towards the source has the minimum that the formula says, and its two ends are exact."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from stmp.data.panel import Panel
from stmp.errors import DataError
from stmp.forecaster import Forecaster
from stmp.learning.meta import MetaTrainer, Shard, run
from stmp.learning.train import train
from stmp.learning.transfer import SourcePenalty, adaptation_config
from stmp.learning.workers import Workers
from stmp.nets.names import GROUPS, group_of
from tests.training import furthest, small_config, small_panel, weights


@pytest.mark.parametrize("strength", [0.0, 0.003, 0.3, 10.0, 1e6, math.inf])
def test_a_linear_model_ends_at_the_closed_form(strength: float) -> None:
    """min over w of  |X w - y|^2 / 2n + lambda |w - s|^2  is at  (X'X / n + 2 lambda I)^-1 (X'y / n + 2 lambda s)."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=draw, dtype=torch.float64)
    y = torch.randn(50, generator=draw, dtype=torch.float64)
    source = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(source)
    penalty = SourcePenalty(model, {"weight": torch.ones(1, 4, dtype=torch.bool)}, {"weight": strength}, 0.1)
    optimizer = torch.optim.AdamW(penalty.groups(), lr=0.05, betas=(0.9, 0.99))
    steps = 800 if strength < math.inf else 3
    for step in range(steps):
        optimizer.zero_grad()
        loss = ((x @ model.weight[0] - y) ** 2).sum() / 100
        if model.weight.requires_grad:
            loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / steps)
        penalty.step(optimizer)
    expected = source
    if strength < math.inf:
        pull = 2 * strength * torch.eye(4, dtype=torch.float64)
        expected = torch.linalg.solve(x.T @ x / 50 + pull, x.T @ y / 50 + 2 * strength * source)
    assert model.weight[0].detach().numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_what_is_new_is_shrunk_by_plain_weight_decay_and_nothing_else_is() -> None:
    model = nn.Linear(2, 1)
    shared = {"weight": torch.tensor([[True, False]]), "bias": torch.tensor([False])}
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 4.0]]))
    before = model.bias.detach().clone()
    penalty = SourcePenalty(model, shared, {"weight": 0.0, "bias": 0.0}, weight_decay=0.5)
    optimizer = torch.optim.AdamW(penalty.groups(), lr=0.1)
    model.weight.grad, model.bias.grad = torch.zeros(1, 2), torch.zeros(1)
    penalty.step(optimizer)
    assert model.weight.tolist() == [[2.0, pytest.approx(4.0 * (1 - 0.1 * 0.5))]]
    assert torch.equal(model.bias, before)


@pytest.fixture(scope="module")
def source() -> Forecaster:
    torch.set_num_threads(1)
    return train(small_panel(), small_config("train.max_steps=8"))


def test_what_the_calendar_tells_follows_the_frequency(source: Forecaster) -> None:
    assert adaptation_config(source, "D").model.turn_of_month
    weeks = adaptation_config(source, "W", ["transfer.reset_periods=true"]).resolve(7, 200).model
    assert weeks.turn_of_month is False


def wider() -> Panel:
    """A target with a covariate that the source does not know."""
    panel = small_panel(seed=2)
    weather = torch.randn(*panel.shape[:2], 1, generator=torch.Generator().manual_seed(0))
    known = torch.cat([weather, panel.known], dim=-1)
    return replace(panel, known=known, known_names=("weather", *panel.known_names))


def adapting(source: Forecaster | None, panel: Panel, config_of: Forecaster, **strengths: float) -> MetaTrainer:
    """A trainer of six steps, with a lambda for each group."""
    settings = [f"transfer.lambda_{group}={strengths.get(group, 0.0)}" for group in GROUPS]
    settings += ["train.max_steps=6", "train.warmup=0", "train.learning_rate=0.002", "train.validate_every=3"]
    config = adaptation_config(config_of, "D", settings).resolve(1, panel.shape[1])
    train_regions, positions, scored, held_out = Shard.plan(panel.shape[0], config, 0, 1)
    shard = Shard(panel.select(train_regions), positions, len(positions), panel.select(scored), held_out)
    until = panel.index_of(panel.last_observed) + 1
    return MetaTrainer(shard, config, seed=0, until=until, workers=Workers(), source=source)


def test_lambda_zero_is_plain_fine_tuning_step_by_step(source: Forecaster) -> None:
    panel = small_panel(seed=2)
    ours, plain = adapting(source, panel, source), adapting(None, panel, source)
    plain.model.load_state_dict(source.model.state_dict())
    plain.optimizer = torch.optim.AdamW(plain.model.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(6):
        ours.train_step()
        plain.train_step()
        assert furthest(weights(ours), weights(plain))[0] == 0, step
    assert furthest(weights(ours), source.model.state_dict())[0] > 1e-3


def test_lambda_infinity_leaves_what_is_shared_bit_for_bit(source: Forecaster) -> None:
    trainer = adapting(source, wider(), source, **dict.fromkeys(GROUPS, math.inf))
    start = weights(trainer)
    assert trainer.penalty is not None
    frozen = {name for name, p in trainer.model.named_parameters() if not p.requires_grad}
    assert {"decoder.2.weight", "head.linear.weight", "amortization.mu.bias", "extractor.ar.weight"} <= frozen
    shared = {name: trainer.penalty.shared.get(p) for name, p in trainer.model.named_parameters()}
    mixed = {name: mask for name, mask in shared.items() if mask is not None}
    assert mixed.keys().isdisjoint(frozen) and mixed
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(mixed)
    run(trainer, None, lambda *_: None)
    assert trainer.step == 6
    for ends in (weights(trainer), trainer.average, trainer.weights()):
        assert all(torch.equal(ends[name], start[name]) for name in frozen)
        assert all(torch.equal(ends[name][mask], start[name][mask]) for name, mask in mixed.items())
    moved = [name for name, mask in mixed.items() if not torch.equal(weights(trainer)[name][~mask], start[name][~mask])]
    assert moved == list(mixed), "what is new learns"


def test_with_nothing_new_infinity_has_nothing_to_train(source: Forecaster) -> None:
    reports = []
    trainer = adapting(source, small_panel(seed=2), source, **dict.fromkeys(GROUPS, math.inf))
    run(trainer, None, lambda step, rows: reports.append((step, {row["name"] for row in rows})))
    assert trainer.step == 0
    assert furthest(weights(trainer), source.model.state_dict())[0] == 0
    assert reports[0][0] == 0 and {"all", "seen"} <= reports[0][1], "the source as it is has a score"
    assert trainer.conformal.factors != tuple((1.0,) * 9 for _ in range(3)), "and its quantiles are calibrated anew"


def test_each_group_has_its_own_lambda(source: Forecaster) -> None:
    for held in GROUPS:
        trainer = adapting(source, small_panel(seed=2), source, **{held: math.inf})
        trainer.train_step()
        theirs = source.model.state_dict()
        still = {group_of(n) for n, p in weights(trainer).items() if torch.equal(p, theirs[n])}
        moved = {group_of(n) for n, p in weights(trainer).items() if not torch.equal(p, theirs[n])}
        assert held in still and moved == set(GROUPS) - {held}


def test_a_larger_lambda_stays_nearer(source: Forecaster) -> None:
    theirs = source.model.state_dict()
    distances = []
    for strength in (0.0, 1e-3, 1e-1, 10.0, 1e5):
        trainer = adapting(source, wider(), source, **dict.fromkeys(GROUPS, strength))
        for _ in range(6):
            trainer.train_step()
        own = weights(trainer)
        same = [name for name in own if own[name].shape == theirs[name].shape]
        distances.append(sum(float(((own[name] - theirs[name]) ** 2).sum()) for name in same))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6 * distances[0]


def test_a_target_without_sales_is_refused(source: Forecaster) -> None:
    panel = small_panel(seed=2)
    empty = replace(panel, observed=torch.zeros_like(panel.observed))
    with pytest.raises(DataError, match="no observed sales"):
        train(empty, adaptation_config(source, "D"), source=source)
    config = adaptation_config(source, "D", ["validation.periods=28"])
    late = replace(panel, observed=panel.observed & (torch.arange(panel.shape[1]) > 520)[None, :, None])
    with pytest.raises(DataError, match="before validation"):
        train(late, config, source=source)


def test_the_adapted_model_says_where_it_comes_from(source: Forecaster, tmp_path: object) -> None:
    named = source.with_version("city/3")
    config = adaptation_config(named, "D", ["train.max_steps=2"])
    adapted = train(small_panel(seed=2), config, source=named)
    assert adapted.provenance.source == "city/3"
    adapted.save(f"{tmp_path}/model")
    assert Forecaster.load(f"{tmp_path}/model").provenance.source == "city/3"
    assert train(small_panel(seed=2), small_config("train.max_steps=1")).provenance.source == ""
