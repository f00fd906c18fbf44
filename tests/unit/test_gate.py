"""The gate's rules: each is broken by its own fault alone, and the statistics behind them do what they say."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stmp.errors import ConfigError
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import SameFestivalLastYear, SeasonalNaive
from stmp.evaluation.calibration import Reliability
from stmp.evaluation.paired import compare, difference
from stmp_platform.gate.champions import Move, effective, lineage
from stmp_platform.gate.checks import judge
from stmp_platform.gate.evidence import CHALLENGER, Evidence, Judged, windows
from stmp_platform.gate.report import write_report
from stmp_platform.gate.rules import Rules, SliceRule
from stmp_platform.gate.trial import Cost
from tests.gating import LEVELS, candidate, differing, evidence, sums
from tests.training import small_panel


def broken(found: Evidence, rules: Rules | None = None) -> list[str]:
    return [check.rule for check in judge(found, rules or Rules()) if check.passed is False]


def slices(**changed: Any) -> dict[str, Any]:
    return {**evidence().slices, **changed}


def reliability(below: float, days: float = 100.0) -> dict[str, Reliability]:
    counts = np.array([[10.0, below, 90]]) * days / 100
    return {CHALLENGER: Reliability(("weekday",), LEVELS, np.array([days]), counts, np.zeros((1, 3)))}


def test_a_better_model_passes() -> None:
    checks = judge(evidence(), Rules())
    assert all(check.passed for check in checks)
    assert len({check.rule for check in checks}) == len(checks)


@pytest.mark.parametrize(
    ("changed", "rules"),
    [
        ({"today": date(2025, 1, 1)}, ["data.max_age_days"]),
        ({"data": Judged("stores", "f00d", "cafe", "2024-09-30", "D", ("sales",))}, ["data.fingerprint"]),
        ({"challenger": candidate("stores/2", fingerprint="")}, ["data.fingerprint"]),
        ({"challenger": candidate("stores/2", recorded="cafe")}, ["data.fingerprint"]),
        ({"challenger": candidate("stores/2", horizon=7)}, ["serving.horizon"]),
        ({"challenger": candidate("stores/2", levels=(0.1, 0.5))}, ["serving.levels"]),
        ({"champion": candidate("stores/1", series=("sales", "returns"))}, ["serving.series"]),
        ({"challenger": candidate("stores/2", inputs=frozenset({"promo", "price"}))}, ["serving.new_inputs"]),
        ({"origins": ("2024-09-16",)}, ["windows.least"]),
        ({"trial_error": "challenger: raised", "slices": {}}, ["forecasts.complete"]),
        ({"faults": {"not finite": 1, "negative": 0}}, ["forecasts.finite"]),
        ({"faults": {"not finite": 0, "negative": 2}}, ["forecasts.non_negative"]),
        ({"slices": slices(all=differing(-0.1, 0.2))}, ["overall.better_by"]),  # better, but who knows
        ({"slices": slices(all=differing(0.0))}, ["overall.better_by"]),
        ({"slices": slices(festival=differing(0.04, 0.02))}, ["slices.festival"]),  # its estimate is within
        ({"slices": slices(festival=differing(-0.5, points=3))}, ["slices.festival"]),  # too few to tell, and required
        ({"slices": slices(cold=differing(0.3))}, ["slices.cold"]),
        ({"groups": {"north": differing(0.11)}}, ["groups.north"]),
        ({"reliability": reliability(65)}, ["calibration.tolerance"]),
        ({"reliability": reliability(75)}, ["calibration.tolerance", "calibration.by_day_type.weekday"]),
        ({"overall": {CHALLENGER: {"wape": 1.2, "bias": 0.0}}}, ["limits.wape"]),
        ({"overall": {CHALLENGER: {"wape": 0.2, "bias": -0.3}}}, ["limits.bias"]),
        ({"cost": Cost(1500.0, 100.0)}, ["budget.latency_ms"]),
        ({"cost": Cost(15.0, 4000.0)}, ["budget.memory_mb"]),
    ],
)
def test_each_fault_breaks_its_own_rule(changed: dict[str, Any], rules: list[str]) -> None:
    assert broken(evidence(**changed)) == rules


@pytest.mark.parametrize(
    "changed",
    [
        {"slices": slices(weekend=differing(0.5, points=3))},
        {"slices": {k: v for k, v in slices().items() if k != "cold"}},  # every region was seen in training
        {"reliability": reliability(90, days=5)},
        {"cost": Cost(20.0, None)},
        {"overall": {CHALLENGER: {"wape": None, "bias": None}}},
    ],
)
def test_what_cannot_be_told_does_not_refuse(changed: dict[str, Any]) -> None:
    checks = judge(evidence(**changed), Rules())
    assert [check for check in checks if check.passed is None]
    assert not [check for check in checks if check.passed is False]


def test_the_first_champion_needs_no_champion() -> None:
    assert broken(evidence(champion=None)) == []
    assert "serving.levels" in broken(evidence(champion=None, challenger=candidate("stores/1", levels=(0.5,))))
    assert "serving.series" in broken(evidence(champion=None, challenger=candidate("stores/1", series=("other",))))


def test_a_broken_rule_tells_by_how_much() -> None:
    (check,) = [c for c in judge(evidence(slices=slices(cold=differing(0.3))), Rules()) if c.passed is False]
    assert check.broken_by == pytest.approx(0.25)
    (check,) = [c for c in judge(evidence(origins=()), Rules()) if c.passed is False]
    assert (check.value, check.limit, check.sense, check.broken_by) == (0, 2, "at least", 2)


# The file of rules


def rules_of(tmp_path: Path, text: str) -> Rules:
    (tmp_path / "rules.yaml").write_text(text)
    return Rules.load(tmp_path / "rules.yaml")


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, "slices: {festival: {worse_by: 0.01}, cold: null}\ntest: {metric: wape}\n")
    assert rules.slices["festival"] == SliceRule(worse_by=0.01, required=True)
    assert rules.slices["cold"] is None
    assert rules.slices["weekday"] == Rules().slices["weekday"]
    assert rules.test.metric == "wape"
    assert "slices.cold" not in [check.rule for check in judge(evidence(), rules)]
    assert rules_of(tmp_path, "") == Rules() == Rules.load(None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("overall: {better: 1}", "overall.better: Extra inputs"),
        ("test: {confidence: 2}", "test.confidence: Input should be less than 1"),
        ("slices: {festival: {worse_by: little}}", "slices.festival.worse_by"),
        ("- 1", "must hold sections"),
        ("a: [", "cannot be read"),
    ],
)
def test_unusable_rules_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rules_of(tmp_path, text)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Rules.load(tmp_path / "none.yaml")


# The paired test


def test_equal_models_differ_by_exactly_nothing() -> None:
    errors = np.random.default_rng(0).random((1, 4, 9))
    pair = sums(np.concatenate([errors, errors]), np.ones((2, 4, 9)))
    found = difference(pair, "wape", draws=200)
    assert (found.relative, found.low, found.high, found.points) == (0.0, 0.0, 0.0, 36)


def test_a_constant_ratio_is_certain_however_errors_vary() -> None:
    """What makes it a paired test: both models' errors rise and fall with the day, and their ratio does not."""
    errors = np.random.default_rng(0).lognormal(0, 2, (1, 4, 9))
    found = difference(sums(np.concatenate([0.9 * errors, errors]), np.ones((2, 4, 9))), "wape", draws=200)
    assert [found.relative, found.low, found.high] == pytest.approx([-0.1] * 3)


