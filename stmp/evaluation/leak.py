"""Proof that a predictor does not look past its origin: change the future, and nothing may move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from stmp.data.panel import DateLike, Panel
from stmp.forecast import Predictor


def assert_no_leak(predictor: Predictor, panel: Panel, origin: DateLike, horizon: int, seed: int = 0) -> None:
    """Check that forecasts stay the same, bit by bit, whatever is sold after the origin.

    Parameters
    ----------
    predictor : Predictor
        Must be deterministic.
    panel : Panel
        Holds days after the origin.

    Raises
    ------
    AssertionError
        If sales, the observed mask or past-only covariates after the origin change a forecast.
    """
    after = torch.as_tensor(np.arange(len(panel.dates)) > panel.index_of(origin))
    if not bool(after.any()):
        raise AssertionError("the panel ends at the origin, so there is no future to change")
    generator = torch.Generator().manual_seed(seed)
    level = float(panel.sales.max()) + 1.0
    noise = torch.rand(panel.sales.shape, generator=generator) * level
    flips = torch.rand(panel.observed.shape, generator=generator) < 0.5
    past = torch.randn(panel.past.shape, generator=generator) * 100.0
    window = after.to(panel.device)[None, :, None]
    changed = replace(
        panel,
        sales=torch.where(window, noise.to(panel.sales), panel.sales),
        observed=torch.where(window, flips.to(panel.device), panel.observed),
        past=torch.where(window, past.to(panel.past), panel.past),
    )
    before, now = (predictor.predict(p, origin, horizon) for p in (panel, changed))
    for name in ("mean", "quantiles"):
        left, right = np.asarray(getattr(before, name)), np.asarray(getattr(now, name))
        moved = ~((left == right) | (np.isnan(left) & np.isnan(right)))
        if moved.any():
            raise AssertionError(
                f"{int(moved.sum())} of {moved.size} values of the forecast's {name} moved "
                f"when only days after {origin} changed"
            )
