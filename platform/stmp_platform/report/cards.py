"""What the report says about the data and the model, as pairs of a name and a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from stmp.data.panel import Panel
    from stmp.evaluation.result import Backtest

Card = list[tuple[str, str]]


def number(value: float) -> str:
    """A number with separators and the digits that matter."""
    if not np.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 100 or (size == round(size) and size >= 1):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if size >= 10 else f"{value:.3g}"


def names(values: tuple[str, ...] | list[str], most: int = 12) -> str:
    """Names in a row, cut where there are many."""
    shown = ", ".join(values[:most]) or "none"
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"


def data_card(panel: Panel, result: Backtest) -> Card:
    """What the backtest was run on."""
    regions, _, series = panel.shape
    last = panel.index_of(panel.last_observed)
    observed = panel.observed[:, : last + 1]
    day_type = panel.day_type[:, : last + 1]
    shares = [(name, float((day_type == i).float().mean())) for i, name in enumerate(panel.calendar.day_types)]
    missing = 1.0 - float((observed.any(dim=2) | panel.closed[:, : last + 1]).float().mean())
    unit = "days" if panel.period_days == 1 else "weeks"
    static = tuple(dict.fromkeys(name.split("=", 1)[0] for name in panel.static_names))
    return [
        ("Regions", f"{regions:,}"),
        ("Series a region", f"{series:,}" + (f": {names(panel.series)}" if series > 1 else "")),
        ("Sales from", f"{panel.dates[0]} to {panel.last_observed} ({last + 1:,} {unit})"),
        ("Days by type", ", ".join(f"{name} {share:.1%}" for name, share in shares)),
        ("Without a value and not closed", f"{missing:.1%} of all region-{unit}"),
        ("Festivals and events", names(tuple(e for e in panel.calendar.events if e))),
        ("Known only up to the forecast", names(panel.past_names)),
        ("Known for future days too", names(panel.known_names)),
        ("Features of a region", names(static)),
        ("Fingerprint of the data", result.dataset_fingerprint or "not given"),
    ]


def model_card(model: Any) -> Card:
    """What is known of a Forecaster; any predictor will do, and shows what it has."""
    card: Card = []
    provenance = getattr(model, "provenance", None)
    if provenance is not None:
        card.append(("Version", str(getattr(provenance, "version", "")) or "not registered"))
    trained_regions = getattr(model, "trained_regions", None)
    if trained_regions is not None:
        card.append(("Learned from", f"{len(trained_regions):,} regions, on days up to {model.trained_until}"))
    if getattr(model, "horizon", None) is not None:
        card.append(("Forecasts", f"up to {model.horizon} periods ahead"))
    leaning = getattr(model, "leaning", None)
    if leaning:
        told = [f"which weigh half {1 / leaning.rate:.3g} periods ahead"] if leaning.rate else []
        told += [f"{1 - leaning.share:.0%} of them those of all regions"] if leaning.share < 1 else []
        told += [f"{leaning.festivals:.0%} close to festivals"] if leaning.festivals else []
        card.append(("Leans on last year's sales", "; ".join(told)))
    unread = getattr(getattr(model, "schema", None), "known_unread", ())
    if unread:
        card.append(("Not read, as it hardly ever changed", names(unread)))
    shown = {
        "source": "Adapted from",
        "steps": "Training steps",
        "seed": "Seed",
        "fingerprint": "Fingerprint of its data",
    }
    for name, label in shown.items():
        value = getattr(provenance, name, None)
        if value not in (None, ""):
            card.append((label, f"{value:,}" if isinstance(value, int) else str(value)))
    weights = getattr(model, "model", None)
    if weights is not None and hasattr(weights, "parameters"):
        card.append(("Parameters", f"{sum(p.numel() for p in weights.parameters()):,}"))
    settings = getattr(getattr(model, "config", None), "model", None)
    if settings is not None:
        keys = ("context", "hidden", "psi", "pooling", "head", "transform", "known")
        card.append(
            ("Settings", ", ".join(f"{key} {getattr(settings, key)}" for key in keys if hasattr(settings, key)))
        )
    return card
