"""What the data look like: ranges, gaps, late openings, missing known values and what fills them.

Filled bucket by bucket while a dataset is written; nothing of the size of the whole is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stmp.data.calendar import period_dates
from stmp_platform.dataset.arrays import OTHER, as_float
from stmp_platform.dataset.checks import EXAMPLES
from stmp_platform.dataset.manifest import Column, StaticColumn
from stmp_platform.dataset.plan import Plan, sort_ids

VOCABULARY = 64  # values of a text column that become columns of their own, the most frequent
_SAMPLE = 48_000_000  # cells kept for medians; regions are sampled where there are more
_NEVER = np.iinfo(np.int32).max


class Survey:
    """Measures a dataset while it is written.

    Parameters
    ----------
    plan
        What is written.
    texts
        For each text covariate its values, sorted.
    """

    def __init__(self, plan: Plan, texts: dict[str, list[str]]) -> None:
        self.plan = plan
        self.vocabularies = {name: pd.Index(values, dtype=object) for name, values in texts.items()}
        self.columns = _columns(plan)
        many = len(plan.series) > 1
        closed = plan.spec.closed.column if plan.spec.closed is not None else None
        # past columns are looked at on the grid only to see whether they differ between series
        self.cube_names = [
            c.name for c in self.columns if c.role == "known" or c.name == closed or (many and c.role != "target")
        ]
        self.closed = closed
        self.shape = (plan.axis.length, len(plan.series))
        regions = len(plan.regions)
        known = sum(c.role == "known" for c in self.columns)
        room = max(_SAMPLE // max(plan.axis.length * len(plan.series) * known, 1), 1)
        self.stride = -(-regions // room)
        self.sample: dict[str, list[np.ndarray]] = {c.name: [] for c in self.columns if c.role == "known"}
        self.absent = {name: np.zeros(2, np.int64) for name in self.sample}  # [region-days, region-series-days]
        self.counts = {name: np.zeros(len(index), np.int64) for name, index in self.vocabularies.items()}
        self.first = np.full(regions, _NEVER, np.int32)  # position of the first and last sale of each region
        self.last = np.full(regions, -1, np.int32)
        self.observed = np.zeros(regions, np.int64)
        self.sold = np.zeros(regions, bool)
        self.gaps = np.zeros(regions, np.int64)
        self.empty = 0
        self.closed_sales = 0
        self.closed_days = 0
        self._target: np.ndarray | None = None

    def empty_cubes(self, regions: int) -> dict[str, np.ndarray]:
        """Grids [r, T, G] for the columns that are looked at on the grid."""
        names = [*self.cube_names, *([self.plan.spec.tables.sales.target] if self.closed else [])]
        return {name: np.full((regions, *self.shape), np.nan, np.float32) for name in names}

    def sales_rows(self, table: pa.Table, regions: np.ndarray, local: np.ndarray) -> None:
        """Take in the sorted sales rows of a bucket; `local` is the place of each row's region in `regions`."""
        target = as_float(table[self.plan.spec.tables.sales.target])
        periods = self.plan.axis.positions(table["_date"])
        seen = ~np.isnan(target)
        self.empty += int((~seen & (periods >= 0) & (periods < self.plan.axis.history)).sum())
        rows, place, value = local[seen], periods[seen], target[seen]
        if len(rows) == 0:
            return
        series = table["_s"].combine_chunks().to_numpy()[seen]
        change = (rows[1:] != rows[:-1]) | (series[1:] != series[:-1])
        run = np.append(0, np.flatnonzero(change) + 1)
        end = np.append(run[1:], len(rows)) - 1
        np.add.at(self.gaps, regions[rows[run]], place[end] - place[run] + 1 - (end - run + 1))
        np.minimum.at(self.first, regions[rows[run]], place[run].astype(np.int32))
        np.maximum.at(self.last, regions[rows[run]], place[end].astype(np.int32))
        self.observed[regions] += np.bincount(rows, minlength=len(regions))
        self.sold[regions] |= np.bincount(rows, weights=value != 0, minlength=len(regions)) > 0

    def table_rows(self, table: pa.Table) -> None:
        """Take in the rows of any table: ranges of numbers and frequencies of texts."""
        for column in self.columns:
            if column.name not in table.column_names:
                continue
            values = table[column.name]
            if column.kind == "text":
                codes = as_float(values, self.vocabularies[column.name])
                codes = codes[~np.isnan(codes)].astype(np.int64)
                self.counts[column.name] += np.bincount(codes, minlength=len(self.counts[column.name]))
            elif values.null_count < len(values):
                found = pc.min_max(values).as_py()
                column.low = found["min"] if column.low is None else min(column.low, found["min"])
                column.high = found["max"] if column.high is None else max(column.high, found["max"])

    def bucket(self, regions: np.ndarray, cubes: dict[str, np.ndarray]) -> None:
        """Take in the grids of a bucket's regions."""
        history = slice(0, self.plan.axis.history)
        sampled = regions % self.stride == 0
        for column in self.columns:
            cube = cubes.get(column.name)
            if cube is None or column.role == "target":
                continue
            if self.shape[1] > 1 and not column.per_series:
                column.per_series = _differs(cube)
            if column.role == "known":
                empty = np.isnan(cube[:, history])
                self.absent[column.name] += [int(empty.all(axis=2).sum()), int(empty.sum())]
                self.sample[column.name].append(cube[sampled][:, history])
        if self.closed is not None:
            self._closed_sales(cubes)

    def _closed_sales(self, cubes: dict[str, np.ndarray]) -> None:
        shut = closed_days(cubes[self.closed or ""], self.plan.spec.closed, self.vocabularies.get(self.closed or ""))
        target = cubes[self.plan.spec.tables.sales.target]
        self.closed_days += int(shut.all(axis=2).sum())
        self.closed_sales += int((shut & (np.nan_to_num(target) != 0)).sum())

    # --- at the end ------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Choose vocabularies, and tell what a user should know."""
        for column in self.columns:
            if column.name in self.absent:
                # where all series share a value, a value of one is a value of all
                column.missing = int(self.absent[column.name][1 if column.per_series else 0])
            if column.kind == "text":
                column.vocabulary = top_values(self.vocabularies[column.name], self.counts[column.name])
        self._tell()

    def defaults(self) -> pa.Table | None:
        """What fills known values that are missing in the history.

        The median of numbers and the mode of texts over the regions on that date; where no region has a value, over
        all dates. One row per column, series (-1: all) and date; texts as their position in the vocabulary.
        """
        parts = []
        for column in self.columns:
            if column.role != "known" or column.fill is not None or column.missing == 0:
                continue
            sample = np.concatenate(self.sample[column.name])  # [S, history, G]
            if not column.per_series:
                sample = _first_value(sample)[:, :, None]
            if column.kind == "text":
                values = _modes(sample, self._final_codes(column))
            else:
                values = _medians(sample)
            count, width = values.shape
            dates = period_dates(self.plan.axis.first, count, self.plan.axis.frequency)
            parts.append(
                pa.table(
                    {
                        "column": [column.name] * (count * width),
                        "series": np.tile(
                            np.arange(width, dtype=np.int32) if column.per_series else [-1], count
                        ).astype(np.int32),
                        "_date": pa.array(np.repeat(dates, width), pa.date32()),
                        "value": pa.array(values.reshape(-1).astype(np.float64), from_pandas=True),
                    }
                )
            )
        return pa.concat_tables(parts) if parts else None

    def _final_codes(self, column: Column) -> np.ndarray:
        final = pd.Index(column.vocabulary or [], dtype=object)
        return final.get_indexer(self.vocabularies[column.name]).astype(np.int64)

    def region_columns(self) -> dict[str, pa.Array]:
        """First and last sale, number of sales values and of gaps between them of each region."""
        never = self.last < 0
        axis = self.plan.axis
        dates = axis.dates[: axis.history]
        first = pa.array(dates[np.minimum(self.first, axis.history - 1)], pa.date32(), mask=never)
        last = pa.array(dates[np.maximum(self.last, 0)], pa.date32(), mask=never)
        return {"_first": first, "_last": last, "_observed": pa.array(self.observed), "_gaps": pa.array(self.gaps)}

    def static_columns(self) -> list[StaticColumn]:
        """Ranges and vocabularies of the features of the regions."""
        table, found = self.plan.spec.tables.regions, []
        for name in table.numeric if table else []:
            values = self.plan.regions[name].to_numpy(np.float64)
            good = values[~np.isnan(values)]
            low, high = (float(good.min()), float(good.max())) if len(good) else (None, None)
            missing = len(values) - len(good)
            unit = self.plan.spec.units.get(name)
            found.append(StaticColumn(name=name, kind="number", low=low, high=high, missing=missing, unit=unit))
        for name in table.categorical if table else []:
            counts = self.plan.regions[name].value_counts()
            vocabulary = top_values(pd.Index(counts.index, dtype=object), counts.to_numpy(np.int64))
            missing = int(self.plan.regions[name].isna().sum())
            found.append(StaticColumn(name=name, kind="text", vocabulary=vocabulary, missing=missing))
        return found

    def _tell(self) -> None:
        findings, axis, ids = self.plan.findings, self.plan.axis, self.plan.regions["_region"].to_numpy(dtype=object)
        target = self.plan.spec.tables.sales.target
        dates = axis.dates
        ever = self.last >= 0

        def shown(which: np.ndarray, **columns: np.ndarray) -> list[dict[str, Any]]:
            worst = np.flatnonzero(which)[:EXAMPLES]
            return [{"region": ids[i]} | {name: str(values[i]) for name, values in columns.items()} for i in worst]

        if self.empty:
            findings.warn("sales", target, f"{self.empty:,} values are empty: not observed", count=self.empty)
        gaps = self.gaps > 0
        if gaps.any():
            total = int(self.gaps.sum())
            findings.warn(
                "sales", None, f"{total:,} gaps between the first and the last row of {int(gaps.sum()):,} regions",
                "They are not observed; if no row means no sale, write rows with 0.", count=total,
                examples=shown(gaps, gaps=self.gaps),
            )  # fmt: skip
        late = ever & (self.first > 0)
        if late.any():
            opened = dates[np.minimum(self.first, axis.history - 1)]
            findings.warn(
                "sales", None, f"{int(late.sum()):,} regions begin after {dates[0]}", count=int(late.sum()),
                examples=shown(late, first=opened),
            )  # fmt: skip
        early = ever & (self.last < axis.history - 1)
        if early.any():
            findings.warn(
                "sales", None, f"{int(early.sum()):,} regions end before {dates[axis.history - 1]}",
                count=int(early.sum()), examples=shown(early, last=dates[np.maximum(self.last, 0)]),
            )  # fmt: skip
        idle = ~self.sold
        if idle.any():
            findings.warn(
                "sales", target, f"{int(idle.sum()):,} regions never sold anything", count=int(idle.sum()),
                examples=shown(idle),
            )  # fmt: skip
        if self.closed_sales:
            findings.warn("sales", target, f"{self.closed_sales:,} values on closed days are not 0; they are left out",
                          "Check `closed` in dataset.yaml.", count=self.closed_sales)  # fmt: skip
        if self.closed is not None and self.closed_days == 0:
            findings.warn("sales", self.closed, "no day is closed", "Check `closed` in dataset.yaml.")
        for column in self.columns:
            self._tell_missing(column)

    def _tell_missing(self, column: Column) -> None:
        if column.role != "known" or column.missing == 0:
            return
        cells = len(self.plan.regions) * self.plan.axis.history * (self.shape[1] if column.per_series else 1)
        unit = "region-series-days" if column.per_series else "region-days"
        filled = (
            f"fill: {column.fill}"
            if column.fill is not None
            else (f"the {'mode' if column.kind == 'text' else 'median'} over the regions on that date")
        )
        self.plan.findings.warn(
            ", ".join(column.tables), column.name,
            f"{column.missing:,} of {cells:,} {unit} of the history have no value, those without a row included; "
            f"they are filled by {filled}",
            "" if column.fill is not None else "Name a value under `fill` to use another.", count=column.missing,
        )  # fmt: skip


