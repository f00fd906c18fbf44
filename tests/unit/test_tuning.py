"""Which lambda is chosen, where it is looked for, and how a target's history is divided."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stmp.config import Config
from stmp.errors import ConfigError, DataError
from stmp.evaluation.metrics import SUMS
from stmp.learning.selection import Candidate, choose
from stmp_platform.files import Folder
from stmp_platform.tuning import space, tune
from stmp_platform.tuning.driver import _at_once, _claim, _plan
from stmp_platform.tuning.trial import Plan
from tests.training import small_config


def candidate(strength: float, squared: np.ndarray, days: float = 10.0) -> Candidate:
    sums = np.zeros((len(squared), len(SUMS)))
    sums[:, SUMS.index("n")], sums[:, SUMS.index("squared")] = days, days * squared
    return Candidate(strength, sums)


def test_of_equal_errors_the_largest_lambda_is_taken() -> None:
    noise = np.random.default_rng(0).gamma(4, 25, 40)
    found = choose([candidate(s, noise) for s in (0.0, 0.01, math.inf, 1.0)])
    assert found.chosen == 2
    assert (found.behind == 0).all() and (found.behind_spread == 0).all()


def test_a_sure_loss_is_not_taken_and_an_unsure_one_is() -> None:
    rng = np.random.default_rng(0)
    best = rng.gamma(4, 25, 40)
    surely_worse = best + 5.0  # in every region, although far below the spread of the regions
    perhaps_worse = best + rng.normal(0.5, 20.0, 40)
    candidates = [candidate(0.0, best), candidate(0.1, perhaps_worse), candidate(math.inf, surely_worse)]
    found = choose(candidates)
    assert found.best in (0, 1)
    assert found.spread[2] > found.behind[2]  # the rule goes by the difference, not by the error's own spread
    assert found.chosen == 1


def test_spread_is_that_of_a_mean_over_regions() -> None:
    values = np.random.default_rng(1).gamma(4, 25, 200)
    found = choose([candidate(0.0, values), candidate(1.0, values + 50)])
    assert found.spread[0] == pytest.approx(values.std() / math.sqrt(200), rel=0.15)
    assert candidate(0.0, values).error == pytest.approx(values.mean())


def test_one_region_tells_nothing_of_the_spread_and_the_best_is_taken() -> None:
    found = choose([candidate(0.0, np.array([2.0])), candidate(math.inf, np.array([3.0]))])
    assert (found.best, found.chosen) == (0, 0)


def test_ends_of_the_scale_are_zero_and_infinity() -> None:
    assert space.lambda_of(space.LOWEST) == 0.0
    assert math.isinf(space.lambda_of(space.HIGHEST))
    assert space.lambda_of(-2.0) == pytest.approx(0.01)
    assert [space.is_end({space.PLACE: p}) for p in (space.LOWEST, -2.0, space.HIGHEST)] == [True, False, True]


def test_settings_of_a_trial_are_a_configuration() -> None:
    values = {space.PLACE: -2.0, space.FROZEN: "extractor", space.RATE: 1e-3}
    config = Config.from_mapping({}, space.overrides(values))
    assert math.isinf(config.transfer.lambda_extractor)
    assert config.transfer.lambda_head == config.transfer.lambda_amortization == pytest.approx(0.01)
    assert config.train.learning_rate == 1e-3
    frozen = Config.from_mapping({}, space.overrides({space.PLACE: space.HIGHEST}))
    assert math.isinf(frozen.transfer.lambda_head)


def test_zero_and_infinity_come_first_and_the_others_lie_between() -> None:
    search = space.searcher((space.RATE, space.FROZEN), 5e-4, seed=1)
    asked = [search.suggest(f"t{i}") for i in range(12)]
    assert [space.lambda_of(values[space.PLACE]) for values in asked[:2]] == [0.0, math.inf]
    assert asked[0][space.RATE] == 5e-4 and asked[0][space.FROZEN] == "none"
    between = np.array([values[space.PLACE] for values in asked[2:]])
    assert ((between > space.LOWEST) & (between < space.HIGHEST)).all()
    assert np.ptp(between) > 1.5
    again = space.searcher((space.RATE, space.FROZEN), 5e-4, seed=1)
    assert [again.suggest(f"t{i}") for i in range(12)] == asked


def test_trials_that_are_ends_or_that_have_ended_are_never_stopped() -> None:
    asha = space.scheduler(40)

    class Trial:
        trial_id = "x"
        runner = None

    trial: Any = Trial()
    asha.on_trial_add(None, trial)
    assert asha.on_trial_result(None, trial, {space.STEP: 40}) == "CONTINUE"
    assert asha.on_trial_result(None, trial, {space.STEP: 40, space.ERROR: 1.0}) == "CONTINUE"
    assert asha.on_trial_result(None, trial, {space.STEP: 40, space.VALIDATION: 1.0}) == "CONTINUE"


class Target:
    """The part of a manifest that a plan reads: daily data since 2022-01-01."""

    frequency, first_date, last_sales_date = "D", "2022-01-01", "2022-02-26"


def plan_until(until: str | None) -> Plan:
    target: Any = Target()
    return _plan(target, small_config(), "data", "out", (), 0, until, 0, False, 1)


@pytest.mark.parametrize(
    ("until", "learn_until", "windows"),
    [
        (None, "2022-02-12", 14),  # 57 days: two weeks
        ("2022-01-28", "2022-01-21", 7),
    ],
)
def test_validation_windows_are_the_last_days_before_the_test(
    until: str | None, learn_until: str, windows: int
) -> None:
    plan = plan_until(until)
    assert (plan.until, plan.learn_until, plan.windows) == (until or "2022-02-26", learn_until, windows)


def test_too_short_a_history_is_refused() -> None:
    with pytest.raises(DataError, match="27 periods until 2022-01-27; tuning needs 28"):
        plan_until("2022-01-27")


def test_a_folder_with_another_tuning_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    _claim(folder, {"trials": 4, "seed": 0})
    _claim(folder, {"trials": 4, "seed": 0})
    with pytest.raises(ConfigError, match="trials was 4, now 8"):
        _claim(folder, {"trials": 8, "seed": 0})


@pytest.mark.parametrize(
    "bad",
    [
        {"trials": 1},
        {"cpus": 0.0},
        {"workers": -1},
        {"beside": ("momentum",)},
        {"beside": ("learning_rate",), "overrides": ("train.learning_rate=0.1",)},
    ],
)
def test_bad_arguments_are_refused_before_anything_is_read(bad: dict[str, Any], tmp_path: Path) -> None:
    nobody: Any = None
    with pytest.raises(ConfigError, match="learning_rate"):
        tune(nobody, "nowhere", out=str(tmp_path / "out"), track=False, **bad)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "at_once"),
    [(0, 1.0, 0.0, 8), (0, 0.5, 0.0, 16), (0, 0.5, 0.25, 8), (0, 2.0, 1.0, 2), (2, 1.0, 0.0, 4), (2, 1.0, 1.0, 1)],
)
def test_trials_are_packed_by_fractions_of_cores_and_gpus(
    workers: int, cpus: float, gpus: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    assert _at_once(workers, cpus, gpus) == at_once
    with pytest.raises(ConfigError, match="Ask for less: --gpus"):
        _at_once(0, 1.0, 2.5)
