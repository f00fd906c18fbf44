"""The job behind `stmp prune`: what is old goes, what anything needs stays."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from jobs.screen import say, table


def prune(
    data: str,
    out: str,
    *,
    name: str | None = None,
    keep: int = 5,
    days: int = 90,
    yes: bool = False,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Show which retrainings, forecasts, versions and states of a dataset nothing needs, and remove them if told to.

    Parameters
    ----------
    data, out : str
        Dataset, and the folder of its retrainings.
    name : str, optional
        Registered model; the dataset's name by default.
    keep, days : int
        So many of the newest of each kind stay, and all that are younger.
    yes : bool
        Remove them; otherwise they are only shown.

    Raises
    ------
    DataError, RegistryError
        If the dataset or the registry cannot be read.
    Busy
        If a retraining is at work.
    """
    from stmp_platform.dataset import load_manifest
    from stmp_platform.retraining import Lease
    from stmp_platform.retraining.prune import Pruning, Rule
    from stmp_platform.settings import Settings

    model = name or re.sub(r"[^\w.-]+", "-", load_manifest(data).name)
    with Lease(data) if yes else nullcontext():  # what a retraining is at work on must be neither judged nor removed
        pruning = Pruning(data, out, model, Rule(keep, days), Settings.from_env(tracking_uri))
        going = [item for item in pruning.items if not item.why]
        rows = [(item.kind, item.name, item.made[:16].replace("T", " "), item.why or "GOES") for item in pruning.items]
        table(("kind", "name", "made", "why it stays"), rows)
        if yes:
            pruning.carry_out()
    if not going:
        say("Nothing goes.")
    elif yes:
        say(f"Removed: {len(going)}. `mlflow gc` frees what the tracking store holds of removed runs and models.")
    else:
        say(f"{len(going)} would go; --yes removes them.")
    return {"removed": yes, "items": [asdict(item) for item in pruning.items]}
