"""Explanations: each cause is answered by the forecast without it, on a predictor whose causes are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from stmp.data.panel import Panel
from stmp.explain import EVERYTHING, FESTIVALS, TREND, explain
from stmp.forecast import Forecast
from tests.training import small_panel

ORIGIN, HORIZON = 150, 10
LEVELS = (0.1, 0.5, 0.9)


class ByRule:
    """Sales are last week's level, plus 10 where promoted, plus 5 on festival days, plus 1 on the day before one."""

    def predict(self, panel: Panel, origin: np.datetime64, horizon: int) -> Forecast:
        at = panel.index_of(origin)
        days = slice(at + 1, at + 1 + horizon)
        promotion = panel.known[:, days, panel.known_names.index("promotion")]
        festival = panel.calendar.day_types.index("festival")
        near = torch.as_tensor(panel.calendar.days_to == 1)[panel.calendar_index][:, days].float()
        level = panel.sales[:, at - 6 : at + 1, 0].mean(dim=1, keepdim=True)
        mean = level + 10 * promotion + 5 * (panel.day_type[:, days] == festival) + near
        values = mean[:, :, None].numpy()
        return Forecast(
            panel.regions, panel.series, panel.dates[days], LEVELS, values, np.repeat(values[..., None], 3, axis=-1)
        )


@pytest.fixture
def panel() -> Panel:
    """Constant sales of 100, twice that in the last four weeks; one promoted day and one festival in the horizon."""
    made = small_panel()
    names = ("promotion",)
    known = torch.zeros(*made.shape[:2], 1)
    known[:, ::9] = 1.0  # promoted now and then, ordinarily not
    known[:, ORIGIN + 1 : ORIGIN + 1 + HORIZON] = 0.0
    known[:, ORIGIN + 3] = 1.0
    calendar = made.calendar
    parts = {name: getattr(calendar, name).copy() for name in ("day_type", "event", "offset", "days_to", "days_since")}
    parts["event"][:], parts["offset"][:], parts["days_to"][:], parts["days_since"][:] = 0, 0, 60, 60
    parts["day_type"][:] = 0
    parts["day_type"][:, ORIGIN + 5], parts["event"][:, ORIGIN + 5] = calendar.day_types.index("festival"), 1
    parts["days_to"][:, ORIGIN + 4], parts["days_to"][:, ORIGIN + 5] = 1, 0
    sales = torch.full_like(made.sales, 100.0)
    sales[:, ORIGIN - 27 : ORIGIN + 1] = 200.0
    return replace(
        made, calendar=replace(calendar, **parts), known=known, known_names=names, sales=sales,
        observed=torch.ones_like(made.observed), closed=torch.zeros_like(made.closed),
    )  # fmt: skip


def test_each_cause_is_what_the_forecast_loses_without_it(panel: Panel) -> None:
    found = explain(ByRule(), panel, panel.dates[ORIGIN], HORIZON)
    promoted = found.forecast.mean - found.without["promotion"]
    festive = found.forecast.mean - found.without[FESTIVALS]
    expected = np.zeros(HORIZON)
    expected[2] = 10
    np.testing.assert_allclose(promoted[0, :, 0], expected, atol=1e-4)
    expected = np.zeros(HORIZON)
    expected[4], expected[3] = 5, 1
    np.testing.assert_allclose(festive[0, :, 0], expected, atol=1e-4)
    np.testing.assert_allclose(found.forecast.mean - found.without[TREND], 100.0, rtol=1e-5)
    np.testing.assert_allclose(found.without[EVERYTHING], 100.0, rtol=1e-5)


def test_what_is_ordinary_is_learned_from_the_past_alone(panel: Panel) -> None:
    before = explain(ByRule(), panel, panel.dates[ORIGIN], HORIZON)
    panel.sales[:, ORIGIN + 1 :] *= 7
    panel.known[:, ORIGIN + 1 + HORIZON :] = 5.0
    after = explain(ByRule(), panel, panel.dates[ORIGIN], HORIZON)
    pd.testing.assert_frame_equal(before.to_frame(), after.to_frame())


def test_the_ordinary_value_of_a_category_is_the_most_frequent_one(panel: Panel) -> None:
    names = ("promotion", "holiday=none", "holiday=public")
    known = torch.cat([panel.known, torch.ones_like(panel.known), torch.zeros_like(panel.known)], dim=2)
    known[:, ORIGIN + 2, 1], known[:, ORIGIN + 2, 2] = 0.0, 1.0
    seen: list[torch.Tensor] = []

    class Recorder(ByRule):
        def predict(self, panel: Panel, origin: np.datetime64, horizon: int) -> Forecast:
            seen.append(panel.known[:, ORIGIN + 2, 1:].clone())
            return super().predict(panel, origin, horizon)

    found = explain(Recorder(), replace(panel, known=known, known_names=names), panel.dates[ORIGIN], HORIZON)
    assert set(found.without) == {"promotion", "holiday", FESTIVALS, TREND, EVERYTHING}
    values = {tuple(row.tolist()) for part in seen for row in part}
    assert values == {(0.0, 1.0), (1.0, 0.0)}, "as it is, and as it ordinarily is; nothing between"


def test_the_frame_has_a_row_for_each_region_series_and_date(panel: Panel) -> None:
    frame = explain(ByRule(), panel, panel.dates[ORIGIN], HORIZON).to_frame()
    assert list(frame.columns) == ["region", "series", "date", "mean", "ordinary", "promotion", FESTIVALS, TREND]
    assert len(frame) == panel.shape[0] * HORIZON
