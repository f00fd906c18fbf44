"""What a monitor leaves: a page, its numbers, metrics for Prometheus, and an event where a threshold was crossed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stmp.evaluation.metrics import from_sums
from stmp_platform.files import Folder
from stmp_platform.monitoring.measures import Rolling
from stmp_platform.monitoring.watch import Finding, Thresholds
from stmp_platform.report.words import percent, slice_label

PAGE, NUMBERS, METRICS, EVENT = "monitor.html", "monitor.json", "metrics.prom", "event.json"
MEASURES = {"wape": "Error (WAPE)", "bias": "Bias", "coverage_80": "80 % range holds", "drift": "Drift of inputs (PSI)"}
PREFIX = "stmp_"


@dataclass(frozen=True)
class Watched:
    """What was watched.

    Attributes
    ----------
    first, last : str
        Days of the latest window.
    reference : str
        Days of the backtest.
    scored, waiting, unknown : int
        Rows of the log whose days were sold, are not sold yet, and are of no region of the data.
    """

    name: str
    fingerprint: str
    first: str
    last: str
    reference: str
    versions: tuple[str, ...]
    scored: int
    waiting: int
    unknown: int


def write(
    watched: Watched, rolling: Rolling, found: Sequence[Finding], thresholds: Thresholds, folder: str
) -> dict[str, Any]:
    """Write everything into a folder, and return the numbers. An event of an earlier run is removed.

    Parameters
    ----------
    folder : str
        Local or on object storage.
    """
    crossed = [asdict(finding) for finding in found if finding.crossed]
    content = {
        **asdict(watched),
        "crossed": crossed,
        "findings": [asdict(finding) for finding in found],
        "rolling": course(rolling),
        "thresholds": thresholds.model_dump(),
    }
    out = Folder(folder)
    out.write(PAGE, _page(watched, found, content).encode())
    out.write(METRICS, metrics(watched, found))
    out.write_json(NUMBERS, content)
    if crossed:  # last: whoever starts a retraining by it finds the rest in place
        about = {key: content[key] for key in ("name", "fingerprint", "first", "last", "versions", "crossed")}
        out.write_json(EVENT, {"event": "stmp.threshold_crossed", **about})
    else:
        out.remove(EVENT)
    return content


def course(rolling: Rolling) -> list[dict[str, Any]]:
    """WAPE, bias and coverage of each kind of day, window by window; empty ones are absent."""
    rows = []
    for w, end in enumerate(rolling.ends):
        parts = {}
        for name, sums in rolling.slices.items():
            values = {key: float(value) for key, value in from_sums(sums[w]).items() if key in MEASURES}
            if all(value == value for value in values.values()):
                parts[name] = values
        rows.append({"end": str(end), "slices": parts})
    return rows


def metrics(watched: Watched, found: Sequence[Finding]) -> bytes:
    """The latest window in the text format of Prometheus, for the textfile collector of its node exporter."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    about = {"data": watched.name}

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, ["data", *labels], registry=registry)

    now = gauge("forecast_measure", "Of the latest window of sold days.", "measure", "part")
    was = gauge("forecast_baseline", "Of the backtest.", "measure", "part")
    points = gauge("forecast_points", "Sold days in the latest window.", "part")
    moved = gauge("input_drift", "Population stability index against the backtest's days.", "input")
    alarm = gauge("threshold_crossed", "1 if a threshold was crossed.", "measure", "part")
    for finding in found:
        if finding.measure == "drift":
            if finding.value is not None:
                moved.labels(**about, input=finding.part).set(finding.value)
        else:
            points.labels(**about, part=finding.part).set(finding.points)
            for family, value in ((now, finding.value), (was, finding.baseline)):
                if value is not None:
                    family.labels(**about, measure=finding.measure, part=finding.part).set(value)
        if finding.crossed is not None:
            alarm.labels(**about, measure=finding.measure, part=finding.part).set(float(finding.crossed))
    last = gauge("last_sale_timestamp_seconds", "The last day with sales.")
    last.labels(**about).set(_seconds(watched.last))
    return bytes(generate_latest(registry))


def _seconds(day: str) -> float:
    import pandas as pd

    return float(pd.Timestamp(day, tz="UTC").timestamp())


def _page(watched: Watched, found: Sequence[Finding], content: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("stmp_platform", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_measure = {title: [f for f in found if f.measure == key] for key, title in MEASURES.items()}
    columns = list(dict.fromkeys(name for row in content["rolling"] for name in row["slices"]))
    return environment.get_template("monitoring/page.html.j2").render(
        watched=watched,
        crossed=[f for f in found if f.crossed],
        measures={title: rows for title, rows in by_measure.items() if rows},
        titles=MEASURES,
        rolling=content["rolling"],
        columns=columns,
        label=slice_label,
        named=lambda part: part if part in watched.versions else slice_label(part),
        shown=shown,
        percent=percent,
        thresholds=content["thresholds"],
    )


def shown(measure: str, value: float | None) -> str:
    """Write a figure."""
    if value is None:
        return "–"
    return f"{value:.3f}" if measure == "drift" else percent(value)
