"""Chronos-2 as a baseline: what it is given, what comes of it, and what is said where it cannot be had."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch

from stmp.data.calendar import DayRule
from stmp.data.panel import Panel
from stmp.errors import ConfigError
from stmp.evaluation.baselines import Chronos2, make_baselines
from stmp.evaluation.baselines.base import Rows
from stmp.evaluation.baselines.foundation import tasks_of
from stmp.evaluation.leak import assert_no_leak

DAYS, ORIGIN, HORIZON = 120, 99, 14


def make(regions: int = 3) -> Panel:
    """Promotions known ahead, visitors known later, closed Sundays, a fair, a gap, and a region that opened late."""
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=DAYS)
    frame = pd.concat([pd.DataFrame({"unique_id": f"r{r}", "ds": days}) for r in range(regions)], ignore_index=True)
    frame["promo"] = (rng.random(len(frame)) < 0.3).astype(float)
    frame["y"] = 100 * (1 + frame["promo"]) * rng.lognormal(0, 0.1, len(frame))
    frame["visitors"] = frame["y"] / 2
    frame["shut"] = (frame["ds"].dt.weekday == 6).astype(int)
    frame.loc[(frame["unique_id"] == "r1") & (frame["ds"] < days[60]), "y"] = np.nan
    frame.loc[10, "y"] = np.nan
    events = pd.DataFrame({"date": days[[50, 105]], "event": "Fair"})
    rules = (DayRule("festival", event=("*",), before=2, after=1),)
    return Panel.from_frame(frame, known=["promo"], past=["visitors"], closed="shut", events=events, rules=rules)


def test_a_row_comes_with_its_past_and_what_is_known_of_its_future() -> None:
    panel = make()
    tasks = tasks_of(Rows.of(panel, panel.dates[ORIGIN], HORIZON))
    past, future = {"past visitors", "known promo", "closed", "event"}, {"known promo", "closed", "event"}
    for row, (task, first) in enumerate(zip(tasks, (0, 60, 0), strict=True)):
        assert len(task["target"]) == ORIGIN + 1 - first
        assert set(task["past_covariates"]) == past and set(task["future_covariates"]) == future
        assert {len(values) for values in task["past_covariates"].values()} == {len(task["target"])}
        np.testing.assert_array_equal(task["future_covariates"]["known promo"], panel.known[row, 100:114, 0])
        assert np.flatnonzero(task["future_covariates"]["event"] == "Fair").tolist() == [5]
    sundays = panel.closed[0, : ORIGIN + 1].numpy()
    assert np.flatnonzero(np.isnan(tasks[0]["target"])).tolist() == [10]
    assert (tasks[0]["target"][sundays] == 0).all()
    assert tasks[0]["past_covariates"]["closed"].tolist() == sundays.tolist()
    assert tasks[0]["past_covariates"]["event"][50] == "Fair"


def test_without_library_or_weights_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = make()
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        model = make_baselines(panel, panel.dates[ORIGIN], HORIZON, names=["chronos2"])["chronos2"]
        with pytest.raises(ConfigError, match=r"pip install 'stmp-platform\[foundation\]'"):
            model.predict(panel, panel.dates[ORIGIN], HORIZON)


needs_library = pytest.mark.skipif(
    find_spec("chronos") is None, reason="chronos-forecasting is not installed: pip install 'stmp-platform[foundation]'"
)


@needs_library
def test_missing_weights_are_named_with_how_to_fetch_them(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    panel = make()
    with pytest.raises(ConfigError, match=r"nowhere.*hf download amazon/chronos-2"):
        Chronos2(tmp_path / "nowhere").predict(panel, panel.dates[ORIGIN], HORIZON)


@pytest.fixture
def tiny():
    """Return a Chronos-2 with random weights and the quantiles of the public one."""
    from chronos import Chronos2Pipeline
    from chronos.chronos2 import Chronos2Model
    from chronos.chronos2.config import Chronos2CoreConfig

    torch.manual_seed(0)
    config = Chronos2CoreConfig(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        chronos_config={
            "context_length": 128, "output_patch_size": 8, "input_patch_size": 8, "input_patch_stride": 8,
            "quantiles": [0.01, 0.05, *(round(0.1 * k, 1) for k in range(1, 10)), 0.95, 0.99],
            "use_reg_token": True, "use_arcsinh": True, "max_output_patches": 8, "time_encoding_scale": 128,
        },
    )  # fmt: skip
    return Chronos2Pipeline(Chronos2Model(config).eval())


@needs_library
def test_it_forecasts_every_row_and_reads_what_it_was_given(tiny, tmp_path) -> None:
    panel = make()
    model = Chronos2(pipeline=tiny)
    forecast = model.predict(panel, panel.dates[ORIGIN], HORIZON)
    assert np.isfinite(forecast.quantiles).all() and (forecast.quantiles >= 0).all()
    assert (np.diff(forecast.quantiles, axis=-1) >= 0).all()
    closed = panel.closed[:, 100:114].numpy()
    assert (forecast.mean[closed] == 0).all() and (forecast.mean[~closed] > 0).all()
    assert_no_leak(model, panel, panel.dates[ORIGIN], HORIZON)
    promoted = panel.known.clone()
    promoted[0, 100:114] = 1 - promoted[0, 100:114]
    other = model.predict(replace(panel, known=promoted), panel.dates[ORIGIN], HORIZON)
    open_days = ~closed[0]
    assert (other.quantiles[0] != forecast.quantiles[0]).any(axis=-1)[open_days].all(), "the future promotion is heard"
    np.testing.assert_allclose(other.quantiles[1:], forecast.quantiles[1:], rtol=1e-4)

    tiny.save_pretrained(tmp_path / "weights")
    loaded = Chronos2(tmp_path / "weights").predict(panel, panel.dates[ORIGIN], HORIZON)
    np.testing.assert_allclose(loaded.quantiles, forecast.quantiles, rtol=1e-4)
