"""`stmp bench ablation`: the model again without each of its parts, and the paper's model without each of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.screen import say, table
from jobs.train import load_preset
from stmp.errors import ConfigError
from stmp.evaluation.backtest import backtest
from stmp.learning.train import train

PARTS: dict[str, tuple[str, ...]] = {
    "whole": (),
    "no attention": ("model.pooling=mean",),
    "no psi": ("model.psi=none",),
    "psi without spread": ("model.psi=deterministic",),
    "no last year": ("model.last_year=false", "validation.lean=0"),
    "no trend": ("model.trend_periods=[]",),
    "no leaning": ("validation.lean=0",),
    "no known future": ("model.known=false",),
    "no event vectors": ("model.event_size=0",),
    "no past covariates": ("model.cart=false",),
    "no static features": ("model.static=false",),
    "no AR block": ("model.ar=false",),
    "no skip-LSTM": ("model.skip_periods=[]",),
    "linear scale": ("model.transform=linear",),
    "series together": ("model.series=joint",),
    "spatial view only": ("train.views=spatial",),
    "temporal view only": ("train.views=temporal",),
    "no short histories": ("train.cold_fraction=0",),
    "no weight average": ("train.ema=0",),
}
"""Of `product`."""
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


def ablation(
    data: str,
    settings: Sequence[str] = (),
    *,
    until: str,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    horizon: int = 14,
    end: str | None = None,
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

    Returns
    -------
    dict
        ``variants``: by name and slice, ``wape`` and ``mse`` for each seed; ``seconds`` of training.

    Raises
    ------
    ConfigError, DataError
        For an unknown variant, and as training and `backtest` do.
    """
    variants = {name: ("product", changes) for name, changes in PARTS.items()}
    variants |= {name: ("paper", changes) for name, changes in PAPERS.items()}
    unknown = sorted(set(rows) - set(variants))
    if unknown:
        raise ConfigError(f"There are no variants {unknown}; choose from {list(variants)}.")
    from stmp_platform.dataset import read_panel

    panel = read_panel(data)
    found: dict[str, Any] = {}
    for name in rows or variants:
        preset, changes = variants[name]
        config = load_preset(preset, [*settings, *changes])
        entry: dict[str, Any] = {"slices": {}, "seconds": []}
        for seed in seeds:
            began = time.perf_counter()
            model = train(panel, config, seed=seed, until=until)
            entry["seconds"].append(time.perf_counter() - began)
            result = backtest(
                {name: model}, panel, until, end or panel.last_observed, horizon,
                cold_histories=(), draws=0, keep_regions=0,
            )  # fmt: skip
            for part, values in result.to_dict()["slices"].items():
                kept = entry["slices"].setdefault(part, {"wape": [], "mse": []})
                for score in kept:
                    kept[score].append(values[score])
        found[name] = entry
        say(f"{name}: WAPE {' '.join(f'{value:.4f}' for value in entry['slices']['all']['wape'])}")
    _print(found)
    return {"settings": list(settings), "until": until, "horizon": horizon, "seeds": list(seeds), "variants": found}


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
