"""Commands for datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.options import Debug, JsonFile, finish

app = typer.Typer()
data_app = typer.Typer(help="Look at datasets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")


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

    finish(job(source, out, append=append, revise=revise, country=country, settings=setting or []), json_file)


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

    finish(job(uri), json_file)
