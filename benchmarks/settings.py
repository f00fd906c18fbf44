"""Each setting of the preset `product` alone, and an ensemble of seeds, beside the preset itself on several data sets.

    python -m benchmarks.settings --data data/favorita:2016-07-01:2016-11-07:28 --data data/oj:1992-02-26:1992-10-07:8
    python -m benchmarks.settings --table benchmarks/results/settings.json

Each `--data` is a dataset, the last day to learn from, the last day that is forecast, and the periods forecast at a
time. Choose days before those of any test: what is read here is what defaults are chosen by. `seeds` is the preset
trained with some seeds, `mean of seeds` the mean of their forecasts, which costs as much as all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stmp.config import Config
from stmp.data.panel import DateLike, Panel
from stmp.evaluation.backtest import backtest
from stmp.forecast import Forecast, Predictor
from stmp.forecaster import Forecaster
from stmp.learning.train import train

RESULTS = Path(__file__).parent / "results" / "settings.json"
PRESETS = Path(__file__).resolve().parents[1] / "jobs" / "presets"
SEEDS, MEAN = "seeds", "mean of seeds"
SETTINGS = (
    "model.hidden=32", "model.hidden=96", "model.heads=8", "model.psi=none", "model.static=false", "model.cart=false",
    "model.event_size=0", "model.level_window=28", "train.max_steps=800", "train.max_steps=3000",
    "train.learning_rate=0.001", "train.learning_rate=0.004", "train.weight_decay=0.1", "train.ema=0.998",
    "train.clip=0.3", "train.queries=96", "train.supports=320", "train.batch_regions=96", "train.cold_fraction=0.15",
    "train.day_type_temperature=1", "validation.regions=0",
)  # fmt: skip
Row = dict[str, Any]


class Mean:
    """The mean of what several models forecast."""

    def __init__(self, models: list[Forecaster]) -> None:
        self.models = models
        self.trained_regions, self.trained_until = models[0].trained_regions, models[0].trained_until

    def predict(self, panel: Panel, origin: DateLike, horizon: int) -> Forecast:
        """Means and quantiles averaged, level by level."""
        forecasts = [model.predict(panel, origin, horizon) for model in self.models]
        means, quantiles = ([getattr(f, name) for f in forecasts] for name in ("mean", "quantiles"))
        return replace(forecasts[0], mean=np.mean(means, axis=0), quantiles=np.mean(quantiles, axis=0))


def measure(data: str, until: str, end: str, horizon: int, setting: str, seeds: int, device: str) -> list[Row]:
    """Errors of what a setting trains, for each seed, and of their mean where there are several."""
    from stmp_platform.dataset import read_panel

    torch.set_num_threads(1)
    panel = read_panel(data)
    config = Config.load(PRESETS / "product.yaml", [] if setting == SEEDS else [setting])
    begin = time.perf_counter()
    models = [train(panel.to(device), config, seed=seed, until=until) for seed in range(seeds)]
    seconds = (time.perf_counter() - begin) / seeds
    found: dict[str, Predictor] = {f"{setting} {seed}": model for seed, model in enumerate(models)}
    if seeds > 1:
        found[MEAN] = Mean(models)
    rows = []
    for name, model in found.items():
        result = backtest(
            {name: model}, panel, until, end, horizon, cold_histories=(), draws=0, keep_regions=0, progress=False
        )
        scores = {key: result.to_dict()["slices"]["all"][key] for key in ("wape", "wql", "coverage_80")}
        rows.append({"data": Path(data).name, "setting": name.rsplit(" ", 1)[0] if name != MEAN else MEAN, **scores,
                     "seconds": seconds, "steps": [m.provenance.steps for m in models]})  # fmt: skip
    return rows


def table(rows: Iterable[Row]) -> str:
    """WAPE of each setting over the mean of the preset's seeds, by data set and on average; as Markdown."""
    wape: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        wape.setdefault(row["setting"], {}).setdefault(row["data"], []).append(row["wape"])
    datasets = list(wape[SEEDS])
    usual = {data: float(np.mean(wape[SEEDS][data])) for data in datasets}
    lines = [f"| setting | {' | '.join(datasets)} | mean |", "|---" + "|--:" * (len(datasets) + 1) + "|"]
    spread = {data: float(np.ptp(wape[SEEDS][data]) / 2 / usual[data]) for data in datasets}
    cells = [f"{usual[data]:.4f} ± {100 * spread[data]:.1f} %" for data in datasets]
    lines.append(f"| the preset, WAPE, half the range of seeds | {' | '.join(cells)} | |")
    for setting, found in wape.items():
        if setting != SEEDS:
            ratios = [float(np.mean(found[data])) / usual[data] if data in found else None for data in datasets]
            texts = [f"{100 * (ratio - 1):+.1f} %" if ratio else "" for ratio in ratios]
            whole = [ratio for ratio in ratios if ratio]
            lines.append(f"| `{setting}` | {' | '.join(texts)} | {100 * (np.mean(whole) - 1):+.1f} % |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write what was found; or print the table of what was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="URI:UNTIL:END:HORIZON")
    parser.add_argument("--setting", action="append", metavar="KEY=VALUE", help="instead of all that the script names")
    parser.add_argument("--seeds", type=int, default=3, help="of the preset itself; a setting has the first alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, help="print the table of these results, and measure nothing")
    arguments = parser.parse_args()
    if arguments.table is not None:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))["results"]))
        return
    places = [text.rsplit(":", 3) for text in arguments.data]
    settings = [(SEEDS, arguments.seeds), *((s, 1) for s in arguments.setting or SETTINGS)]
    rows: list[Row] = []
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        running = [
            pool.submit(measure, data, until, end, int(horizon), setting, seeds, arguments.device)
            for setting, seeds in settings
            for data, until, end, horizon in places
        ]
        for future in running:
            rows += future.result()
            content = {"data": arguments.data, "device": arguments.device, "torch": torch.__version__, "results": rows}
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
