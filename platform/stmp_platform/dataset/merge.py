"""Sorted rows of one table, old and new: duplicates, contradictions, and what stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stmp_platform.dataset.checks import EXAMPLES


@dataclass
class Merged:
    """The rows that stay.

    Attributes
    ----------
    table
        Sorted, without the rows that were delivered twice.
    duplicates
        New rows that share all keys with another new row; if there are any the table is as it was.
    conflicts
        New rows that contradict old ones.
    examples
        Some of the conflicts.
    """

    table: pa.Table
    duplicates: int = 0
    conflicts: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


def merge_rows(
    table: pa.Table, keys: Sequence[str], values: Sequence[str], plan_after: np.datetime64 | None, target: str | None
) -> Merged:
    """Drop what was delivered twice, from rows sorted by `keys` and `_new` (false: already in the dataset).

    A row that is there again is dropped. A new row replaces a plan: an old row without sales, or of a covariate table
    with a date after `plan_after`. Any other difference is a conflict, whose new row is kept and counted.
    """
    if table.num_rows < 2:
        return Merged(table)
    same = np.ones(table.num_rows - 1, bool)
    for key in keys:
        same &= _equal_to_previous(table[key])
    if not same.any():
        return Merged(table)
    second = np.flatnonzero(same) + 1
    is_new = np.asarray(table["_new"].combine_chunks().to_numpy(zero_copy_only=False))
    pair = second[is_new[second] & ~is_new[second - 1]]
    double = second[~(is_new[second] & ~is_new[second - 1])]
    if len(double):
        return Merged(table, duplicates=len(double))
    old, new = table.take(pair - 1), table.take(pair)
    equal = np.ones(len(pair), bool)
    for name in values:
        equal &= _equal(old[name], new[name])
    if target is not None:
        plan = np.asarray(old[target].is_null().combine_chunks().to_numpy(zero_copy_only=False))
    elif plan_after is not None:
        days = old["_date"].combine_chunks().cast(pa.int32()).to_numpy(zero_copy_only=False)
        plan = days > int(plan_after.astype("datetime64[D]").astype(np.int64))
    else:
        plan = np.zeros(len(pair), bool)
    conflict = ~equal & ~plan
    keep = np.ones(table.num_rows, bool)
    keep[pair[equal]] = False
    keep[pair[~equal] - 1] = False
    return Merged(table.filter(pa.array(keep)), 0, int(conflict.sum()), _differences(old, new, conflict, keys, values))


def _equal_to_previous(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_string(array.type) or pa.types.is_dictionary(array.type):
        encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    else:
        numbers = array.to_numpy(zero_copy_only=False)
    return np.asarray(numbers[1:] == numbers[:-1])


def _equal(one: pa.ChunkedArray, two: pa.ChunkedArray) -> np.ndarray:
    """Whether values are the same, numbers to the precision of float32 that a Panel has; null is equal to null."""
    if pa.types.is_floating(one.type):
        one, two = pc.cast(one, pa.float32(), safe=False), pc.cast(two, pa.float32(), safe=False)
    same = pc.fill_null(pc.equal(one, two), False)
    both_null = pc.and_(pc.is_null(one), pc.is_null(two))
    return np.asarray(pc.or_(same, both_null).combine_chunks().to_numpy(zero_copy_only=False))


def _differences(
    old: pa.Table, new: pa.Table, conflict: np.ndarray, keys: Sequence[str], values: Sequence[str]
) -> list[dict[str, Any]]:
    rows = np.flatnonzero(conflict)[:EXAMPLES]
    found = []
    for before, after in zip(old.take(rows).to_pylist(), new.take(rows).to_pylist(), strict=True):
        changed = [name for name in values if before[name] != after[name]]
        found.append(
            {key: before[key] for key in keys}
            | {name: f"{before[name]} in the dataset, now {after[name]}" for name in changed}
        )
    return found
