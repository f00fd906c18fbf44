"""The page of a comparison of sources with a target: what differs, what carries over, which regions are neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from plotly.graph_objects import Bar, Figure, Scatter

from stmp.learning.distance import TwoSample
from stmp.learning.similarity import ALL, Similarity
from stmp.learning.traits import FESTIVAL, KNOWN, LEVEL, STATIC, VOLATILITY, WEEK
from stmp_platform.report.cards import number
from stmp_platform.report.figures import lay_out
from stmp_platform.report.sheet import Sheet
from stmp_platform.report.style import ACTUAL, DAY_TYPES, MODEL
from stmp_platform.report.words import percent

PAGE = "similarity.html"
SURE = 0.05
"""A p-value below which a difference is no chance."""
MAX_REGIONS = 200
"""Rows of the table of regions; all of them are in the numbers."""
LABELS = {
    LEVEL: "Level",
    WEEK: "Week",
    KNOWN: "Promotions and other known covariates",
    FESTIVAL: "Festivals",
    VOLATILITY: "Volatility",
    STATIC: "Features of regions",
}


def write_similarity(found: Sequence[Similarity], target: str, folder: str | Path) -> Path:
    """Write ``similarity.html``; the first source is the one that is shown in detail.

    Parameters
    ----------
    found : sequence of Similarity
        As `stmp.learning.similarity.rank` orders them; one at least.
    target : str
        What the target is called.
    folder : path
        Made if it is not there.
    """
    best = found[0]
    sheet = Sheet(
        title=f"What carries over to {target}?",
        subtitle=f"{names(found)} beside {target}, {best.periods['target'][0]} to {best.periods['target'][1]}; nothing "
        "was fine-tuned",
        sentences=headline(found, target),
        warnings=[text for s in found if s.zero_shot for text in s.zero_shot.warnings],
        tiles=_tiles(best),
    )
    if any(s.zero_shot for s in found):
        sheet.picture(
            "Each source's network on the target's past", _skills(found),
            "Squared error saved against last week's sales (for weekly data, the last season's), on forecasts of the "
            "second half of the target's past. Whiskers: 95 % intervals over resampled regions.",
        )  # fmt: skip
    sheet.picture(
        "Where they differ", _distances(found),
        "Energy distance of the regions of both, less what chance would give: 0 means no further apart than two draws "
        "from the same regions, 100 % that no region of one is like any of the other. Faded bars may be chance "
        f"(p above {SURE:g}).",
    )  # fmt: skip
    if (best.medians["kind"] == WEEK).any():
        sheet.picture(f"The week: {best.source} and {target}", _week(best, target), "Median over regions: change of "
                      "sales against the region's mean day.")  # fmt: skip
    sheet.picture(
        f"Regions: {best.source} and {target}", _neighbours(best),
        "Distance from each target region to the nearest source region, over the usual distance between neighbours in "
        "the source: above 1 it is further out than source regions are from one another. Upwards: the absolute error "
        "that the untouched source saves in that region, against seasonal naive.",
    )  # fmt: skip
    _tables(sheet, found, target)
    return sheet.write(Path(folder) / PAGE)


def headline(found: Sequence[Similarity], target: str) -> list[str]:
    """The findings in a few sentences."""
    best = found[0]
    sentences = []
    zero = best.zero_shot
    if zero is not None:
        word = "less" if zero.skill >= 0 else "more"
        sure = zero.interval is not None and (zero.interval[0] > 0 or zero.interval[1] < 0)
        first = "" if len(found) == 1 else f"Of {len(found)} sources, {best.source} carries over best. "
        sentences.append(
            f"{first}As it is, the network of {best.source} forecasts {target} with {abs(100 * zero.skill):.0f} % "
            f"{word} squared error than last week's sales would{'' if sure else ', which is too close to call'}."
        )
    else:
        sentences.append(f"{best.source} was given without a model, so only what sales look like is compared.")
    real = {LABELS[k]: t for k, t in best.traits.items() if t is not None and t.p_value < SURE}
    if real:
        worst = max(real, key=lambda k: real[k].excess)
        sentences.append(f"They differ beyond chance in: {', '.join(real).lower()}; most in {worst.lower()}.")
    elif any(best.traits.values()):
        sentences.append("In nothing that was compared do their regions differ beyond chance.")
    lacking = [LABELS[k].lower() for k, t in best.traits.items() if t is None]
    if lacking:
        sentences.append(f"Not comparable, because one of the two has too little of it: {', '.join(lacking)}.")
    if best.tasks:
        test = best.tasks[ALL] if ALL in best.tasks else next(iter(best.tasks.values()))
        apart = "differ" if test.p_value < SURE else "do not differ"
        sentences.append(
            f"What the source's network makes of the regions (psi) of both: their distributions {apart} beyond chance "
            f"(excess distance {percent(test.excess, 0)}, p = {test.p_value:.3g})."
        )
    return sentences


def names(found: Sequence[Similarity]) -> str:
    """The sources in a row."""
    return ", ".join(s.source for s in found)


def _tiles(best: Similarity) -> list[tuple[str, str, str]]:
    tiles = []
    if best.zero_shot is not None:
        zero = best.zero_shot
        tiles.append(("Squared error saved", percent(zero.skill, 0), "by the untouched source, against seasonal naive"))
        tiles.append(("Off by", percent(zero.wape), f"of sales; seasonal naive: {percent(zero.wape_naive)}"))
    tiles.append(("Distance of traits", percent(best.distance, 0), "mean over what both have, beyond chance"))
    if ALL in best.tasks:
        tiles.append(("Distance of psi", percent(best.tasks[ALL].excess, 0), f"p = {best.tasks[ALL].p_value:.3g}"))
    return tiles


def _skills(found: Sequence[Similarity]) -> Figure:
    rows = [(s.source, s.zero_shot) for s in found if s.zero_shot is not None]
    figure = Figure(
        Bar(
            x=[name for name, _ in rows],
            y=[100 * z.skill for _, z in rows],
            width=min(0.5, 0.1 * len(rows)),
            marker={"color": MODEL},
            error_y={
                "type": "data",
                "array": [100 * (z.interval[1] - z.skill) if z.interval else 0 for _, z in rows],
                "arrayminus": [100 * (z.skill - z.interval[0]) if z.interval else 0 for _, z in rows],
                "thickness": 1, "color": "#444",
            },
            hovertemplate="%{x}<br>%{y:.1f} %<extra></extra>",
        )
    )  # fmt: skip
    lay_out(figure, 340)
    return figure.update_yaxes(ticksuffix=" %", zerolinewidth=2, zerolinecolor="#888", rangemode="normal")


def _distances(found: Sequence[Similarity]) -> Figure:
    figure = Figure()
    for i, similarity in enumerate(found):
        tests = _tests(similarity)
        figure.add_trace(
            Bar(
                y=[name for name, _ in tests][::-1],
                x=[100 * t.excess if t else None for _, t in tests][::-1],
                name=similarity.source,
                orientation="h",
                marker={
                    "color": DAY_TYPES[i % len(DAY_TYPES)],
                    "opacity": [1.0 if t is not None and t.p_value < SURE else 0.35 for _, t in tests][::-1],
                },
                customdata=[t.p_value if t else None for _, t in tests][::-1],
                hovertemplate="%{y}: %{x:.0f} %, p = %{customdata:.3g}<extra>" + similarity.source + "</extra>",
            )
        )
    height = 140 + (22 + 14 * len(found)) * len(_tests(found[0]))
    lay_out(figure, height, barmode="group", showlegend=len(found) > 1)
    figure.update_yaxes(rangemode="normal")
    return figure.update_xaxes(ticksuffix=" %", range=[0, 100])


def _tests(similarity: Similarity) -> list[tuple[str, TwoSample | None]]:
    """Every comparison of a source, with its name for people."""
    tests: list[tuple[str, TwoSample | None]] = [(LABELS[kind], test) for kind, test in similarity.traits.items()]
    return tests + [(f"psi, {'all day types' if name == ALL else name}", t) for name, t in similarity.tasks.items()]


def _week(best: Similarity, target: str) -> Figure:
    week = best.medians[best.medians["kind"] == WEEK]
    figure = Figure()
    for column, name, color in (("source", best.source, MODEL), ("target", target, ACTUAL)):
        change = 100 * np.expm1(week[column].to_numpy())
        figure.add_trace(
            Scatter(x=week["trait"], y=change, name=name, mode="lines+markers", line={"color": color},
                    hovertemplate="%{x}: %{y:+.0f} %")
        )  # fmt: skip
    lay_out(figure, 320)
    return figure.update_yaxes(ticksuffix=" %", rangemode="normal", zerolinecolor="#888")


def _neighbours(best: Similarity) -> Figure:
    table = best.regions
    known = bool(table["skill"].notna().any())
    text = [f"{r}: nearest {', '.join(n)}" for r, n in zip(table["region"], table["nearest"], strict=True)]
    y = 100 * table["skill"] if known else np.zeros(len(table))
    figure = Figure(
        Scatter(x=table["relative"], y=y, mode="markers", text=text, marker={"color": MODEL, "opacity": 0.7},
                hovertemplate="%{text}<extra></extra>")
    )  # fmt: skip
    figure.add_vline(x=1, line={"dash": "dot", "color": "#888"})
    lay_out(figure, 360)
    figure.update_xaxes(title="Distance to the nearest source region", rangemode="tozero")
    title = "Absolute error saved" if known else None
    return figure.update_yaxes(title=title, ticksuffix=" %", rangemode="normal", showticklabels=known)


def _tables(sheet: Sheet, found: Sequence[Similarity], target: str) -> None:
    best = found[0]
    rows: list[tuple[str, ...]]
    if len(found) > 1:
        rows = [
            (f"{i}. {s.source}", percent(s.zero_shot.skill if s.zero_shot else None), percent(s.distance),
             percent(s.tasks[ALL].excess) if ALL in s.tasks else "–")
            for i, s in enumerate(found, start=1)
        ]  # fmt: skip
        sheet.table("Sources, the best first", ("Source", "Squared error saved", "Traits apart", "psi apart"), rows)
    rows = [
        (name, "–", "–", "–", "–") if t is None else
        (name, percent(t.excess), percent(t.distance), f"{t.p_value:.3g}", f"{t.rows[0]:,} and {t.rows[1]:,}")
        for name, t in _tests(best)
    ]  # fmt: skip
    sheet.table(f"Distances from {best.source}", ("", "Beyond chance", "Energy distance", "p", "Rows compared"), rows)
    medians = best.medians
    told = medians[medians[["source", "target"]].notna().all(axis=1) | ~medians["kind"].isin([STATIC, KNOWN])]
    rows = [
        (f"{LABELS[r['kind']]}: {r['trait']}", _shown(r["source"]), _shown(r["target"]))
        for r in told.to_dict("records")
    ]
    sheet.table(
        "Traits, median over regions", ("Trait", best.source, target), rows,
        "Changes of log sales: 0.1 is about 10 % more. A covariate's is by its presence, or by one standard deviation.",
    )  # fmt: skip
    regions = best.regions.sort_values("relative", ascending=False).head(MAX_REGIONS)
    rows = [
        (str(r["region"]), ", ".join(r["nearest"]), number(r["relative"]),
         percent(None if pd.isna(r["skill"]) else r["skill"]))
        for r in regions.to_dict("records")
    ]  # fmt: skip
    sheet.table(
        "Target regions, the strangest first", ("Region", "Nearest source regions", "Distance", "Error saved"), rows,
        "" if len(best.regions) <= MAX_REGIONS else f"{MAX_REGIONS} of {len(best.regions):,}.",
    )  # fmt: skip


def _shown(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"
