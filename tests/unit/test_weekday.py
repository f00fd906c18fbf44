"""What one weekday sells more than another, against plain loops, and what it makes of a festival of a date."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from stmp.config import Config
from stmp.data.calendar import ANY_EVENT, DayRule
from stmp.data.counterpart import NEAR
from stmp.data.episodes import Episode, full_episode
from stmp.data.features import History
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.data.weekday import AROUND, SHARE, weekday_step
from stmp.learning.season import season
from stmp.learning.validation import history_of
from stmp.nets.first_guess import last_year

pytestmark = pytest.mark.unit

DAYS = pd.date_range("2022-01-03", periods=2 * 364)
FESTIVALS = ("2022-10-06", "2023-10-06")  # a Thursday, and a Friday
ORIGIN = 630


def shop(sales: np.ndarray, promo: np.ndarray | None = None, shut: np.ndarray | None = None) -> Panel:
    columns = {"unique_id": "r", "ds": DAYS, "y": sales, "promo": np.zeros(len(DAYS)) if promo is None else promo}
    columns["shut"] = (np.zeros(len(DAYS)) if shut is None else shut).astype(int)
    events = pd.DataFrame({"date": FESTIVALS, "event": "festival"})
    rules = (DayRule("festival", event=ANY_EVENT, before=3, after=3),)
    return Panel.from_frame(pd.DataFrame(columns), known=["promo"], closed="shut", events=events, rules=rules)


def asked(panel: Panel) -> tuple[History, Episode]:
    config = Config.from_mapping({"model": {"hidden": 8, "transform": "linear"}}).resolve(1, ORIGIN)
    history = history_of(panel, Schema.fit(panel, ORIGIN), config)
    return history, full_episode(panel, ORIGIN, 28, 2000, torch.zeros(1, 1, config.model.psi_size))


def test_it_is_the_mean_over_pairs_of_the_weeks_around_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    panel = shop(rng.lognormal(3, 0.4, len(DAYS)), (rng.random(len(DAYS)) < 0.3) * 1.0, DAYS.weekday == 6)
    history, episode = asked(panel)
    rows = history.rows(episode.region, episode.start)
    day = episode.target - rows.lag[0, episode.target[0]]
    found = weekday_step(history, rows, episode, day)[0, :, 0]
    assert found.count_nonzero() >= 3
    week = DAYS.weekday.to_numpy()
    promo, shut = panel.known[0, :, 0].numpy(), panel.closed[0].numpy()
    for q, target in enumerate(episode.target[0].tolist()):
        origin = int(day[0, q])
        steps = [d for d in range(-3, 4) if week[origin + d] == week[target]]
        pairs = []
        for w in (*range(-AROUND, 0), *range(1, AROUND + 1)):
            one, other = origin + 7 * w, origin + 7 * w + steps[0]
            close = [panel.calendar.event[0, t] > 0 and abs(panel.calendar.offset[0, t]) <= NEAR for t in (one, other)]
            if steps[0] and not any(close) and not shut[[one, other]].any() and promo[one] == promo[other]:
                pairs.append(float((panel.sales[0, other, 0] - panel.sales[0, one, 0]) / rows.level[0, origin, 0]))
        assert float(found[q]) == pytest.approx(SHARE * np.mean(pairs) if pairs else 0.0, abs=1e-5)


def test_a_festival_that_nobody_keeps_is_read_between_the_two_weekdays() -> None:
    weekday = np.array([100.0, 90, 80, 70, 140, 200, 10])
    panel = shop(weekday[DAYS.weekday])
    history, episode = asked(panel)
    rows = history.rows(episode.region, episode.start)
    at = panel.index_of(FESTIVALS[1]) - ORIGIN - 1
    expected = history.scale(torch.tensor(70.0 + SHARE * 70.0), rows.level[0, ORIGIN + 1, 0])
    assert float(season(history, rows, episode).own[0, at, 0]) == pytest.approx(float(expected), abs=0.02)


def test_a_festival_that_is_kept_is_read_on_its_date() -> None:
    sales = np.full(len(DAYS), 100.0)
    sales[[panel_day for panel_day, date in enumerate(DAYS) if str(date.date()) in FESTIVALS]] = 500.0
    panel = shop(sales)
    history, episode = asked(panel)
    rows = history.rows(episode.region, episode.start)
    at = panel.index_of(FESTIVALS[1]) - ORIGIN - 1
    for counterparts, told in ((True, 500.0), (False, 100.0)):
        readings, _ = last_year(history, rows, episode, counterparts=counterparts)
        expected = history.scale(torch.tensor(told), rows.level[0, ORIGIN + 1, 0])
        assert float(readings[0, at, 1, 0]) == pytest.approx(float(expected), abs=1e-3)


def test_nothing_after_the_origin_is_read() -> None:
    panel = shop(np.random.default_rng(1).lognormal(3, 0.4, len(DAYS)))
    history, episode = asked(panel)
    changed = replace(panel, sales=panel.sales.clone())
    changed.sales[:, ORIGIN + 1 :] = 7.0
    again = history_of(
        changed, history.schema, Config.from_mapping({"model": {"transform": "linear"}}).resolve(1, ORIGIN)
    )
    day = episode.target - 1 - torch.arange(28)  # near the origin, so that weeks after it lie around
    steps = [weekday_step(h, h.rows(episode.region, episode.start), episode, day) for h in (history, again)]
    assert bool((steps[0] == steps[1]).all()) and bool((steps[0] != 0).any())
