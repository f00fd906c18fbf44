"""The `stmp` command line: it reads arguments, calls one job, and turns errors into exit codes. Nothing else.

Exit codes: 0 done; 3 the answer is no (a gate refused, a threshold was crossed); 2 bad input, configuration or
arguments; 1 anything else; 130 interrupted.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.screen import write_json
from stmp.errors import ConfigError, DataError, StmpError

app = typer.Typer(
    name="stmp",
    help="Forecast the sales of regions: from raw tables to a trained, tracked and reported forecaster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at datasets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

_debug = False


def _set_debug(value: bool) -> None:
    global _debug  # noqa: PLW0603  # asked for by an argument, needed where the command has already ended
    _debug = _debug or value
    if value:
        _set_logging("DEBUG")


def _set_logging(level: str) -> None:
    """Structured lines on standard error: warnings, or what STMP_LOG asks for (`STMP_LOG=INFO`)."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    number = logging.getLevelNamesMapping().get(level.upper(), logging.WARNING)
    for ours in ("stmp", "stmp_platform"):
        logging.getLogger(ours).setLevel(number)


def _day(value: datetime | None) -> str | None:
    return None if value is None else value.date().isoformat()


DataUri = Annotated[str, typer.Option("--data", metavar="URI", help="The dataset: a folder that `stmp ingest` wrote.")]
ModelUri = Annotated[
    str,
    typer.Option(
        "--model", metavar="M", help="A training's --out, its model/, models:/name/version or models:/name@alias."
    ),
]
Horizon = Annotated[
    int | None, typer.Option(min=1, help="Days (weeks) ahead; by default all that the model has learned.")
]
Tracking = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="MLflow tracking server or database; by default $MLFLOW_TRACKING_URI, else ./mlflow.db.",
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result for machines here.")]
Debug = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, is_eager=True, help="Show the traceback of an error.")
]
NO = 3
"""Exit code of a command that did what it was asked, and whose answer is no."""
DAY = {"formats": ["%Y-%m-%d"], "metavar": "DATE"}


def _finish(result: Mapping[str, Any], json_file: Path | None) -> None:
    if json_file is not None:
        write_json(json_file, _plain(result))


def _plain(value: Any) -> Any:
    """Make a result fit for JSON: no NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A dataset.yaml, one long table (unique_id, ds, y, ...), `completejourney` or `synthetic`.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="URI", help="Folder of the dataset, local or on object storage.")],
    append: Annotated[bool, typer.Option("--append", help="Add new days to a dataset that is there.")] = False,
    revise: Annotated[bool, typer.Option("--revise", help="With --append: new values may replace old ones.")] = False,
    country: Annotated[
        str | None, typer.Option(metavar="CC", help="For one long table: whose holidays, such as DE, US or US-CA.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For `synthetic`: regions=60, years=3, seed=0 and others."),
    ] = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Check raw tables, tell every fault at once, and write them as a dataset.

    \b
    stmp ingest dataset.yaml --out data/stores
    stmp ingest sales.csv --country DE --out data/stores
    stmp ingest new-days.yaml --append --out s3://bucket/stores
    stmp ingest synthetic --set regions=60 --set seed=1 --out data/city
    """
    from jobs.ingest import ingest as job

    _finish(job(source, out, append=append, revise=revise, country=country, settings=setting or []), json_file)


