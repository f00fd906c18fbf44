"""Commands that make models."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from jobs.options import (
    DAY,
    DataUri,
    Debug,
    ElasticWorkers,
    Gpu,
    JsonFile,
    Settings,
    Source,
    Tracking,
    day,
    finish,
    number_of_workers,
    on_disk,
)

app = typer.Typer()


@app.command()
def train(
    data: DataUri,
    out: Annotated[
        str, typer.Option(metavar="URI", help="Folder of the run; an unfinished run in it is gone on with.")
    ],
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="product, paper, or a YAML file of settings.")
    ] = "product",
    setting: Settings = None,
    workers: ElasticWorkers = "0",
    gpu: Gpu = False,
    seed: Annotated[int, typer.Option(help="Seed of weights and of all sampling.")] = 0,
    until: Annotated[
        datetime | None, typer.Option(**DAY, help="Last day to learn from; by default the last one.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register the model under this name; by default the dataset's."),
    ] = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Train a forecaster; it lies in OUT/model when done. The same --out goes on with an unfinished run.

    \b
    stmp train --data data/stores --out runs/first
    stmp train --data data/stores --out runs/paper --preset paper --set train.max_steps=2000 --until 2014-10-31
    stmp train --data s3://bucket/stores --out s3://bucket/runs/big --workers 4 --gpu --name stores
    stmp train --data s3://bucket/stores --out s3://bucket/runs/spot --workers 2:8 --gpu --name stores
    """
    from jobs.train import train as job

    result = job(
        data, out, preset=preset, settings=setting or [], workers=number_of_workers(workers), gpu=gpu, seed=seed,
        until=day(until), name=name, tracking_uri=tracking_uri,
    )  # fmt: skip
    finish(result, json_file)


Strength = Annotated[float | None, typer.Option(min=0, metavar="X", help="Lambda of these parameters alone.")]


@app.command()
def adapt(
    source: Source,
    data: DataUri,
    out: Annotated[
        str, typer.Option(metavar="URI", help="Folder of the adaptation; an unfinished one in it is gone on with.")
    ],
    strength: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            min=0,
            metavar="X",
            help="How strongly to hold to the source: 0 is plain fine-tuning, inf freezes; by default 0.1.",
        ),
    ] = None,
    lambda_extractor: Strength = None,
    lambda_amortization: Strength = None,
    lambda_head: Strength = None,
    reset_periods: Annotated[
        bool, typer.Option("--reset-periods", help="Adapt a daily model to weekly data, or a weekly one to days.")
    ] = False,
    setting: Settings = None,
    workers: ElasticWorkers = "0",
    gpu: Gpu = False,
    seed: Annotated[int, typer.Option(help="Seed of new weights and of all sampling.")] = 0,
    until: Annotated[
        datetime | None, typer.Option(**DAY, help="Last day to learn from; by default the last one.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register the best model under this name; by default the dataset's."),
    ] = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Adapt a model to other data, and register what forecasts that best: adapted, as it is, or trained from scratch.

    \b
    stmp adapt --source runs/first --data data/new-market --lambda 0.01 --out runs/new-market
    stmp adapt --source models:/stores/3 --data s3://bucket/new --out s3://bucket/runs/new --workers 2:8 --gpu
    stmp adapt --source models:/stores@champion --data data/shop --lambda-extractor inf --lambda-head 0 --out runs/shop
    """
    from jobs.adapt import adapt as job

    by_group = {"extractor": lambda_extractor, "amortization": lambda_amortization, "head": lambda_head}
    result = job(
        source, data, out, strength=strength, by_group=by_group, reset_periods=reset_periods, settings=setting or [],
        workers=number_of_workers(workers), gpu=gpu, seed=seed, until=day(until), name=name, tracking_uri=tracking_uri,
    )  # fmt: skip
    finish(result, json_file)


@app.command()
def tune(
    source: Source,
    data: DataUri,
    out: Annotated[str, typer.Option(metavar="URI", help="Folder of the tuning; an unfinished one is gone on with.")],
    trials: Annotated[int, typer.Option(min=2, help="Lambdas to try; 0 and infinity are among them.")] = 16,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help="Search this too: learning_rate, frozen; may be repeated."),
    ] = None,
    setting: Settings = None,
    cpus: Annotated[
        float, typer.Option(help="Cores of each trial, or a part of one; as many run at once as fit.")
    ] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each trial, or a part of one.")] = 0.0,
    workers: Annotated[
        int,
        typer.Option(min=0, help="Ray workers in each trial, a core or GPU each, for large targets; 0 is one process."),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the search and of all sampling.")] = 0,
    until: Annotated[
        datetime | None, typer.Option(**DAY, help="Last day to learn from and validate on; by default the last one.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register the best model under this name; by default the dataset's."),
    ] = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Find by Ray Tune how much of a source to keep for a target, and adapt it so; repeat the command to go on.

    \b
    stmp tune --source runs/stores --data data/newmarket --out runs/newmarket --trials 16
    stmp tune --source models:/stores/3 --data data/shop --out runs/shop --also learning_rate --cpus 0.5
    stmp tune --source models:/stores/3 --data s3://bucket/big --out s3://bucket/runs/big --workers 4 --gpus 1
    """
    from jobs.tune import tune as job

    result = job(
        source, data, out, trials=trials, beside=also or [], settings=setting or [], cpus=cpus, gpus=gpus,
        workers=workers, seed=seed, until=day(until), name=name, tracking_uri=tracking_uri,
    )  # fmt: skip
    finish(result, json_file)


@app.command()
def similarity(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Trained models (as for --model), or datasets where only what sales look like is to be compared.",
        ),
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The dataset that a model is wanted for.")],
    source_data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URI", help="Dataset a source was trained on, if its training does not say; once for each."
        ),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(**DAY, help="Last day of the target to look at; by default the last one.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", callback=on_disk, help="Write an HTML report here.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the permutations and the bootstrap.")] = 0,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Compare sources with a target before anything is fine-tuned: what differs, and what would carry over.

    \b
    stmp similarity runs/stores data/newmarket --report report
    stmp similarity models:/stores/3 models:/online/1 data/newmarket --until 2015-06-30 --json ranking.json
    """
    from jobs.similarity import similarity as job

    result = job(
        sources, target, source_data=source_data or [], until=day(until), report=report, seed=seed,
        tracking_uri=tracking_uri,
    )  # fmt: skip
    finish(result, json_file)


@app.command()
def track(
    out: Annotated[str, typer.Option(metavar="URI", help="A training's --out.")],
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Send to a tracking server what it has not got of a training, because it was away or is another one.

    \b
    stmp track --out runs/first --tracking-uri http://localhost:5000
    """
    from jobs.track import track as job

    finish(job(out, tracking_uri=tracking_uri), json_file)
