"""The rules of the gate: what a challenger must show to become champion. docs/promotion.md lists them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stmp.errors import ConfigError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TestRules(_Part):
    """How errors are compared."""

    __test__ = False  # no test of pytest's

    metric: Literal["wql", "wape", "mse", "mae", "mase", "sql"] = Field(
        "wql", description="The error that is compared; lower is better."
    )
    confidence: float = Field(0.9, gt=0.5, lt=1, description="Of each bound, which is one-sided.")
    draws: int = Field(2000, ge=100, description="Bootstrap samples of regions and windows.")
    seed: int = Field(0, description="Of the samples.")
    least_points: int = Field(
        30, ge=1, description="A slice with fewer forecast days than this is told, but does not decide."
    )


class WindowRules(_Part):
    """Which windows are forecast: the last ones that the data and both trainings leave."""

    horizon: int | None = Field(
        None, ge=1, description="Periods in a window; by default 14 days or 8 weeks, or less if a model learned less."
    )
    step: int | None = Field(None, ge=1, description="Periods between windows; by default the horizon: no overlap.")
    most: int = Field(8, ge=1, description="Windows at most; the latest are taken.")
    least: int = Field(2, ge=1, description="Fewer windows than this after both trainings' last day are no evidence.")
    cold_histories: tuple[int, ...] = Field(
        (7, 28), description="Periods of history left to regions that neither model has seen; pooled as slice `cold`."
    )


class OverallRule(_Part):
    """All days together."""

    better_by: float = Field(
        0.005, description="The error must be lower by more than this share, with the test's confidence."
    )


class SliceRule(_Part):
    """One kind of day, or of region."""

    worse_by: float = Field(
        0.02, description="The error may be higher by at most this share, with the test's confidence."
    )
    required: bool = Field(False, description="Refuse where the windows hold too few such days to tell.")


class LimitRules(_Part):
    """What the challenger must hold by itself, whoever is champion."""

    wape: float = Field(1.0, gt=0, description="Sum of absolute errors over sum of sales, all days.")
    bias: float = Field(0.25, gt=0, description="Sum of errors over sum of sales, up or down, all days.")


class CalibrationRules(_Part):
    """How far the share of days below a quantile may lie from its level."""

    tolerance: float = Field(0.1, gt=0, le=1, description="All days, at the worst level.")
    by_day_type: float = Field(0.2, gt=0, le=1, description="Each day type, at the worst level.")


class ServingRules(_Part):
    """What clients rely on, beside what the champion gives them."""

    horizon: int = Field(1, ge=1, description="Periods ahead that must be learned, and at least the champion's.")
    levels: tuple[float, ...] = Field(
        (0.1, 0.5, 0.9), description="Quantile levels that must be forecast, and the champion's."
    )
    new_inputs: bool = Field(
        False, description="The challenger may ask for covariates and features that the champion does not need."
    )


class BudgetRules(_Part):
    """What a forecast may cost on the machine that runs the gate."""

    latency_ms: float = Field(1000.0, gt=0, description="One region, the whole horizon; best of five.")
    memory_mb: float = Field(2048.0, gt=0, description="Weights, and what a forecast of 64 regions takes at its peak.")


class DataRules(_Part):
    """The data that both are judged on."""

    max_age_days: int = Field(35, ge=0, description="Days from the last sale to today (`--today`) at most.")


def _slices() -> dict[str, SliceRule | None]:
    return {
        "weekday": SliceRule(worse_by=0.02),
        "weekend": SliceRule(worse_by=0.02),
        "ordinary": SliceRule(worse_by=0.02),
        "festival": SliceRule(worse_by=0.05, required=True),
        "post_festival": SliceRule(worse_by=0.05),
        "cold": SliceRule(worse_by=0.05),
    }


class Rules(_Part):
    """All rules of a gate.

    Attributes
    ----------
    slices : dict
        By kind of day as in a backtest, and ``cold``. None drops the rule; a name that the calendar does not have is
        not looked at (``weekday`` in weekly data, ``ordinary`` in daily).
    groups : SliceRule
        Of each group of regions: no group may be badly worse.
    """

    test: TestRules = TestRules()
    windows: WindowRules = WindowRules()
    overall: OverallRule = OverallRule()
    slices: dict[str, SliceRule | None] = Field(default_factory=_slices)
    groups: SliceRule = SliceRule(worse_by=0.1)
    group_by: str | None = Field(
        None, description="A categorical feature whose values are the groups; by default quartiles of sales."
    )
    limits: LimitRules = LimitRules()
    calibration: CalibrationRules = CalibrationRules()
    serving: ServingRules = ServingRules()
    budget: BudgetRules = BudgetRules()
    data: DataRules = DataRules()

    @classmethod
    def load(cls, path: str | Path | None) -> Rules:
        """Read a YAML file of rules; what it leaves out keeps its default.

        Raises
        ------
        ConfigError
            If it cannot be read, or holds a rule that is unknown, of the wrong type or out of range.
        """
        if path is None:
            return cls()
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"The rules {path} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"The rules {path} must hold sections, such as `overall: {{better_by: 0.01}}`.")
        try:
            return cls.model_validate(_merged(cls().model_dump(), values))
        except ValidationError as error:
            faults = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
            raise ConfigError(f"The rules {path} cannot be used:\n  " + "\n  ".join(faults)) from error


def _merged(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(default)
    for key, value in given.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