@data_app.command("describe")
def describe(
    uri: Annotated[str, typer.Argument(metavar="URI", help="The dataset: a folder that `stmp ingest` wrote.")],
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Print what is in a dataset: regions, dates, gaps, day types, festival days, fingerprint.

    \b
    stmp data describe data/stores
    """
    from jobs.ingest import describe as job

    _finish(job(uri), json_file)


@app.command()
def train(
    data: DataUri,
    out: Annotated[
        str, typer.Option(metavar="URI", help="Folder of the run; an unfinished run in it is gone on with.")
    ],
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="product, paper, or a YAML file of settings.")
    ] = "product",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of docs/configuration.md; may be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Ray workers; 0 trains in this process, without Ray.")] = 0,
    gpu: Annotated[bool, typer.Option("--gpu", help="One GPU for each worker.")] = False,
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
    """
    from jobs.train import train as job

    result = job(
        data, out, preset=preset, settings=setting or [], workers=workers, gpu=gpu, seed=seed, until=_day(until),
        name=name, tracking_uri=tracking_uri,
    )  # fmt: skip
    _finish(result, json_file)


Strength = Annotated[float | None, typer.Option(min=0, metavar="X", help="Lambda of these parameters alone.")]


@app.command()
def adapt(
    source: Annotated[
        str, typer.Option("--source", metavar="M", help="The model to adapt; named as for the other commands.")
    ],
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
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of docs/configuration.md; may be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Ray workers; 0 trains in this process, without Ray.")] = 0,
    gpu: Annotated[bool, typer.Option("--gpu", help="One GPU for each worker.")] = False,
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
    stmp adapt --source models:/stores@champion --data data/shop --lambda-extractor inf --lambda-head 0 --out runs/shop
    """
    from jobs.adapt import adapt as job

    by_group = {"extractor": lambda_extractor, "amortization": lambda_amortization, "head": lambda_head}
    result = job(
        source, data, out, strength=strength, by_group=by_group, reset_periods=reset_periods, settings=setting or [],
        workers=workers, gpu=gpu, seed=seed, until=_day(until), name=name, tracking_uri=tracking_uri,
    )  # fmt: skip
    _finish(result, json_file)


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
        Path | None, typer.Option(metavar="DIR", help="Write an HTML report and its pictures here.")
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
        data, model, start=str(_day(start)), end=_day(end), horizon=horizon, step=step, report=report,
        baselines=baseline, seed=seed, tracking_uri=tracking_uri,
    )  # fmt: skip
    _finish(result, json_file)


@app.command()
def forecast(
    data: DataUri,
    model: ModelUri,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="Where to write: .parquet or .csv, local or on object storage.")
    ],
    origin: Annotated[
        datetime | None,
        typer.Option(**DAY, help="The last day whose sales are used; by default the last one there is."),
    ] = None,
    horizon: Horizon = None,
    known: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="CSV or Parquet with the known-future columns of days after the data's end."),
    ] = None,
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Forecast all regions, and write region, series, date, mean and quantiles as one table.

    \b
    stmp forecast --data data/stores --model runs/first --out forecast.parquet
    stmp forecast --data data/stores --model models:/stores/3 --origin 2015-06-19 --horizon 28 --out forecast.csv
    """
    from jobs.forecast import forecast as job

    result = job(data, model, out, origin=_day(origin), horizon=horizon, known=known, tracking_uri=tracking_uri)
    _finish(result, json_file)


@app.command()
def tune(
    source: Annotated[
        str, typer.Option("--source", metavar="M", help="The model to adapt; named as for the other commands.")
    ],
    data: DataUri,
    out: Annotated[str, typer.Option(metavar="URI", help="Folder of the tuning; an unfinished one is gone on with.")],
    trials: Annotated[int, typer.Option(min=2, help="Lambdas to try; 0 and infinity are among them.")] = 16,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help="Search this too: learning_rate, frozen; may be repeated."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of docs/configuration.md; may be repeated."),
    ] = None,
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
        workers=workers, seed=seed, until=_day(until), name=name, tracking_uri=tracking_uri,
    )  # fmt: skip
    _finish(result, json_file)


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
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Write an HTML report here.")] = None,
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
        sources, target, source_data=source_data or [], until=_day(until), report=report, seed=seed,
        tracking_uri=tracking_uri,
    )  # fmt: skip
    _finish(result, json_file)


@app.command()
def serve(
    data: DataUri,
    model: ModelUri,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond 127.0.0.1 tokens are needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API.")] = 8000,
    observations: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Database of observations; by default a SQLite file in $STMP_HOME."),
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

    result = job(
        data, model, host=host, port=port, observations=observations, until=_day(until), replicas=replicas,
        tracking_uri=tracking_uri,
    )  # fmt: skip
    _finish(result, json_file)
    wait()


@app.command()
def rollout(
    model: ModelUri,
    url: Annotated[str, typer.Option(help="Address of the API.")] = "http://127.0.0.1:8000",
    dashboard: Annotated[
        str, typer.Option(help="Address of Ray's dashboard, as `stmp serve` prints it.")
    ] = "http://127.0.0.1:8265",
    tracking_uri: Tracking = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Have a running application answer with another model; it goes back if one of its replicas cannot take it.

    \b
    stmp rollout --model models:/stores@champion --dashboard http://127.0.0.1:8265
    """
    from jobs.serve import rollout as job

    _finish(job(model, url=url, dashboard=dashboard, tracking_uri=tracking_uri), json_file)


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

    _finish(job(name, tracking_uri=tracking_uri), json_file)


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
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the report here too.")] = None,
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
        challenger, data, champion=champion, rules=rules, report=report, today=_day(today), tracking_uri=tracking_uri
    )
    _finish(result, json_file)
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

    _finish(job(champion, tracking_uri=tracking_uri), json_file)


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
    _finish(result, json_file)
    if result["crossed"]:
        raise typer.Exit(NO)


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

    _finish(job(out, tracking_uri=tracking_uri), json_file)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything that the demo writes.")] = Path(
        "demo-output"
    ),
    workers: Annotated[int, typer.Option(min=0, help="Ray workers; 0 trains in this process, without Ray.")] = 0,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Go the whole way on real stores: ingest, train, backtest, report, register and forecast.

    \b
    stmp demo --out demo-output
    """
    from jobs.demo import demo as job

    _finish(job(out, workers=workers), json_file)


def main() -> None:
    """Run the command line, and end the process with the right exit code."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one message on standard error, not a traceback."""
    global _debug  # noqa: PLW0603
    _debug = False
    _set_logging(os.environ.get("STMP_LOG", "WARNING"))
    try:
        app(args=arguments, prog_name="stmp")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  # the last door: everything becomes a message and an exit code
        _tell(error)
        return 2 if isinstance(error, DataError | ConfigError) else 1
    return 0


def _tell(error: Exception) -> None:
    if _debug:
        traceback.print_exception(error)
    elif isinstance(error, StmpError):
        print(f"error: {error}", file=sys.stderr)
    else:
        print(f"error: {type(error).__name__}: {error}\n(--debug shows where it happened)", file=sys.stderr)


if __name__ == "__main__":
    main()
