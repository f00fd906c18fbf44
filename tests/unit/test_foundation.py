"""Networks trained elsewhere as baselines: what each is given, what comes of it, and what is said without it."""

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
from stmp.evaluation.baselines import FOUNDATION, Chronos2, TabPFN, make_baselines
from stmp.evaluation.baselines.base import Rows
from stmp.evaluation.baselines.foundation import tasks_of
from stmp.evaluation.baselines.tabular import CONTEXT, rhythms, tables_of
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


@pytest.mark.parametrize("name", FOUNDATION)
def test_without_its_library_it_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = make()
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        model = make_baselines(panel, panel.dates[ORIGIN], HORIZON, names=[name])[name]
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


def test_a_series_is_a_table_of_its_observed_days_and_of_the_horizon() -> None:
    panel = make()
    for row, table in enumerate(tables_of(Rows.of(panel, panel.dates[ORIGIN], HORIZON))):
        seen = np.flatnonzero(panel.observed[row, : ORIGIN + 1, 0])
        assert table.past["day"].tolist() == seen.tolist()
        assert table.future["day"].tolist() == list(range(100, 114))
        np.testing.assert_array_equal(table.sold, panel.sales[row, seen, 0])
        for part, days in ((table.past, seen), (table.future, np.arange(100, 114))):
            np.testing.assert_array_equal(part["known promo"], panel.known[row, days, 0])
            np.testing.assert_array_equal(part["closed before"], panel.closed[row, days - 1])
            np.testing.assert_array_equal(part["closed after"], panel.closed[row, days + 1])
        assert list(table.past) == list(table.future)
        assert np.flatnonzero(table.future["event"] != 0).tolist() == [3, 4, 5, 6], "the fair, before and after"


def test_no_more_than_the_last_days_are_shown() -> None:
    days = pd.date_range("2010-01-01", periods=CONTEXT + 20)
    panel = Panel.from_frame(pd.DataFrame({"unique_id": "r", "ds": days, "y": 1.0 + np.arange(len(days))}))
    (table,) = tables_of(Rows.of(panel, panel.dates[-3], 2))
    assert len(table.past) == CONTEXT and table.past["day"].iloc[-1] == len(days) - 3
    assert table.past["year"].iloc[0] == 2010 and table.future["year"].iloc[-1] == days[-1].year


def test_the_strongest_rhythms_come_first_and_gaps_are_bridged() -> None:
    at = np.arange(280)
    sales = 50 + 0.1 * at + 10 * np.sin(2 * np.pi * at / 14) + 4 * np.cos(2 * np.pi * at / 7)
    seen = np.flatnonzero(at % 20 != 3)
    np.testing.assert_allclose(rhythms(sales, seen)[:2], [14, 7], rtol=0.01)
    assert len(rhythms(sales, seen[:1])) == 0


needs_tables = pytest.mark.skipif(
    find_spec("tabpfn") is None, reason="tabpfn is not installed: pip install 'stmp-platform[foundation]'"
)


@needs_tables
def test_missing_checkpoints_are_named_with_how_to_fetch_them(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    panel = make()

    def away(*_: str) -> str:
        raise FileNotFoundError("no network.\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", away)
    with pytest.raises(ConfigError, match=r"2noar4o2.*no network\. Fetch .*hf download Prior-Labs/TabPFN-v2-reg"):
        TabPFN().predict(panel, panel.dates[ORIGIN], HORIZON)
    for name, content in (("nowhere.ckpt", None), ("v3.ckpt", b""), ("v3.safetensors", b"nothing")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=rf"{name}.*hf download"):
            TabPFN(tmp_path / name).predict(panel, panel.dates[ORIGIN], HORIZON)


@pytest.fixture
def reader():
    """Return a TabPFN regressor with random weights, bars like the public one's, and one reading of each table."""
    from tabpfn import TabPFNRegressor
    from tabpfn.architectures import tabpfn_v2
    from tabpfn.architectures.shared.bar_distribution import FullSupportBarDistribution
    from tabpfn.base import ModelSpecs
    from tabpfn.constants import ModelVersion
    from tabpfn.inference_config import InferenceConfig

    torch.manual_seed(0)
    config = tabpfn_v2.TabPFNV2Config(emsize=12, nlayers=2, nhead=2, max_num_classes=0, num_buckets=50)
    network = tabpfn_v2.get_architecture(config).eval()
    for weight in network.parameters():  # the library begins with layers that pass nothing on
        torch.nn.init.normal_(weight, std=0.3)
    bars = FullSupportBarDistribution(torch.special.ndtri(torch.linspace(0.0, 1.0, 53)[1:-1]))
    inference = InferenceConfig.get_default("regression", ModelVersion.V2)
    return TabPFNRegressor(model_path=ModelSpecs(network, config, inference, bars), n_estimators=1, device="cpu")


@needs_tables
def test_tables_are_forecast_row_by_row_and_the_horizon_is_read(reader) -> None:
    panel = make()
    model = TabPFN(regressor=reader)
    forecast = model.predict(panel, panel.dates[ORIGIN], HORIZON)
    assert np.isfinite(forecast.quantiles).all() and (forecast.quantiles >= 0).all()
    assert (np.diff(forecast.quantiles, axis=-1) >= 0).all()
    closed = panel.closed[:, 100:114].numpy()
    assert (forecast.mean[closed] == 0).all() and (forecast.quantiles[closed] == 0).all()
    assert ((forecast.mean > 50) & (forecast.mean < 250))[~closed].all(), "sales are about 100, promoted 200"
    assert_no_leak(model, panel, panel.dates[ORIGIN], HORIZON)
    promoted = panel.known.clone()
    promoted[0, 100:114] = 1 - promoted[0, 100:114]
    other = model.predict(replace(panel, known=promoted), panel.dates[ORIGIN], HORIZON)
    assert (other.quantiles[0] != forecast.quantiles[0]).any(axis=-1)[~closed[0]].all(), "the promotion is heard"
    np.testing.assert_array_equal(other.quantiles[1:], forecast.quantiles[1:])


@needs_tables
def test_a_checkpoint_gives_what_its_network_in_memory_gives(reader, tmp_path) -> None:
    from tabpfn.model_loading import save_tabpfn_model

    panel = make(1)
    reader.set_params(n_estimators="auto").get_inference_config()
    save_tabpfn_model(reader, tmp_path / "weights.ckpt")
    loaded = TabPFN(tmp_path / "weights.ckpt").predict(panel, panel.dates[ORIGIN], HORIZON)
    held = TabPFN(regressor=reader).predict(panel, panel.dates[ORIGIN], HORIZON)
    np.testing.assert_allclose(loaded.quantiles, held.quantiles, rtol=1e-4)


@needs_tables
@pytest.mark.parametrize(("sold", "expected"), [([], 0.0), ([7.0], 7.0), ([7.0, 7.0, 7.0], 7.0)])
def test_a_series_that_has_sold_little_or_the_same_is_forecast_so(reader, sold: list[float], expected: float) -> None:
    frame = pd.DataFrame({"unique_id": "r", "ds": pd.date_range("2024-01-01", periods=10), "y": np.nan})
    frame.loc[2 : 1 + len(sold), "y"] = sold
    panel = Panel.from_frame(frame)
    forecast = TabPFN(regressor=reader).predict(panel, panel.dates[6], 3)
    np.testing.assert_allclose(forecast.mean, expected, rtol=1e-4)
    np.testing.assert_allclose(forecast.quantiles, expected, rtol=1e-4)
