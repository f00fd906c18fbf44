"""The report's pictures, as plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from plotly.graph_objects import Bar, Figure, Scatter
from plotly.subplots import make_subplots

from stmp_platform.report.examples import Example
from stmp_platform.report.style import ACTUAL, DAY_TYPES, FESTIVAL, MODEL, faded

FONT = {
    "family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
    "size": 13,
    "color": "#222",
}
LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "font": {"size": 12}}


def lay_out(figure: Figure, height: int, **more: Any) -> Figure:
    """Give a figure the look that all of them share."""
    figure.update_layout(
        template="plotly_white", height=height, font=FONT, legend=LEGEND, margin={"l": 8, "r": 8, "t": 40, "b": 8},
        hoverlabel={"font": {"size": 12}}, **more,
    )  # fmt: skip
    figure.update_xaxes(automargin=True)
    return figure.update_yaxes(automargin=True, rangemode="tozero")


def bars(
    values: Mapping[str, Mapping[str, Mapping[str, Any]]],
    slices: Sequence[str],
    slice_labels: Sequence[str],
    labels: Mapping[str, str],
    colors: Mapping[str, str],
    metric: str,
) -> Figure:
    """Groups of bars: one group a slice, one bar a model, with the bootstrap interval as whiskers."""
    figure = Figure()
    percent = metric in ("wape", "coverage_80")
    scale = 100.0 if percent else 1.0
    for model, by_slice in values.items():
        height, above, below = [], [], []
        for name in slices:
            value = by_slice[name].get(metric)
            ci = (by_slice[name].get("ci") or {}).get(metric)
            height.append(None if value is None else scale * value)
            above.append(0.0 if value is None or not ci else max(0.0, scale * (ci[1] - value)))
            below.append(0.0 if value is None or not ci else max(0.0, scale * (value - ci[0])))
        figure.add_trace(
            Bar(
                x=list(slice_labels),
                y=height,
                name=labels[model],
                marker={"color": colors[model]},
                error_y={
                    "type": "data",
                    "array": above,
                    "arrayminus": below,
                    "thickness": 1,
                    "width": 2,
                    "color": "#444",
                },
                hovertemplate="%{x}<br>%{y:.4~g}" + (" %" if percent else "") + f"<extra>{labels[model]}</extra>",
            )
        )
    figure.update_yaxes(ticksuffix=" %" if percent else "")
    return lay_out(figure, 380, barmode="group", bargap=0.25, bargroupgap=0.05)


def fans(parts: Sequence[Example], levels: Sequence[float], model: str) -> Figure:
    """A few regions over the test period: sold, expected, the fan of quantiles, and festivals shaded."""
    titles = [f"Region {part.region}" + ("" if part.series == "sales" else f", {part.series}") for part in parts]
    heights = [1.6] + [1.0] * (len(parts) - 1)  # the first holds the festivals' names
    spacing = 0.16 / max(len(parts), 1)
    figure = make_subplots(
        rows=len(parts), cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=spacing, row_heights=heights
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    named: set[str] = set()
    bands = [(levels[i], levels[-1 - i]) for i in range(len(levels) // 2)]
    shown = [bands[0], bands[-2]] if len(bands) > 2 else bands[:1]
    for row, part in enumerate(parts, start=1):
        table = part.table
        legend = {"showlegend": row == 1}
        for place, (low, high) in enumerate(shown):
            lower, upper = table[f"q{low:g}"].clip(lower=0), table[f"q{high:g}"].clip(lower=0)
            name = f"{100 * (high - low):.0f} % of days expected within"
            group = {"legendgroup": name, "hoverinfo": "skip", "line": {"width": 0}, "mode": "lines"}
            figure.add_trace(Scatter(x=table.index, y=lower, showlegend=False, **group), row=row, col=1)
            figure.add_trace(
                Scatter(
                    x=table.index, y=upper, name=name, fill="tonexty", fillcolor=faded(MODEL, 0.18 + 0.2 * place),
                    **group, **legend,
                ),
                row=row, col=1,
            )  # fmt: skip
        figure.add_trace(
            Scatter(
                x=table.index, y=table["mean"], name=f"{model}: expected", mode="lines", legendgroup="mean",
                line={"color": MODEL, "width": 2}, hovertemplate="%{y:,.0f}", **legend,
            ),
            row=row, col=1,
        )  # fmt: skip
        figure.add_trace(
            Scatter(
                x=table.index, y=table["actual"], name="Sold", mode="lines+markers", legendgroup="actual",
                line={"color": ACTUAL, "width": 1.2}, marker={"size": 3}, hovertemplate="%{y:,.0f}", **legend,
            ),
            row=row, col=1,
        )  # fmt: skip
        _shade(figure, part, row, named)
        if row == 1 and part.festivals:  # room above the lines for the names
            top = float(np.nanmax(table[["actual", f"q{shown[0][1]:g}"]].to_numpy()))
            figure.update_yaxes(range=[0, 1.75 * top], row=1, col=1)
    figure.update_xaxes(showgrid=False)
    return lay_out(figure, 200 * len(parts) + 170, hovermode="x unified")


def _shade(figure: Figure, part: Example, row: int, named: set[str]) -> None:
    """Festival days in yellow, with a name where no picture above has it and there is room."""
    half = pd.Timedelta(hours=12)
    begin, end = part.table.index[0], part.table.index[-1]
    room = (end - begin) / 28
    written = begin - 2 * room  # where the last name stands
    axis = "" if row == 1 else str(row)
    for span in part.festivals:
        first, last = pd.Timestamp(span.first) - half, pd.Timestamp(span.last) + half
        figure.add_vrect(
            x0=first, x1=last, fillcolor=FESTIVAL, opacity=0.35, line_width=0, layer="below", row=row, col=1
        )
        middle = first + (last - first) / 2
        key = f"{span.first} {span.name}"
        if key in named or middle - written < room:
            continue
        named.add(key)
        written = middle
        text = span.name if len(span.name) <= 16 else f"{span.name[:15]}…"
        figure.add_annotation(
            x=middle, y=1, yref=f"y{axis} domain", xref=f"x{axis}", text=text, hovertext=span.name, textangle=-90,
            yanchor="top", xanchor="center", showarrow=False, font={"size": 10, "color": "#5c5300"},
        )  # fmt: skip


def lines(
    values: Mapping[str, Mapping[str, Mapping[str, Any]]],
    names: Sequence[str],
    labels: Mapping[str, str],
    colors: Mapping[str, str],
    title: str,
) -> Figure:
    """WAPE by horizon bucket, one line a model, the model's interval as a band."""
    figure = Figure()
    for model, by_name in values.items():
        y = [None if by_name[n]["wape"] is None else 100 * by_name[n]["wape"] for n in names]
        found = [(by_name[n].get("ci") or {}).get("wape") for n in names]
        ci = [pair for pair in found if pair is not None]
        if len(ci) == len(names) and model == next(iter(values)):
            edge = {
                "mode": "lines",
                "line": {"width": 0},
                "hoverinfo": "skip",
                "showlegend": False,
                "legendgroup": model,
            }
            figure.add_trace(Scatter(x=list(names), y=[100 * c[0] for c in ci], **edge))
            figure.add_trace(
                Scatter(
                    x=list(names),
                    y=[100 * c[1] for c in ci],
                    fill="tonexty",
                    fillcolor=faded(colors[model], 0.15),
                    **edge,
                )
            )
        figure.add_trace(
            Scatter(
                x=list(names), y=y, name=labels[model], mode="lines+markers", legendgroup=model,
                line={"color": colors[model], "width": 3 if model == next(iter(values)) else 1.5},
                hovertemplate="%{y:.1f} %<extra>" + labels[model] + "</extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title=title, type="category")
    figure.update_yaxes(ticksuffix=" %")
    return lay_out(figure, 340)


def calibration(table: Mapping[str, Mapping[str, float]], slice_labels: Mapping[str, str]) -> Figure:
    """Promised against observed share of days below each quantile, by day type; on the diagonal is right."""
    figure = Figure()
    figure.add_trace(
        Scatter(
            x=[0, 100],
            y=[0, 100],
            mode="lines",
            name="exactly right",
            line={"dash": "dot", "color": "#888"},
            hoverinfo="skip",
        )
    )
    marks = ("circle", "square", "diamond", "triangle-up", "x", "star")
    groups = [name for name in table if name != "all"]
    for i, name in enumerate(groups):
        levels = [100 * float(q) for q in table[name]]
        figure.add_trace(
            Scatter(
                x=levels, y=[100 * v for v in table[name].values()], name=slice_labels.get(name, name),
                mode="lines+markers",
                line={"color": DAY_TYPES[i % len(DAY_TYPES)]}, marker={"symbol": marks[i % len(marks)], "size": 8},
                hovertemplate="promised %{x:.0f} %, observed %{y:.1f} %",
            )
        )  # fmt: skip
    figure.update_xaxes(title="Promised", ticksuffix=" %", range=[0, 100])
    figure.update_yaxes(title="Observed", ticksuffix=" %", range=[0, 100])
    return lay_out(figure, 400)


def training(metrics: pd.DataFrame) -> Figure | None:
    """Loss of the training phases by step; None where nothing was recorded."""
    rows = metrics[(metrics["name"] == "loss") & ~metrics["phase"].isin(["validation", "time"])]
    return _curves(rows, "phase", "lines")


def held_out(metrics: pd.DataFrame) -> Figure | None:
    """Loss on what was held out from training, by step; None where nothing was recorded."""
    return _curves(metrics[metrics["phase"] == "validation"], "name", "lines+markers")


def _curves(rows: pd.DataFrame, by: str, mode: str) -> Figure | None:
    rows = rows.dropna(subset=["value"])
    if rows.empty:
        return None
    figure = Figure()
    dashes = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
    for i, (name, part) in enumerate(rows.groupby(by, sort=False)):
        line = {"color": DAY_TYPES[i % len(DAY_TYPES)], "dash": dashes[i % len(dashes)]}
        text = str(name).replace("_", " ")
        figure.add_trace(Scatter(x=part["step"], y=part["value"], name=text, mode=mode, line=line, marker={"size": 4}))
    figure.update_xaxes(title="Step")
    lay_out(figure, 340)
    return figure.update_yaxes(rangemode="normal", title="Loss")
