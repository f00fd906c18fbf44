"""Which slice a scored point belongs to: its day type, whether a festival went before, and how far ahead it lay.

A point lies in one *cell* (day type, after a festival or not, horizon bucket). Sums are kept by region and cell; every
slice is a set of cells, so adding a slice costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stmp.data.panel import Panel
from stmp.errors import ConfigError

DAILY_EDGES = (1, 7, 14, 28, 56)
WEEKLY_EDGES = (1, 4, 13, 26, 52)


@dataclass(frozen=True)
class Cells:
    """The grid of cells of one backtest.

    Attributes
    ----------
    day_types : tuple of str
    buckets : tuple of (first, last)
        Horizon steps, both included, counted from 1.
    """

    day_types: tuple[str, ...]
    buckets: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, panel: Panel, horizon: int) -> Cells:
        """Cells for a panel's calendar and a horizon in periods."""
        edges = [e for e in (WEEKLY_EDGES if panel.period_days == 7 else DAILY_EDGES) if e < horizon] + [horizon]
        firsts = [1] + [e + 1 for e in edges[:-1]]
        return cls(panel.calendar.day_types, tuple(zip(firsts, edges, strict=True)))

    def __len__(self) -> int:
        return len(self.day_types) * 2 * len(self.buckets)

    def index(self, day_type: np.ndarray, post_festival: np.ndarray) -> np.ndarray:
        """Cell of each point, int64 [N, H], from its day type and post-festival flag, each [N, H]."""
        steps = np.arange(1, day_type.shape[1] + 1)
        bucket = np.searchsorted([last for _, last in self.buckets], steps)  # [H]
        return (day_type.astype(np.int64) * 2 + post_festival) * len(self.buckets) + bucket

    def _members(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(self.day_types), 2, len(self.buckets))
        day_type, post, bucket = np.unravel_index(np.arange(len(self)), shape)
        return day_type, post, bucket

    def slices(self) -> dict[str, np.ndarray]:
        """The cells of each named slice, bool [cells]: all, every day type, post_festival."""
        day_type, post, _ = self._members()
        named = {"all": np.ones(len(self), dtype=bool)}
        named |= {name: day_type == i for i, name in enumerate(self.day_types)}
        return named | {"post_festival": post == 1}

    def horizons(self) -> dict[str, np.ndarray]:
        """The cells of each horizon bucket, bool [cells], named like ``1`` or ``2-7``."""
        _, _, bucket = self._members()
        names = [str(a) if a == b else f"{a}-{b}" for a, b in self.buckets]
        return {name: bucket == i for i, name in enumerate(names)}


def region_groups(panel: Panel, column: str | None, until: int) -> dict[str, np.ndarray]:
    """Groups of regions to report apart.

    Parameters
    ----------
    panel : Panel
    column : str or None
        A categorical static column, whose values are the groups. None: quartiles of the mean sales of a day.
    until : int
        Position of the last day whose sales may decide the quartile.

    Returns
    -------
    dict of group name to bool [R]
        Empty where fewer than 8 regions leave no quartiles.

    Raises
    ------
    ConfigError
        If there is no such categorical column.
    """
    if column is not None:
        prefix = f"{column}="
        values = panel.static.cpu().numpy()
        found = {name: values[:, i] > 0.5 for i, name in enumerate(panel.static_names) if name.startswith(prefix)}
        if not found:
            known = sorted({name.split("=", 1)[0] for name in panel.static_names if "=" in name})
            raise ConfigError(
                f"There is no categorical static column '{column}' to group regions by; there are {known}."
            )
        return found
    observed = panel.observed[:, : until + 1].any(dim=2).sum(dim=1).cpu().numpy()
    total = panel.sales[:, : until + 1].sum(dim=(1, 2)).cpu().numpy().astype(np.float64)
    level = total / np.maximum(observed, 1)
    if len(level) < 8:
        return {}
    edges = np.quantile(level, [0.25, 0.5, 0.75])
    quartile = np.searchsorted(edges, level)
    names = ("sales: lowest quarter", "sales: second quarter", "sales: third quarter", "sales: highest quarter")
    return {name: quartile == i for i, name in enumerate(names)}