def test_points_that_one_model_did_not_forecast_do_not_count() -> None:
    pair = sums(np.ones((2, 3, 5)), np.ones((2, 3, 5)))
    pair[0, :, 2] = 0  # this model has no forecast of one region
    assert difference(pair, "wape", draws=100).points == 12
    nothing = difference(0 * pair, "wape", draws=100)
    assert nothing.points == 0
    assert np.isnan([nothing.relative, nothing.low, nothing.high]).all()


def test_the_bound_keeps_its_promise_where_regions_and_windows_share_their_luck() -> None:
    """Two models that are equally good: the bound may say that the one is better in a tenth of cases, no more."""
    rng = np.random.default_rng(0)
    wrong, naive = 0, 0
    runs, windows, regions = 300, 8, 20
    for run in range(runs):
        luck = 0.2 * rng.standard_normal((windows, 1)) + 0.2 * rng.standard_normal((1, regions))
        errors = 1 + np.stack([luck, np.zeros_like(luck)]) + 0.1 * rng.standard_normal((2, windows, regions))
        pair = sums(errors, np.ones_like(errors))
        wrong += difference(pair, "wape", draws=200, seed=run, confidence=0.9).high < 0
        alone = pair.reshape(2, 1, windows * regions, -1)  # as if every day's luck were its own
        naive += difference(alone, "wape", draws=200, seed=run, confidence=0.9).high < 0
    assert 0.02 < wrong / runs < 0.16
    assert naive / runs > 0.25


