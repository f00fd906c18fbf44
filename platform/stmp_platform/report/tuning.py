"""The page of a tuning: the curve of error against lambda with its spread, what was chosen, and all trials."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plotly.graph_objects import Figure, Scatter

from stmp_platform.files import Folder
from stmp_platform.report.cards import number
from stmp_platform.report.figures import lay_out
from stmp_platform.report.pictures import blank, tidy
from stmp_platform.report.sheet import Sheet
from stmp_platform.report.style import DAY_TYPES, MODEL
from stmp_platform.report.words import percent
from stmp_platform.tuning.space import FROZEN, HIGHEST, LOWEST, RATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from stmp.learning.selection import Choice
    from stmp_platform.tuning.driver import Trial

PAGE, PICTURE, FOLDER = "tuning.html", "lambda.png", "report"
CHOSEN = DAY_TYPES[2]
GAP = 0.6
"""How far beyond the scale, in powers of ten, 0 and infinity are drawn."""


@dataclass(frozen=True)
class Curve:
    """The finished trials as points: place on the axis, error and its spread as shares of seasonal naive's error."""

    at: list[float]
    error: list[float]
    spread: list[float]
    chosen: int
    ticks: dict[float, str]

    @classmethod
    def of(cls, finished: Sequence[Trial], choice: Choice) -> Curve:
        """From what was measured; the spread is that of the difference to the best, which the choice goes by."""
        scale = [100.0 / trial.result["naive"] for trial in finished]
        return cls(
            at=[place_of(trial.strength) for trial in finished],
            error=[s * trial.result["error"] for s, trial in zip(scale, finished, strict=True)],
            spread=[s * float(spread) for s, spread in zip(scale, choice.behind_spread, strict=True)],
            chosen=choice.chosen,
            ticks={LOWEST - GAP: "0"}
            | {power: f"{10.0**power:g}" for power in range(int(LOWEST), int(HIGHEST) + 1)}
            | {HIGHEST + GAP: "∞"},
        )


def place_of(strength: float) -> float:
    """Where a lambda is drawn: on a logarithmic scale, with 0 and infinity beyond its ends."""
    if strength == 0.0:
        return LOWEST - GAP
    return HIGHEST + GAP if math.isinf(strength) else math.log10(strength)


def write_tuning(found: Sequence[Trial], finished: Sequence[Trial], choice: Choice, target: str, out: Folder) -> None:
    """Write ``report/tuning.html`` and ``report/lambda.png`` into the folder of a tuning.

    Parameters
    ----------
    found : sequence of Trial
        All of them.
    finished : sequence of Trial
        Those that `choice` is among, in its order.
    """
    best, chosen = finished[choice.best], finished[choice.chosen]
    result = chosen.result
    curve = Curve.of(finished, choice)
    sheet = Sheet(
        title=f"How much of the source to keep for {target}",
        subtitle=f"{len(found)} trials, {len(finished)} of them to the end; validated on {len(result['origins'])} "
        f"windows of {result['horizon']} periods, from {result['origins'][0]}",
        sentences=_sentences(finished, choice),
        warnings=[f"A trial has failed: {text}" for text in dict.fromkeys(
            trial.result["failure"] for trial in found if trial.status == "failed")],
        tiles=[
            ("Chosen lambda", written(chosen.strength), "the largest within one standard error of the best"),
            ("Best lambda", written(best.strength), "of the lowest error"),
            ("MSE with it", percent(result["error"] / result["naive"], 0), "of seasonal naive's"),
            ("Trials", str(len(found)), ", ".join(f"{n} {s}" for s, n in _counts(found).items())),
        ],
    )  # fmt: skip
    sheet.picture(
        "Error against lambda", _figure(curve, finished),
        "Mean squared error on the validation windows, seasonal naive's is 100 %. Bars: one standard error of the "
        "difference to the best, over resampled regions. Towards 0 the source is only where training starts, towards ∞ "
        "it is kept as it is.",
    )  # fmt: skip
    others = [key for key in (RATE, FROZEN) if key in chosen.values]
    names = ("Lambda", *(key.replace("_", " ").capitalize() for key in others), "MSE", "Spread", "Behind the best",
             "Steps", "Seconds", "Outcome")  # fmt: skip
    place = {trial.id: i for i, trial in enumerate(finished)}
    sheet.table("All trials", names, [_row(trial, place.get(trial.id), choice, others) for trial in found])
    with tempfile.TemporaryDirectory(prefix="stmp-report-") as scratch:
        page = sheet.write(Path(scratch) / PAGE)
        out.write(f"{FOLDER}/{PAGE}", page.read_bytes())
        _canvas(curve).savefig(Path(scratch) / PICTURE, dpi=130, facecolor="white")
        out.write(f"{FOLDER}/{PICTURE}", (Path(scratch) / PICTURE).read_bytes())


