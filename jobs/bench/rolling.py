"""`stmp bench cold` and `stmp bench festival`: train up to a day, forecast what came after, from rolling origins."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from jobs.screen import say, table
from stmp.config import Config
from stmp.data.panel import Panel
from stmp.errors import ConfigError
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import NAMES, make_baselines
from stmp.evaluation.result import Backtest
from stmp.forecast import Predictor
from stmp.learning.train import train

HISTORIES = (7, 14, 28, 56)
MEDIAN = "stmp, median"


def cold(
    data: str,
    config: Config,
    *,
    until: str,
    seeds: Sequence[int] = (0,),
    horizon: int = 14,
    end: str | None = None,
    share: float = 0.2,
    baselines: Sequence[str] = NAMES,
) -> dict[str, Any]:
    """Regions that were never trained on, each with only its last days of history.

    Parameters
    ----------
    data : str
    config : Config
    until : str
        The last day to learn from, and the first origin.
    seeds : sequence of int
        A model each.
    horizon : int
        Periods forecast from each origin, and between origins.
    end : str, optional
        The last day that is forecast; by default the last with sales.
    share : float
        Of the regions are held out of training, the same for every seed.
    baselines : sequence of str

    Returns
    -------
    dict
        The backtest's JSON form, time and memory, and ``wape``: by model, with all history and by days of it.

    Raises
    ------
    ConfigError, DataError
        If no region would be left on one side, or dates lie outside the data.
    """
    panel = _read(data)
    held_out = np.sort(np.random.default_rng(0).permutation(panel.shape[0])[: int(share * panel.shape[0])])
    if not 0 < len(held_out) < panel.shape[0]:
        raise ConfigError(f"A share of {share:g} of {panel.shape[0]} regions leaves none on one side.")
    kept = panel.select(np.setdiff1d(np.arange(panel.shape[0]), held_out))
    found, content = _run(panel, kept, config, until, seeds, horizon, end, baselines, HISTORIES)
    groups = content["groups"]["never seen in training"]
    wape = {
        name: {"all history": groups[name]["wape"]}
        | {f"{days} days": values[f"cold_{days}"]["wape"] for days in HISTORIES}
        for name, values in _by_model(content).items()
    }
    _print(wape, f"WAPE on {len(held_out)} of {panel.shape[0]} regions, never trained on", found)
    return content | {"wape": wape}


def festival(
    data: str,
    config: Config,
    *,
    until: str,
    seeds: Sequence[int] = (0,),
    horizon: int = 14,
    end: str | None = None,
    baselines: Sequence[str] = NAMES,
) -> dict[str, Any]:
    """Error on festival days, on the three days after them, and on each other day type. Parameters as for `cold`.

    Returns
    -------
    dict
        The backtest's JSON form, time and memory, and ``mse``: by model and slice.
    """
    panel = _read(data)
    found, content = _run(panel, panel, config, until, seeds, horizon, end, baselines, ())
    mse = {
        name: {part: values[part]["mse"] for part in found.cells.slices()}
        for name, values in _by_model(content).items()
    }
    _print(mse, f"MSE, {horizon} periods ahead", found)
    return content | {"mse": mse}


def _read(data: str) -> Panel:
    from stmp_platform.dataset import read_panel

    return read_panel(data)


def _run(
    panel: Panel,
    kept: Panel,
    config: Config,
    until: str,
    seeds: Sequence[int],
    horizon: int,
    end: str | None,
    baselines: Sequence[str],
    histories: Sequence[int],
) -> tuple[Backtest, dict[str, Any]]:
    """Train on the regions that are kept, and forecast all."""
    costs: dict[str, dict[str, float]] = {}
    predictors: dict[str, Predictor] = {}
    for seed in seeds:
        began, used = time.perf_counter(), time.process_time()
        predictors[f"stmp, seed {seed}"] = train(kept, config, seed=seed, until=until)
        cost = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - used}
        costs[f"stmp, seed {seed}"] = cost
        say(f"Trained seed {seed} in {cost['seconds']:.0f} s ({cost['processor_seconds']:.0f} s of processor)")
    regions = [str(region) for region in kept.regions]
    others = make_baselines(
        panel, until, horizon, names=baselines, regions=regions, levels=config.model.levels, seed=seeds[0]
    )
    found = backtest(
        predictors | others, panel, until, end or panel.last_observed, horizon,
        cold_histories=histories, draws=0, keep_regions=0,
    )  # fmt: skip
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found, found.to_dict() | {"training": costs, "peak_memory_bytes": memory}


def _by_model(content: dict[str, Any]) -> dict[str, Any]:
    return {content["model"]: content["slices"], **content["baselines"]}


def _print(scores: dict[str, dict[str, float]], title: str, found: Backtest) -> None:
    """One row a model, and the median of ours where there are several."""
    ours = [values for name, values in scores.items() if name.startswith("stmp")]
    columns = list(ours[0])
    rows = [(name, *values.values()) for name, values in scores.items()]
    if len(ours) > 1:
        rows.insert(len(ours), (MEDIAN, *(median(values[key] for values in ours) for key in columns)))
    table(("model", *columns), rows, f"{title}, from {len(found.origins)} origins")
