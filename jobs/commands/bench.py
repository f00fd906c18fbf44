"""Commands that measure models by a protocol that others use too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from jobs.options import DAY, DataUri, Debug, JsonFile, Settings, day, finish

app = typer.Typer()
bench = typer.Typer(
    name="bench", help="Measure by a fixed protocol: fev-bench, cold starts, festivals.", no_args_is_help=True
)
app.add_typer(bench)

Preset = Annotated[str, typer.Option(help="Settings to begin with: a preset, or the path of a YAML file.")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="Train with this seed; may be repeated. By default 0.")]

Until = Annotated[datetime, typer.Option(**DAY, help="The last day to learn from, and the first origin.")]
End = Annotated[datetime | None, typer.Option(**DAY, help="Last day that is forecast; by default the last one.")]
Ahead = Annotated[int, typer.Option("--horizon", min=1, help="Days (weeks) ahead, and between origins.")]
Baselines = Annotated[
    list[str] | None,
    typer.Option("--baseline", metavar="NAME", help="Only these baselines; may be repeated. `none` for none."),
]


@bench.command()
def fev(
    task: Annotated[
        str,
        typer.Argument(
            help="rossmann_1D, rossmann_1W, favorita_transactions_1D, favorita_transactions_1W, rohlik_orders_1D, "
            "rohlik_orders_1W, restaurant, hierarchical_sales_1D or walmart."
        ),
    ],
    data: DataUri,
    preset: Preset = "product",
    settings: Settings = None,
    seed: Seeds = None,
    steps: Annotated[
        int, typer.Option(min=0, help="Steps of fine-tuning before each window but the first; 0 trains once.")
    ] = 150,
    baseline: Baselines = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Run a retail task of fev-bench: windows and scores are the fev library's, beside the published leaderboard.

    \b
    stmp bench fev rossmann_1D --data data/rossmann --json rossmann_1D.json
    """
    from jobs.bench.fev import fev as job
    from jobs.bench.learners import BASELINES
    from jobs.train import load_preset

    config = load_preset(preset, settings or ())
    names = _names(baseline, BASELINES)
    finish(job(task, data, config, seeds=seed or [0], steps=steps, baselines=names), json_file)


@bench.command()
def cold(
    data: DataUri,
    until: Until,
    horizon: Ahead = 14,
    end: End = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of the regions held out of training.")] = 0.2,
    preset: Preset = "product",
    settings: Settings = None,
    seed: Seeds = None,
    baseline: Baselines = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Forecast regions that were never trained on, from 7, 14, 28 and 56 days of history.

    \b
    stmp bench cold --data data/rossmann --until 2014-10-31 --json cold.json
    """
    from jobs.bench.rolling import cold as job
    from jobs.train import load_preset
    from stmp.evaluation.baselines import NAMES

    result = job(
        data, load_preset(preset, settings or ()), until=str(day(until)), seeds=seed or [0], horizon=horizon,
        end=day(end), share=share, baselines=_names(baseline, NAMES),
    )  # fmt: skip
    finish(result, json_file)


@bench.command()
def festival(
    data: DataUri,
    until: Until,
    horizon: Ahead = 14,
    end: End = None,
    preset: Preset = "product",
    settings: Settings = None,
    seed: Seeds = None,
    baseline: Baselines = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Measure the error on festival days, on the three days after, and on ordinary days.

    Beside the baselines of `stmp backtest`: lstm, lstnet and maml, networks of the time of the STMP paper.

    \b
    stmp bench festival --data data/rossmann --until 2014-10-31 --json festival.json
    """
    from jobs.bench.rolling import festival as job
    from jobs.train import load_preset
    from stmp.evaluation.baselines import NAMES, NEURAL

    result = job(
        data, load_preset(preset, settings or ()), until=str(day(until)), seeds=seed or [0], horizon=horizon,
        end=day(end), baselines=_names(baseline, [*NAMES, *NEURAL]),
    )  # fmt: skip
    finish(result, json_file)


@bench.command()
def ablation(
    data: DataUri,
    until: Until,
    horizon: Ahead = 14,
    end: End = None,
    row: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this variant; may be repeated.")] = None,
    settings: Settings = None,
    seed: Seeds = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Train on the GPU; all trainings side by side share it.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Trainings side by side.")] = 1,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Train again without each part of the model, and of the paper's, and forecast the same days.

    \b
    stmp bench ablation --data data/city --until 2022-10-31 --seed 0 --seed 1 --seed 2 --json ablation.json
    """
    from jobs.bench.ablation import ablation as job

    result = job(
        data, settings or (), until=str(day(until)), rows=row or (), seeds=seed or [0], horizon=horizon, end=day(end),
        gpu=gpu, processes=processes, keep=lambda so_far: finish(so_far, json_file),
    )  # fmt: skip
    finish(result, json_file)


def _names(baseline: list[str] | None, default: Sequence[str]) -> list[str]:
    """The baselines that are asked for."""
    return [] if "none" in (baseline or ()) else list(baseline or default)
