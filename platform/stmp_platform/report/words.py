"""The findings of a backtest in plain words: sentences that a planner reads first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LABELS = {
    "seasonal_naive": "Last week's sales",
    "same_festival_last_year": "Same festival last year",
    "ets": "Exponential smoothing",
    "lightgbm": "LightGBM",
    "stmp": "STMP",
}
SLICES = {
    "all": "All days",
    "weekday": "Weekdays",
    "weekend": "Weekends",
    "festival": "Festivals",
    "post_festival": "After festivals",
    "ordinary": "Ordinary weeks",
    "cold": "New regions",
}


def label(model: str, weekly: bool = False) -> str:
    """What a model is called on the page."""
    if model == "seasonal_naive" and weekly:
        return "Last season's sales"
    return LABELS.get(model, model.replace("_", " "))


def slice_label(name: str, period: str = "days") -> str:
    """What a slice is called on the page."""
    if name.startswith("cold_"):
        return f"New region, {name.removeprefix('cold_')} days of history"
    if name == "all" and period == "weeks":
        return "All weeks"
    return SLICES.get(name, name.replace("_", " ").capitalize())


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def headline(report: Mapping[str, Any], model: str, weekly: bool) -> list[str]:
    """A few sentences: how far off the forecasts were, and whether that beats the baselines, overall and on festivals.

    Parameters
    ----------
    report : mapping
        `Backtest.to_dict()`.
    model : str
        What the model is called.
    """
    slices, sentences = report["slices"], []
    reference = "seasonal_naive" if "seasonal_naive" in report["baselines"] else next(iter(report["baselines"]), None)
    whole = slices["all"]
    if whole["wape"] is None:
        return ["Nothing was sold in the days that were scored, so there is no relative error to report."]
    first = f"{model}'s forecasts were off by {percent(whole['wape'])} of sales"
    if reference is None:
        return [f"{first}. There is no baseline to compare with."]
    name = label(reference, weekly).lower() if reference != "lightgbm" else label(reference)
    first += f"; {name} as the forecast would have been off by {percent(report['baselines'][reference]['all']['wape'])}"
    sentences.append(f"{first}. {_compared(report['skill'][reference]['all'], 'That is', '')}")
    if slices.get("festival", {}).get("wape") is not None:
        festival = report["skill"][reference]["festival"]
        start = f"On festivals it was off by {percent(slices['festival']['wape'])}, which is"
        sentences.append(_compared(festival, start, f" than {name}"))
    others = {m: values["all"]["wape"] for m, values in report["skill"].items() if values["all"]["wape"] is not None}
    rival = min(others, key=lambda m: others[m], default=None)
    if rival is not None and rival != reference:
        start = f"Against {label(rival, weekly)}, the strongest baseline here, it has"
        sentences.append(_compared(report["skill"][rival]["all"], start, ""))
    return sentences


def _compared(skill: Mapping[str, Any], start: str, end: str) -> str:
    value, ci = skill["wape"], skill["ci"].get("wape")
    if value is None:
        return f"{start} not comparable{end}."
    amount = f"{abs(100 * value):.0f} % {'less' if value >= 0 else 'more'} error{end}"
    if ci is None:
        return f"{start} {amount}."
    if ci[0] <= 0 <= ci[1]:
        return (
            f"{start} {amount}, which is too close to call (95 % interval over regions: "
            f"{-100 * ci[0]:.0f} % more to {100 * ci[1]:.0f} % less)."
        )
    low, high = sorted(abs(100 * v) for v in ci)
    return f"{start} {amount} (95 % interval over regions: {low:.0f} to {high:.0f} %)."


def verdicts(report: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Whether the model is better, worse or level with each baseline in each slice, by the interval of its skill."""
    result: dict[str, dict[str, str]] = {}
    for baseline, slices in report["skill"].items():
        result[baseline] = {}
        for name, skill in slices.items():
            ci = skill["ci"].get("wape") if skill["ci"] else None
            if ci is None:
                verdict = ""
            elif ci[0] > 0:
                verdict = "better"
            else:
                verdict = "worse" if ci[1] < 0 else "level"
            result[baseline][name] = verdict
    return result
