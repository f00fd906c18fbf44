"""The same pictures as PNG files, for MLflow, a README or a slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stmp_platform.report.examples import Example, examples
from stmp_platform.report.style import ACTUAL, DAY_TYPES, FESTIVAL, MODEL, colors
from stmp_platform.report.words import label, slice_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stmp.data.panel import Panel
    from stmp.evaluation.result import Backtest


def write_pictures(
    result: Backtest,
    panel: Panel,
    folder: str | Path,
    *,
    training: pd.DataFrame | None = None,
    report: dict[str, Any] | None = None,
) -> list[Path]:
    """Write ``forecasts.png``, ``slices.png`` and, with metrics, ``training.png``; give back their paths.

    `report` is `result.to_dict()` where it is at hand already.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    made: list[tuple[str, Figure | None]] = [
        ("forecasts.png", _forecasts(result, examples(result, panel))),
        ("slices.png", _slices(result, report or result.to_dict(), panel.period_days == 7)),
        ("training.png", None if training is None else _training(training)),
    ]
    paths = []
    for name, figure in made:
        if figure is not None:
            figure.savefig(target / name, dpi=130, facecolor="white")
            paths.append(target / name)
    return paths


def blank(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Figure, Any]:
    """A figure without pyplot, which would need a display and keep every figure alive."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def tidy(axes: Axes) -> None:
    """Give axes the look that all pictures share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _forecasts(result: Backtest, parts: list[Example]) -> Figure | None:
    if not parts:
        return None
    figure, grid = blank(11, 0.6 + 2.1 * len(parts), rows=len(parts), sharex=True)
    name = label(result.model)
    outer = f"q{result.levels[0]:g}", f"q{result.levels[-1]:g}"
    share = 100 * (result.levels[-1] - result.levels[0])
    half = pd.Timedelta(hours=12)
    for part, axes in zip(parts, grid[:, 0], strict=True):
        table = part.table
        for i, span in enumerate(part.festivals):
            first, last = pd.Timestamp(span.first) - half, pd.Timestamp(span.last) + half
            axes.axvspan(first, last, color=FESTIVAL, alpha=0.35, linewidth=0, label="festival" if i == 0 else None)
        low, high = (table[q].clip(lower=0) for q in outer)
        axes.fill_between(table.index, low, high, color=MODEL, alpha=0.22, linewidth=0, label=f"{share:.0f} % range")
        axes.plot(table.index, table["actual"], color=ACTUAL, linewidth=1.0, marker=".", markersize=3, label="sold")
        axes.plot(table.index, table["mean"], color=MODEL, linewidth=1.8, label=f"{name}: expected")
        title = f"Region {part.region}" + ("" if part.series == "sales" else f", {part.series}")
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        tidy(axes)
    handles, texts = max((axes.get_legend_handles_labels() for axes in grid[:, 0]), key=lambda found: len(found[0]))
    figure.legend(handles, texts, loc="outside upper left", ncols=4, frameon=False, fontsize=10)
    return figure


def _slices(result: Backtest, report: dict[str, Any], weekly: bool) -> Figure:
    values = {result.model: report["slices"], **report["baselines"]}
    names = [n for n, v in report["slices"].items() if v["n"] and v["wape"] is not None]
    paint = colors(result.model, result.baselines)
    figure, grid = blank(11, 4.2)
    axes = grid[0, 0]
    width = 0.8 / len(values)
    for i, (model, by_slice) in enumerate(values.items()):
        height = [100 * (by_slice[n]["wape"] or np.nan) for n in names]
        ci = [(by_slice[n].get("ci") or {}).get("wape") or [np.nan, np.nan] for n in names]
        error = [
            [max(0.0, h - 100 * low) for h, (low, _) in zip(height, ci, strict=True)],
            [max(0.0, 100 * high - h) for h, (_, high) in zip(height, ci, strict=True)],
        ]
        at = np.arange(len(names)) + (i - (len(values) - 1) / 2) * width
        axes.bar(at, height, 0.92 * width, color=paint[model], label=label(model, weekly), yerr=np.nan_to_num(error),
                 error_kw={"linewidth": 0.8, "ecolor": "#444"})  # fmt: skip
    axes.set_xticks(np.arange(len(names)), [slice_label(n).replace(", ", ",\n") for n in names], fontsize=9)
    axes.set_ylabel("error, % of sales (WAPE)")
    tidy(axes)
    figure.legend(loc="outside upper left", ncols=min(5, len(values)), frameon=False, fontsize=10)
    return figure


def _training(metrics: pd.DataFrame) -> Figure | None:
    numbers = metrics.dropna(subset=["value"])
    learned = numbers[(numbers["name"] == "loss") & ~numbers["phase"].isin(["validation", "time"])]
    held_out = numbers[numbers["phase"] == "validation"]
    if learned.empty and held_out.empty:
        return None
    figure, grid = blank(11, 3.6, columns=2)
    for axes, part, key, title in (
        (grid[0, 0], learned, "phase", "training, by phase"),
        (grid[0, 1], held_out, "name", "held out"),
    ):
        for i, (name, rows) in enumerate(part.groupby(key, sort=False)):
            axes.plot(
                rows["step"], rows["value"], color=DAY_TYPES[i % len(DAY_TYPES)], label=str(name).replace("_", " ")
            )
        axes.set_title(f"Loss: {title}", loc="left", fontsize=10)
        axes.set_xlabel("step")
        if not part.empty:
            axes.legend(frameon=False, fontsize=9)
        tidy(axes)
    return figure
