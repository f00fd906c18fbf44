"""What was sold on the days of last year: which these are, and what they would sell with this year's covariates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import stmp
from stmp.config import Config
from stmp.data.calendar import ANY_EVENT, DayRule
from stmp.data.episodes import Episode, full_episode
from stmp.data.features import History, Rows
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.learning.lean import OLDER, Leaning
from stmp.learning.season import season, season_now, with_covariates_of_last_year
from stmp.learning.validation import history_of
from stmp.nets.ensemble import make_network
from tests.seasons import TINY, yearly

pytestmark = pytest.mark.unit


def asked(panel: Panel, until: int, origin: int, horizon: int = 8) -> tuple[History, Episode, Rows]:
    """What a season is made of, for forecasts of all regions from an origin."""
    config = Config.from_mapping(TINY).resolve(panel.period_days, until)
    history = history_of(panel, Schema.fit(panel, until), config)
    episode = full_episode(panel, origin, horizon, 2000, torch.zeros(panel.shape[0], 1, config.model.psi_size))
    return history, episode, history.rows(episode.region, episode.start)


def test_last_years_week_is_leaned_on_with_half_of_the_growth() -> None:
    panel = yearly(weeks=120, growth=1.44)
    history, episode, rows = asked(panel, until=110, origin=99)
    then = season(history, rows, episode)
    guess = then.guess(0.6, 0.0)
    assert bool(then.seen.all()) and not then.group_seen.any(), "no group index is given"
    assert not then.festival.any()
    for r in range(12):
        for h in range(8):
            sold = panel.sales[r, 100 + h - 52]
            plain, grown = (history.scale(sold, rows.level[r, origin]) for origin in (100, 48))
            torch.testing.assert_close(guess[r, h], (plain + grown) / 2)
    sparse = panel.sales.clone()
    sparse[0, np.arange(120) % 3 > 0] = 0.0
    rare, _, rare_rows = asked(replace(panel, sales=sparse), until=110, origin=99)
    seen = season(rare, rare_rows, episode).seen
    assert not seen[0].any() and bool(seen[1:].all()), "a single day of a rare series says nothing"
    none = replace(episode, start=torch.full_like(episode.start, 90))
    assert not season(history, history.rows(none.region, none.start), none).seen.any()


def test_the_year_before_last_has_a_share() -> None:
    """As that year would have foretold the next one: over the level of a year ago."""
    panel = yearly(weeks=140, growth=1.44)
    history, episode, rows = asked(panel, until=130, origin=119)
    then = season(history, rows, episode)
    assert bool(then.older_seen.all())
    guess = then.guess(1.0, OLDER)
    for r in range(12):
        for h in range(8):
            last, before = panel.sales[r, 120 + h - 52], panel.sales[r, 120 + h - 104]
            own = (history.scale(last, rows.level[r, 120]) + history.scale(last, rows.level[r, 68])) / 2
            older = history.scale(before, rows.level[r, 68])
            torch.testing.assert_close(guess[r, h], (1 - OLDER) * own + OLDER * older)
    torch.testing.assert_close(then.guess(1.0, 0.0), then.own)
    young = replace(episode, start=torch.full_like(episode.start, 40))
    assert not season(history, history.rows(young.region, young.start), young).older_seen.any()


def test_days_close_to_a_festival_lean_on_that_festival() -> None:
    days = pd.date_range("2021-01-01", periods=3 * 364)
    fairs = pd.DataFrame({"date": ["2021-06-12", "2022-06-25", "2023-06-10"], "event": "fair"})
    sales = pd.DataFrame({"unique_id": "r", "ds": days, "y": np.arange(3 * 364) % 50 + 20.0, "promo": 0.0})
    sales.loc[::9, "promo"] = 1.0
    sales.loc[sales["ds"].isin(pd.to_datetime(["2022-06-23", "2022-06-26", "2023-06-11"])), "promo"] = 1.0
    around = sales["ds"].isin(pd.to_datetime(["2022-06-24", "2022-06-25", "2023-06-08", "2023-06-09", "2023-06-10"]))
    sales.loc[around, "promo"] = 0.0
    rules = (DayRule("festival", event=ANY_EVENT, before=4, after=1),)
    panel = Panel.from_frame(sales, known=["promo"], events=fairs, rules=rules)
    first, second, third = (panel.index_of(date) for date in fairs["date"])
    history, episode, rows = asked(panel, until=1000, origin=third - 10, horizon=14)
    then = season(history, rows, episode)
    # Two days before there was a promotion last year, on the day before and the festival none, on the day after both.
    assert then.festival[0].tolist() == [False] * 8 + [True] * 3 + [False] * 3
    plain, grown = (history.scale(panel.sales[0, second], rows.level[0, third - 9 - back]) for back in (0, 364))
    torch.testing.assert_close(then.own[0, 9], (plain + grown) / 2)
    torch.testing.assert_close(then.older[0, 9], history.scale(panel.sales[0, first], rows.level[0, third - 9 - 364]))


def with_promotions(weeks: int = 120) -> Panel:
    """A promotion sells three times as much, and falls into other weeks each year."""
    panel = yearly(weeks=weeks, season=0.3)
    promo = torch.from_numpy(np.random.default_rng(1).random((12, weeks)) < 0.4).float()
    return replace(
        panel, sales=panel.sales * (1 + 2 * promo[..., None]), known=promo[..., None], known_names=("promo",)
    )


def test_covariates_of_last_year_take_the_place_of_the_targets_own() -> None:
    panel = with_promotions()
    panel.closed[3, 50] = True
    history, episode, rows = asked(panel, until=110, origin=99)
    covariates = history.known_columns.start
    found, kept = with_covariates_of_last_year(history, rows, episode).features, rows.features
    torch.testing.assert_close(found[:, :100], kept[:, :100], rtol=0, atol=0)
    torch.testing.assert_close(found[..., :covariates], kept[..., :covariates], rtol=0, atol=0)
    for r in range(12):
        for t in range(100, 108):
            then = t if (r, t - 52) == (3, 50) else t - 52  # nobody sells on a closed day, whatever it has ahead
            torch.testing.assert_close(found[r, t, covariates:], kept[r, then, covariates:], rtol=0, atol=0)
    assert (found[:, 100:108] != kept[:, 100:108]).any()
    history, episode, rows = asked(panel, until=50, origin=39)
    unchanged = with_covariates_of_last_year(history, rows, episode).features
    torch.testing.assert_close(unchanged, rows.features, rtol=0, atol=0)


def test_last_year_is_moved_by_what_the_network_says_the_covariates_are_worth() -> None:
    panel = with_promotions()
    history, episode, rows = asked(panel, until=110, origin=99)
    config = Config.from_mapping(TINY).resolve(7, 110)
    levels = config.model.levels
    torch.manual_seed(0)
    network = make_network(config.model, history.schema, history.feature_size)
    network.eval()

    def median(of: Panel) -> torch.Tensor:
        other = history_of(of, history.schema, config)
        values = network(other, episode, other.rows(episode.region, episode.start)).values
        return network.head.quantiles(values, levels)[..., levels.index(0.5)]

    known = panel.known.clone()
    known[:, 101:108] = known[:, 49:56]  # the last day known looks at the first target
    with torch.no_grad():
        now, then = median(panel), median(replace(panel, known=known))
        moved = season_now(network, history, rows, episode, now, levels)
        fair = replace(rows, event=torch.ones_like(rows.event))
        festivals = season_now(network, history, fair, episode, now, levels)
    plain, inner = season(history, rows, episode), slice(2, -1)  # the others have a neighbour that stays
    assert (now - then)[:, inner].abs().max() > 0
    for name in ("own", "older", "group"):
        by = getattr(moved, name) - getattr(plain, name)
        torch.testing.assert_close(by[:, inner], (now - then)[:, inner])
    kept = festivals.festival  # days with other promotions are no festivals to lean on
    assert 0 < int(kept.sum()) < kept.numel()
    by = festivals.own - season(history, fair, episode).own
    assert not by[kept].any() and bool((by[~kept] != 0).any()) and bool((moved.own - plain.own)[kept].any())


@pytest.fixture(scope="module")
def model() -> stmp.Forecaster:
    """A model that knows what a promotion is worth, and leans on last year."""
    torch.set_num_threads(1)
    panel = with_promotions()
    settings = ["train.max_steps=400", "validation.lean=1", "validation.own_share=1"]
    return stmp.train(panel, Config.from_mapping(TINY, settings), until=panel.dates[99])


def test_promotions_of_other_weeks_are_not_looked_for_where_they_were(
    model: stmp.Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = with_promotions()
    actual = panel.sales[:, 100:108].numpy()
    errors = [np.abs(model.predict(panel, panel.dates[99], 8).quantiles[..., 4] - actual).sum()]
    monkeypatch.setattr(
        "stmp.forecaster.season_now", lambda _, history, rows, episode, *__: season(history, rows, episode)
    )
    errors.append(np.abs(model.predict(panel, panel.dates[99], 8).quantiles[..., 4] - actual).sum())
    assert errors[0] < 0.5 * errors[1]


def test_leaning_takes_nothing_from_what_a_promotion_is_worth(model: stmp.Forecaster) -> None:
    panel = with_promotions()
    more = replace(panel, known=panel.known.clone())
    more.known[:, 103] = 1 - more.known[:, 103]
    weights = model.model.state_dict()
    alone = stmp.Forecaster(
        model.config, model.schema, model.feature_size, weights, model.provenance, model.conformal, Leaning()
    )
    history, _, rows = asked(panel, until=110, origin=99)
    effects = []
    for forecaster in (model, alone):
        before, after = (
            torch.from_numpy(forecaster.predict(of, panel.dates[99], 8).quantiles[:, 3, :, 4]) for of in (panel, more)
        )
        level = rows.level[:, 100]
        effects.append(history.scale(after, level) - history.scale(before, level))
    assert effects[0].abs().min() > 0.1
    torch.testing.assert_close(effects[0], effects[1], rtol=1e-3, atol=1e-4)
