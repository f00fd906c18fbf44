"""What a retraining leaves for people: a page of its steps, what they were given and what came of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stmp_platform.files import Folder

PAGE = "retraining.html"


def write_page(folder: Folder, name: str, verdict: Sequence[str], records: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the page into the report of a retraining, and return its URI.

    Parameters
    ----------
    folder : Folder
        Of the retraining.
    name : str
        The registered model.
    verdict : sequence of str
        How it ended, the most important first.
    records : mapping of step to record
        As `stmp_platform.retraining.steps.records` reads them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("stmp_platform", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("retraining/page.html.j2").render(
        name=name, key=folder.uri.rsplit("/", 1)[-1], verdict=verdict, records=records, shown=shown
    )
    folder.write(f"report/{PAGE}", page.encode())
    return folder.child(f"report/{PAGE}")


def shown(value: Any, most: int = 300) -> str:
    """A value of a record, as text that fits a page."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"
