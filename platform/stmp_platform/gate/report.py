"""The gate's report: one small HTML page without scripts, and the same as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stmp.evaluation.paired import Difference
from stmp_platform.gate.checks import Check
from stmp_platform.gate.evidence import CHALLENGER, Candidate, Evidence
from stmp_platform.gate.rules import Rules
from stmp_platform.report.words import percent, slice_label

PAGE, NUMBERS = "gate.html", "gate.json"
SECTIONS = {
    "data": "Data",
    "serving": "What clients rely on",
    "windows": "Windows",
    "forecasts": "Forecasts",
    "overall": "All days",
    "slices": "Kinds of days and regions",
    "groups": "Groups of regions",
    "calibration": "Calibration",
    "limits": "Limits",
    "budget": "Budget",
}
SHOWN = ("wape", "wql", "mse", "bias", "coverage_80")
WIDTH, EDGE = 460, 10  # of the picture of intervals, in pixels


@dataclass(frozen=True)
class Bar:
    """One interval of the picture, in pixels from its left edge."""

    name: str
    points: str
    text: str
    low: float
    high: float
    at: float
    limit: float
    passed: bool


def write_report(
    evidence: Evidence, checks: Sequence[Check], rules: Rules, folder: Path, *, at: str, by: str
) -> dict[str, Any]:
    """Write the page and the numbers into a folder that is there, and return the numbers.

    Parameters
    ----------
    at, by : str
        When and by whom the gate was asked.
    """
    content = numbers(evidence, checks, rules) | {"at": at, "by": by}
    (folder / NUMBERS).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(_page(evidence, checks, rules, content), encoding="utf-8")
    return content


def numbers(evidence: Evidence, checks: Sequence[Check], rules: Rules) -> dict[str, Any]:
    """Everything that was found and asked for, as plain values for JSON."""
    content = {
        "format": 1,
        "passed": passed(checks),
        "failed": [check.rule for check in checks if check.passed is False],
        "challenger": _facts(evidence.challenger),
        "champion": _facts(evidence.champion) if evidence.champion else None,
        "opponent": evidence.opponent,
        "data": asdict(evidence.data),
        "today": str(evidence.today),
        "windows": {"origins": list(evidence.origins), "horizon": evidence.horizon},
        "checks": [asdict(check) | {"broken_by": check.broken_by} for check in checks],
        "metrics": evidence.overall,
        "slices": {name: asdict(found) for name, found in evidence.slices.items()},
        "groups": {name: asdict(found) for name, found in evidence.groups.items()},
        "calibration": {name: found.table() for name, found in evidence.reliability.items()},
        "cost": asdict(evidence.cost) if evidence.cost else None,
        "rules": rules.model_dump(mode="json"),
    }
    return {key: _finite(value) for key, value in content.items()}


def passed(checks: Sequence[Check]) -> bool:
    """Whether no rule was broken."""
    return all(check.passed is not False for check in checks)


def _facts(model: Candidate) -> dict[str, Any]:
    facts = asdict(model) | {"inputs": sorted(model.inputs), "trained_regions": len(model.trained_regions)}
    del facts["recorded"]
    return facts


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(evidence: Evidence, checks: Sequence[Check], rules: Rules, content: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("stmp_platform", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    failed = [check for check in checks if check.passed is False]
    champion = evidence.champion.version if evidence.champion and not evidence.unread else evidence.opponent
    return environment.get_template("gate/page.html.j2").render(
        title=f"{evidence.challenger.version} against {champion}",
        passed=not failed,
        failed=failed,
        content=content,
        sections=[(title, [c for c in checks if c.rule.partition(".")[0] == key]) for key, title in SECTIONS.items()],
        bars=_bars(evidence, checks, rules),
        width=WIDTH,
        middle=WIDTH / 2,
        confidence=f"{rules.test.confidence:.0%}",
        metric=rules.test.metric,
        metrics=[(name, [_shown(key, content["metrics"][name][key]) for key in SHOWN]) for name in content["metrics"]],
        shown=SHOWN,
        calibration=content["calibration"].get(CHALLENGER, {}),
        label=slice_label,
        percent=percent,
    )


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return percent(value) if key != "mse" else f"{value:,.4g}"


def _bars(evidence: Evidence, checks: Sequence[Check], rules: Rules) -> list[Bar]:
    """The intervals of all tests on one scale, which ends at half as much error again."""
    tests: list[tuple[Check, str, Difference]] = []
    for check in checks:
        section, _, name = check.rule.partition(".")
        found = {"overall": evidence.slices.get("all"), "slices": evidence.slices.get(name),
                 "groups": evidence.groups.get(name)}.get(section)  # fmt: skip
        if found is not None and check.limit is not None:
            tests.append((check, slice_label("all" if section == "overall" else name), found))
    reach = min(0.5, max((max(abs(d.low), abs(d.high), abs(c.limit or 0)) for c, _, d in tests), default=0.1))

    def place(value: float) -> float:
        return WIDTH / 2 + max(-1.0, min(1.0, value / reach)) * (WIDTH / 2 - EDGE)

    return [
        Bar(name, f"{found.points:,}", check.text, place(found.low), place(found.high), place(found.relative),
            place(check.limit or 0.0), bool(check.passed))
        for check, name, found in tests
    ]  # fmt: skip