def written(strength: float) -> str:
    """A lambda for people."""
    return "∞" if math.isinf(strength) else f"{strength:.3g}"


def _sentences(finished: Sequence[Trial], choice: Choice) -> list[str]:
    best, chosen = finished[choice.best], finished[choice.chosen]
    if math.isinf(chosen.strength):
        first = "Keep the source as it is: fine-tuning it on this target gains nothing that is sure."
    elif chosen.strength == 0:
        first = "Fine-tune freely: holding the network to its source costs more than it saves."
    else:
        first = f"Hold the network to its source with lambda {written(chosen.strength)}."
    sentences = [first]
    if chosen is not best:
        away = choice.behind[choice.chosen] / best.result["error"]
        sentences.append(
            f"The lowest error had lambda {written(best.strength)}; the chosen one's is {percent(away)} above it, "
            "which is within one standard error, and it stays closer to the source."
        )
    ends = {"plain fine-tuning (0)": 0.0, "the frozen source (∞)": math.inf}
    for name, strength in ends.items():
        rivals = [trial.result["error"] for trial in finished if trial.strength == strength]
        if rivals and chosen.strength != strength:
            change = 1 - chosen.result["error"] / min(rivals)
            sentences.append(
                f"Its squared error is {percent(abs(change))} {'below' if change >= 0 else 'above'} {name}."
            )
    return sentences


def _counts(found: Sequence[Trial]) -> dict[str, int]:
    return {s: n for s in ("finished", "stopped", "failed") if (n := sum(t.status == s for t in found))}


def _row(trial: Trial, at: int | None, choice: Choice, others: Sequence[str]) -> tuple[str, ...]:
    values = [str(trial.values[key]) if key == FROZEN else f"{trial.values[key]:.2g}" for key in others]
    if at is None:
        return (written(trial.strength), *values, "–", "–", "–", "–", "–", trial.status)
    result = trial.result
    outcome = "chosen" if at == choice.chosen else "best" if at == choice.best else trial.status
    behind = choice.behind[at] / (result["error"] - choice.behind[at])
    return (
        written(trial.strength), *values, number(result["error"]), number(float(choice.spread[at])), percent(behind),
        f"{result['step']:,}", number(result["seconds"]), outcome,
    )  # fmt: skip


def _figure(curve: Curve, finished: Sequence[Trial]) -> Figure:
    texts = [
        "<br>".join(
            [f"lambda {written(t.strength)}", *(f"{k}: {v}" for k, v in t.values.items() if k in (RATE, FROZEN))]
        )
        for t in finished
    ]
    bars: dict[str, Any] = {"type": "data", "array": curve.spread, "thickness": 1, "width": 3, "color": "#888"}
    figure = Figure(
        Scatter(
            x=curve.at, y=curve.error, error_y=bars, text=texts, mode="markers", name="trial",
            marker={"color": MODEL, "size": 8}, hovertemplate="%{text}<br>%{y:.1f} %<extra></extra>",
        )
    )  # fmt: skip
    figure.add_trace(
        Scatter(
            x=[curve.at[curve.chosen]], y=[curve.error[curve.chosen]], mode="markers", name="chosen",
            marker={"color": CHOSEN, "size": 16, "symbol": "circle-open", "line": {"width": 3}}, hoverinfo="skip",
        )
    )  # fmt: skip
    lay_out(figure, 400)
    figure.update_xaxes(title="lambda", tickvals=list(curve.ticks), ticktext=list(curve.ticks.values()), zeroline=False)
    return figure.update_yaxes(title="MSE, seasonal naive is 100 %", ticksuffix=" %", rangemode="normal")


def _canvas(curve: Curve) -> Canvas:
    figure, grid = blank(9, 4.2)
    axes = grid[0, 0]
    axes.errorbar(
        curve.at, curve.error, yerr=curve.spread, fmt="o", color=MODEL, ecolor="#999", elinewidth=1, capsize=3
    )
    axes.plot(
        [curve.at[curve.chosen]], [curve.error[curve.chosen]], "o", markersize=13, markerfacecolor="none",
        markeredgecolor=CHOSEN, markeredgewidth=2, label="chosen",
    )  # fmt: skip
    axes.set_xticks(list(curve.ticks), list(curve.ticks.values()))
    axes.set_xlabel("lambda: 0 is plain fine-tuning, ∞ the source as it is")
    axes.set_ylabel("MSE, seasonal naive is 100 %")
    axes.legend(frameon=False)
    tidy(axes)
    return figure
