"""`stmp bench ablation`: the model again without each of its parts, and the paper's model without each of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from jobs.screen import say, table
from jobs.train import load_preset
from stmp.config import Config
from stmp.errors import ConfigError
from stmp.evaluation.backtest import backtest
from stmp.learning.train import train

PARTS: dict[str, tuple[str, ...]] = {
    "whole": (),
    "no attention": ("model.pooling=mean",),
    "no psi": ("model.psi=none",),
    "psi without spread": ("model.psi=deterministic",),
    "no last year": ("model.last_year=false", "validation.lean=0", "validation.lean_festivals=0"),
    "no counterparts": ("model.counterparts=false",),
    "no trend": ("model.trend_periods=[]",),
    "no turn of the month": ("model.turn_of_month=false",),
    "no leaning": ("validation.lean=0", "validation.lean_festivals=0"),
    "no leaning at festivals": ("validation.lean_festivals=0",),
    "no group index": ("validation.own_share=1",),
    "no known future": ("model.known=false",),
    "no event vectors": ("model.event_size=0",),
    "no past covariates": ("model.cart=false",),
    "no static features": ("model.static=false",),
    "no AR block": ("model.ar=false",),
    "no skip-LSTM": ("model.skip_periods=[]",),
    "linear scale": ("model.transform=linear",),
    "normal head": ("model.head=normal",),
    "series together": ("model.series=joint",),
    "spatial view only": ("train.views=spatial",),
    "temporal view only": ("train.views=temporal",),
    "no dropout": ("model.dropout=0",),
    "last year never hidden": ("train.hide_last_year=0",),
    "no steps of the level": ("train.level_step=0",),
    "no short histories": ("train.cold_fraction=0",),
    "no weight average": ("train.ema=0",),
    "three networks": ("model.members=3",),
}
"""Of `product`, the last with something more."""
PAPERS: dict[str, tuple[str, ...]] = {
    "paper": (),
    "paper, no psi": ("model.psi=none",),
    "paper, psi without spread": ("model.psi=deterministic",),
    "paper, two extractors": ("model.share_extractor=false",),
    "paper, no AR block": ("model.ar=false",),
    "paper, spatial view only": ("train.views=spatial",),
    "paper, temporal view only": ("train.views=temporal",),
}
"""Of `paper`."""


SCORES = ("wape", "mse", "wql", "coverage_80")


def ablation(
    data: str,
    settings: Sequence[str] = (),
    *,
    until: str,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    horizon: int = 14,
    end: str | None = None,
    gpu: bool = False,
    processes: int = 1,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train each variant with each seed, and forecast the same days.

    Parameters
    ----------
    data : str
    settings : sequence of ``section.key=value``
        For all variants, before what makes them different.
    until : str
        The last day to learn from, and the first origin.
    rows : sequence of str
        Some of `PARTS` and `PAPERS`; all by default.
    seeds : sequence of int
    horizon : int
        Periods forecast from each origin, and between origins.
    end : str, optional
        The last day that is forecast; by default the last with sales.
    gpu : bool
        Train on the GPU; forecasts are made on the processor.
    processes : int
        Trainings side by side.
    keep : callable, optional
        Called with the result so far after each variant: all of them take hours.

    Returns
    -------
    dict
        ``variants``: by name and slice, `SCORES` for each seed; ``seconds`` and ``steps`` of training,
        and what it ran on.

    Raises
    ------
    ConfigError, DataError
        For an unknown variant, without a GPU where one is to be used, and as training and `backtest` do.
    """
    variants = {name: ("product", changes) for name, changes in PARTS.items()}
    variants |= {name: ("paper", changes) for name, changes in PAPERS.items()}
    unknown = sorted(set(rows) - set(variants))
    if unknown:
        raise ConfigError(f"There are no variants {unknown}; choose from {list(variants)}.")
    if gpu and not torch.cuda.is_available():
        raise ConfigError("Torch sees no GPU here; leave --gpu out to train on the processor.")
    machine = {"device": torch.cuda.get_device_name() if gpu else "cpu", "torch": torch.__version__}
    names = list(rows or variants)
    configs = [load_preset(variants[name][0], [*settings, *variants[name][1]]) for name in names for _ in seeds]
    measure = partial(_measure, data=data, until=until, end=end, horizon=horizon, gpu=gpu, alone=processes == 1)
    result: dict[str, Any] = {
        "data": os.path.basename(data.rstrip("/")), "settings": list(settings), "until": until, "end": end,
        "horizon": horizon, "seeds": list(seeds), "variants": {},
    }  # fmt: skip
    found = _side_by_side(measure, configs, [*seeds] * len(names), processes)
    for name in names:
        measured = [next(found) for _ in seeds]
        slices = {
            part: {score: [run["slices"][part][score] for run in measured] for score in SCORES}
            for part in measured[0]["slices"]
        }
        costs = {cost: [run[cost] for run in measured] for cost in ("seconds", "steps")}
        result["variants"][name] = {"slices": slices} | costs | machine
        say(f"{name}: WAPE {' '.join(f'{value:.4f}' for value in slices['all']['wape'])}")
        if keep is not None:
            keep(result)
    _print(result["variants"])
    return result


def _side_by_side(
    measure: Callable[[Config, int], dict[str, Any]], configs: Sequence[Config], seeds: Sequence[int], processes: int
) -> Iterator[dict[str, Any]]:
    """What is measured of each, in their order."""
    if processes == 1:
        yield from map(measure, configs, seeds)
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        yield from pool.map(measure, configs, seeds)


def _measure(
    config: Config, seed: int, *, data: str, until: str, end: str | None, horizon: int, gpu: bool, alone: bool
) -> dict[str, Any]:
    """Train once, and forecast."""
    from stmp_platform.dataset import read_panel

    panel = read_panel(data)
    began = time.perf_counter()
    model = train(panel.to("cuda" if gpu else "cpu"), config, seed=seed, until=until)
    seconds = time.perf_counter() - began
    result = backtest(
        {"model": model}, panel, until, end or panel.last_observed, horizon,
        cold_histories=(), draws=0, keep_regions=0, progress=alone,
    )  # fmt: skip
    slices = {part: {score: values[score] for score in SCORES} for part, values in result.to_dict()["slices"].items()}
    return {"slices": slices, "seconds": seconds, "steps": model.provenance.steps}


def _print(found: Mapping[str, Any]) -> None:
    """WAPE of each variant by slice: mean over seeds, and their standard deviation where there are several."""
    first = next(iter(found.values()))
    slices = [name for name, scores in first["slices"].items() if scores["wape"][0] is not None]
    table(
        ("WAPE", *slices, "minutes"),
        [
            (name, *(_spread(entry["slices"][part]["wape"]) for part in slices), float(np.mean(entry["seconds"])) / 60)
            for name, entry in found.items()
        ],
    )


def _spread(values: Sequence[float]) -> str:
    text = f"{np.mean(values):.4f}"
    return text + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")
