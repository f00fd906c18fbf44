"""Benchmarks: what a window's forecasts may know, how a panel becomes fev's series, the commands on a small city."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from jobs.bench.ablation import PAPERS, PARTS
from jobs.bench.learners import Boosted, Naive, make_learners
from jobs.bench.tasks import TASKS, FevTask, find_task, published
from jobs.bench.windows import Series, Window, average, forecasts
from jobs.cli import run
from jobs.train import load_preset
from stmp.config import Config
from stmp.data.panel import Panel
from stmp.errors import ConfigError, DataError
from tests.training import small_panel

TASK = FevTask(horizon=7, windows=2, season=7, frequency="D")


def shorter(panel: Panel, region: int, first: int, last: int) -> Panel:
    """The panel with a region that begins and ends within."""
    observed, closed = panel.observed.clone(), panel.closed.clone()
    inside = torch.zeros(panel.shape[1], dtype=torch.bool)
    inside[first:last] = True
    observed[region] &= inside[:, None]
    closed[region] &= inside
    return replace(panel, observed=observed, closed=closed, sales=panel.sales * observed)


def windows_of(series: Series, horizon: int, number: int) -> list[Window]:
    """Windows at the end of each series, as fev cuts them."""
    ends = [stamps[-1].astype("datetime64[D]") for stamps in series.frame()["timestamp"]]
    positions = np.arange(len(ends))
    step = np.timedelta64(horizon, "D")
    return [Window(positions, np.array(ends) - (number - k) * step) for k in range(number)]


def test_a_series_goes_from_its_first_day_to_its_last_with_closed_days_as_0_and_gaps_as_nan() -> None:
    panel = shorter(small_panel(), 0, 10, 90)
    panel.closed[0, 20] = True
    panel.observed[0, 20] = panel.observed[0, 30] = False
    panel.closed[0, 30] = False
    frame = Series.of(TASK.prepare(panel)).frame()
    days = np.flatnonzero((panel.observed[0].any(dim=1) | panel.closed[0]).numpy())
    first = frame.iloc[0]
    assert first["timestamp"][0] == panel.dates[days[0]].astype("datetime64[ns]")
    assert len(first["timestamp"]) == days[-1] - days[0] + 1
    assert first["target"][20 - days[0]] == 0
    assert np.isnan(first["target"][30 - days[0]])
    assert first["target"][40 - days[0]] == pytest.approx(float(panel.sales[0, 40, 0])) or panel.closed[0, 40]


def test_gaps_count_as_days_that_sold_nothing_where_the_task_says_so() -> None:
    panel = shorter(small_panel(), 0, 10, 90)
    panel.observed[0, 30] = panel.closed[0, 30] = False
    panel.sales[0, 30] = 0
    prepared = replace(TASK, gaps_sell_nothing=True).prepare(panel)
    assert prepared.observed[0, 30].all()
    assert not prepared.sales[0, 30].any()
    assert not prepared.observed[0, :10].any(), "a region sells nothing before it opens, and that is no observation"
    assert not prepared.observed[0, 90:].any()


def test_short_series_and_data_of_another_frequency_are_left_out() -> None:
    panel = shorter(small_panel(), 0, 10, 40)
    prepared = replace(TASK, min_length=60).prepare(panel)
    assert panel.regions[0] not in prepared.regions
    assert prepared.shape[0] == panel.shape[0] - 1
    with pytest.raises(DataError, match="wants data by W"):
        replace(TASK, frequency="W").prepare(panel)
    with pytest.raises(DataError, match="No series has"):
        replace(TASK, windows=1000).prepare(panel)


def test_gaps_count_as_closed_days_where_the_task_says_so() -> None:
    panel = shorter(small_panel(), 0, 10, 90)
    panel.observed[0, 30] = panel.closed[0, 30] = False
    prepared = replace(TASK, gaps_closed=True).prepare(panel)
    assert prepared.closed[0, 30]
    assert not prepared.closed[0, :10].any() and not prepared.closed[0, 90:].any()


def test_weeks_sell_what_their_days_sell_from_monday_to_sunday() -> None:
    panel = small_panel()
    panel.closed[0, 14:28], panel.closed[1, 14] = True, True
    panel.observed[0, 14:28] = panel.observed[1, 14] = False
    panel = replace(panel, sales=panel.sales * panel.observed)
    weeks = replace(TASK, weeks=True, windows=1).prepare(panel)
    days = pd.DatetimeIndex(panel.dates)
    last = pd.Timestamp(panel.last_observed)
    whole = pd.Series(1, days).loc[:last].resample("W-SUN").sum().loc[lambda counts: counts == 7].index
    np.testing.assert_array_equal(weeks.dates, whole.to_numpy().astype("datetime64[D]"))

    def summed(values: torch.Tensor, how: str) -> np.ndarray:
        frame = pd.DataFrame(values.numpy().T, index=days).resample("W-SUN")
        return np.asarray(getattr(frame, how)().loc[whole].to_numpy().T)

    np.testing.assert_allclose(weeks.sales[:, :, 0], summed(panel.sales[:, :, 0], "sum"), rtol=1e-5)
    np.testing.assert_allclose(weeks.known[:, :, 0], summed(panel.known[:, :, 0], "mean"), rtol=1e-5)
    np.testing.assert_array_equal(weeks.closed, summed(panel.closed.float(), "min") == 1)
    assert weeks.closed[0].sum() >= 1 and not weeks.closed[1].any()
    assert not (weeks.observed[:, :, 0] & weeks.closed).any()
    dates_of_events = panel.dates[((panel.calendar.event > 0) & (panel.calendar.offset == 0))[0]]
    festive = pd.Series(1, pd.DatetimeIndex(dates_of_events)).resample("W-SUN").max().dropna().index.intersection(whole)
    kinds = np.asarray(weeks.calendar.day_types)[weeks.calendar.day_type[0]]
    np.testing.assert_array_equal(weeks.dates[kinds == "festival"], festive.to_numpy().astype("datetime64[D]"))
    assert 0 < len(festive) < len(whole)


def test_nothing_after_a_series_own_cutoff_reaches_its_forecast() -> None:
    panel = shorter(small_panel(), 0, 10, 90)
    changed = replace(panel, sales=panel.sales.clone(), past=panel.past.clone())
    ends = [int(np.flatnonzero(panel.observed[r].any(dim=1))[-1]) for r in range(panel.shape[0])]
    for region, end in enumerate(ends):
        changed.sales[region, end - 6 : end + 1] *= 5  # the last window of each series
    first, second = (
        list(forecasts(Naive(7), series, windows_of(series, 7, 2), 7))
        for series in (Series.of(TASK.prepare(panel)), Series.of(TASK.prepare(changed)))
    )
    for ours, theirs in zip(first[0] + first[1], second[0] + second[1], strict=True):
        for key, values in ours.items():
            np.testing.assert_array_equal(values, theirs[key])
    assert any(part["predictions"].any() for part in first[1])


def test_predictions_of_several_models_are_averaged_by_quantile() -> None:
    one = [[{"predictions": np.array([1.0, 2.0]), "0.1": np.array([0.0, 1.0])}]]
    two = [[{"predictions": np.array([3.0, 2.0]), "0.1": np.array([2.0, 0.0])}]]
    ((mean,),) = average([one, two])
    np.testing.assert_allclose(mean["predictions"], [2.0, 2.0])
    np.testing.assert_allclose(mean["0.1"], [1.0, 0.5])


def test_unknown_tasks_and_baselines_are_refused() -> None:
    with pytest.raises(ConfigError, match="rossmann_1D, favorita_transactions_1D, rossmann_1W"):
        find_task("m5")
    with pytest.raises(ConfigError, match=r"no baselines \['prophet'\]"):
        make_learners(Config(), [0], 10, ["prophet"], 7)
    assert isinstance(make_learners(Config(), [3], 10, ["lightgbm"], 7)["lightgbm"], Boosted)


def test_windows_begin_after_a_day_where_the_task_names_one(tmp_path: Path) -> None:
    assert "initial_cutoff" not in TASK.settings(tmp_path)
    assert replace(TASK, first_cutoff="2023-05-01").settings(tmp_path)["initial_cutoff"] == "2023-05-01"


def test_the_command_names_each_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "fev", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in TASKS)


def test_each_task_has_a_published_leaderboard() -> None:
    for name in TASKS:
        rows = published(name)
        assert {"Seasonal Naive", "LightGBM", "Chronos-2"} <= {row["model"] for row in rows}
        assert rows == sorted(rows, key=lambda row: row["SQL"])


def test_commands_on_a_small_city(tmp_path: Path) -> None:
    data = str(tmp_path / "city")
    assert run(["ingest", "synthetic", "--set", "regions=10", "--set", "years=0.6", "--out", data]) == 0
    tiny = ["train.max_steps=2", "model.hidden=8", "train.queries=8", "train.supports=24", "train.batch_regions=8"]
    common = [
        "--data", data, "--until", "2021-06-20", "--baseline", "seasonal_naive", "--seed", "0", "--seed", "1",
        *(word for setting in tiny for word in ("--set", setting)),
    ]  # fmt: skip
    assert run(["bench", "cold", *common, "--json", str(tmp_path / "cold.json")]) == 0
    found = json.loads((tmp_path / "cold.json").read_text())
    assert set(found["wape"]) == {"stmp, seed 0", "stmp, seed 1", "seasonal_naive"}
    assert set(found["wape"]["stmp, seed 0"]) == {"all history", "7 days", "14 days", "28 days", "56 days"}
    assert run(["bench", "festival", *common, "--json", str(tmp_path / "festival.json")]) == 0
    mse = json.loads((tmp_path / "festival.json").read_text())["mse"]
    assert {"all", "festival", "post_festival"} <= set(mse["stmp, seed 1"])
    assert all(value is None or value > 0 for value in mse["stmp, seed 1"].values())
    some = [word for word in common if word not in ("--baseline", "seasonal_naive")]
    named = ["--row", "whole", "--row", "no psi", "--row", "paper, no psi"]
    assert run(["bench", "ablation", *some, *named, "--json", str(tmp_path / "ablation.json")]) == 0
    variants = json.loads((tmp_path / "ablation.json").read_text())["variants"]
    assert list(variants) == ["whole", "no psi", "paper, no psi"]
    errors = [tuple(entry["slices"]["all"]["wape"]) for entry in variants.values()]
    assert len(set(errors)) == 3, "each variant is another model"
    assert run(["bench", "ablation", *some, "--row", "no luck"]) == 2
    side_by_side = [*some, "--row", "no psi", "--processes", "2", "--json", str(tmp_path / "two.json")]
    assert run(["bench", "ablation", *side_by_side]) == 0
    two = json.loads((tmp_path / "two.json").read_text())["variants"]
    assert two["no psi"]["slices"]["all"]["wape"] == pytest.approx(errors[1], rel=1e-4)


def test_every_ablation_changes_its_preset() -> None:
    for preset, variants in (("product", PARTS), ("paper", PAPERS)):
        whole = load_preset(preset)
        for name, changes in variants.items():
            assert (load_preset(preset, changes) == whole) == (not changes), name


def test_fev_itself_scores_a_task(tmp_path: Path) -> None:
    library = pytest.importorskip("fev")
    series = Series.of(TASK.prepare(small_panel()))
    file = tmp_path / "series.parquet"
    series.frame().to_parquet(file, index=False)
    made = library.Task(**TASK.settings(file), task_name="small")
    windows = [Window.of(window, series) for window in made.iter_windows()]
    expected = windows_of(series, 7, 2)
    for ours, theirs in zip(windows, expected, strict=True):
        np.testing.assert_array_equal(ours.cutoffs, theirs.cutoffs)
    summary = made.evaluation_summary(list(forecasts(Naive(7), series, windows, 7)), model_name="naive")
    assert summary["num_forecasts"] == 2 * len(series.region)
    assert summary["SQL"] > 0
