"""The rules applied to the evidence: one `Check` a rule, each with what was found and what is allowed.

The challenger passes if no check fails. Since all must pass, each can be tested at its own level: the chance that a
model that breaks a rule passes all of them is at most the chance that it passes that one (an intersection-union test:
Berger 1982, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24(4)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np

from stmp.evaluation.calibration import Reliability
from stmp.evaluation.paired import COLD, Difference
from stmp_platform.gate.evidence import CHALLENGER, Evidence
from stmp_platform.gate.rules import Rules, SliceRule


@dataclass(frozen=True)
class Check:
    """One rule and what became of it.

    Attributes
    ----------
    rule : str
        ``section.name``, as in the file of rules where it has a place there.
    passed : bool or None
        None: there was too little to tell, and the rule does not ask for more.
    text : str
        What was found, in words.
    value, limit : float, optional
        What was found and what is allowed.
    sense : str
        ``at most`` or ``at least``: how the value must lie to the limit.
    """

    rule: str
    passed: bool | None
    text: str
    value: float | None = None
    limit: float | None = None
    sense: Literal["at most", "at least"] = "at most"

    @property
    def broken_by(self) -> float | None:
        """How far beyond the limit the value lies; None where it does not, or where there is no number to it."""
        if self.passed is not False or self.value is None or self.limit is None:
            return None
        return abs(self.value - self.limit)


def judge(evidence: Evidence, rules: Rules) -> list[Check]:
    """Apply every rule; those that need forecasts are absent where there are none, and a check says why."""
    checks = [*_data(evidence, rules), *_serving(evidence, rules), *_windows(evidence, rules)]
    if not evidence.slices:
        return checks
    checks += _forecasts(evidence)
    checks += _compared(evidence, rules)
    checks += _calibrated(evidence.reliability[CHALLENGER], rules)
    return [*checks, *_limits(evidence, rules), *_budget(evidence, rules)]


def _at_most(rule: str, value: float, limit: float, text: str) -> Check:
    return Check(rule, bool(value <= limit), text, float(value), float(limit))


def _at_least(rule: str, value: float, limit: float, text: str) -> Check:
    return Check(rule, bool(value >= limit), text, float(value), float(limit), "at least")


def _data(evidence: Evidence, rules: Rules) -> Iterator[Check]:
    data, model = evidence.data, evidence.challenger
    age = (evidence.today - date.fromisoformat(data.last_sale)).days
    said = f"the last sale is of {data.last_sale}, {age} days before {evidence.today}"
    yield _at_most("data.max_age_days", age, rules.data.max_age_days, said)
    if not data.fingerprint or data.fingerprint != data.read:
        yield Check("data.fingerprint", False, f"the data read ({data.read or 'none'}) are not those of the manifest")
    elif not model.fingerprint:
        yield Check("data.fingerprint", False, "the challenger does not say which data it has learned from")
    elif model.recorded and model.recorded != model.fingerprint:
        said = f"the challenger says {model.fingerprint[:12]}, and its registered version {model.recorded[:12]}"
        yield Check("data.fingerprint", False, f"it is unclear which data the challenger has learned from: {said}")
    else:
        same = "the same data" if model.fingerprint == data.fingerprint else f"data {model.fingerprint[:12]}"
        yield Check("data.fingerprint", True, f"judged on {data.fingerprint[:12]}, learned from {same}")


def _serving(evidence: Evidence, rules: Rules) -> Iterator[Check]:
    ours, theirs, asked = evidence.challenger, evidence.champion, rules.serving
    needed = max(asked.horizon, theirs.horizon if theirs else 0)
    said = f"it has learned {ours.horizon} periods ahead; clients are given {needed}"
    yield _at_least("serving.horizon", ours.horizon, needed, said)
    wanted = {*asked.levels, *(theirs.levels if theirs else ())}
    yield _missing("serving.levels", {f"{q:g}" for q in wanted} - {f"{q:g}" for q in ours.levels}, "quantile levels")
    used = set((theirs.series if theirs else ()) or evidence.data.series)
    yield _missing("serving.series", used - set(ours.series or used), "series")
    if evidence.unread:
        yield Check("serving.champion", None, f"the champion cannot read these data any more: {evidence.unread}")
    if theirs is not None:
        same = ours.frequency == theirs.frequency
        said = f"its periods are {ours.frequency}; the champion's are {theirs.frequency}"
        yield Check("serving.frequency", same, said)
        new = ours.inputs - theirs.inputs
        text = f"it asks for inputs that clients do not give: {_few(new)}" if new else "it asks for no new inputs"
        yield Check("serving.new_inputs", asked.new_inputs or not new, text)


def _missing(rule: str, missing: set[str], what: str) -> Check:
    text = f"{what} that clients use are missing: {_few(missing)}" if missing else f"all {what} that clients use"
    return Check(rule, not missing, text)


def _few(names: set[str] | frozenset[str], most: int = 5) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _windows(evidence: Evidence, rules: Rules) -> Iterator[Check]:
    found, least = len(evidence.origins), rules.windows.least
    seen = max(c.trained_until for c in (evidence.challenger, evidence.champion) if c is not None)
    text = f"{found} windows of {evidence.horizon} periods lie between {seen}, the last day learned from, and the "
    text += f"last sale of {evidence.data.last_sale}"
    yield _at_least("windows.least", found, least, text)
    if evidence.trial_error:
        yield Check("forecasts.complete", False, evidence.trial_error)


def _forecasts(evidence: Evidence) -> Iterator[Check]:
    yield Check("forecasts.complete", True, "every region, series and day was forecast")
    for kind, rule in (("not finite", "forecasts.finite"), ("negative", "forecasts.non_negative")):
        count = evidence.faults[kind]
        yield _at_most(rule, count, 0, f"{count:,} values of the forecasts were {kind}")


def _compared(evidence: Evidence, rules: Rules) -> Iterator[Check]:
    """The tests. A bound that lies beyond what is allowed fails, however good the estimate is."""
    overall = rules.overall
    yield _tested("overall.better_by", evidence.slices["all"], SliceRule(worse_by=-overall.better_by, required=True),
                  evidence, rules)  # fmt: skip
    for name, rule in rules.slices.items():
        if rule is None:
            continue
        if name in evidence.slices:
            yield _tested(f"slices.{name}", evidence.slices[name], rule, evidence, rules)
        elif name == COLD:
            why = "there are no forecasts of regions that neither model has seen"
            yield Check(f"slices.{name}", False if rule.required else None, why)
    for name, found in evidence.groups.items():
        yield _tested(f"groups.{name}", found, rules.groups, evidence, rules)


def _tested(rule: str, found: Difference, asked: SliceRule, evidence: Evidence, rules: Rules) -> Check:
    metric, least = rules.test.metric, rules.test.least_points
    if found.points < least or not math.isfinite(found.high):
        why = f"{found.points:,} days were forecast, of {least} that it takes to tell"
        if found.points >= least:
            why = f"the {metric} is not defined: nothing was sold, or the {evidence.opponent} made no error"
        return Check(rule, False if asked.required else None, why)
    change = f"{abs(100 * found.relative):.1f} % {'higher' if found.relative > 0 else 'lower'}"
    text = (
        f"{metric} {found.judged:.4g} against {found.other:.4g}: {change}; with {rules.test.confidence:.0%} confidence "
        f"at most {100 * found.high:+.1f} %, allowed {100 * asked.worse_by:+.1f} %"
    )
    return _at_most(rule, found.high, asked.worse_by, text)


def _calibrated(found: Reliability, rules: Rules) -> Iterator[Check]:
    for part, limit in ((found.pooled(), rules.calibration.tolerance), (found, rules.calibration.by_day_type)):
        for name, n, row in zip(part.groups, part.n, part.observed(), strict=True):
            rule = "calibration.tolerance" if name == "all" else f"calibration.by_day_type.{name}"
            if n < rules.test.least_points:
                yield Check(rule, None, f"{int(n):,} days were forecast, of {rules.test.least_points} that it takes")
                continue
            off = np.abs(row - np.asarray(part.levels))
            worst = int(off.argmax())
            said = f"{row[worst]:.1%} of days lay below the quantile {part.levels[worst]:g}"
            yield _at_most(rule, off[worst], limit, said)


def _limits(evidence: Evidence, rules: Rules) -> Iterator[Check]:
    found = evidence.overall[CHALLENGER]
    for name, limit in rules.limits.model_dump().items():
        value = found[name]
        if value is None:
            yield Check(f"limits.{name}", None, "nothing was sold")
        else:
            yield _at_most(f"limits.{name}", abs(value), limit, f"{name} {value:.1%} over all days")


def _budget(evidence: Evidence, rules: Rules) -> Iterator[Check]:
    cost = evidence.cost
    assert cost is not None, "models that forecast were measured"
    said = f"one region takes {cost.latency_ms:.1f} ms"
    yield _at_most("budget.latency_ms", cost.latency_ms, rules.budget.latency_ms, said)
    if cost.memory_mb is None:
        yield Check("budget.memory_mb", None, "this system does not tell a process its peak memory")
    else:
        said = f"{cost.memory_mb:.0f} MB for the weights and a forecast"
        yield _at_most("budget.memory_mb", cost.memory_mb, rules.budget.memory_mb, said)
