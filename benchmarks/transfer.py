"""Transfer: the error of an adapted model by lambda, by weeks and regions of target data, beside its rivals.

A target is cut to its last weeks before a date, and to some of its regions. On that, each candidate is made: from
scratch, the source as it is (no training), and the source fine-tuned at each lambda, 0 and infinity among them. All
forecast the same weeks after the date, 14 days ahead from origins two weeks apart. ``chosen`` is the lambda with the
lowest error on the validation days before the date, ``recommended`` the best candidate of all there, from scratch and
untrained among them, as `stmp adapt` recommends; the weeks after the date choose nothing.

Each measurement is added to the results as soon as it is made, and not made again, so that a large table can be made in
small portions, and by several processes with a file of results each.

    python benchmarks/transfer.py --source runs/rossmann --target data/tickets --until 2017-06-30 --weeks 8 --seeds 0
    python benchmarks/transfer.py --table benchmarks/results/transfer.json

Does `stmp similarity` know beforehand what will help? With its JSON files, `--rank` sets its scores beside what
transfer gained, by pair of source and target.

    python benchmarks/transfer.py --rank benchmarks/results/pairs.json --similarity rossmann.json favorita.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from jobs.load import load_forecaster
from stmp.data.panel import Panel
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import SeasonalNaive
from stmp.evaluation.guard import compare
from stmp.forecast import Predictor
from stmp.forecaster import Forecaster
from stmp.learning.train import train
from stmp.learning.transfer import adaptation_config
from stmp.nets.names import GROUPS
from stmp_platform.dataset import read_panel
from stmp_platform.settings import Settings

RESULTS = Path(__file__).parent / "results" / "transfer.json"
HORIZON = 14
SCRATCH, FROZEN, NAIVE = "scratch", "frozen", "seasonal naive"
CHOSEN, RECOMMENDED = "chosen", "recommended"
OF_CALENDAR = ("day_type", "event", "offset", "days_to", "days_since")
OF_PANEL = ("sales", "observed", "closed", "past", "known")
"""What has a time axis."""
Row = dict[str, Any]


def cut(panel: Panel, until: str, weeks: int, test_days: int) -> Panel:
    """The panel from some weeks before a date to some days after it, as if it had begun and ended there."""
    last = panel.index_of(until)
    days = slice(last + 1 - weeks * 7, last + 1 + test_days)
    assert days.start >= 0 and days.stop <= len(panel.dates), f"{until} lacks {weeks} weeks before or {test_days} after"
    rows = {name: getattr(panel.calendar, name)[:, days] for name in OF_CALENDAR}
    calendar = replace(panel.calendar, dates=panel.dates[days], **rows)
    short = replace(panel, calendar=calendar, **{name: getattr(panel, name)[:, days] for name in OF_PANEL})
    return short.select(np.flatnonzero(short.observed[:, : weeks * 7].any(dim=2).any(dim=1).cpu().numpy()))


def some_regions(panel: Panel, number: int, seed: int) -> Panel:
    """Some regions of the panel, others for each seed; all of them for 0."""
    if number == 0 or number >= panel.shape[0]:
        return panel
    return panel.select(np.sort(np.random.default_rng(seed).permutation(panel.shape[0])[:number]))


def candidates(lambdas: list[str]) -> list[str]:
    """Names of the candidates: the lambdas by their value."""
    return [NAIVE, SCRATCH, FROZEN, *(f"lambda {strength}" for strength in lambdas)]


def make(name: str, source: Forecaster, panel: Panel, until: str, seed: int, settings: list[str]) -> Forecaster | None:
    """Train a candidate; None for what learns nothing."""
    if name == NAIVE:
        return None
    if name == SCRATCH:
        config = adaptation_config(source, panel.frequency, settings, from_scratch=True)
        return train(panel, config, seed=seed, until=until)
    strength = ".inf" if name == FROZEN else name.removeprefix("lambda ").replace("inf", ".inf")
    chosen = [*settings, *(f"transfer.lambda_{group}={strength}" for group in GROUPS)]
    if name == FROZEN:
        chosen.append("train.max_steps=0")
    return train(panel, adaptation_config(source, panel.frequency, chosen), seed=seed, until=until, source=source)


def measure(name: str, source: Forecaster, panel: Panel, until: str, seed: int, settings: list[str]) -> Row:
    """Errors of a candidate on the weeks after the date, and on the validation days before it."""
    began, used = time.perf_counter(), time.process_time()
    model = make(name, source, panel, until, seed, settings)
    row: Row = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - used}
    predictor: Predictor = model or SeasonalNaive(levels=source.config.model.levels)
    found = backtest(
        {name: predictor}, panel, until, panel.last_observed, HORIZON,
        cold_histories=(), draws=0, keep_regions=0, progress=False,
    )  # fmt: skip
    row |= {key: found.to_dict()["slices"]["all"][key] for key in ("n", "mse", "wape", "wql")}
    if model is not None:
        periods = model.config.validation.periods
        assert periods is not None, "a trained model's configuration is resolved"
        row |= {"steps": model.provenance.steps}
        row |= {"validation_mse": compare({name: model}, panel, until=until, periods=periods).error(name)}
    return row


def portions(arguments: argparse.Namespace) -> Iterator[tuple[Row, Panel]]:
    """All settings that are asked for, and the target cut to each."""
    whole = read_panel(arguments.target)
    for weeks in arguments.weeks:
        short = cut(whole, arguments.until, weeks, 7 * arguments.test_weeks)
        for regions in arguments.regions:
            for seed in arguments.seeds:
                panel = some_regions(short, regions, seed)
                names = {"source": Path(arguments.source).name, "target": Path(arguments.target).name}
                number = panel.shape[0] if regions else "all"
                yield {**names, "until": arguments.until, "weeks": weeks, "regions": number, "seed": seed}, panel


def table(rows: list[Row]) -> str:
    """MSE by setting and candidate as Markdown, relative to scratch: mean over seeds, and its standard error."""
    frame = with_chosen(pd.DataFrame(rows))
    keys = ["source", "target", "weeks", "regions", "seed"]
    wide = frame.pivot_table(index=keys, columns="candidate", values="mse", aggfunc="first", sort=False)
    wide = wide.dropna()  # what has been measured in full
    relative = wide.div(wide[SCRATCH], axis=0)
    groups = relative.groupby(keys[:-1], sort=False)
    mean, error, seeds = groups.mean(), groups.sem(), groups.size()
    lines = [f"| {' | '.join([*keys[:-1], 'seeds', *mean.columns])} |", "|---" * (len(keys) + mean.shape[1]) + "|"]
    for index in mean.index:
        cells = [
            f"{mean.loc[index, name]:.3f}" + (f" ± {error.loc[index, name]:.3f}" if seeds[index] > 1 else "")
            for name in mean.columns
        ]
        lines.append(f"| {' | '.join([*map(str, index), str(seeds[index]), *cells])} |")
    return "\n".join(lines)


def with_chosen(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows, and for each setting those that validation would choose: of the lambdas, and of all that learn."""
    keys = ["source", "target", "until", "weeks", "regions", "seed"]
    trained = frame[frame["validation_mse"].notna()]
    picks = []
    for name, among in ((CHOSEN, trained[trained["candidate"].str.startswith("lambda")]), (RECOMMENDED, trained)):
        best = among.loc[among.groupby(keys, sort=False)["validation_mse"].idxmin()]
        picks.append(best.assign(candidate=name))
    return pd.concat([frame, *picks], ignore_index=True)


