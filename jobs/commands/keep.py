"""Commands that keep models up to date."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jobs.options import (
    DAY,
    NO,
    DataUri,
    Debug,
    ElasticWorkers,
    Gpu,
    JsonFile,
    Settings,
    Tracking,
    day,
    finish,
    number_of_workers,
    shares,
)

app = typer.Typer()


class When(StrEnum):
    """What makes a retraining due."""

    new = "new"
    drift = "drift"
    always = "always"


@app.command()
def retrain(
    data: DataUri,
    out: Annotated[str, typer.Option(metavar="URI", help="Folder of all retrainings of these data.")],
    new: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Raw tables to add first, as `stmp ingest --append` does.")
    ] = None,
    revise: Annotated[bool, typer.Option("--revise", help="With --new: new values may replace old ones.")] = False,
    when: Annotated[
        When, typer.Option(help="Due if the data are new to the champion, if they have drifted (--event), or always.")
    ] = When.new,
    event: Annotated[
        str | None, typer.Option(metavar="FILE", help="The event.json of `stmp monitor`; it need not exist.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the registered model; by default the dataset's.")
    ] = None,
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="For a training from scratch: product, paper, or a YAML file.")
    ] = "product",
    setting: Settings = None,
    max_minutes: Annotated[float, typer.Option(min=0, help="Training at most; 0 for no limit.")] = 0.0,
    workers: ElasticWorkers = "0",
    gpu: Gpu = False,
    seed: Annotated[int, typer.Option(help="Seed of all sampling.")] = 0,
    hold_out: Annotated[
        int | None,
        typer.Option(min=1, help="Last days (weeks) kept from learning for the gate; by default four of its windows."),
    ] = None,
    closed_after: Annotated[
        int, typer.Option(min=0, help="Days without sales after which a region has closed and is left out; 0: never.")
    ] = 56,
    rules: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML file of the gate's rules.")] = None,
    today: Annotated[
        datetime | None, typer.Option(**DAY, help="The day from which the data's age is counted; by default today.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Address of an API to roll the new champion out to.")] = None,
    dashboard: Annotated[str, typer.Option(help="Address of its Ray dashboard.")] = "http://127.0.0.1:8265",
    canary: Annotated[str | None, typer.Option(help="Of the rollout, as in `stmp rollout`: 0.05,0.25.")] = None,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Of the batch forecasts; by default all that the model has learned.")
    ] = None,
    known: Annotated[
        str | None, typer.Option(metavar="FILE", help="Known-future columns of days after the data's end.")
    ] = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Retrain if it is due: train from the champion, judge, promote, roll out, forecast. Repeat it to go on.

    \b
    stmp retrain --data data/stores --new new-days.yaml --out retrainings
    stmp retrain --data data/stores --out retrainings --when drift --event monitor/event.json --url http://api:8000
    stmp retrain --data s3://bucket/stores --out s3://bucket/retrainings --workers 2:8 --gpu --max-minutes 90
    """
    from jobs.asked import Means
    from jobs.retrain import retrain as job

    means = Means(
        workers=number_of_workers(workers), gpu=gpu, url=url, dashboard=dashboard, canary=shares(canary),
        horizon=horizon, known=known, rules=rules, today=day(today), tracking_uri=tracking_uri,
    )  # fmt: skip
    result = job(
        data, out, new=new, revise=revise, when=when.value, event=event, name=name, preset=preset,
        settings=setting or [], max_minutes=max_minutes, seed=seed, hold_out=hold_out, closed_after=closed_after,
        means=means,
    )  # fmt: skip
    finish(result, json_file)
    if result["status"] in ("refused", "busy") or result.get("missing"):
        raise typer.Exit(NO)


@app.command()
def trace(
    forecast_id: Annotated[
        str, typer.Argument(metavar="FORECAST_ID", help="As a forecast carries it, in a file or an answer.")
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="URI", help="The dataset; by default the one that the model was trained on."),
    ] = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Tell where a forecast comes from: its data and raw tables, its model, and the code that trained it.

    \b
    stmp trace stores/3:1a2b3c4d5e6f:2025-01-31
    """
    from jobs.trace import trace as job

    finish(job(forecast_id, data=data, tracking_uri=tracking_uri), json_file)


@app.command()
def prune(
    data: DataUri,
    out: Annotated[str, typer.Option(metavar="URI", help="Folder of its retrainings.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the registered model; by default the dataset's.")
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="So many of the newest of each kind stay.")] = 5,
    days: Annotated[int, typer.Option(min=0, help="All that are younger stay.")] = 90,
    yes: Annotated[bool, typer.Option("--yes/--dry-run", help="Remove what goes; otherwise it is only shown.")] = False,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Show which old retrainings, forecasts, versions and states of a dataset nothing needs; --yes removes them.

    \b
    stmp prune --data data/stores --out retrainings
    stmp prune --data data/stores --out retrainings --keep 10 --days 30 --yes
    """
    from jobs.prune import prune as job

    result = job(data, out, name=name, keep=keep, days=days, yes=yes, tracking_uri=tracking_uri)
    finish(result, json_file)
