"""Commands that judge models, and decide which one is in use."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from jobs.options import DAY, NO, DataUri, Debug, Horizon, JsonFile, ModelUri, Tracking, day, finish, on_disk

app = typer.Typer()


@app.command()
def backtest(
    data: DataUri,
    model: ModelUri,
    start: Annotated[datetime, typer.Option(**DAY, help="First origin: the last day whose sales are known.")],
    end: Annotated[
        datetime | None, typer.Option(**DAY, help="Last day that is forecast; by default the last one.")
    ] = None,
    horizon: Horizon = None,
    step: Annotated[
        int | None, typer.Option(min=1, help="Days (weeks) between origins; by default the horizon.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", callback=on_disk, help="Write an HTML report and its pictures here.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only these baselines; may be repeated. `none` for none."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of sampled regions.")] = 0,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Forecast the past from rolling origins, and measure against baselines by day type, horizon and cold start.

    \b
    stmp backtest --data data/stores --model runs/first --start 2014-11-01 --horizon 14 --step 14 --report report
    stmp backtest --data data/stores --model models:/stores@champion --start 2014-11-01 --json result.json
    """
    from jobs.backtest import backtest as job

    result = job(
        data, model, start=str(day(start)), end=day(end), horizon=horizon, step=step, report=report,
        baselines=baseline, seed=seed, tracking_uri=tracking_uri,
    )  # fmt: skip
    finish(result, json_file)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only the versions of this model.")] = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """List registered models: versions, aliases, gate results, and who made them champion and when.

    \b
    stmp models
    stmp models stores --json models.json
    """
    from jobs.models import models as job

    finish(job(name, tracking_uri=tracking_uri), json_file)


@app.command()
def promote(
    challenger: Annotated[
        str,
        typer.Option(metavar="M", help="The version that wants to be champion: models:/name/version or its training."),
    ],
    data: DataUri,
    champion: Annotated[
        str | None,
        typer.Option(metavar="ALIAS", help="models:/name@alias; by default the challenger's models:/name@champion."),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file of rules; see docs/promotion.md.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", callback=on_disk, help="Write the report here too.")
    ] = None,
    today: Annotated[
        datetime | None, typer.Option(**DAY, help="The day from which the data's age is counted; by default today.")
    ] = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Hold a model against the champion on the same days; make it champion if no rule is broken (else exit code 3).

    \b
    stmp promote --challenger models:/stores/4 --data data/stores
    stmp promote --challenger runs/second --data data/stores --rules rules.yaml --report gate
    """
    from jobs.promote import promote as job

    result = job(
        challenger, data, champion=champion, rules=rules, report=report, today=day(today), tracking_uri=tracking_uri
    )
    finish(result, json_file)
    if not result["promoted"]:
        raise typer.Exit(NO)


@app.command()
def rollback(
    champion: Annotated[str, typer.Argument(metavar="ALIAS", help="Whose champion: models:/name@champion.")],
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Make the previous champion champion again.

    \b
    stmp rollback models:/stores@champion
    """
    from jobs.rollback import rollback as job

    finish(job(champion, tracking_uri=tracking_uri), json_file)


@app.command()
def monitor(
    data: DataUri,
    forecasts: Annotated[
        str, typer.Option(metavar="PATH", help="Forecasts: a Parquet file of `stmp forecast`, or a folder of them.")
    ],
    baseline: Annotated[
        str, typer.Option(metavar="FILE", help="The backtest to compare with: what `stmp backtest --json` wrote.")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Where page, numbers, metrics and event are written.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A threshold of docs/monitoring.md; may be repeated."),
    ] = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Hold forecasts against what was sold since, and against a backtest (exit code 3 if a threshold was crossed).

    \b
    stmp monitor --data data/stores --forecasts forecasts --baseline report/backtest.json --out monitor
    stmp monitor --data data/stores --forecasts f.parquet --baseline result.json --out monitor --set wape=1.5
    """
    from jobs.monitor import monitor as job

    result = job(data, forecasts, baseline, out, settings=setting or [])
    finish(result, json_file)
    if result["crossed"]:
        raise typer.Exit(NO)
