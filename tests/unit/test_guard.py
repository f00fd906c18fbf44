"""The guard against negative transfer: fair windows, the right winner, and plain words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stmp.data.panel import DateLike, Panel
from stmp.errors import ConfigError
from stmp.evaluation.guard import ADAPTED, FROZEN, NAIVE, SCRATCH, Comparison, compare
from stmp.evaluation.metrics import SUMS
from stmp.forecast import Forecast
from stmp.forecaster import Forecaster
from stmp.learning.train import train
from tests.training import small_config, small_panel

UNTIL = "2022-05-01"


@pytest.fixture(scope="module")
def model() -> Forecaster:
    torch.set_num_threads(1)
    return train(small_panel(), small_config("train.max_steps=2"), until=UNTIL)


class Shifted:
    """A model whose forecasts are too high by a factor."""

    def __init__(self, model: Forecaster, factor: float, seen: list[Panel]) -> None:
        self.model, self.factor, self.seen = model, factor, seen
        self.horizon, self.config = model.horizon, model.config

    def predict(self, panel: Panel, origin: DateLike, horizon: int) -> Forecast:
        self.seen.append(panel)
        forecast = self.model.predict(panel, origin, horizon)
        return replace(forecast, mean=forecast.mean * self.factor, quantiles=forecast.quantiles * self.factor)


def test_the_best_of_the_last_weeks_before_the_end_wins(model: Forecaster) -> None:
    panel, seen = small_panel(), list[Panel]()
    rivals = {ADAPTED: Shifted(model, 3.0, seen), FROZEN: Shifted(model, 0.7, seen), SCRATCH: Shifted(model, 5.0, seen)}
    found = compare(rivals, panel, until=UNTIL, periods=28)  # type: ignore[arg-type]
    assert found.horizon == 7
    assert found.origins == ("2022-04-03", "2022-04-10", "2022-04-17", "2022-04-24")
    assert max(p.last_observed for p in seen) == np.datetime64("2022-04-24"), "nothing after an origin is read"
    by_hand = {name: found.error(name) for name in (ADAPTED, FROZEN, SCRATCH, NAIVE)}
    assert found.winner == min(by_hand, key=lambda name: by_hand[name]) != ADAPTED
    assert by_hand[FROZEN] < by_hand[ADAPTED] < by_hand[SCRATCH]
    end = panel.index_of(UNTIL)
    naive = (panel.sales[:, end - 27 : end + 1, 0] - panel.sales[:, end - 34 : end - 6, 0])[
        panel.observed[:, end - 27 : end + 1, 0] & panel.observed[:, end - 34 : end - 6, 0]
    ]
    assert by_hand[NAIVE] == pytest.approx(float((naive**2).mean()), rel=0.1)


def comparison(**mse: float) -> Comparison:
    """Four regions with a point each."""
    sums = {}
    for name, value in mse.items():
        table = np.zeros((4, len(SUMS)))
        table[:, SUMS.index("n")] = 1
        table[:, SUMS.index("squared")] = np.array([0.5, 0.9, 1.1, 1.5]) * value
        sums[name.replace("_", " ")] = table
    return Comparison(sums, ("2022-04-03",), 7)


def test_words_say_what_won_and_by_how_much() -> None:
    helped = comparison(adapted=9.0, from_scratch=12.0, source_as_it_is=10.0, seasonal_naive=20.0)
    assert helped.winner == ADAPTED
    assert "Transfer helped" in helped.verdict() and "10.0%" in helped.verdict() and FROZEN in helped.verdict()
    assert helped.gain(ADAPTED, SCRATCH) == (pytest.approx(0.25), pytest.approx(0, abs=1e-9))
    unclear = comparison(adapted=9.99, from_scratch=12.0, source_as_it_is=10.0, seasonal_naive=20.0)
    noisy = replace(unclear, sums=unclear.sums | {FROZEN: unclear.sums[FROZEN][::-1]})
    assert "no clear difference" in noisy.verdict() and noisy.winner == ADAPTED
    hurt = comparison(adapted=12.0, from_scratch=10.0, source_as_it_is=14.0, seasonal_naive=20.0)
    assert hurt.winner == SCRATCH
    assert "did not help" in hurt.verdict()
    assert "20.0% above that of a model that learned from scratch" in hurt.verdict()
    kept = comparison(adapted=12.0, from_scratch=14.0, source_as_it_is=10.0, seasonal_naive=20.0)
    assert kept.winner == FROZEN and "Fine-tuning did not help" in kept.verdict()
    lost = comparison(adapted=12.0, from_scratch=11.0, source_as_it_is=14.0, seasonal_naive=9.0)
    assert lost.winner == NAIVE and "until there is more history" in lost.verdict()


def test_a_last_day_on_which_all_are_closed_is_left_out(model: Forecaster) -> None:
    panel = small_panel()
    end = panel.index_of(UNTIL)
    observed = panel.observed.clone()
    observed[:, end] = False
    found = compare({ADAPTED: model}, replace(panel, observed=observed), until=UNTIL, periods=7)
    assert (found.horizon, found.origins) == (6, ("2022-04-24",))


def test_without_validation_days_there_is_nothing_to_compare(model: Forecaster) -> None:
    with pytest.raises(ConfigError, match=r"validation\.periods"):
        compare({ADAPTED: model}, small_panel(), until=UNTIL, periods=0)
