"""Leaning on last year: what is leaned on, how the rate is found, and that it reaches every forecast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import stmp
from stmp.config import Config
from stmp.data.episodes import full_episode
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.evaluation.leak import assert_no_leak
from stmp.learning.lean import RATES, choose_rate, lean, losses_by_rate, season
from stmp.learning.validation import history_of

pytestmark = pytest.mark.unit

TINY = {"model": {"hidden": 8}, "train": {"max_steps": 20, "warmup": 2, "batch_regions": 8, "queries": 8}}
ORIGIN = 63


def yearly(weeks: int = 80, growth: float = 1.0, grown: int = 52, season: float = 0.6) -> Panel:
    """Twelve regions, each of which has a year of its own, that it repeats; all sell more once they have grown."""
    rng = np.random.default_rng(0)
    shape = rng.lognormal(0, season, (12, 52))
    week = np.arange(weeks)
    sales = 100 * shape[:, week % 52] * np.where(week < grown, 1.0, growth) * rng.lognormal(0, 0.02, (12, weeks))
    dates = pd.date_range("2022-01-02", periods=weeks, freq="7D")
    rows = [(f"r{r:02}", day, sales[r, t]) for r in range(12) for t, day in enumerate(dates)]
    return Panel.from_frame(pd.DataFrame(rows, columns=["unique_id", "ds", "y"]))


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
        model.config, model.schema, model.feature_size, weights, model.provenance, model.conformal, rate
    )


def test_last_years_week_is_leaned_on_with_half_of_the_growth() -> None:
    panel = yearly(weeks=120, growth=1.44)
    config = Config.from_mapping(TINY).resolve(7, 110)
    history = history_of(panel, Schema.fit(panel, 110), config)
    episode = full_episode(panel, 99, 8, 200, torch.zeros(12, 1, config.model.psi_size))
    rows = history.rows(episode.region, episode.start)
    guess, seen = season(history, rows, episode)
    assert bool(seen.all())
    for r in range(12):
        for h in range(8):
            sold = panel.sales[r, 100 + h - 52]
            plain, grown = (history.scale(sold, rows.level[r, origin]) for origin in (100, 48))
            torch.testing.assert_close(guess[r, h], (plain + grown) / 2)
    sparse = panel.sales.clone()
    sparse[0, np.arange(120) % 3 > 0] = 0.0
    rare = history_of(replace(panel, sales=sparse), Schema.fit(panel, 110), config)
    _, seen = season(rare, rare.rows(episode.region, episode.start), episode)
    assert not seen[0].any() and bool(seen[1:].all()), "a single day of a rare series says nothing"
    none = replace(episode, start=torch.full_like(episode.start, 90))
    assert not season(history, history.rows(none.region, none.start), none)[1].any()


def test_quantiles_move_together_further_ahead_by_more_and_only_where_a_last_year_is_seen() -> None:
    quantiles = torch.tensor([[-1.0, 0.0, 2.0]]).expand(2, 2, 1, 3)
    guess, seen = torch.full((2, 2, 1), 4.0), torch.tensor([True, False])[:, None, None].expand(2, 2, 1)
    moved = lean(quantiles, 1, guess, seen, torch.tensor([[1, 3], [1, 3]]), 1 / 3)
    assert moved[0, 0, 0].tolist() == [0.0, 1.0, 3.0]
    assert moved[0, 1, 0].tolist() == [1.0, 2.0, 4.0]
    assert (moved[1] == quantiles[1]).all()
    assert (lean(quantiles, 1, guess, seen, torch.tensor([[1, 3], [1, 3]]), 0.0) == quantiles).all()


def test_losses_against_a_loop_and_the_best_rate_is_chosen(panel: Panel) -> None:
    config = Config.from_mapping(TINY).resolve(7, 60)
    history = history_of(panel, Schema.fit(panel, 60), config)
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 1)
    median = torch.randn(shape, generator=generator)
    guess, level = torch.randn(shape, generator=generator), 1 + torch.rand(shape, generator=generator)
    sales = 3 * torch.rand(shape, generator=generator)
    observed = torch.rand(shape, generator=generator) < 0.8
    seen = torch.rand(shape, generator=generator) < 0.8
    lead = torch.tensor([[1, 2, 9]] * 2)
    found = losses_by_rate(history, median, level, sales, observed, guess, seen, lead)
    for i, rate in enumerate(RATES):
        total = 0.0
        for at in (observed & seen).nonzero().tolist():
            b, q, g = at
            share = rate * lead[b, q] / (1 + rate * lead[b, q])
            moved = median[b, q, g] + share * (guess[b, q, g] - median[b, q, g])
            total += abs(float(sales[b, q, g] - history.unscale(moved, level[b, q, g])))
        assert float(found[i]) == pytest.approx(total, rel=1e-5)
    assert found[-2:].tolist() == [int((observed & seen).sum()), int(observed.sum())]

    losses = torch.arange(len(RATES), 0, -1.0, dtype=torch.float64)
    assert choose_rate(torch.cat([losses, torch.tensor([50.0, 100.0])])) == RATES[-1]
    assert choose_rate(torch.cat([losses.flip(0), torch.tensor([50.0, 100.0])])) == 0.0
    assert choose_rate(torch.cat([losses, torch.tensor([49.0, 100.0])])) == 0.0, "too few have a last year"
    assert choose_rate(torch.zeros(len(RATES) + 2)) == 0.0


def test_what_repeats_each_year_is_leaned_on_and_forecast_better(model: stmp.Forecaster, panel: Panel) -> None:
    assert not model.config.model.last_year and model.lean == RATES[-1]
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
    assert model.lean == 0.0


def test_it_is_kept_with_the_model_and_can_be_asked_for(model: stmp.Forecaster, panel: Panel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    again = stmp.Forecaster.load(tmp_path / "model").with_version("stores/1")
    assert again.lean == model.lean
    asked = Config.from_mapping(TINY, ["validation.lean=0"])
    assert stmp.train(panel, asked, until=panel.dates[ORIGIN]).lean == 0.0


def test_nothing_after_the_origin_is_leaned_on(model: stmp.Forecaster, panel: Panel) -> None:
    assert_no_leak(model, panel, panel.dates[ORIGIN], 12)
