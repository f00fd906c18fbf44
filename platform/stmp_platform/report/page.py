"""The report as one HTML page that works from a file, without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stmp.errors import ConfigError
from stmp_platform.report import figures
from stmp_platform.report.cards import Card, data_card, number
from stmp_platform.report.examples import Example, examples
from stmp_platform.report.style import colors
from stmp_platform.report.words import headline, label, percent, slice_label, verdicts

if TYPE_CHECKING:
    from markupsafe import Markup
    from plotly.graph_objects import Figure

    from stmp.data.panel import Panel
    from stmp.evaluation.result import Backtest

PAGE, NUMBERS = "report.html", "backtest.json"
DETAILS = ("n", "mse", "rmse", "mae", "wape", "bias", "mase", "wql", "sql", "coverage_80")
SHARES = ("wape", "bias", "coverage_80")


@dataclass(frozen=True)
class Picture:
    """One figure of the page: what it shows in words, and what to read from it."""

    title: str
    caption: str
    html: Markup


def write_report(
    result: Backtest,
    panel: Panel,
    folder: str | Path,
    *,
    title: str = "Sales forecast backtest",
    training: pd.DataFrame | None = None,
    model: Card | None = None,
    data: Card | None = None,
    data_warnings: Sequence[str] = (),
    pictures: bool = True,
) -> Path:
    """Write the page, the numbers as JSON, and the pictures as PNG.

    Parameters
    ----------
    result : Backtest
    panel : Panel
        What was backtested.
    folder : path
        Made if it is not there; files in it are replaced.
    training : DataFrame, optional
        Metrics along the training: columns ``step``, ``phase``, ``name``, ``value``.
    model, data : list of (name, text), optional
        What to say about the model (`model_card`), and about the data beside what the panel shows.
    data_warnings : sequence of str
        What ingestion warned of.
    pictures : bool
        Write the PNG files too.

    Returns
    -------
    Path
        Of the page.
    """
    from stmp_platform.report.pictures import write_pictures

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    report = result.to_dict()
    parts = examples(result, panel)
    (target / NUMBERS).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    page = target / PAGE
    content = _content(result, report, panel, parts, title, training)
    content |= {"model_card": model or [], "data_card": data_card(panel, result) + list(data or [])}
    content |= {"data_warnings": list(data_warnings)}
    page.write_text(render("page.html.j2", content), encoding="utf-8")
    if pictures:
        write_pictures(result, panel, target, training=training, report=report)
    return page


def render(template: str, content: Mapping[str, Any]) -> str:
    """A page of this package's templates, with plotly's code in it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("stmp_platform.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Plotly's own code, shipped in its package: the only part of the page that is not escaped beside its figures.
    return environment.get_template(template).render(plotly_js=Markup(get_plotlyjs()), **content)


def _content(
    result: Backtest,
    report: dict[str, Any],
    panel: Panel,
    parts: list[Example],
    title: str,
    training: pd.DataFrame | None,
) -> dict[str, Any]:
    weekly = panel.period_days == 7
    period = "weeks" if weekly else "days"
    models = [result.model, *result.baselines]
    labels = {m: label(m, weekly) for m in models}
    values = {result.model: report["slices"], **report["baselines"]}
    scored = [name for name, slice_ in report["slices"].items() if slice_["n"]]
    first, last = result.origins[0], result.origins[-1]
    return {
        "title": title,
        "subtitle": (
            f"{labels[result.model]} on {len(result.regions):,} regions, {len(result.origins)} forecasts of "
            f"{result.settings['horizon']} {period} made from {first} to {last}"
        ),
        "sentences": headline(report, labels[result.model], weekly),
        "warnings": report["warnings"],
        "tiles": _tiles(report, period),
        "period": period,
        "labels": labels,
        "table": _table(report, values, scored, period),
        "details": _details(values, scored, labels, period),
        "detail_names": DETAILS,
        "missing": sorted({v["reason"] for v in report["slices"].values() if not v["n"] and v.get("reason")}),
        "groups": _groups(report, models),
        "events": _events(report, models),
        "pictures": _pictures(result, report, values, labels, parts, period, training),
        "settings": _settings(report),
        "partial": _partial(report, values, labels),
        "twins": [
            (labels[a], labels[b])
            for a, b in combinations(result.baselines, 2)
            if np.array_equal(result.totals[a], result.totals[b])
        ],
    }


def _tiles(report: dict[str, Any], period: str) -> list[tuple[str, str, str]]:
    whole, festival = report["slices"]["all"], report["slices"].get("festival", {})
    tiles = [(f"Off by, all {period}", percent(whole["wape"]), "sum of errors / sum of sales (WAPE)")]
    if festival.get("n"):
        tiles.append(("Off by, festivals", percent(festival["wape"]), f"{festival['n']:,} festival {period} scored"))
    bias = whole["bias"]
    lean = "" if bias is None else "too much forecast" if bias > 0 else "too little forecast"
    tiles.append(("Bias", percent(bias), lean))
    tiles.append(("80 % range holds", percent(whole["coverage_80"], 0), f"of {period}; 80 % is right"))
    return tiles


def _table(
    report: dict[str, Any], values: Mapping[str, Mapping[str, Any]], scored: Sequence[str], period: str
) -> list[dict[str, Any]]:
    judged = verdicts(report)
    rows = []
    for name in scored:
        found = {m: v[name]["wape"] for m, v in values.items() if v.get(name, {}).get("wape") is not None}
        best = min(found.values(), default=None)
        cells = []
        for model, by_slice in values.items():
            slice_ = by_slice.get(name, {})
            ci = (slice_.get("ci") or {}).get("wape")
            cells.append(
                {
                    "value": percent(slice_.get("wape")),
                    "ci": f"{100 * ci[0]:.1f} to {100 * ci[1]:.1f}" if ci else "",
                    "best": model in found and found[model] == best,
                    "verdict": judged.get(model, {}).get(name, ""),
                }
            )
        rows.append({"name": slice_label(name, period), "n": f"{report['slices'][name]['n']:,}", "cells": cells})
    return rows


def _details(
    values: Mapping[str, Mapping[str, Any]], scored: Sequence[str], labels: Mapping[str, str], period: str
) -> list[dict[str, Any]]:
    return [
        {
            "slice": slice_label(name, period),
            "rows": [
                (labels[m], [_shown(key, by_slice.get(name, {}).get(key)) for key in DETAILS])
                for m, by_slice in values.items()
            ],
        }
        for name in scored
    ]


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return percent(value) if key in SHARES else number(value)


def _groups(report: dict[str, Any], models: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    return [
        (name, f"{by[models[0]]['n']:,}", [percent(by[m]["wape"]) for m in models])
        for name, by in report["groups"].items()
        if by[models[0]]["n"]
    ]


def _events(report: dict[str, Any], models: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Festivals by the sales they brought, the largest first."""
    rows = []
    for name, by in report["events"].items():
        if by[models[0]]["n"]:
            rows.append((name, f"{by[models[0]]['n']:,}", [percent(by[m]["wape"]) for m in models]))
    return sorted(rows, key=lambda row: -int(row[1].replace(",", "")))[:20]


def _settings(report: dict[str, Any]) -> Card:
    settings = report["settings"]
    bootstrap = settings["bootstrap"]
    return [
        ("First origin, last day", f"{settings['start']}, {settings['end']}"),
        ("Origins", f"{settings['origins']}, every {settings['step']} periods, {settings['horizon']} periods each"),
        ("Season of MASE and SQL", f"{settings['season']} periods"),
        ("Intervals", f"{bootstrap['confidence']:.0%}, {bootstrap['draws']} samples of the {bootstrap['over']}"),
        ("Point forecasts", settings["points"]),
        ("Not scored", settings["not_scored"]),
        ("Left out, before a first sale", f"{settings['skipped_before_first_sale']:,}"),
    ]


def _partial(
    report: dict[str, Any], values: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Baselines that were scored on a sample only."""
    whole = report["slices"]["all"]["n"]
    return [(labels[m], f"{v['all']['n'] / whole:.0%}") for m, v in values.items() if whole and v["all"]["n"] < whole]


def _pictures(
    result: Backtest,
    report: dict[str, Any],
    values: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, str],
    parts: list[Example],
    period: str,
    training: pd.DataFrame | None,
) -> dict[str, Picture]:
    paint = colors(result.model, result.baselines)
    scored = [n for n, v in report["slices"].items() if v["n"]]
    common = [n for n in scored if not n.startswith("cold_")]
    cold = [n for n in scored if n.startswith("cold_")]
    named = {n: slice_label(n, period) for n in scored}
    made: dict[str, Picture] = {}

    def add(key: str, figure: Figure | None, heading: str, caption: str) -> None:
        if figure is not None:
            made[key] = Picture(heading, caption, figure_html(figure, key))

    def grouped(slices: list[str], metric: str) -> Figure:
        short = [named[s].removeprefix("New region, ") for s in slices]
        return figures.bars(values, slices, short, labels, paint, metric)

    whiskers = "Whiskers: 95 % intervals, over resampled regions. Lower is better."
    add(
        "wape", grouped(common, "wape"), "Error by type of day", f"Sum of absolute errors over sum of sales. {whiskers}"
    )
    add(
        "mse",
        grouped(common, "mse"),
        "Squared error by type of day",
        f"Mean squared error: large misses weigh most. {whiskers}",
    )
    if cold:
        add(
            "cold", grouped(cold, "wape"), "Regions that the model never saw",
            f"Regions left out of training, each forecast from its last few days of sales alone. {whiskers}",
        )  # fmt: skip
    if parts:
        add(
            "fans", figures.fans(parts, result.levels, labels[result.model]), "Four regions over the test period"
            if len(parts) == 4 else "Regions over the test period",
            "Regions spread evenly over the levels of sales, chosen before any forecast was made. Each day shows the "
            f"latest forecast made before it; festivals are yellow, closed {period} are left out.",
        )  # fmt: skip
    horizons = list(report["horizons"][result.model])
    if len(horizons) > 1:
        add(
            "horizon", figures.lines(report["horizons"], horizons, labels, paint, f"{period.capitalize()} ahead"),
            "Error by how far ahead", "Sum of absolute errors over sum of sales. The band is the model's interval.",
        )  # fmt: skip
    add(
        "calibration", figures.calibration(report["calibration"][result.model], named), "Do the ranges hold?",
        "Share of days that should lie below a quantile, and that did. On the dotted line is right; flatter than it "
        "means that the ranges are too narrow.",
    )  # fmt: skip
    if training is not None:
        metrics = _checked(training)
        add("training", figures.training(metrics), "Training loss", "By phase of the alternating training.")
        add("held_out", figures.held_out(metrics), "Held-out loss", "On days and regions that training did not see.")
    return made


def _checked(training: pd.DataFrame) -> pd.DataFrame:
    missing = {"step", "phase", "name", "value"} - set(training.columns)
    if missing:
        raise ConfigError(
            f"The training metrics lack the columns {sorted(missing)}; they have {list(training.columns)}."
        )
    return training


def figure_html(figure: Figure, key: str) -> Markup:
    """A figure as a part of a page."""
    from markupsafe import Markup

    options = {"responsive": True, "displayModeBar": False}
    text = figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"figure-{key}", config=options)
    return Markup(text)  # made by plotly, which escapes what it is given for use inside a script
