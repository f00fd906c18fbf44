"""Commands that use models."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from jobs.options import (
    DAY,
    NO,
    DataUri,
    Debug,
    Horizon,
    JsonFile,
    ModelUri,
    Tracking,
    Workers,
    columns,
    day,
    finish,
    shares,
)
from stmp.errors import ConfigError

app = typer.Typer()

TableFile = Annotated[
    str, typer.Option(metavar="FILE", help="Where to write: .parquet or .csv, local or on object storage.")
]
Origin = Annotated[
    datetime | None, typer.Option(**DAY, help="The last day whose sales are used; by default the last one there is.")
]
KnownFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="CSV or Parquet with the known-future columns of days after the data's end."),
]


@app.command()
def forecast(
    data: DataUri,
    model: ModelUri,
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="A .parquet or .csv file, or a FOLDER/ of Parquet parts; local or on object storage."
        ),
    ],
    origin: Origin = None,
    horizon: Horizon = None,
    known: KnownFile = None,
    workers: Annotated[int, typer.Option(min=0, help="Ray tasks at a time, for a FOLDER/; 0 is this process.")] = 0,
    totals: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMNS",
            help="Add totals by columns of the regions table, such as state,city; `all` for one of all.",
        ),
    ] = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Forecast all regions, and write region, series, date, mean and quantiles as a table.

    A FOLDER/ lacks regions whose planned covariates are not known: _SUCCESS lists them, and the exit code is 3.

    \b
    stmp forecast --data data/stores --model runs/first --out forecast.parquet
    stmp forecast --data data/stores --model models:/stores/3 --origin 2015-06-19 --horizon 28 --out forecast.csv
    stmp forecast --data data/stores --model runs/first --totals state,city --out forecast.parquet
    stmp forecast --data s3://bucket/stores --model models:/stores@champion --out s3://bucket/forecasts/may/ --workers 8
    """
    from jobs.forecast import forecast as job

    result = job(
        data, model, out, origin=day(origin), horizon=horizon, known=known, workers=workers, totals=columns(totals),
        tracking_uri=tracking_uri,
    )  # fmt: skip
    finish(result, json_file)
    if result["missing"]:
        raise typer.Exit(NO)


@app.command()
def explain(
    data: DataUri,
    model: ModelUri,
    out: TableFile,
    origin: Origin = None,
    horizon: Horizon = None,
    known: KnownFile = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Say what the forecasts owe to each known-future covariate, to festivals and to recent sales.

    Each is answered by the same forecast with that cause as it ordinarily is.

    \b
    stmp explain --data data/stores --model models:/stores@champion --horizon 14 --out causes.csv
    """
    from jobs.explain import explain as job

    result = job(data, model, out, origin=day(origin), horizon=horizon, known=known, tracking_uri=tracking_uri)
    finish(result, json_file)


@app.command()
def serve(
    data: DataUri,
    model: ModelUri,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond 127.0.0.1 tokens are needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API.")] = 8000,
    observations: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Database of observations; by default $STMP_OBSERVATIONS, or else a SQLite file in $STMP_HOME.",
        ),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(**DAY, help="Last day whose sales are used; by default the last one there is.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that answer, each on a core of its own.")] = 1,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Serve forecasts over HTTP on this machine, until Ctrl-C.

    \b
    stmp serve --model models:/stores@champion --data data/stores --port 8000
    """
    from jobs.serve import serve as job
    from jobs.serve import wait
    from stmp_platform.serve import stop

    result = job(
        data, model, host=host, port=port, observations=observations, until=day(until), replicas=replicas,
        tracking_uri=tracking_uri,
    )  # fmt: skip
    finish(result, json_file)
    try:
        wait()
    finally:
        stop()


@app.command()
def rollout(
    model: ModelUri,
    url: Annotated[str, typer.Option(help="Address of the API.")] = "http://127.0.0.1:8000",
    dashboard: Annotated[
        str, typer.Option(help="Address of Ray's dashboard, as `stmp serve` prints it.")
    ] = "http://127.0.0.1:8265",
    canary: Annotated[
        str | None,
        typer.Option(help="Answer for these shares of the regions first, one after the other, such as 0.05,0.25."),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Only compare it with the model that answers, which stays.")
    ] = False,
    hold: Annotated[float, typer.Option(min=1, help="Seconds of the shadow, and of each step of the canary.")] = 60.0,
    max_difference: Annotated[
        float, typer.Option(min=0.001, help="A trial ends if the two models' forecasts differ by more, as a share.")
    ] = 0.5,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Have a running application answer with another model; it goes back if one of its replicas cannot take it.

    \b
    stmp rollout --model models:/stores@champion --dashboard http://127.0.0.1:8265
    stmp rollout --model models:/stores/4 --canary 0.05,0.25 --hold 120
    """
    from jobs.serve import rollout as job

    if canary is not None and shadow:
        raise ConfigError("--canary and --shadow exclude each other: in the shadow the model answers nobody.")
    result = job(
        model, url=url, dashboard=dashboard, canary=shares(canary), shadow=shadow, hold_s=hold,
        max_difference=max_difference, tracking_uri=tracking_uri,
    )  # fmt: skip
    finish(result, json_file)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything that the demo writes.")] = Path(
        "demo-output"
    ),
    workers: Workers = 0,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Go the whole way on real stores: ingest, train, backtest, report, forecast, promote and serve.

    \b
    stmp demo --out demo-output
    """
    from jobs.demo import demo as job

    finish(job(out, workers=workers), json_file)
