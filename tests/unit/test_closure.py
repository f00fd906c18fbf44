"""Closures written as zeros: which runs of zeros they are, and that they leave no trace once they have ended."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stmp.data.closure import IN_SEASON, SURE, UNLIKELY, closures
from stmp.data.features import Rows
from stmp.data.group_index import GroupIndex
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.learning.validation import history_of
from tests.training import small_config, small_panel

pytestmark = pytest.mark.unit

SHUT, OPEN, ORIGIN = 300, 360, 460


def with_zeros(panel: Panel, region: int = 3, until: int = OPEN) -> Panel:
    """The panel with a region that sold nothing for a while."""
    sales, observed = panel.sales.clone(), panel.observed.clone()
    sales[region, SHUT:until], observed[region, SHUT:until] = 0.0, True
    return replace(panel, sales=sales, observed=observed)


def left_out(panel: Panel, region: int = 3) -> Panel:
    """The same with nothing told of those days."""
    observed = panel.observed.clone()
    observed[region, SHUT:OPEN] = False
    return replace(panel, observed=observed)


def unknown(sales: Tensor) -> Tensor:
    """A group index that says nothing."""
    return torch.full_like(sales, torch.nan)


def by_loops(sales: np.ndarray, observed: np.ndarray, known: int, index: np.ndarray) -> np.ndarray:
    """The closures of a single series, day by day."""
    closed, run = np.zeros(len(sales), bool), []
    days = sold = 0
    for t in range(known):
        if not observed[t]:
            continue
        if sales[t] <= 0:
            run.append(t)
            continue
        if sold:
            share = min(sold / (days + 1), SURE)  # of the days up to the last sale
            closed[run] = (1 - share) ** len(run) < UNLIKELY
            days += len(run)
        else:
            days = len(run)
        days, sold, run = days + 1, sold + 1, []
    return closed & ~(index < IN_SEASON)


def test_closures_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    shares = np.repeat([1.0, 0.9, 0.6, 0.3, 0.05], 8)
    sales = rng.random((40, 400, 1)) * (rng.random((40, 400, 1)) < shares[:, None, None])
    for row in range(40):
        shut = rng.integers(5, 380)
        sales[row, shut : shut + rng.integers(3, 120)] = 0.0
    observed = rng.random((40, 400, 1)) < 0.95
    index = np.where(rng.random((40, 400, 1)) < 0.2, np.nan, rng.lognormal(0, 0.5, (40, 400, 1)))
    for known in (400, 250):
        tensors = [torch.from_numpy(part) for part in (sales, observed, index)]
        found = closures(tensors[0], tensors[1], torch.full((40,), known), tensors[2])
        expected = np.stack([by_loops(sales[r, :, 0], observed[r, :, 0], known, index[r, :, 0]) for r in range(40)])
        assert expected.any(axis=1).sum() > 5, "some are found"
        np.testing.assert_array_equal(found[..., 0].numpy(), expected)


@pytest.mark.parametrize(
    ("every", "zeros", "closed"), [(1, 5, False), (1, 6, True), (2, 15, False), (2, 20, True), (10, 60, False)]
)
def test_the_rarer_a_series_sells_the_longer_is_a_closure(every: int, zeros: int, closed: bool) -> None:
    steady = (torch.arange(400) % every == 0).float()
    sales = torch.cat([steady, torch.zeros(zeros), torch.ones(1)])[None, :, None]
    found = closures(sales, torch.ones_like(sales).bool(), torch.tensor([400 + zeros + 1]), unknown(sales))
    assert bool(found[0, 400 : 400 + zeros].all()) == closed and not found[0, : 400 - every].any()


def test_nobody_knows_of_a_closure_before_it_has_ended() -> None:
    sales = torch.ones(1, 100, 1)
    sales[:, 40:70] = 0.0
    observed, nothing = torch.ones_like(sales).bool(), unknown(sales)
    assert not closures(sales, observed, torch.tensor([70]), nothing).any()
    found = closures(sales, observed, torch.tensor([71]), nothing)
    assert found[0, :, 0].nonzero()[:, 0].tolist() == list(range(40, 70))
    sales[:, 70:] = 0.0
    assert not closures(sales, observed, torch.tensor([100]), nothing).any(), "what sells no more is not closed"


def test_what_nobody_sells_is_out_of_season() -> None:
    ones = torch.ones(3, 100, 1)
    for regions, closed in ((1, True), (3, False)):
        sales = ones.clone()
        sales[:regions, 40:70] = 0.0
        group = (sales.sum(dim=0) / 3).expand_as(sales)
        assert bool(closures(sales, ones.bool(), torch.full((3,), 100), group).any()) == closed


def read(panel: Panel, known: int) -> Rows:
    """What a forecast after a few days reads of a panel, beside how all regions went."""
    config = small_config().resolve(1, ORIGIN + 1)
    group = GroupIndex.fit(small_panel(), ORIGIN, 28, lambda total, _: total)
    history = history_of(panel, Schema.fit(small_panel(), ORIGIN), config, group)
    every = torch.arange(panel.shape[0])
    return history.rows(every, torch.zeros_like(every), torch.full_like(every, known))


def assert_same(ours: Rows, expected: Rows, until: int) -> None:
    """All but the sales themselves, which are not read where they were not observed."""
    for field in fields(Rows):
        left, right = getattr(ours, field.name), getattr(expected, field.name)
        if isinstance(left, Tensor) and field.name not in ("sales", "static"):
            torch.testing.assert_close(left[:, :until], right[:, :until], equal_nan=True, msg=field.name)


def test_a_shop_that_opened_again_is_read_as_if_those_days_had_been_left_out() -> None:
    zeros, without = (read(panel, ORIGIN + 1) for panel in (with_zeros(small_panel()), left_out(small_panel())))
    assert_same(zeros, without, ORIGIN + 1)
    assert not zeros.observed[3, SHUT:OPEN].any()


def test_nothing_of_the_past_tells_that_a_shop_will_open_again() -> None:
    """Validation and training hold what was sold after their origins; `predict` cuts it off before."""
    shut, opened = (with_zeros(small_panel(), until=until) for until in (small_panel().shape[1], OPEN))
    assert_same(read(shut, OPEN), read(opened, OPEN), OPEN)
    assert read(opened, OPEN).observed[3, SHUT:OPEN].all()