def rank(path: Path, similarities: list[Path]) -> str:
    """By pair: scores of `stmp similarity`, and the share of the squared error from scratch that transfer saved; then
    Spearman's rank correlation of each score with each gain, and its p-value. New scores are kept with the results."""
    content = json.loads(path.read_text(encoding="utf-8"))
    scores = content.setdefault("similarity", {})
    for file in similarities:
        told = json.loads(file.read_text(encoding="utf-8"))
        for one in told["ranking"]:
            pair = f"{Path(one['source']).name} to {Path(told['target']).name}"
            scores[pair] = {
                "zero-shot skill": one["zero_shot"]["skill"],
                "likeness of traits": -one["distance"],
                "likeness of psi": -one["tasks"]["all"]["distance"],
            }
    write_json(path, content)
    frame = with_chosen(pd.DataFrame(content["results"]))
    frame["pair"] = frame["source"] + " to " + frame["target"]
    mse = frame.pivot_table(index=["pair", "seed"], columns="candidate", values="mse", aggfunc="first", sort=False)
    lambdas = [name for name in mse if name.startswith("lambda")]
    picked = pd.DataFrame({"as it is": mse[FROZEN], "best lambda": mse[lambdas].min(axis=1), CHOSEN: mse[CHOSEN]})
    gains = (1.0 - picked.div(mse[SCRATCH], axis=0)).groupby("pair", sort=False).mean()
    both = gains.join(pd.DataFrame(scores).T, how="inner")
    lines = [f"| pair | {' | '.join(both.columns)} |", "|---" + "|--:" * both.shape[1] + "|"]
    lines += [f"| {pair} | {' | '.join(f'{value:.2f}' for value in row)} |" for pair, row in both.iterrows()]
    for score in both.columns[gains.shape[1] :]:
        found = {gain: spearmanr(both[score], both[gain]) for gain in gains}
        told_by = ", ".join(f"{gain} {r.statistic:+.2f} (p {r.pvalue:.3f})" for gain, r in found.items())
        lines.append(f"rank correlation of {score} with the gain: {told_by}")
    return "\n".join(lines)


def read(path: Path) -> list[Row]:
    """Rows that were measured before."""
    return json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []


def write(path: Path, rows: list[Row], settings: list[str]) -> None:
    """Put all rows in place of those that were there."""
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    write_json(path, {"machine": machine, "settings": settings, "results": rows})


def write_json(path: Path, content: Row) -> None:
    """Replace a file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def main() -> None:
    """Measure what is asked for and has not been measured, or print the table of what has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="a trained model: a training's --out")
    parser.add_argument("--target", help="a dataset")
    parser.add_argument("--until", help="last day of target data; weeks after it must be there to test on")
    parser.add_argument("--weeks", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--regions", type=int, nargs="+", default=[10, 50, 0], help="0 for all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lambdas", nargs="+", default=["0", "0.001", "0.01", "0.1", "1", "inf"])
    parser.add_argument("--test-weeks", type=int, default=4)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, help="print the table of these results, and measure nothing")
    parser.add_argument("--rank", type=Path, help="print what similarity foretold of these results, likewise")
    parser.add_argument("--similarity", type=Path, nargs="+", default=[], help="JSON files of `stmp similarity`")
    arguments = parser.parse_args()
    if arguments.rank is not None:
        print(rank(arguments.rank, arguments.similarity))
        return
    if arguments.table is not None:
        print(table(read(arguments.table)))
        return
    source = load_forecaster(arguments.source, Settings.from_env())
    rows = read(arguments.out)
    for setting, panel in portions(arguments):
        for name in candidates(arguments.lambdas):
            key = {**setting, "candidate": name}
            if any(key.items() <= row.items() for row in rows):
                continue
            row = {**key, **measure(name, source, panel, arguments.until, setting["seed"], arguments.settings)}
            rows.append(row)
            write(arguments.out, rows, arguments.settings)
            told = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
            print(told, flush=True)


if __name__ == "__main__":
    main()
