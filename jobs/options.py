"""What several commands of `stmp` share: their options, and how a command ends."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.screen import write_json
from stmp.errors import ConfigError

debugging = False
"""Whether the traceback of an error is wanted."""


def set_debugging(value: bool) -> None:
    """Take up `--debug`; it stays until the next command begins, for the command may have ended when it is needed."""
    global debugging  # noqa: PLW0603
    debugging = debugging or value
    if value:
        set_logging("DEBUG")


def begin(level: str) -> None:
    """Forget what an earlier command of this process had set."""
    global debugging  # noqa: PLW0603
    debugging = False
    set_logging(level)


def set_logging(level: str) -> None:
    """Structured lines on standard error: warnings, or what STMP_LOG asks for (`STMP_LOG=INFO`)."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    number = logging.getLevelNamesMapping().get(level.upper(), logging.WARNING)
    for ours in ("stmp", "stmp_platform"):
        logging.getLogger(ours).setLevel(number)


def day(value: datetime | None) -> str | None:
    """A date as the jobs take it."""
    return None if value is None else value.date().isoformat()


def on_disk(path: Path | None) -> Path | None:
    """A path as it is, if it is none of an object store, whose URI would become a folder named `s3:`.

    Raises
    ------
    ConfigError
        If it is a URI.
    """
    if path is not None and re.match(r"\w[\w+.-]+:/", str(path)):
        raise ConfigError(f"{path}: reports and results for machines are written to local folders only.")
    return path


def columns(text: str | None) -> list[str] | None:
    """Names of columns from a text such as ``state,city``, without any for ``all``.

    Raises
    ------
    ConfigError
        If a name is empty.
    """
    if text is None or text == "all":
        return None if text is None else []
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigError(f"--totals is '{text}'; it must be names of columns, such as state,city, or 'all'.")
    return names


def number_of_workers(text: str) -> int | tuple[int, int]:
    """A number of workers, or the fewest and the most.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    fewest, colon, most = text.partition(":")
    if not fewest.isdecimal() or (colon and not (most.isdecimal() and 1 <= int(fewest) <= int(most))):
        raise ConfigError(f"--workers is '{text}'; it must be a number, or the fewest and the most, such as 2:8.")
    return (int(fewest), int(most)) if colon else int(fewest)


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
Source = Annotated[
    str, typer.Option("--source", metavar="M", help="The model to adapt; named as for the other commands.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of docs/configuration.md; may be repeated."),
]
Workers = Annotated[int, typer.Option(min=0, help="Ray workers; 0 trains in this process, without Ray.")]
ElasticWorkers = Annotated[
    str,
    typer.Option(
        metavar="N|MIN:MAX",
        help="Ray workers; 0 trains in this process, without Ray; 2:8 takes what the cluster has, and follows it.",
    ),
]
Gpu = Annotated[bool, typer.Option("--gpu", help="One GPU for each worker.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", callback=on_disk, help="Write the result for machines here."),
]
Debug = Annotated[
    bool, typer.Option("--debug", callback=set_debugging, is_eager=True, help="Show the traceback of an error.")
]
NO = 3
"""Exit code of a command that did what it was asked, and whose answer is no."""
DAY = {"formats": ["%Y-%m-%d"], "metavar": "DATE"}


def shares(canary: str | None) -> tuple[float, ...]:
    """Growing shares of the regions, from a text.

    Raises
    ------
    ConfigError
        If they are none.
    """
    if canary is None:
        return ()
    try:
        found = tuple(float(part) for part in canary.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share <= 1 for share in found) or list(found) != sorted(set(found)):
        raise ConfigError(f"--canary {canary}: give growing shares of the regions, above 0 and up to 1: 0.05,0.25,0.5.")
    return found


def finish(result: Mapping[str, Any], json_file: Path | None) -> None:
    """Write the result for machines, if they are to have it."""
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
