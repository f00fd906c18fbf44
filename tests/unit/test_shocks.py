"""Shocks of validation count as far as they are usual, against plain loops and what a Christmas would do."""

from __future__ import annotations

import torch
from torch import Tensor

from stmp.learning.conformal import count_ratios, fit_conformal
from stmp.learning.shocks import FAR, USUAL, excess_shocks, half_width, shock_sums

LEVELS = (0.1, 0.5, 0.9)
REGIONS, DAYS = 200, 28


def errors(shock: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Quantiles of a unit normal, sales of regions that err alike by `shock` and apart by 1, and what is observed."""
    generator = torch.Generator().manual_seed(seed)
    quantiles = torch.special.ndtri(torch.tensor(LEVELS)).expand(REGIONS, DAYS, 1, 3)
    together = shock * torch.randn(1, DAYS, 1, generator=generator)
    truth = together + torch.randn(REGIONS, DAYS, 1, generator=generator)
    return quantiles, truth, torch.rand(truth.shape, generator=generator) > 0.1


def factor(shock: float, usual: float) -> float:
    """How far the upper end is stretched after a validation with shocks of one size and a year with another."""
    quantiles, truth, observed = errors(shock, seed=0)
    before = torch.cat([shock_sums(*errors(usual, seed), middle=1) for seed in (1, 2, 3)])
    excess = excess_shocks(shock_sums(quantiles, truth, observed, middle=1), before)
    rest = truth - excess.float()[:, None] * half_width(quantiles)
    counts = count_ratios(quantiles, rest, observed, torch.zeros(REGIONS, DAYS, dtype=torch.int64), 1, LEVELS)
    return fit_conformal(counts, LEVELS).factors[0][-1]


def test_sums_are_those_of_a_loop_over_days() -> None:
    quantiles, truth, observed = errors(0.5, seed=0)
    truth[0, 0] = 1000.0
    sums = shock_sums(quantiles, truth, observed, middle=1)
    half = float(quantiles[0, 0, 0, 2] - quantiles[0, 0, 0, 0]) / 2
    for day in range(DAYS):
        seen = [float(truth[r, day, 0]) / half for r in range(REGIONS) if observed[r, day, 0]]
        expected = sum(min(max(error, -FAR), FAR) for error in seen)
        assert abs(float(sums[day, 0]) - expected) < 1e-3
        assert sums[day, 1] == len(seen)


def test_a_stretch_without_its_like_widens_ranges_no_further_than_usual_shocks_do() -> None:
    assert factor(shock=3.0, usual=3.0) > 2.2  # where the year was like it, it counts in full
    tamed, like_usual = factor(shock=3.0, usual=0.5), factor(shock=USUAL * 0.5, usual=0.5)
    assert abs(tamed - like_usual) < 0.15
    assert tamed < 1.4


def test_shocks_of_a_usual_size_are_left_alone() -> None:
    few, many = (shock_sums(*errors(size, seed=0), middle=1) for size in (0.5, 0.6))
    assert not excess_shocks(many, few).any()
    assert not excess_shocks(few, torch.zeros(5, 2)).any()  # nothing is known of the year before


def test_days_without_sales_have_no_shock() -> None:
    quantiles, truth, observed = errors(3.0, seed=0)
    observed[:, 5] = False
    sums = shock_sums(quantiles, truth, observed, middle=1)
    excess = excess_shocks(sums, shock_sums(*errors(0.1, seed=1), middle=1))
    assert excess[5] == 0 and excess.isfinite().all() and excess.abs().max() > 1