def _columns(plan: Plan) -> list[Column]:
    found: dict[str, Column] = {}
    kinds = {value.name: value.kind for fact in plan.facts for value in fact.values}
    for role, name, _ in plan.spec.columns():
        tables = [fact.name for fact in plan.facts if any(value.name == name for value in fact.values)]
        found[name] = Column(
            name=name, role=role, kind=kinds[name], tables=tables,
            fill=plan.spec.fill.get(name), unit=plan.spec.units.get(name),
        )  # fmt: skip
    return list(found.values())


def top_values(values: pd.Index, counts: np.ndarray) -> list[str]:
    """The most frequent values of a text column, in the order of ids."""
    ranked = sorted((-int(n), str(value)) for value, n in zip(values, counts, strict=True) if n > 0)
    return sort_ids({value for _, value in ranked[:VOCABULARY]})


def closed_days(cube: np.ndarray, rule: Any, vocabulary: pd.Index | None) -> np.ndarray:
    """Where a grid of values meets `closed.equals`, bool of the same shape."""
    if vocabulary is None:
        try:
            return np.asarray(cube == np.float32(float(rule.equals)))
        except ValueError:
            return np.zeros(cube.shape, bool)
    found = vocabulary.get_indexer(pd.Index([str(rule.equals)], dtype=object))[0]
    return np.asarray(cube == found) if found >= 0 else np.zeros(cube.shape, bool)


