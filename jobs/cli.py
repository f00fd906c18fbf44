"""The `stmp` command line: it reads arguments, calls one job, and turns errors into exit codes. Nothing else.

Exit codes: 0 done; 3 the answer is no (a gate refused, a threshold was crossed); 2 bad input, configuration or
arguments; 1 anything else; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback

import typer

from jobs import options
from jobs.commands import bench, cluster, data, judge, keep, learn, use
from stmp.errors import ConfigError, DataError, StmpError

app = typer.Typer(
    name="stmp",
    help="Forecast the sales of regions: from raw tables to a trained, tracked and served forecaster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (data, learn, judge, bench, use, keep, cluster):
    app.add_typer(commands.app)


def main() -> None:
    """Run the command line, and end the process with the right exit code."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one message on standard error, not a traceback."""
    options.begin(os.environ.get("STMP_LOG", "WARNING"))
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
    if options.debugging:
        traceback.print_exception(error)
    elif isinstance(error, StmpError):
        print(f"error: {error}", file=sys.stderr)
    else:
        print(f"error: {type(error).__name__}: {error}\n(--debug shows where it happened)", file=sys.stderr)


if __name__ == "__main__":
    main()