def test_windows_compared_apart_add_up_to_their_backtest() -> None:
    panel = small_panel().until("2022-06-19")
    models = {"a": SeasonalNaive(), "b": SameFestivalLastYear()}
    cold = [str(r) for r in panel.regions[:3]]
    paired = compare(models, panel, ["2022-05-22", "2022-06-05"], 14, cold_histories=(7,), cold_regions=cold)
    whole = backtest(
        models, panel, "2022-05-22", "2022-06-19", 14, cold_histories=(7,), unseen_regions=cold, progress=False
    )
    for name, cells in whole.cells.slices().items():
        expected = np.stack([whole.totals[m][:, cells].sum(axis=1) for m in models])
        np.testing.assert_allclose(paired.slices[name].sum(axis=1), expected)
    expected = np.stack([whole.cold[7].totals[m].sum(axis=1) for m in models])
    np.testing.assert_allclose(paired.slices["cold"].sum(axis=1), expected)
    assert paired.slices["cold"].shape[2] == 3
    assert paired.reliability["a"].table() == whole.reliability["a"].table()
    assert set(paired.groups) == {g for g in whole.groups if g.startswith("sales")}


def test_windows_end_with_the_data_and_begin_after_both_trainings() -> None:
    panel = small_panel().until("2022-06-19")
    found = windows(panel, ["2022-05-01", "2022-05-10"], 14, Rules())
    assert [str(origin) for origin in found] == ["2022-05-22", "2022-06-05"]
    assert str(windows(panel, ["2022-05-08"], 14, Rules())[0]) == "2022-05-08"
    assert len(windows(panel, ["2022-01-01"], 14, Rules())) == Rules().windows.most
    assert windows(panel, ["2022-06-10"], 14, Rules()) == []
    assert windows(panel, ["2030-01-01"], 14, Rules()) == []


# The log of champions


def move(number: int, kind: Any, before: str | None, after: str | None) -> Move:
    return Move(kind, before, after, "2024-10-02", "me@here", f"id{number}", number=number)


def test_a_move_counts_only_if_it_replaces_the_champion_of_its_turn() -> None:
    first, second = move(1, "promotion", None, "1"), move(2, "promotion", "1", "2")
    late, again = move(3, "promotion", "1", "3"), move(4, "promotion", "1", "2")
    fourth = move(5, "rollback", "2", "1")
    assert effective([fourth, late, again, second, first]) == [first, second, fourth]


def test_a_rollback_goes_further_back_each_time() -> None:
    moves = [move(1, "promotion", None, "1"), move(2, "promotion", "1", "2"), move(3, "promotion", "2", "3")]
    assert lineage(moves) == ["1", "2"]
    moves.append(move(4, "rollback", "3", "2"))
    assert lineage(moves) == ["1"]
    assert lineage([*moves, move(5, "rollback", "2", "1")]) == []
    assert lineage([*moves, move(5, "promotion", "2", "1")]) == ["1", "2"]
    assert lineage([*moves, move(5, "by hand", "2", "1")]) == []
    assert lineage([*moves, move(5, "by hand", "2", "9")]) == ["1", "2"]
    assert lineage([*moves, move(5, "by hand", "2", None)]) == ["1"]
    assert lineage([*moves, move(5, "by hand", "2", None), move(6, "rollback", None, "1")]) == []


# The report


def test_the_report_names_every_rule_and_loads_nothing(tmp_path: Path) -> None:
    found = evidence(
        challenger=replace(candidate("<b>stores</b>/2"), horizon=7), groups={"north & <south>": differing(0.2)}
    )
    checks = judge(found, Rules())
    content = write_report(found, checks, Rules(), tmp_path, at="2024-10-02T08:00:00+00:00", by="me@here")
    assert content["failed"] == ["serving.horizon", "groups.north & <south>"]
    page = (tmp_path / "gate.html").read_text()
    assert all(check.rule in page for check in checks if "&" not in check.rule)
    assert "north &amp; &lt;south&gt;" in page
    assert "<b>stores" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_report_without_forecasts_can_be_written(tmp_path: Path) -> None:
    found = evidence(trial_error="challenger: raised", slices={}, groups={}, overall={}, reliability={}, cost=None)
    content = write_report(found, judge(found, Rules()), Rules(), tmp_path, at="", by="")
    assert content["failed"] == ["forecasts.complete"]
