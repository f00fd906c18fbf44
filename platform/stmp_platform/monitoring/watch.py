"""What was measured against what the backtest promised: one `Finding` a figure, and whether it crossed a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stmp.errors import ConfigError
from stmp.evaluation.metrics import summary
from stmp_platform.monitoring.measures import Rolling

Measure = Literal["wape", "bias", "coverage_80", "drift"]

OFF: dict[Measure, Callable[[float], float]] = {
    "wape": lambda error: error,
    "bias": abs,
    "coverage_80": lambda share: abs(share - 0.8),
}
"""How bad a value is. A value that differs from the backtest's for the better is no alarm."""


class Thresholds(BaseModel):
    """How far the figures may lie from the backtest's. docs/monitoring.md lists them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int = Field(28, ge=1, description="Days (weeks) whose forecasts are judged together.")
    step: int = Field(7, ge=1, description="Days (weeks) from one window to the next, for the course of the figures.")
    least_points: int = Field(100, ge=1, description="Fewer forecast days than this do not raise an alarm.")
    wape: float = Field(1.25, gt=0, description="Error at most, as a multiple of the backtest's.")
    bias: float = Field(0.1, gt=0, description="Bias, up or down, at most this much beyond the size of the backtest's.")
    coverage_80: float = Field(
        0.1, gt=0, description="Coverage at most this much further from 80 % than the backtest's."
    )
    drift: float = Field(0.25, gt=0, description="Population stability index of an input at most.")

    @model_validator(mode="after")
    def _check(self) -> Thresholds:
        if self.window % self.step:
            raise ValueError(f"the window ({self.window}) must be a multiple of the step ({self.step})")
        return self

    @classmethod
    def from_settings(cls, settings: Sequence[str]) -> Thresholds:
        """Read ``key=value`` settings.

        Raises
        ------
        ConfigError
            If one is unknown, of the wrong type or out of range.
        """
        given = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals:
                raise ConfigError(f"Setting '{setting}' is not of the form key=value, such as drift=0.3.")
            given[key.strip()] = yaml.safe_load(text)
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc'])) or 'thresholds'}: {e['msg']}" for e in error.errors()]
            raise ConfigError("The thresholds cannot be used:\n  " + "\n  ".join(faults)) from error


@dataclass(frozen=True)
class Finding:
    """One figure of the latest window.

    Attributes
    ----------
    measure, part : str
        What was measured, and of which days, regions, version or input.
    value, baseline : float or None
        Now and in the backtest; None where it is not defined.
    off, limit : float or None
        How bad the value is (`OFF`), and how bad it may be at most.
    points : int
        Days that were measured.
    crossed : bool or None
        None where there is too little to tell, or nothing to compare with.
    """

    measure: Measure
    part: str
    value: float | None
    baseline: float | None
    off: float | None
    limit: float | None
    points: int
    crossed: bool | None


def findings(
    rolling: Rolling, inputs: Mapping[str, float], baseline: Mapping[str, Any], thresholds: Thresholds
) -> list[Finding]:
    """Compare the latest window with a backtest, and the inputs with what they were.

    Parameters
    ----------
    inputs : mapping of feature to stability index
    baseline : mapping
        ``Backtest.to_dict()``: what `stmp backtest --json` or its report wrote.
    """
    promised = {name: values for name, values in baseline["slices"].items() if values.get("n")}
    of_groups = {name: by[baseline_model(baseline, by)] for name, by in baseline.get("groups", {}).items()}
    found = []
    for parts, promises in (
        (rolling.slices, promised),
        (rolling.groups, of_groups),
        (rolling.versions, dict.fromkeys(rolling.versions, promised.get("all", {}))),
    ):
        for part, sums in parts.items():
            if part in promises:
                found += _compared(part, summary(sums[-1]), promises[part], thresholds)
    for name, index in inputs.items():
        value, limit = (index if math.isfinite(index) else None), thresholds.drift
        found.append(Finding("drift", name, value, None, value, limit, 0, None if value is None else value > limit))
    return found


def baseline_model(baseline: Mapping[str, Any], by_model: Mapping[str, Any]) -> str:
    """The name of the backtest's own model among those that it compares."""
    (name,) = set(by_model) - set(baseline["baselines"])
    return str(name)


def _compared(
    part: str, now: Mapping[str, float | int | None], promised: Mapping[str, Any], thresholds: Thresholds
) -> list[Finding]:
    found = []
    points = int(now["n"] or 0)
    for measure, badness in OFF.items():
        value, was = now[measure], promised.get(measure)
        off = None if value is None else badness(float(value))
        limit = None
        if was is not None:
            allowed = getattr(thresholds, measure)
            limit = allowed * was if measure == "wape" else allowed + badness(was)
        crossed = None
        if off is not None and limit is not None and points >= thresholds.least_points:
            crossed = bool(off > limit)
        found.append(Finding(measure, part, value, was, off, limit, points, crossed))
    return found
