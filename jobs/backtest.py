"""The job behind `stmp backtest`: a model and the baselines on the same origins, and a report of what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from jobs.load import load_forecaster
from jobs.screen import say, table, warn

if TYPE_CHECKING:
    from stmp.forecast import Predictor
    from stmp_platform.settings import Settings

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
        Only these; ``none`` for none.
    seed : int
        Of the bootstrap and of LightGBM.

    Raises
    ------
    ConfigError
        If a baseline is unknown or not installed, or no origin fits.
    DataError
        If a date lies outside the data.
    """
    from stmp.evaluation.backtest import backtest as run_backtest
    from stmp.evaluation.baselines import NAMES, make_baselines
    from stmp_platform.dataset import load_manifest, open_panel
    from stmp_platform.settings import Settings

    settings = Settings.from_env(tracking_uri)
    manifest = load_manifest(data)
    last = end or manifest.last_sales_date
    forecaster = load_forecaster(model, settings)
    panel = open_panel(data, settings)
    steps = horizon or forecaster.horizon
    names = [] if "none" in (baselines or ()) else list(baselines or NAMES)
    if "lightgbm" in names:
        say("Fitting LightGBM on the regions and days that the model has learned from")
    others = make_baselines(
        panel,
        min(pd.Timestamp(forecaster.trained_until), pd.Timestamp(start)),
        steps,
        names=names,
        regions=forecaster.trained_regions or None,
        levels=forecaster.config.model.levels,
        seed=seed,
    )
    predictors: dict[str, Predictor] = {"stmp": forecaster, **others}
    result = run_backtest(predictors, panel, start, last, steps, step, seed=seed)
    for text in result.warnings:
        warn(text)
    content = result.to_dict() | {"model": forecaster.provenance.version}
    _print(content)
    if report is not None:
        from stmp_platform.report import model_card, write_report

        page = write_report(
            result,
            panel,
            report,
            title=f"Backtest: {manifest.name}",
            training=_training(model, settings),
            model=model_card(forecaster),
            data_warnings=[str(fault) for fault in manifest.warnings],
        )
        content["report"] = str(page)
        say(f"Report: {content['report']}")
    return content


def _training(model: str, settings: Settings) -> pd.DataFrame | None:
    """Metrics along the training, one row a step, phase and name, where the model was given as a folder."""
    if model.startswith("models:"):
        return None
    from stmp_platform.tracking import MetricsLog

    out = model.rstrip("/").removesuffix("/model")
    wide = MetricsLog(out, settings).frame()
    if wide.empty:
        return None
    return wide.melt(["step", "phase"], var_name="name", value_name="value").dropna(subset=["value"])


def _print(content: dict[str, Any]) -> None:
    """WAPE by slice for every model, and all metrics of the model."""
    models = {"stmp": content["slices"], **content["baselines"]}
    slices = [name for name, values in content["slices"].items() if values["n"]]
    settings = content["settings"]
    when = f"{settings['origins']} origins, {settings['start']} to {settings['end']}"
    title = f"WAPE, {settings['horizon']} periods ahead from {when}"
    table(("model", *slices), [(name, *(found[s]["wape"] for s in slices)) for name, found in models.items()], title)
    rows = [(name, content["slices"][name]["n"], *(content["slices"][name][m] for m in SHOWN)) for name in slices]
    table(("stmp", "n", *SHOWN), rows)
