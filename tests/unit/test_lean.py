"""Leaning on last year: what is leaned on, how the rate is found, and that it reaches every forecast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch

import stmp
from stmp.config import Config, ValidationConfig
from stmp.data.group_index import GroupIndex
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.evaluation.leak import assert_no_leak
from stmp.learning.lean import (
    CHANCE,
    RATES,
    SHARES,
    Leaning,
    choose,
    lean,
    season_losses,
    ways_to_lean,
)
from stmp.learning.season import Season
from stmp.learning.validation import history_of
from tests.seasons import TINY, yearly

pytestmark = pytest.mark.unit

ORIGIN = 63


@pytest.fixture(scope="module")
def panel() -> Panel:
    return yearly()


@pytest.fixture(scope="module")
def model(panel: Panel) -> stmp.Forecaster:
    """A model of 64 weeks, which has learned next to nothing."""
    torch.set_num_threads(1)
    return stmp.train(panel, Config.from_mapping(TINY), until=panel.dates[ORIGIN])


def with_lean(model: stmp.Forecaster, rate: float) -> stmp.Forecaster:
    weights = model.model.state_dict()
    return stmp.Forecaster(
        model.config, model.schema, model.feature_size, weights, model.provenance, model.conformal, Leaning(rate)
    )


def of_own(own: torch.Tensor, seen: torch.Tensor, festival: torch.Tensor) -> Season:
    return Season(own, seen, own, torch.zeros_like(seen), own, torch.zeros_like(seen), festival)


LEVELS = (0.1, 0.5, 0.9)


def test_the_median_moves_further_ahead_by_more_and_only_where_a_last_year_is_seen() -> None:
    quantiles = torch.tensor([[-1.0, 0.0, 2.0]]).expand(2, 2, 1, 3)
    seen = torch.tensor([True, False])[:, None, None].expand(2, 2, 1)
    then, lead = of_own(torch.full((2, 2, 1), 4.0), seen, torch.zeros(2, 2).bool()), torch.tensor([[1, 3], [1, 3]])
    moved = lean(quantiles, LEVELS, then, lead, Leaning(1 / 3))
    assert moved[0, :, 0, 1].tolist() == [1.0, 2.0]
    torch.testing.assert_close(moved[1], quantiles[1])
    torch.testing.assert_close(lean(quantiles, LEVELS, then, lead, Leaning()), quantiles)
    festival = replace(then, festival=torch.tensor([[True, False], [True, False]]))
    moved = lean(quantiles, LEVELS, festival, lead, Leaning(festivals=0.5))
    weight = 0.5 / (1 + (1.5 / CHANCE) ** 2)  # ranges are 1.5 to each side
    assert moved[0, 0, 0, 1] == pytest.approx(weight * 4.0)
    torch.testing.assert_close(moved[:, 1], quantiles[:, 1])
    torch.testing.assert_close(moved[1], quantiles[1])
    narrow = quantiles * CHANCE / 1.5
    assert lean(narrow, LEVELS, festival, lead, Leaning(festivals=0.5))[0, 0, 0, 1] == pytest.approx(1.0)
    assert lean(narrow, LEVELS, festival, lead, Leaning(2.0, festivals=0.5))[0, 0, 0, 1] == pytest.approx(8 / 3), (
        "the larger"
    )


def test_ranges_have_the_variance_of_the_mix_of_both() -> None:
    """Against draws of the mix: from either of two normal distributions, some way from each other."""
    normal, levels, distance = NormalDist(0.0, 0.5), (0.05, 0.5, 0.95), 0.8
    quantiles = torch.tensor([normal.inv_cdf(level) for level in levels]).view(1, 1, 1, 3)
    then = of_own(torch.full((1, 1, 1), distance), torch.ones(1, 1, 1).bool(), torch.zeros(1, 1).bool())
    low, middle, high = lean(quantiles, levels, then, torch.tensor([[1]]), Leaning(0.25))[0, 0, 0].tolist()  # a fifth
    rng = np.random.default_rng(0)
    drawn = rng.normal(0.0, 0.5, 400_000) + distance * (rng.random(400_000) < 0.2)
    assert middle == pytest.approx(drawn.mean(), abs=0.005)
    assert (high - low) / 2 / NormalDist().inv_cdf(0.95) == pytest.approx(drawn.std(), rel=0.005)
    skewed = quantiles * torch.tensor([1.0, 1.0, 2.0])
    low, middle, high = lean(skewed, levels, then, torch.tensor([[1]]), Leaning(0.25))[0, 0, 0].tolist()
    assert (high - middle) / (middle - low) == pytest.approx(2.0), "the shape stays"
    flat = lean(torch.zeros(1, 1, 1, 3), levels, then, torch.tensor([[1]]), Leaning(0.25))
    assert flat[0, 0, 0].tolist() == pytest.approx([0.16] * 3), "no range to widen"


def test_losses_against_a_loop(panel: Panel) -> None:
    config = Config.from_mapping(TINY).resolve(7, 60)
    history = history_of(panel, Schema.fit(panel, 60), config)
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 1)
    median = torch.randn(shape, generator=generator)
    level = 1 + torch.rand(shape, generator=generator)
    sales = 3 * torch.rand(shape, generator=generator)
    observed = torch.rand(shape, generator=generator) < 0.8
    own, group = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    own_seen, group_seen = (torch.rand(shape, generator=generator) < 0.6 for _ in range(2))
    lead = torch.tensor([[1, 2, 9]] * 2)
    then = replace(of_own(own, own_seen, torch.zeros(2, 3).bool()), group=group, group_seen=group_seen)
    choices = [Leaning(rate, share) for rate in RATES for share in SHARES]
    found = season_losses(history, median, level, sales, observed, then, lead, choices)
    expected = torch.zeros(len(choices), 3, dtype=torch.float64)
    for k, (rate, share) in enumerate((rate, share) for rate in RATES for share in SHARES):
        for b, q, g in (observed & (own_seen | group_seen)).nonzero().tolist():
            guess = share * own[b, q, g] + (1 - share) * group[b, q, g]
            if not (own_seen[b, q, g] and group_seen[b, q, g]):
                guess = own[b, q, g] if own_seen[b, q, g] else group[b, q, g]
            weight = rate * lead[b, q] / (1 + rate * lead[b, q])
            moved = median[b, q, g] + weight * (guess - median[b, q, g])
            expected[k, q] += abs(float(sales[b, q, g] - history.unscale(moved, level[b, q, g])))
    torch.testing.assert_close(found[:-2], expected, rtol=1e-5, atol=1e-8)
    assert torch.equal(found[-2].long(), (observed & (own_seen | group_seen)).sum(dim=(0, 2)))
    assert torch.equal(found[-1].long(), observed.sum(dim=(0, 2)))


def test_the_best_is_chosen_if_it_is_better_by_more_than_chance() -> None:
    choices = [Leaning(rate) for rate in RATES]
    counts = torch.tensor([[50.0], [100.0]]).expand(2, 4)

    def chosen(losses: torch.Tensor, counts: torch.Tensor = counts) -> Leaning:
        return choose(torch.cat([losses, counts]).double(), choices)

    losses = torch.arange(len(choices), 0, -1.0)[:, None] * torch.tensor([1.0, 2.0, 1.0, 3.0])
    assert chosen(losses) == choices[-1]
    assert chosen(losses.roll(-1, dims=0)) == choices[-2]
    assert chosen(losses, counts * torch.tensor([[0.98], [1.0]])) == choices[0], "too few have a last year"
    assert chosen(torch.zeros(len(choices), 4)) == choices[0]
    gains = torch.tensor([1.0, 1.0, 1.0, -1.2])  # 0.45 on average, give or take 0.55
    uncertain = torch.full((len(choices), 4), 9.0)
    uncertain[3] -= gains
    assert chosen(uncertain) == choices[0], "one period could have turned it"
    uncertain[3, 3] = 9.0  # 0.75, give or take 0.25
    assert chosen(uncertain) == choices[3]
    untold = torch.cat([uncertain, torch.full((len(choices), 8), 0.0)], dim=1)
    none = torch.cat([counts, torch.zeros(2, 8)], dim=1)
    assert chosen(untold, none) == choices[3], "periods of which nothing is told are none"
    assert chosen(losses[:, :1], counts[:, :1]) == choices[0], "a single period"


def test_what_can_be_chosen_is_what_was_not_asked_for() -> None:
    group = GroupIndex(np.datetime64("2022-01-01"), 7, torch.ones(3, 1), torch.ones(4, 1))
    found = ways_to_lean(ValidationConfig(), group)
    assert found[0] == Leaning(group=group, festivals=0.4), "the least: on a festival's own last year"
    assert {(one.rate, one.share) for one in found[1:]} == {(rate, share) for rate in RATES[1:] for share in SHARES}
    assert ways_to_lean(ValidationConfig(lean=0, lean_festivals=0), group) == [Leaning(group=group)] and not Leaning()
    assert ways_to_lean(ValidationConfig(lean=0.1, own_share=0.3), group) == [Leaning(0.1, 0.3, group, 0.4)]


def test_what_repeats_each_year_is_leaned_on_and_forecast_better(model: stmp.Forecaster, panel: Panel) -> None:
    assert not model.config.model.last_year and model.leaning.rate == RATES[-1]
    actual = panel.sales[:, ORIGIN + 1 : ORIGIN + 9].numpy()
    errors = [
        np.abs(m.predict(panel, panel.dates[ORIGIN], 8).quantiles[..., 4] - actual).sum()
        for m in (with_lean(model, 0.0), model)
    ]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("head", ["quantile", "normal"])
def test_a_last_year_that_is_wrong_is_not_leaned_on(head: str) -> None:
    """Not even where ranges are too wide yet, so that any guess that is lower would make them cost less."""
    panel = yearly(growth=2.0, grown=30, season=0.0)
    model = stmp.train(
        panel, Config.from_mapping(TINY, [f"model.head={head}", "train.max_steps=120"]), until=panel.dates[ORIGIN]
    )
    assert model.leaning.rate == 0.0


def test_it_is_kept_with_the_model_and_can_be_asked_for(model: stmp.Forecaster, panel: Panel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    again = stmp.Forecaster.load(tmp_path / "model").with_version("stores/1")
    found, kept = again.leaning, model.leaning
    assert (found.rate, found.share) == (kept.rate, kept.share) and found.group is not None and kept.group is not None
    assert found.group.first == kept.group.first
    np.testing.assert_array_equal(found.group.index, kept.group.index)
    np.testing.assert_array_equal(found.group.level, kept.group.level)
    for rate in (0.0, 0.3):
        asked = stmp.train(panel, Config.from_mapping(TINY, [f"validation.lean={rate}"]), until=panel.dates[ORIGIN])
        assert asked.leaning.rate == rate
    alone = stmp.train(panel, Config.from_mapping(TINY, ["validation.own_share=1"]), until=panel.dates[ORIGIN])
    assert alone.leaning == Leaning(RATES[-1], festivals=0.4)


def test_a_model_from_before_leans_on_a_regions_own_last_year(
    model: stmp.Forecaster, panel: Panel, tmp_path: Path
) -> None:
    with_lean(model, 0.25).save(tmp_path / "model")
    file = tmp_path / "model" / "forecaster.json"
    description = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(description | {"lean": 0.25}), encoding="utf-8")
    old = stmp.Forecaster.load(tmp_path / "model")
    assert old.leaning == Leaning(0.25, older=0.0)
    before, after = (m.predict(panel, panel.dates[ORIGIN], 8).mean for m in (with_lean(model, 0.25), old))
    np.testing.assert_array_equal(before, after)


def test_nothing_after_the_origin_is_leaned_on(model: stmp.Forecaster, panel: Panel) -> None:
    assert_no_leak(model, panel, panel.dates[ORIGIN], 12)
