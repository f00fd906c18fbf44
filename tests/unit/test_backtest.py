"""The backtest: its windows, its slices, its cold starts, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from stmp.data.calendar import DayRule
from stmp.data.panel import Panel
from stmp.errors import ConfigError
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import LEVELS, SeasonalNaive
from stmp.evaluation.metrics import SUMS
from stmp.evaluation.slices import Cells, region_groups
from stmp.forecast import Forecast

pytestmark = pytest.mark.unit

RULES = (DayRule("festival", event=("*",), before=1), DayRule("weekend", weekdays=(5, 6)))
HORIZON = 7


@pytest.fixture(scope="module")
def panel():
    """Nine regions, 60 days, a festival on day 45, closed on each 10th day."""
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=60)
    frame = pd.DataFrame([(f"r{r}", d) for r in range(9) for d in days], columns=["unique_id", "ds"])
    frame["y"] = rng.gamma(4, 10, len(frame)) * (1 + frame["unique_id"].str[1].astype(int))
    frame["shut"] = (frame["ds"].dt.day % 10 == 0).astype(int)
    events = pd.DataFrame({"date": [days[45]], "event": ["Fair"]})
    static = pd.DataFrame({"unique_id": [f"r{r}" for r in range(9)], "kind": ["a", "b", "a"] * 3})
    return Panel.from_frame(frame, events=events, rules=RULES, closed="shut", static=static)


class Oracle:
    """Knows the truth, and adds a constant to it: what it scores is known in closed form."""

    def __init__(self, truth, add=0.0, trained=None, until=None):
        self.truth, self.add = truth, add
        self.asked = []
        if trained is not None:
            self.trained_regions = trained
        if until is not None:
            self.trained_until = until

    def predict(self, panel, origin, horizon):
        """Look the answer up."""
        at = panel.index_of(origin)
        self.asked.append(
            (
                str(origin),
                len(panel.regions),
                int(panel.observed.any(dim=0).sum()),
                float(panel.sales[:, at + 1 :].sum()),
            )
        )
        rows = [list(self.truth.regions).index(r) for r in panel.regions]
        mean = self.truth.sales[rows, at + 1 : at + 1 + horizon].numpy() + self.add
        quantiles = np.repeat(mean[..., None], len(LEVELS), axis=-1)
        dates = panel.dates[at + 1 : at + 1 + horizon]
        return Forecast(panel.regions, panel.series, dates, LEVELS, mean, quantiles, "oracle")


def run(panel, model, **options):
    """Four origins a week apart."""
    arguments = {"start": "2024-01-31", "end": "2024-02-29", "horizon": HORIZON, "step": 7} | options
    return backtest({"model": model, "naive": SeasonalNaive()}, panel, draws=50, **arguments)


def test_slices_count_each_observed_day_once_and_errors_are_exact(panel):
    result = run(panel, Oracle(panel, add=2.0))
    assert [str(d) for d in result.origins] == ["2024-01-31", "2024-02-07", "2024-02-14", "2024-02-21"]
    report = result.to_dict()
    days = slice(panel.index_of("2024-02-01"), panel.index_of("2024-02-28") + 1)
    observed = panel.observed[:, days, 0]
    types = panel.day_type[:, days]
    for i, name in enumerate(panel.calendar.day_types):
        assert report["slices"][name]["n"] == int((observed & (types == i)).sum())
    every = report["slices"]["all"]
    assert every["n"] == int(observed.sum())
    assert every["mse"] == pytest.approx(4.0, rel=1e-4)
    assert every["mae"] == pytest.approx(2.0, rel=1e-4)
    actual = panel.sales[:, days, 0][observed].double()
    assert every["wape"] == pytest.approx(2.0 * len(actual) / float(actual.sum()), rel=1e-4)
    assert every["bias"] == pytest.approx(every["wape"], rel=1e-6)
    assert report["slices"]["post_festival"]["n"] == int(
        (observed & torch.as_tensor(panel.calendar.post_festival())[:, days]).sum()
    )
    assert set(report["horizons"]["model"]) == {"1", "2-7"}
    assert sum(v["n"] for v in report["horizons"]["model"].values()) == every["n"]
    assert sum(v["model"]["n"] for v in report["groups"].values()) == every["n"]
    assert set(report["events"]) == {"Fair"}
    assert report["events"]["Fair"]["model"]["n"] == report["slices"]["festival"]["n"]
    low, high = report["baselines"]["naive"]["all"]["ci"]["wape"]
    assert low < report["baselines"]["naive"]["all"]["wape"] < high
    skill = report["skill"]["naive"]["all"]
    assert skill["wape"] == pytest.approx(1 - every["wape"] / report["baselines"]["naive"]["all"]["wape"])
    assert skill["ci"]["wape"][0] <= skill["wape"] <= skill["ci"]["wape"][1]


def test_json_holds_no_nan_and_the_table_a_row_for_each_slice(panel, tmp_path):
    result = run(panel, Oracle(panel))
    result.write_json(tmp_path / "result.json")
    report = json.loads((tmp_path / "result.json").read_text())
    assert set(report) >= {
        "model",
        "dataset_fingerprint",
        "slices",
        "baselines",
        "skill",
        "horizons",
        "groups",
        "settings",
    }
    table = result.table()
    assert set(table["slice"]) == {"all", "weekday", "weekend", "festival", "post_festival"}
    assert table.groupby("model").size().tolist() == [5, 5]


def test_predictors_get_nothing_that_was_sold_after_the_origin(panel):
    model = Oracle(panel)
    run(panel, model)
    assert [future for *_, future in model.asked] == [0.0] * 4


def test_unseen_regions_are_forecast_from_a_cut_history(panel):
    model = Oracle(panel, add=1.0, trained=[f"r{r}" for r in range(6)])
    report = run(panel, model, cold_histories=(7, 14)).to_dict()
    sevens = [asked for asked in model.asked if asked[1] == 3]
    assert [seen for _, _, seen, _ in sevens[:2]] == [6, 12]  # 7 and 14 days, less the closed ones
    for days in (7, 14):
        part = report["slices"][f"cold_{days}"]
        assert part["regions"] == 3
        assert part["mae"] == pytest.approx(1.0, rel=1e-4)
        assert report["baselines"]["naive"][f"cold_{days}"]["n"] == part["n"]
    assert report["groups"]["never seen in training"]["model"]["n"] == part["n"]
    assert "cold_7" in report["skill"]["naive"]


def test_cold_slices_are_null_with_a_reason_where_no_region_is_new(panel):
    report = run(panel, Oracle(panel, trained=list(panel.regions))).to_dict()
    assert report["slices"]["cold_7"]["n"] == 0
    assert report["slices"]["cold_7"]["wape"] is None
    assert "trained on every region" in report["slices"]["cold_7"]["reason"]


def test_a_model_trained_past_the_first_origin_is_reported(panel):
    result = run(panel, Oracle(panel, until="2024-02-10"))
    assert "2024-02-10" in result.warnings[0]
    assert not run(panel, Oracle(panel, until="2024-01-31")).warnings


def test_closed_days_can_be_scored_as_fev_does(panel):
    result = run(panel, Oracle(panel), score_closed=True)
    assert result.to_dict()["slices"]["all"]["n"] == 9 * 28


def test_regions_are_forecast_a_few_at_a_time_and_scored_as_a_whole(panel, monkeypatch):
    trained = [f"r{r}" for r in range(0, 9, 2)]
    whole_model, model = (Oracle(panel, add=1.0, trained=trained) for _ in range(2))
    whole = run(panel, whole_model, keep_regions=["r1", "r7"])
    monkeypatch.setattr("stmp.evaluation.backtest.REGIONS", 4)
    result = run(panel, model, keep_regions=["r1", "r7"])
    assert {asked[1] for asked in model.asked} == {1, 2, 4}  # of nine regions, four of them new to the model
    for name in whole.totals:
        np.testing.assert_array_equal(result.totals[name], whole.totals[name])
        np.testing.assert_allclose(result.by_origin[name], whole.by_origin[name], rtol=1e-12)
        np.testing.assert_allclose(result.by_event[name], whole.by_event[name], rtol=1e-12)
        for days, part in whole.cold.items():
            np.testing.assert_array_equal(result.cold[days].totals[name], part.totals[name])
    assert result.to_dict()["groups"].keys() == whole.to_dict()["groups"].keys()
    assert result.to_dict()["calibration"] == whole.to_dict()["calibration"]
    order = ["region", "date", "step"]
    pd.testing.assert_frame_equal(*(made.examples.sort_values(order, ignore_index=True) for made in (result, whole)))


def test_several_series_are_scored_each_and_pooled_by_region(panel):
    frame = pd.DataFrame(
        [
            (r, d, s, 10.0 + i)
            for r in ("a", "b")
            for d in pd.date_range("2024-01-01", periods=40)
            for i, s in enumerate("xy")
        ],
        columns=["unique_id", "ds", "item", "y"],
    )
    frame = frame[~((frame["unique_id"] == "b") & (frame["item"] == "y"))]
    two = Panel.from_frame(frame, series="item")
    result = run(two, Oracle(two, add=1.0), start="2024-01-20", end="2024-02-05")
    report = result.to_dict()
    assert report["slices"]["all"]["n"] == 3 * 14
    assert report["series"]["y"]["model"]["n"] == 14
    assert report["slices"]["all"]["mase"] is None  # constant sales have no scale
    assert report["slices"]["all"]["unscaled"] == 42
    assert result.totals["naive"][..., SUMS.index("n")].sum(axis=1).tolist() == [28, 14]


def test_a_series_is_scored_from_its_first_sale_on_and_not_from_its_first_row(panel):
    """Exports write rows of 0 for what has not opened; they are no sale, and are counted as left out."""
    sales = panel.sales.clone()
    opened, never = panel.index_of("2024-02-12"), 2
    sales[:2, :opened] = 0.0
    sales[never] = 0.0
    late = replace(panel, sales=sales)
    result, usual = (run(truth, Oracle(truth, add=1.0)) for truth in (late, panel))
    scored, whole = (made.totals["model"][..., SUMS.index("n")].sum(axis=1) for made in (result, usual))
    open_days = (~panel.closed[0]).numpy()
    after = int(open_days[panel.index_of("2024-02-15") : panel.index_of("2024-02-28") + 1].sum())
    assert scored[:3].tolist() == [after, after, 0], "the origins of 14 and 21 February come after the first sale"
    assert scored[3:].tolist() == whole[3:].tolist()
    assert result.to_dict()["settings"]["skipped_before_first_sale"] == int((whole - scored).sum())


def test_groups_are_a_static_columns_values_or_quartiles_of_sales(panel):
    assert {g: int(rows.sum()) for g, rows in region_groups(panel, "kind", 30).items()} == {"kind=a": 6, "kind=b": 3}
    quartiles = region_groups(panel, None, 30)
    assert list(quartiles) == [
        f"sales: {q}" for q in ("lowest quarter", "second quarter", "third quarter", "highest quarter")
    ]
    assert sum(quartiles.values()).tolist() == [1] * 9
    with pytest.raises(ConfigError, match="kind"):
        region_groups(panel, "size", 30)


def test_horizon_buckets_end_at_the_horizon():
    buckets = Cells(("weekday",), ((1, 1), (2, 7), (8, 10)))
    assert list(buckets.horizons()) == ["1", "2-7", "8-10"]
    cell = buckets.index(np.zeros((1, 10), dtype=np.int8), np.zeros((1, 10), dtype=bool))
    assert cell[0].tolist() == [0] + [1] * 6 + [2] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "2023-01-01"}, "goes past the data"),
        ({"end": "2024-05-01"}, "goes past the data"),
        ({"horizon": 40}, "No forecast of 40 periods fits"),
        ({"step": 0}, "at least 1"),
        ({"unseen_regions": ["nowhere"]}, "not in the data"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(panel, options, message):
    with pytest.raises(ConfigError, match=message):
        run(panel, Oracle(panel), **options)


def test_a_horizon_longer_than_the_model_has_learned_is_reported(panel):
    model = Oracle(panel)
    model.horizon = 5
    assert "5 periods ahead" in run(panel, model).warnings[0]


def test_predictors_must_agree_on_the_levels(panel):
    class Other(SeasonalNaive):
        def predict(self, panel, origin, horizon):
            return replace(super().predict(panel, origin, horizon), levels=tuple(q + 0.01 for q in LEVELS))

    with pytest.raises(ConfigError, match="different quantile levels"):
        run(panel, Other())
