"""Have the inputs changed? The population stability index of each feature between two spans of days.

``PSI = sum over bins of (p - q) log(p / q)``, a symmetric Kullback-Leibler divergence of the shares of values in bins.
Bins are tenths of the reference (or its values, where they are few), and one for missing values. By custom, below 0.1
is stable, and above 0.25 has changed (Siddiqi 2006, *Credit Risk Scorecards*).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stmp.data.panel import Panel

BINS = 10
_SMALLEST = 1e-4
"""Share of an empty bin, so that its logarithm is finite."""


def stability(reference: np.ndarray, recent: np.ndarray) -> float:
    """The population stability index of one feature.

    Parameters
    ----------
    reference, recent : ndarray
        Values of the feature; NaN where there is none.

    Returns
    -------
    float
        NaN if either holds nothing at all.
    """
    if reference.size == 0 or recent.size == 0:
        return float("nan")
    edges = _edges(reference[np.isfinite(reference)])

    def shares(values: np.ndarray) -> np.ndarray:
        finite = values[np.isfinite(values)]
        counts = np.bincount(np.searchsorted(edges, finite, side="left"), minlength=len(edges) + 1)
        return np.maximum(np.append(counts, values.size - finite.size) / values.size, _SMALLEST)

    p, q = shares(recent), shares(reference)
    return float(((p - q) * np.log(p / q)).sum())


def _edges(values: np.ndarray) -> np.ndarray:
    """Upper edges of the bins, each included, but for the last bin, which has none."""
    distinct = np.unique(values)
    if len(distinct) <= BINS:
        return distinct[:-1]
    return np.unique(np.quantile(values, np.arange(1, BINS) / BINS))


def drift(panel: Panel, reference: slice, recent: slice) -> dict[str, float]:
    """The index of every covariate, and of the sales themselves.

    Parameters
    ----------
    reference, recent : slice
        Positions of days.
    """
    found = {}
    sales, observed = panel.sales.cpu().numpy(), panel.observed.cpu().numpy()  # [R, T, G]
    for g, name in enumerate(panel.series):
        label = "sales" if len(panel.series) == 1 else f"sales of {name}"
        # Closed days and days before a region opened are no missing values.
        found[label] = stability(*(sales[:, days, g][observed[:, days, g]] for days in (reference, recent)))
    for names, values in ((panel.known_names, panel.known), (panel.past_names, panel.past)):
        table = values.cpu().numpy()
        for i, name in enumerate(names):
            found[name] = stability(table[:, reference, i].ravel(), table[:, recent, i].ravel())
    return found
