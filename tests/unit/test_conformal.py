"""Calibration against what it promises: levels that hold on other days of the same kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from stmp.learning.conformal import LATER, SMALLEST, Conformal, count_ratios, fit_conformal
from stmp.nets.ensemble import Network
from tests.training import trainer_of

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
MIDDLE = 2


def too_narrow(points: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantiles of a unit normal for noise that is three times as wide on days of type 1; [B, H, 1, Q] each."""
    generator = torch.Generator().manual_seed(seed)
    day_type = torch.arange(10).expand(points // 10, -1) % 2
    center = torch.randn(points // 10, 10, 1, generator=generator)
    noise = torch.randn(points // 10, 10, 1, generator=generator) * (1 + 2 * day_type[:, :, None])
    quantiles = center.unsqueeze(-1) + torch.special.ndtri(torch.tensor(LEVELS))
    return quantiles, center + noise, day_type


def coverage(quantiles: torch.Tensor, truth: torch.Tensor, rows: torch.Tensor) -> float:
    inside = (truth >= quantiles[..., 0]) & (truth <= quantiles[..., -1])
    return float(inside[rows].float().mean())


def test_levels_hold_on_other_days() -> None:
    quantiles, truth, day_type = too_narrow(20_000, seed=0)
    observed = torch.ones_like(truth, dtype=torch.bool)
    conformal = fit_conformal(count_ratios(quantiles, truth, observed, day_type, 2, LEVELS), LEVELS)
    quantiles, truth, day_type = too_narrow(20_000, seed=1)
    assert coverage(quantiles, truth, day_type == 1) < 0.4
    calibrated = conformal.apply(quantiles, day_type, MIDDLE)
    for kind in (0, 1):
        assert abs(coverage(calibrated, truth, day_type == kind) - 0.8) < 0.03
    assert torch.equal(calibrated[..., MIDDLE], quantiles[..., MIDDLE])


def test_days_that_all_lie_above_the_median_widen_both_sides() -> None:
    quantiles, truth, day_type = too_narrow(20_000, seed=0)
    observed = torch.ones_like(truth, dtype=torch.bool)
    counts = count_ratios(quantiles, truth + 0.7, observed, day_type, 2, LEVELS)
    for factors in fit_conformal(counts, LEVELS).factors:
        assert factors == factors[::-1]
        assert factors[0] > 1.1


def test_the_unit_variance_of_the_normal_head_gets_the_width_of_its_errors() -> None:
    quantiles, truth, day_type = too_narrow(20_000, seed=0)
    observed = torch.ones_like(truth, dtype=torch.bool)
    center = quantiles[..., MIDDLE]
    truth = center + 0.05 * (truth - center)
    counts = count_ratios(quantiles, truth, observed, day_type, 2, LEVELS)
    held = {
        head: coverage(fit_conformal(counts, LEVELS, head).apply(quantiles, day_type, MIDDLE), truth, day_type >= 0)
        for head in ("normal", "quantile")
    }
    assert abs(held["normal"] - 0.8) < 0.02
    assert held["quantile"] > 0.9, "learned quantiles are never taken for more than twice too wide"


def test_a_level_without_a_mirror_image_holds_too() -> None:
    quantiles, truth, day_type = too_narrow(20_000, seed=0)
    lone, levels = quantiles[..., MIDDLE:], LEVELS[MIDDLE:]
    observed = torch.ones_like(truth, dtype=torch.bool)
    conformal = fit_conformal(count_ratios(lone, truth, observed, day_type, 2, levels), levels)
    above = (truth > conformal.apply(lone, day_type, 0)[..., -1])[day_type == 1]
    assert abs(float(above.float().mean()) - 0.1) < 0.02


def test_order_is_kept_whatever_the_factors() -> None:
    quantiles, _, day_type = too_narrow(100, seed=0)
    uneven = Conformal(((0.6, 3.0, 1.0, 3.0, 0.5), (4.0, 0.5, 1.0, 0.5, 4.0)))
    assert (uneven.apply(quantiles, day_type, MIDDLE).diff(dim=-1) >= 0).all()


def test_without_points_nothing_changes_and_a_rare_type_leans_on_all() -> None:
    nothing = torch.zeros(2, len(LEVELS), 500, dtype=torch.float64)
    assert fit_conformal(nothing, LEVELS) == Conformal.identity(2, len(LEVELS))
    quantiles, truth, day_type = too_narrow(20_000, seed=0)
    observed = (day_type == 0)[:, :, None].expand_as(truth)
    conformal = fit_conformal(count_ratios(quantiles, truth, observed, day_type, 2, LEVELS), LEVELS)
    assert conformal.factors[1] == conformal.factors[0]


def test_counts_of_parts_add_up() -> None:
    quantiles, truth, day_type = too_narrow(400, seed=0)
    observed = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    whole = count_ratios(quantiles, truth, observed, day_type, 2, LEVELS)
    parts = [
        count_ratios(quantiles[half], truth[half], observed[half], day_type[half], 2, LEVELS)
        for half in (slice(0, 20), slice(20, None))
    ]
    assert torch.equal(whole, parts[0] + parts[1])


def test_festivals_to_come_get_wider_ranges_than_other_days() -> None:
    as_counted = Conformal(((0.8, 1.0, 1.2), (0.8, 1.0, 1.2)))
    ordinary, festival = as_counted.for_later(("ordinary", "festival")).factors
    assert all(later > before for later, before in zip(ordinary, as_counted.factors[0], strict=True))
    assert all(wide > usual for wide, usual in zip(festival, ordinary, strict=True))
    ordinary, festival = as_counted.for_later(("ordinary", "festival"), leaning=True).factors
    assert festival == ordinary, "ranges of festivals that lean on last year's tell of themselves"


def test_easy_validation_days_make_ranges_no_narrower_than_the_days_learned_from_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of sales that are all as was forecast: one such month says little of a year."""
    trainer = trainer_of()
    validator, windows, first = trainer.validator, trainer.validator._windows, trainer.validator.first

    def easy(model: Network, begin: int) -> Iterator[Any]:
        for w in windows(model, begin):
            median = w.quantiles[..., trainer.config.model.levels.index(0.5)]
            yield replace(w, sales=w.history.unscale(median, w.level)) if begin == first else w

    monkeypatch.setattr(validator, "_windows", easy)
    _, held = validator.calibrate(trainer.model, trainer.workers)
    monkeypatch.setattr(validator, "_earlier", list)
    _, unheld = validator.calibrate(trainer.model, trainer.workers)
    narrowest = SMALLEST["quantile"] * LATER
    assert min(min(row) for row in unheld.factors) == pytest.approx(narrowest)
    assert all(f > 1.2 * narrowest for row in held.factors for f in (row[0], row[-1]))
    assert held.at_least(unheld) == held
