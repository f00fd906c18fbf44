"""The job behind `stmp backtest`: a model and the baselines on the same origins, and a report of what came out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jobs.load import load_forecaster
from jobs.screen import say, table, warn
from stmp.errors import ConfigError

if TYPE_CHECKING:
    from stmp.data.panel import Panel
    from stmp.evaluation.result import Backtest
    from stmp.forecast import Predictor
    from stmp.forecaster import Forecaster

BASELINES = ("seasonal_naive", "same_festival_last_year", "ets", "lightgbm")
SHOWN = ("wape", "mse", "bias", "wql", "coverage_80")


def backtest(
    data: str,
    model: str,
    *,
    start: str,
    end: str | None = None,
    horizon: int | None = None,
    step: int | None = None,
    report: Path | None = None,
    baselines: Sequence[str] | None = None,
    seed: int = 0,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Forecast from rolling origins, beside baselines that see the same.

    Parameters
    ----------
    data, model : str
        Dataset, and model reference.
    start, end : str
        The first origin, and the last day that is forecast; by default the last day with sales.
    horizon, step : int, optional
        Periods forecast from each origin (all that the model has learned), and between origins (the horizon).
    report : Path, optional
        Folder for the report page, its pictures and the numbers.
    baselines : sequence of str, optional
        Only these of BASELINES; ``none`` for none.
    seed : int
        Of the bootstrap and of LightGBM.

    Raises
    ------
    ConfigError
        If a baseline is unknown or not installed, or no origin fits.
    DataError
        If a date lies outside the data.
    """
    names = _names(baselines)
    from stmp.evaluation.backtest import backtest as run_backtest
    from stmp_platform.dataset import load_manifest, read_panel
    from stmp_platform.settings import Settings

    settings = Settings.from_env(tracking_uri)
    last = end or load_manifest(data).last_sales_date
    forecaster = load_forecaster(model, settings)
    panel = read_panel(data)
    steps = horizon or forecaster.horizon
    predictors: dict[str, Predictor] = {"stmp": forecaster}
    for name in names:
        predictors[name] = _baseline(name, forecaster, panel, start, steps, seed)
    result = run_backtest(predictors, panel, start, last, steps, step, seed=seed)
    for text in result.warnings:
        warn(text)
    _print(result)
    content = result.to_dict() | {"model": forecaster.provenance.version}
    if report is not None:
        content["report"] = _report(result, panel, model, report)
        say(f"Report: {content['report']}")
    return content


def _names(baselines: Sequence[str] | None) -> tuple[str, ...]:
    if not baselines:
        return BASELINES
    if "none" in baselines:
        return ()
    unknown = sorted(set(baselines) - set(BASELINES))
    if unknown:
        raise ConfigError(f"There are no baselines {unknown}; there are {', '.join(BASELINES)}, or `none`.")
    return tuple(name for name in BASELINES if name in baselines)


def _baseline(name: str, forecaster: Forecaster, panel: Panel, start: str, horizon: int, seed: int) -> Predictor:
    """Make a baseline; one that learns gets the regions and days that the model has learned from."""
    from stmp.evaluation.baselines import ETS, LightGBM, SameFestivalLastYear, SeasonalNaive

    levels = forecaster.config.model.levels
    made: dict[str, Callable[[], Any]] = {
        "seasonal_naive": lambda: SeasonalNaive(levels=levels),
        "same_festival_last_year": lambda: SameFestivalLastYear(levels=levels),
        "ets": lambda: ETS(levels=levels),
        "lightgbm": lambda: LightGBM(levels=levels, seed=seed, threads=len(os.sched_getaffinity(0))),
    }
    baseline: Any = made[name]()
    if name == "lightgbm":
        seen = np.flatnonzero(np.isin(panel.regions.astype(str), forecaster.trained_regions))
        until = min(pd.Timestamp(forecaster.trained_until), pd.Timestamp(start))
        say(f"Fitting LightGBM on {len(seen):,} regions up to {until.date()}")
        baseline.fit(panel.select(seen if len(seen) else np.arange(len(panel.regions))), until, horizon)
    found: Predictor = baseline
    return found


def _print(result: Backtest) -> None:
    """WAPE by slice for every model, and all metrics of the model."""
    content = result.to_dict()
    models = {"stmp": content["slices"], **content["baselines"]}
    slices = [name for name, values in content["slices"].items() if values["n"]]
    settings = content["settings"]
    title = f"WAPE, {settings['horizon']} periods ahead from {settings['origins']} origins, {settings['start']} to {settings['end']}"
    table(("model", *slices), [(name, *(found[s]["wape"] for s in slices)) for name, found in models.items()], title)
    rows = [(name, content["slices"][name]["n"], *(content["slices"][name][m] for m in SHOWN)) for name in slices]
    table(("stmp", "n", *SHOWN), rows)
