"""What a backtest found: sums by model, region and cell, and the tables and intervals made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stmp.evaluation.calibration import Reliability
from stmp.evaluation.metrics import LOWER_IS_BETTER, METRICS, SUMS, from_sums, interval, resample, summary
from stmp.evaluation.slices import Cells

Totals = dict[str, np.ndarray]
"""By model."""
SKILL_METRICS = ("mse", "mae", "wape", "wql", "sql")


@dataclass(frozen=True)
class Cold:
    """Sums of forecasts for regions whose history was cut to `days`, by model: each [U, cells, len(SUMS)]."""

    days: int
    regions: tuple[str, ...]
    totals: Totals

    @classmethod
    def empty(cls, days: int, regions: Sequence[str], models: Sequence[str], cells: int) -> Cold:
        """No points yet."""
        zeros = {m: np.zeros((len(regions), cells, len(SUMS))) for m in models}
        return cls(days, tuple(str(r) for r in regions), zeros)


@dataclass(frozen=True)
class Backtest:
    """The outcome of `stmp.evaluation.backtest.backtest`.

    Attributes
    ----------
    model : str
        Which of the models is the one judged; the others are baselines.
    totals : dict of model name to ndarray [R, cells, len(SUMS)]
        Sums by region and cell, from which every slice and interval is made.
    by_origin, by_event, by_series : dict of model name to sums [.., len(SUMS)]
        Pooled over regions.
    reliability : dict of model name to Reliability
        Actuals below each quantile, by day type.
    groups : dict of name to bool [R]
    cold : dict of days to Cold
        Empty where no region is new to the model; `cold_reason` says why.
    examples : DataFrame
        The model's forecasts of a few regions, one row a region, series, date and step, for pictures.
    """

    model: str
    dataset_fingerprint: str
    regions: tuple[str, ...]
    series: tuple[str, ...]
    cells: Cells
    levels: tuple[float, ...]
    origins: np.ndarray
    totals: Totals
    by_origin: Totals
    by_event: Totals
    by_series: Totals
    reliability: dict[str, Reliability]
    events: tuple[str, ...]
    groups: dict[str, np.ndarray]
    cold: dict[int, Cold]
    cold_histories: tuple[int, ...]
    cold_reason: str | None
    examples: pd.DataFrame
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the models beside the one judged."""
        return tuple(name for name in self.totals if name != self.model)

    def table(self) -> pd.DataFrame:
        """One row per model and slice with every metric: what a notebook looks at first."""
        report = self.to_dict()
        rows = []
        for model, slices in {self.model: report["slices"], **report["baselines"]}.items():
            for name, values in slices.items():
                if values.get("n"):
                    rows.append({"model": model, "slice": name, **{k: values[k] for k in ("n", *METRICS)}})
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the examples, as plain values for JSON."""
        slices = {m: self._described(m, self.cells.slices()) | self._cold(m) for m in self.totals}
        horizons = {m: self._described(m, self.cells.horizons()) for m in self.totals}
        return {
            "model": self.model,
            "dataset_fingerprint": self.dataset_fingerprint,
            "settings": self.settings,
            "warnings": list(self.warnings),
            "notes": self.notes,
            "regions": len(self.regions),
            "slices": slices[self.model],
            "baselines": {m: slices[m] for m in self.baselines},
            "skill": {m: self._skill(m) for m in self.baselines},
            "horizons": horizons,
            "groups": {name: {m: self._group(m, rows) for m in self.totals} for name, rows in self.groups.items()},
            "events": self._pooled(self.by_event, self.events, skip=("",)),
            "series": self._pooled(self.by_series, self.series) if len(self.series) > 1 else {},
            "origins": {
                str(date): {m: summary(self.by_origin[m][i]) for m in self.totals}
                for i, date in enumerate(self.origins)
            },
            "calibration": {m: part.table() for m, part in self.reliability.items()},
        }

    def write_json(self, path: str | Path) -> None:
        """Write `to_dict` as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    # --- how the tables are made -------------------------------------------------------------------------------

    def _draws(self) -> tuple[int, int]:
        bootstrap = self.settings["bootstrap"]
        return int(bootstrap["draws"]), int(bootstrap["seed"])

    def _described(self, model: str, members: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
        """Metrics and intervals of several sets of cells."""
        by_region = np.stack(
            [self.totals[model][:, cells].sum(axis=1) for cells in members.values()], axis=1
        )  # [R, S, K]
        return dict(zip(members, _with_intervals(by_region, *self._draws()), strict=True))

    def _group(self, model: str, rows: np.ndarray) -> dict[str, Any]:
        return _with_intervals(self.totals[model][rows].sum(axis=1)[:, None], *self._draws())[0]

    def _cold(self, model: str) -> dict[str, dict[str, Any]]:
        slices: dict[str, dict[str, Any]] = {}
        for days in self.cold_histories:
            if days in self.cold:
                part = self.cold[days]
                by_region = part.totals[model].sum(axis=1)[:, None]
                slices[f"cold_{days}"] = _with_intervals(by_region, *self._draws())[0] | {"regions": len(part.regions)}
            else:
                nothing: dict[str, Any] = summary(np.zeros(len(SUMS))) | {"ci": {}, "reason": self.cold_reason}
                slices[f"cold_{days}"] = nothing
        return slices

    def _skill(self, baseline: str) -> dict[str, dict[str, Any]]:
        """1 - error of the model / error of the baseline, over the regions that both forecast in full."""
        members = self.cells.slices()
        cubes = {
            name: {m: self.totals[m][:, cells].sum(axis=1) for m in (self.model, baseline)}
            for name, cells in members.items()
        }
        for days, part in self.cold.items():
            cubes[f"cold_{days}"] = {m: part.totals[m].sum(axis=1) for m in (self.model, baseline)}
        result: dict[str, dict[str, Any]] = {}
        for name, cube in cubes.items():
            n = SUMS.index("n")
            both = cube[self.model][:, n] == cube[baseline][:, n]
            pair = np.stack([cube[self.model][both], cube[baseline][both]], axis=1)  # [R', 2, K]
            if not pair[..., n].any():
                result[name] = {**dict.fromkeys(SKILL_METRICS), "ci": {}}
                continue
            draws = resample(pair, *self._draws())
            whole, sampled = from_sums(pair.sum(axis=0)), from_sums(draws)
            values: dict[str, Any] = {"regions": int(both.sum())}
            intervals: dict[str, list[float] | None] = {}
            for metric in SKILL_METRICS:
                values[metric] = _plain(_ratio_skill(whole[metric][0], whole[metric][1]))
                intervals[metric] = interval(_ratio_skill(sampled[metric][:, 0], sampled[metric][:, 1]))
            result[name] = values | {"ci": intervals}
        return result

    def _pooled(self, sums: Totals, names: Sequence[str], skip: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        n = SUMS.index("n")
        return {
            name: {m: summary(sums[m][i]) for m in self.totals}
            for i, name in enumerate(names)
            if name not in skip and any(sums[m][i, n] > 0 for m in self.totals)
        }


def _with_intervals(by_region: np.ndarray, draws: int, seed: int) -> list[dict[str, Any]]:
    """Metrics and bootstrap intervals of S groups, from sums by region [R, S, K]."""
    whole = by_region.sum(axis=0)
    sampled = from_sums(resample(by_region, draws, seed)) if draws and len(by_region) > 1 else None
    described = []
    for s in range(whole.shape[0]):
        values: dict[str, Any] = dict(summary(whole[s]))
        values["ci"] = {} if sampled is None else {metric: interval(sampled[metric][:, s]) for metric in METRICS}
        described.append(values)
    return described


def _ratio_skill(model: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    nonzero = np.isfinite(baseline) & (baseline != 0)
    return np.where(nonzero, 1.0 - model / np.where(nonzero, baseline, 1.0), np.nan)


def _plain(value: np.ndarray | float) -> float | None:
    return float(value) if np.isfinite(value) else None


assert set(SKILL_METRICS) <= set(LOWER_IS_BETTER)
