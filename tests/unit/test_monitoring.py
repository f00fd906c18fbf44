"""What a monitor measures is what a backtest measures, and its alarms go off for what is worse and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stmp.errors import ConfigError, DataError
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import SeasonalNaive
from stmp.evaluation.slices import region_groups
from stmp_platform.monitoring.drift import drift, stability
from stmp_platform.monitoring.log import read_log
from stmp_platform.monitoring.measures import Rolling, match, roll
from stmp_platform.monitoring.report import Watched, course, metrics, write
from stmp_platform.monitoring.watch import Finding, Thresholds, findings
from tests.training import small_panel

ORIGINS = ("2022-04-24", "2022-05-08", "2022-05-22", "2022-06-05")
LAST = "2022-06-19"
LEVELS = (0.1, 0.5, 0.9)


def forecasts(version: str = "naive/1", factor: float = 1.0) -> pd.DataFrame:
    """A log of seasonal naive, two weeks from each origin."""
    panel, model = small_panel().until(LAST), SeasonalNaive(levels=LEVELS)
    parts = [model.predict(panel.until(o), o, 14).to_frame().assign(origin=pd.Timestamp(o)) for o in ORIGINS]
    log = pd.concat(parts, ignore_index=True).assign(model_version=version)
    return log.assign(**{name: factor * log[name] for name in ("mean", "q0.1", "q0.5", "q0.9")})


@pytest.fixture(scope="module")
def promised() -> dict[str, Any]:
    panel = small_panel().until(LAST)
    result = backtest({"naive": SeasonalNaive(levels=LEVELS)}, panel, ORIGINS[0], LAST, 14, progress=False, draws=0)
    content: dict[str, Any] = json.loads(json.dumps(result.to_dict()))
    return content


def rolled(log: pd.DataFrame, window: int = 56, step: int = 14) -> Rolling:
    panel = small_panel().until(LAST)
    groups = region_groups(panel, None, panel.index_of(ORIGINS[0]))
    return roll(match(log.dropna(subset="mean"), LEVELS, panel), panel, groups, window, step)


def judged(log: pd.DataFrame, promised: dict[str, Any], **thresholds: Any) -> list[Finding]:
    chosen = Thresholds.model_validate({"window": 56, "step": 14, **thresholds})
    return findings(rolled(log), {"promo": 0.01}, promised, chosen)


# Measures


def test_the_same_forecasts_give_the_figures_of_their_backtest(promised: dict[str, Any]) -> None:
    """Slice by slice and group by group, over the same days."""
    found = judged(forecasts(), promised, least_points=1)
    parts = {f.part for f in found}
    assert {"all", "weekday", "weekend", "festival", "sales: lowest quarter", "naive/1", "promo"} <= parts
    compared = [f for f in found if f.measure != "drift" and f.baseline is not None]
    assert len(compared) > 20
    for finding in compared:
        assert finding.value == pytest.approx(finding.baseline), finding
        assert finding.crossed is False
    by_name = {f.part: f.points for f in compared}
    assert by_name["all"] == promised["slices"]["all"]["n"]
    assert by_name["festival"] == promised["slices"]["festival"]["n"]


def test_windows_roll(promised: dict[str, Any]) -> None:
    rolling = rolled(forecasts(), window=28)
    assert [str(end) for end in rolling.ends] == ["2022-05-08", "2022-05-22", "2022-06-05", LAST]
    n = rolling.slices["all"][:, 0]
    single = rolled(forecasts(), window=14).slices["all"][:, 0]
    assert n.tolist() == pytest.approx([single[0], *(single[1:] + single[:-1])])
    rows = course(rolling)
    assert rows[-1]["end"] == LAST
    assert 0 < rows[-1]["slices"]["all"]["wape"] < 1


def test_rows_that_cannot_be_scored_are_counted() -> None:
    panel = small_panel().until("2022-06-05")
    log = forecasts()
    log.loc[log["region"] == log["region"].iloc[0], "region"] = "nowhere"
    sold = match(log, LEVELS, panel)
    assert sold.unknown == 14 * len(ORIGINS)
    assert sold.waiting >= 13 * 14
    assert len(sold.day) + sold.unknown + sold.waiting == len(log)
    totals = [log[log["region"] == "nowhere"].assign(region=name) for name in ("total", "city=Jena")]
    assert match(pd.concat([log, *totals]), LEVELS, panel).unknown == sold.unknown, "totals are no unknown regions"
    with pytest.raises(DataError, match="Not one of the forecasts is of a day whose sales are known"):
        roll(match(log.assign(region="nowhere"), LEVELS, panel), panel, {}, 28, 7)


# Alarms


@pytest.mark.parametrize("factor", [4.0, 0.4])
def test_forecasts_that_got_worse_cross_thresholds(promised: dict[str, Any], factor: float) -> None:
    crossed = {(f.measure, f.part) for f in judged(forecasts(factor=factor), promised) if f.crossed}
    assert {("wape", "all"), ("bias", "all"), ("coverage_80", "all"), ("wape", "naive/1")} <= crossed
    assert ("drift", "promo") not in crossed


def test_what_got_better_is_no_alarm(promised: dict[str, Any]) -> None:
    worse = json.loads(json.dumps(promised))
    for values in worse["slices"].values():
        values |= {"wape": 2.0, "bias": -0.9, "coverage_80": 0.2}
    parts = ("all", "weekday", "weekend", "festival")
    assert not [f for f in judged(forecasts(), worse, least_points=1) if f.part in parts and f.crossed]


def test_few_days_raise_no_alarm(promised: dict[str, Any]) -> None:
    found = judged(forecasts(factor=3.0), promised, least_points=10_000)
    assert {f.crossed for f in found if f.measure != "drift"} == {None}


def test_an_input_that_changed_crosses_its_threshold(promised: dict[str, Any]) -> None:
    found = findings(rolled(forecasts()), {"price": 0.3, "promo": float("nan")}, promised, Thresholds())
    assert {f.part: f.crossed for f in found if f.measure == "drift"} == {"price": True, "promo": None}


@pytest.mark.parametrize("setting", ["drift", "drifts=1", "drift=much", "window=10", "drift=-1"])
def test_unusable_thresholds_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError):
        Thresholds.from_settings([setting])
    assert Thresholds.from_settings(["drift=0.4", "window=14"]).drift == 0.4


# Drift


def test_stability_is_that_of_the_formula() -> None:
    reference, recent = np.array([0.0] * 50 + [1.0] * 50), np.array([0.0] * 80 + [1.0] * 20)
    expected = 0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5)
    assert stability(reference, recent) == pytest.approx(expected, rel=1e-3)
    assert stability(reference, reference) == 0


def test_drift_tells_a_shift_from_chance() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=5000)
    assert stability(reference, rng.normal(size=2000)) < 0.02
    assert stability(reference, rng.normal(0.7, 1, 2000)) > 0.25
    assert stability(reference, np.where(rng.random(2000) < 0.3, np.nan, rng.normal(size=2000))) > 0.25
    assert np.isnan(stability(reference, np.zeros(0)))


def test_every_input_is_watched() -> None:
    panel = small_panel()
    found = drift(panel, slice(0, 300), slice(300, 400))
    assert set(found) == {"sales", *panel.known_names, *panel.past_names}


# The log


def test_a_log_of_many_files_is_one(tmp_path: Path) -> None:
    log = forecasts()
    half = len(log) // 2
    log.iloc[:half].to_parquet(tmp_path / "a.parquet")
    log.iloc[half - 5 :].assign(what_if=False).to_parquet(tmp_path / "b.parquet")  # five rows twice
    asked = log.iloc[:9].assign(what_if=True, mean=0.0)
    asked.to_parquet(tmp_path / "c.parquet")
    frame, levels = read_log(str(tmp_path))
    assert levels == LEVELS
    assert len(frame) == len(log)
    assert frame["mean"].sum() == pytest.approx(log["mean"].sum(), rel=1e-5)
    without = log.drop(columns="origin")
    without.to_parquet(tmp_path / "d.parquet")
    assert len(read_log(str(tmp_path / "d.parquet"))[0]) == len(without)


def test_what_is_no_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no forecasts at"):
        read_log(str(tmp_path / "none"))
    forecasts().drop(columns=["mean"]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"lack the columns \['mean'\]"):
        read_log(str(tmp_path / "a.parquet"))
    forecasts().drop(columns=["q0.5"]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"lack the columns \['q0.5'\]"):
        read_log(str(tmp_path / "b.parquet"))
    (tmp_path / "c.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_log(str(tmp_path / "c.parquet"))


# The report


WATCHED = Watched("stores <b>", "f00d", "2022-05-23", LAST, "2022", ("naive/1",), 10, 2, 1)


def test_an_event_is_there_while_a_threshold_is_crossed(promised: dict[str, Any], tmp_path: Path) -> None:
    bad, good = judged(forecasts(factor=2.0), promised), judged(forecasts(), promised)
    write(WATCHED, rolled(forecasts()), bad, Thresholds(), str(tmp_path))
    event = json.loads((tmp_path / "event.json").read_text())
    assert event["event"] == "stmp.threshold_crossed"
    assert {(c["measure"], c["part"]) for c in event["crossed"]} >= {("wape", "all")}
    page = (tmp_path / "monitor.html").read_text()
    assert "stores &lt;b&gt;" in page
    assert "<script" not in page
    write(WATCHED, rolled(forecasts()), good, Thresholds(), str(tmp_path))
    assert not (tmp_path / "event.json").exists()
    assert "No threshold was crossed" in (tmp_path / "monitor.html").read_text()


def test_metrics_are_those_that_the_dashboard_shows(promised: dict[str, Any], root: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    families = {
        f.name: f for f in text_string_to_metric_families(metrics(WATCHED, judged(forecasts(), promised)).decode())
    }
    (wape,) = [s for s in families["stmp_forecast_measure"].samples if s.labels["part"] == "all" and
               s.labels["measure"] == "wape"]  # fmt: skip
    assert wape.value == pytest.approx(promised["slices"]["all"]["wape"])
    assert families["stmp_last_sale_timestamp_seconds"].samples[0].value == pd.Timestamp(LAST, tz="UTC").timestamp()
    dashboard = json.loads((root / "platform" / "deploy" / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(asked) >= 6
    for name in families:
        assert any(name in expression for expression in asked), name
    for expression in asked:
        assert any(name in expression for name in families), expression
