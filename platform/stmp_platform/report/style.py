"""Colours and names that all pictures share. The palette is Okabe and Ito's, which the colour-blind can tell apart."""

from __future__ import annotations

MODEL = "#0072B2"
BASELINES = ("#8C8C8C", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
KNOWN = {
    "seasonal_naive": "#8C8C8C",
    "same_festival_last_year": "#E69F00",
    "ets": "#009E73",
    "lightgbm": "#D55E00",
}
ACTUAL = "#1B1B1B"
FESTIVAL = "#F0E442"
DAY_TYPES = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")


def colors(model: str, baselines: tuple[str, ...]) -> dict[str, str]:
    """A colour for each model, the same on every picture."""
    free = iter(c for c in BASELINES if c not in KNOWN.values() or not set(KNOWN) & set(baselines))
    return {model: MODEL} | {name: KNOWN.get(name) or next(free, BASELINES[0]) for name in baselines}


def faded(color: str, alpha: float) -> str:
    """A hexadecimal colour with transparency, as plotly wants it."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
