"""The group index: what all regions sold together, against plain loops, and what a young region gains by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import stmp
from stmp.config import Config
from stmp.data.episodes import full_episode
from stmp.data.group_index import LEAST, GroupIndex
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.learning.season import season
from stmp.learning.validation import history_of

pytestmark = pytest.mark.unit

TINY = {"model": {"hidden": 8}, "train": {"max_steps": 20, "warmup": 2, "batch_regions": 8, "queries": 8}}


def alone(values: Tensor, _: str) -> Tensor:
    return values


def town(weeks: int = 90, regions: int = 12, noise: float = 0.3, young: int = 0) -> Panel:
    """Regions of different sizes, with two series whose years all of them share; the last `young` opened late."""
    rng = np.random.default_rng(1)
    rows = []
    dates = pd.date_range("2022-01-02", periods=weeks, freq="7D")
    seasons = {name: rng.lognormal(0, 0.6, 52) for name in ("bread", "ice")}
    for r in range(regions):
        size = rng.lognormal(4, 1)
        first = weeks - 25 if r >= regions - young else 0
        for name, shape in seasons.items():
            for t in range(first, weeks):
                rows.append((f"r{r:02}", dates[t], name, size * shape[t % 52] * rng.lognormal(0, noise)))
    events = pd.DataFrame({"date": [dates[40], dates[41]], "event": ["fair", "fair"]})
    frame = pd.DataFrame(rows, columns=["unique_id", "ds", "series", "y"])
    return Panel.from_frame(frame, series="series", events=events)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return town(young=3)


@pytest.mark.parametrize("split", [True, False])
def test_it_is_the_share_of_usual_sales_that_was_sold_by_the_regions_observed(panel: Panel, split: bool) -> None:
    sales, observed = panel.sales.clone(), panel.observed.clone()
    sales[0, :5] = 0.0  # the export has zeros before it opened
    observed[1, 30:33, 1] = False
    panel = replace(panel, sales=sales * observed, observed=observed)
    until = 85
    found = GroupIndex.fit(panel.split_series() if split else panel, until, 13, alone)
    assert found.index.shape == (until, 2) and found.level.shape == (until + 1, 2)
    y, seen = panel.sales.double().numpy(), panel.observed.numpy().copy()
    for r in range(12):
        for g in range(2):
            opened = int(np.flatnonzero(y[r, :, g] > 0)[0])
            seen[r, :opened, g] = False
    ordinary = panel.calendar.event[0] == 0
    for g in range(2):
        usual = [y[r, :until, g][seen[r, :until, g]].mean() for r in range(12)]
        index = []
        for t in range(until):
            here = [r for r in range(12) if seen[r, t, g]]
            index.append(sum(y[r, t, g] for r in here) / sum(usual[r] for r in here))
        np.testing.assert_allclose(found.index[:, g], index, rtol=1e-5)
        for t in (1, 20, 45, until):
            days = [k for k in range(max(0, t - 13), t) if ordinary[k]]
            assert float(found.level[t, g]) == pytest.approx(np.mean([index[k] for k in days]), rel=1e-5)
    assert found.level[0].isnan().all()
    assert not ordinary[40], "the fair lies in a window that is checked"


def test_workers_measure_the_index_of_one(panel: Panel) -> None:
    rows = panel.split_series()
    whole = GroupIndex.fit(rows, 85, 13, alone)
    parts = [rows.select(np.arange(a, b)) for a, b in ((0, 7), (7, rows.shape[0]))]
    sums: list[Tensor] = []

    def keep(values: Tensor, _: str) -> Tensor:
        sums.append(values.clone())
        return values

    for part in parts:
        GroupIndex.fit(part, 85, 13, keep)
    together = GroupIndex.fit(parts[0], 85, 13, lambda values, _: sums[0] + sums[1])
    torch.testing.assert_close(together.index, whole.index)
    torch.testing.assert_close(together.level, whole.level, equal_nan=True)


def test_it_is_read_by_date_and_nothing_is_known_beyond_it(panel: Panel) -> None:
    found = GroupIndex.fit(panel, 60, 13, alone)
    later = replace(panel, calendar=replace(panel.calendar, dates=panel.dates + np.timedelta64(70, "D")))
    index, level = found.on(later)
    assert index.shape == (90, 2) and level.shape == (91, 2)
    torch.testing.assert_close(index[:50], found.index[10:])
    torch.testing.assert_close(level[:51], found.level[10:])
    assert index[50:].isnan().all() and level[51:].isnan().all()
    earlier = replace(panel, calendar=replace(panel.calendar, dates=panel.dates - np.timedelta64(70, "D")))
    index, _ = found.on(earlier)
    assert index[:10].isnan().all()
    torch.testing.assert_close(index[10:70], found.index)
    shorter, shorter_level = found.last(20).on(panel)
    assert shorter[:40].isnan().all() and shorter_level[:40].isnan().all()
    torch.testing.assert_close(shorter[40:60], found.index[40:])
    torch.testing.assert_close(shorter_level[40:61], found.level[40:])
    assert found.last(1000).first == found.first and len(found.last(1000).index) == 60


def test_what_nobody_sells_for_a_quarter_has_no_level_near_zero(panel: Panel) -> None:
    sales = panel.sales.clone()
    sales[:, 30:50, 0] = 0.0
    found = GroupIndex.fit(replace(panel, sales=sales), 85, 13, alone)
    assert float(found.level[50, 0]) == pytest.approx(LEAST)
    assert float(found.level[50, 1]) > 0.2


def test_a_region_of_a_few_weeks_is_not_told_how_all_went_on(panel: Panel) -> None:
    """Its level is that of these weeks, and not of a whole level window."""
    config = Config.from_mapping(TINY).resolve(7, 80)
    rows = panel.split_series()
    schema = Schema.fit(rows, 80)
    history = history_of(rows, schema, config, GroupIndex.fit(rows, 80, config.model.level_window, alone))
    opened = panel.shape[1] - 25  # the young
    for origin, told in ((opened + 4, False), (opened + 6, True)):
        episode = full_episode(rows, origin, 4, 200, torch.zeros(rows.shape[0], 1, config.model.psi_size))
        then = season(history, history.rows(episode.region, episode.start), episode)
        assert bool(then.group_seen[:18].all()) and not then.own_seen[18:].any()
        assert bool((then.group_seen[18:] == told).all())


def test_a_region_without_a_last_year_is_forecast_better_by_that_of_the_others(panel: Panel) -> None:
    """And so is one whose own last year holds more chance than season."""
    model = stmp.train(panel, Config.from_mapping(TINY), until=panel.dates[80])
    leaning = model.leaning
    assert leaning.rate > 0 and leaning.share < 1
    weights = model.model.state_dict()
    settings = (model.config, model.schema, model.feature_size, weights, model.provenance, model.conformal)
    own = stmp.Forecaster(*settings, replace(leaning, share=1.0, group=None))
    actual = panel.sales[:, 81:89].numpy()
    error, error_own = (
        np.abs(m.predict(panel, panel.dates[80], 8).quantiles[..., 4] - actual).sum(axis=(1, 2)) for m in (model, own)
    )
    assert error[9:].sum() < 0.8 * error_own[9:].sum(), "the young"
    assert error[:9].sum() < 0.95 * error_own[:9].sum()
    changed = panel.sales.clone()
    changed[:, 81:] *= 3.0
    after = model.predict(replace(panel, sales=changed), panel.dates[80], 8)
    np.testing.assert_array_equal(after.mean, model.predict(panel, panel.dates[80], 8).mean)
