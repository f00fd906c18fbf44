"""Covariates that began as training ended: they are not read, are not asked for, and the page says so."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import stmp
from serving.livedata import LiveData
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.errors import DataError
from stmp_platform.report import model_card
from tests.training import small_config, small_panel

pytestmark = pytest.mark.unit

UNTIL = 460


def with_coupons(began: int, seed: int = 0) -> Panel:
    """A panel with coupons in some regions from a day on, before which nobody had any, and what it had."""
    panel = small_panel()
    generator = torch.Generator().manual_seed(seed)
    coupons = 100 * torch.rand(panel.sales.shape[:2], generator=generator)
    coupons[:, :began] = 0.0
    coupons[1::2] = 0.0
    known = torch.cat([panel.known, coupons[..., None]], dim=-1)
    return replace(panel, known=known, known_names=(*panel.known_names, "coupons"))


@pytest.mark.parametrize(
    ("began", "unread"),
    [
        (0, ()),
        (200, ()),
        (UNTIL - 60, ()),
        (UNTIL - 57, ("coupons",)),
        (UNTIL - 1, ("coupons",)),
        (UNTIL, ("coupons",)),
    ],
)
def test_an_eighth_of_the_training_days_must_have_it(began: int, unread: tuple[str, ...]) -> None:
    """One that was always the same too: what it does once it changes was never learned."""
    assert Schema.fit(with_coupons(began), UNTIL).known_unread == unread


def test_a_quarter_of_a_year_is_enough_however_long_the_history() -> None:
    days = pd.date_range("2018-01-01", periods=2000)
    frame = pd.DataFrame({"unique_id": np.repeat(["a", "b"], 2000), "ds": [*days, *days], "y": 5.0})
    frame["late"] = np.where(frame["ds"] >= days[1900], np.arange(len(frame)) % 7, 0)
    panel = Panel.from_frame(frame, known=["late"])
    assert Schema.fit(panel, 2000).known_unread == ()
    assert Schema.fit(panel, 1990).known_unread == ("late",)


def test_workers_agree_where_it_is_in_use_in_a_region_of_another() -> None:
    for began, unread in ((200, ()), (UNTIL - 30, ("coupons",))):
        panel = with_coupons(began)
        odd = panel.select(np.arange(1, panel.shape[0], 2))
        assert Schema.fit(odd, UNTIL).known_unread == ("coupons",), "these never have any"
        others = panel.known[::2, :UNTIL]

        def reduce(values: torch.Tensor, how: str, others: torch.Tensor = others) -> torch.Tensor:
            if how != "sum" and values.shape == others.shape[1:]:
                theirs = others.amax(dim=0) if how == "max" else others.amin(dim=0)
                return torch.maximum(values, theirs) if how == "max" else torch.minimum(values, theirs)
            return values

        assert Schema.fit(odd, UNTIL, reduce).known_unread == unread


def test_it_is_not_read_and_not_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    torch.set_num_threads(1)
    panel = with_coupons(UNTIL - 20 - 28)  # the last 28 days are held out
    until = panel.dates[UNTIL - 1]
    with caplog.at_level(logging.WARNING):
        model = stmp.train(panel, small_config(), until=until)
    assert "coupons" in caplog.text
    assert dict(model_card(model))["Not read, as it hardly ever changed"] == "coupons"
    before = model.predict(panel, until, 7)
    other = model.predict(with_coupons(UNTIL - 20 - 28, seed=1), until, 7)
    np.testing.assert_array_equal(before.quantiles, other.quantiles)
    gappy = panel.known.clone()
    gappy[:, UNTIL:, -1] = torch.nan
    np.testing.assert_array_equal(model.predict(replace(panel, known=gappy), until, 7).mean, before.mean)
    assert model.reads(panel).tolist() == [True] * (len(panel.known_names) - 1) + [False]
    served = LiveData(replace(panel, known=gappy), np.full(panel.shape[0], UNTIL - 1), "shops", UNTIL - 1)
    assert (served.known_until(model.reads(panel)) == len(panel.dates) - 1).all()
    assert (served.known_until(~model.reads(panel)) == UNTIL - 1).any()
    gappy[:, UNTIL:, 0] = torch.nan
    with pytest.raises(DataError, match=panel.known_names[0]):
        model.predict(replace(panel, known=gappy), until, 7)


def test_one_in_use_long_enough_is_read() -> None:
    torch.set_num_threads(1)
    until = small_panel().dates[UNTIL - 1]
    model = stmp.train(with_coupons(200), small_config(), until=until)
    assert model.schema.known_unread == ()
    forecasts = [model.predict(with_coupons(200, seed), until, 7).mean for seed in (0, 1)]
    assert np.abs(forecasts[0] - forecasts[1]).max() > 0


def test_a_model_from_before_reads_all() -> None:
    schema = Schema.fit(with_coupons(UNTIL - 10), UNTIL)
    earlier = {name: value for name, value in schema.to_json().items() if name != "known_unread"}
    assert Schema.from_json(earlier).known_unread == ()
    assert Schema.from_json(schema.to_json()) == schema
