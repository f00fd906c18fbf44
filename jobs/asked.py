"""What a retraining is asked for, and what it is done with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Asked:
    """What decides, with the data, what comes of a retraining: together they are its key.

    Attributes
    ----------
    name : str
        Registered model.
    hold_out : int or None
        Periods at the end that are kept from learning; None for four windows of the gate.
    closed_after : int
        Days without sales after which a region has closed; 0 for never.
    rules : dict
        Of the gate.
    crossed : tuple of (measure, part)
        Thresholds that `stmp monitor`'s event says were crossed.
    """

    name: str
    preset: str
    settings: tuple[str, ...]
    seed: int
    hold_out: int | None
    closed_after: int
    rules: Mapping[str, Any]
    crossed: tuple[tuple[str, str], ...]

    def key(self, fingerprint: str, last: str) -> str:
        """``2025-01-31-1a2b3c4d5e6f``: the data's last day, and a digest of data and settings."""
        text = json.dumps([fingerprint, asdict(self)], sort_keys=True)
        return f"{last}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Means:
    """What a retraining is done with, and what is done with the new model; the model is the same whatever it is.

    Attributes
    ----------
    workers : int, or the fewest and the most
        Of the training; of the batch forecasts the most.
    url, dashboard : str or None
        Of the API that the model is rolled out to, and of its Ray dashboard.
    horizon, known
        Of the batch forecasts, as in `jobs.forecast.forecast`.
    rules : Path or None
    today : str or None
        The day from which the data's age is counted.
    """

    workers: int | tuple[int, int] = 0
    gpu: bool = False
    url: str | None = None
    dashboard: str = ""
    canary: tuple[float, ...] = ()
    horizon: int | None = None
    known: str | None = None
    rules: Path | None = None
    today: str | None = None
    tracking_uri: str | None = None
