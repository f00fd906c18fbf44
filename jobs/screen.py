"""What people see: text and tables on standard output, progress bars on standard error where somebody watches."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]
"""``progress(done, total)``: how far a long piece of work has come."""


def say(text: str) -> None:
    """Print a line, or several."""
    print(text, flush=True)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def cell(value: Any) -> str:
    """Write a value for a table: four significant digits, nothing for what is missing."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Print a table; the first column is left-aligned, the others right-aligned."""
    from rich import box
    from rich.table import Table

    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(columns):
        grid.add_column(name, justify="right" if position else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*map(cell, row))
    show(grid)


def show(content: Any) -> None:
    """Print what rich lays out."""
    from rich.console import Console

    # Off a terminal there is no width to keep to, and a cut number is a wrong number.
    Console(width=None if sys.stdout.isatty() else 200).print(content)


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """Show a bar on standard error while something runs; show nothing where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a machine-readable result, whole or not at all."""
    text = json.dumps(content, indent=2, default=str, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
