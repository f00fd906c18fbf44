"""What is measured of a source and a target: distances, traits whose truth is known, neighbours and psi."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from stmp.data.panel import Panel
from stmp.errors import DataError
from stmp.learning.distance import energy_test, pairwise
from stmp.learning.similarity import compare, rank, tasks_of
from stmp.learning.train import train
from stmp.learning.traits import FESTIVAL, KNOWN, LEVEL, VOLATILITY, WEEK, describe, matching_end, window_of
from tests.training import small_config, small_panel

WEEKLY = np.array([0.0, -0.1, -0.1, 0.0, 0.1, 0.3, -0.2])


def stores(
    number: int = 12, days: int = 84, *, weekly: np.ndarray = WEEKLY, promo: float = 0.4, festival: float = 0.5,
    level: float = 100.0, noise: float = 0.02, first: str = "2022-01-03", seed: int = 0,
) -> Panel:  # fmt: skip
    """Stores whose traits are given: changes of log sales by weekday, promotion and festival."""
    rng = np.random.default_rng(seed)
    dates = pd.date_range(first, periods=days)
    fair = dates[20::28]
    near = np.isin(np.arange(days), np.concatenate([np.arange(20, days, 28) + o for o in (-2, -1, 0, 1)]))
    frames = []
    for store in range(number):
        on = rng.random(days) < 0.3
        logs = np.log(level) + weekly[dates.weekday] + promo * on + festival * near + noise * rng.standard_normal(days)
        frames.append(pd.DataFrame({"unique_id": f"s{store:02d}", "ds": dates, "y": np.exp(logs), "promo": on * 1.0}))
    events = pd.DataFrame({"date": fair, "event": "fair"})
    return Panel.from_frame(pd.concat(frames), known=["promo"], events=events)


def test_energy_distance_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 3)), rng.normal(0.5, 2.0, size=(7, 3))

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.linalg.norm(p - q) for p in a for q in b]))

    energy = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    assert energy_test(x, y, permutations=9).distance == pytest.approx(energy / (2 * mean(x, y)))
    assert energy_test(100 * x, 100 * y, permutations=9).distance == pytest.approx(energy / (2 * mean(x, y)))


def test_distance_is_none_for_the_same_and_all_for_two_points() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    same = energy_test(x, x)
    assert (same.distance, same.excess, same.p_value) == (pytest.approx(0, abs=1e-12), 0.0, 1.0)
    apart = energy_test(np.zeros((20, 2)), np.ones((20, 2)))
    assert apart.distance == apart.excess == 1.0
    assert apart.p_value == pytest.approx(0.001)
    assert pairwise(x, x).diagonal().max() == 0.0


def test_permutation_test_holds_its_level_and_finds_differences() -> None:
    rng = np.random.default_rng(2)
    by_chance = [
        energy_test(rng.normal(size=(20, 2)), rng.normal(size=(15, 2)), permutations=99, seed=i) for i in range(100)
    ]
    assert np.mean([t.p_value <= 0.1 for t in by_chance]) == pytest.approx(0.1, abs=0.09)
    assert np.mean([t.excess for t in by_chance]) < 0.05
    wider = energy_test(rng.normal(size=(60, 2)), 3 * rng.normal(size=(60, 2)))  # the same means
    assert wider.p_value < 0.01


def test_traits_are_the_ones_that_made_the_sales() -> None:
    found = describe(stores(days=140, noise=0.01))
    assert np.allclose(np.median(found.values[WEEK], axis=0), WEEKLY, atol=0.05)
    assert found.names[KNOWN] == ("promo",)
    assert np.median(found.values[KNOWN]) == pytest.approx(0.4, abs=0.05)
    assert np.median(found.values[FESTIVAL][:, 0]) == pytest.approx(0.5, abs=0.06)
    quiet, loud = (np.median(describe(stores(promo=0, noise=n)).values[VOLATILITY][:, 0]) for n in (0.05, 0.2))
    assert (quiet, loud) == (pytest.approx(0.05, abs=0.02), pytest.approx(0.2, abs=0.04))


def test_traits_but_the_level_do_not_know_the_currency() -> None:
    panel = stores()
    rich = replace(panel, sales=1000 * panel.sales)
    ours, theirs = describe(panel), describe(rich)
    assert np.allclose(theirs.values[LEVEL] - ours.values[LEVEL], np.log(1000), atol=1e-3)
    for kind in (WEEK, KNOWN, FESTIVAL, VOLATILITY):
        assert np.allclose(ours.values[kind], theirs.values[kind], atol=1e-4)


def test_weekdays_on_which_a_store_is_closed_sell_nothing() -> None:
    panel = stores()
    sunday = torch.as_tensor(pd.DatetimeIndex(panel.dates).weekday == 6)
    shut = replace(
        panel,
        sales=panel.sales.masked_fill(sunday[None, :, None], 0.0),
        observed=panel.observed & ~sunday[None, :, None],
        closed=sunday.expand(panel.shape[0], -1).clone(),
    )
    assert (describe(shut).values[WEEK][:, 6] < -1.5).all()


@pytest.mark.parametrize(
    ("target", "end"),
    [
        ("2024-03-05", "2023-03-07"),  # 364 days before
        ("2020-03-05", "2023-03-02"),  # three after: the latest there is
        ("2022-06-01", "2022-06-01"),
    ],
)
def test_windows_lie_at_the_same_time_of_year(target: str, end: str) -> None:
    source = stores(2, 600, first="2021-10-01")
    found = matching_end(source, np.datetime64(target), 56)
    assert str(found) == end
    window = window_of(source, found, 56)
    assert (str(window.dates[-1]), len(window.dates)) == (end, 56)


def test_without_that_season_the_last_days_are_compared() -> None:
    source = stores(2, 100, first="2021-10-01")  # until 2022-01-08
    assert str(matching_end(source, np.datetime64("2022-12-01"), 90)) == "2022-01-08"


def test_what_was_made_different_is_found_different_and_nothing_else() -> None:
    same = compare("same", stores(seed=1), stores(seed=2))
    assert min(t.p_value for t in same.traits.values() if t is not None) > 0.01
    other = compare("other", stores(seed=1), stores(seed=2, weekly=-WEEKLY, level=300.0))
    assert other.traits[WEEK].p_value < 0.01
    assert other.traits[LEVEL].p_value < 0.01
    assert other.traits[KNOWN].p_value > 0.01
    assert other.traits[KNOWN].rows == (12, 12)
    assert other.traits["static"] is None
    assert other.distance > same.distance
    assert [s.source for s in rank([other, same])] == ["same", "other"]


def test_nearest_regions_are_the_ones_that_are_alike() -> None:
    mixed, target = (_two_kinds(seed) for seed in (1, 2))
    found = compare("mixed", mixed, target).regions
    own = [r[0] for r in found["region"]]
    assert all({n[0] for n in near} == {kind} for kind, near in zip(own, found["nearest"], strict=True))
    assert len(found["nearest"][0]) == 3


def _two_kinds(seed: int) -> Panel:
    parts = [stores(5, seed=10 * seed + i, weekly=w) for i, w in enumerate((WEEKLY, -WEEKLY))]
    parts = [
        replace(p, regions=np.asarray([f"{n}{r}" for r in p.regions], dtype=object))
        for n, p in zip("ab", parts, strict=True)
    ]
    joined = {name: torch.cat([getattr(p, name) for p in parts]) for name in
              ("calendar_index", "sales", "observed", "closed", "past", "known", "static")}  # fmt: skip
    return replace(parts[0], regions=np.concatenate([p.regions for p in parts]), **joined)


def test_daily_and_weekly_cannot_be_compared() -> None:
    days = pd.date_range("2022-01-03", periods=60, freq="7D")
    weekly = Panel.from_frame(pd.concat(pd.DataFrame({"unique_id": u, "ds": days, "y": 5.0}) for u in "ab"))
    with pytest.raises(DataError, match="frequency D and the target of W"):
        compare("daily", stores(), weekly)


def test_target_without_sales_is_refused() -> None:
    panel = stores()
    with pytest.raises(DataError, match="no observed sales"):
        compare("a", panel, replace(panel, observed=torch.zeros_like(panel.observed)))


@pytest.fixture(scope="module")
def trained() -> Any:
    return train(small_panel(), small_config("train.max_steps=60"), until="2022-03-01")


def test_psi_of_the_same_city_is_the_same_and_without_days_everywhere_alike(trained: Any) -> None:
    panel = small_panel().window(0, 300)
    tasks = tasks_of(trained, panel)
    assert tasks.vectors.shape == (14, 3, 8)
    assert (tasks.vectors[:, :, 4:] > 0).all()  # deviations
    seen = panel.observed[..., 0]
    weekends = panel.day_type == panel.calendar.day_types.index("weekend")
    assert (tasks.days[:, panel.calendar.day_types.index("weekend")] > 0).all()
    none = replace(panel, observed=panel.observed & ~weekends[..., None])
    blind = tasks_of(trained, none).vectors[:, panel.calendar.day_types.index("weekend")]
    assert np.allclose(blind, blind[0], atol=1e-5)
    assert seen.any()