def _differs(cube: np.ndarray) -> bool:
    """Whether any (region, date) has two different values among its series."""
    known = ~np.isnan(cube)
    high = np.where(known, cube, -np.inf).max(axis=2)
    low = np.where(known, cube, np.inf).min(axis=2)
    return bool((high > low).any())


def _first_value(cube: np.ndarray) -> np.ndarray:
    """The value that all series of a (region, date) share: [S, T, G] -> [S, T]."""
    place = np.argmax(~np.isnan(cube), axis=2)
    return np.take_along_axis(cube, place[:, :, None], axis=2)[:, :, 0]


def _medians(sample: np.ndarray) -> np.ndarray:
    """Median over regions on each date: [S, T, G] -> [T, G]; where there is none, the median over all dates."""
    count = (~np.isnan(sample)).sum(axis=0)
    ordered = np.sort(sample, axis=0)  # NaN last
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[None], axis=0)[0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, len(sample) - 1)[None], axis=0)[0]
    values = np.where(count > 0, (low + high) / 2, np.nan)
    for g in range(values.shape[1]):
        everywhere = sample[:, :, g][~np.isnan(sample[:, :, g])]
        if len(everywhere):
            values[np.isnan(values[:, g]), g] = np.median(everywhere)
    return values


def _modes(sample: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Most frequent code over regions on each date: [S, T, G] -> [T, G]; `final` maps codes to the vocabulary."""
    _, periods, groups = sample.shape
    known = ~np.isnan(sample)
    codes = final[sample[known].astype(np.int64)] + 1  # 0: other
    width = int(final.max(initial=-1)) + 2
    place = np.broadcast_to(np.arange(periods * groups).reshape(1, periods, groups), sample.shape)[known]
    counts = np.bincount(place * width + codes, minlength=periods * groups * width).reshape(periods, groups, width)
    values = counts.argmax(axis=2) + OTHER
    overall = counts.sum(axis=0)
    nowhere = counts.sum(axis=2) == 0
    fallback = np.where(overall.sum(axis=1) > 0, overall.argmax(axis=1) + OTHER, np.nan)
    return np.where(nowhere, fallback[None, :], values)
