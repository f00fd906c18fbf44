"""Made-up evidence for the gate."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from stmp.evaluation.calibration import Reliability
from stmp.evaluation.metrics import SUMS
from stmp.evaluation.paired import Difference
from stmp_platform.gate.evidence import CHALLENGER, Candidate, Evidence, Judged
from stmp_platform.gate.trial import Cost

LEVELS = (0.1, 0.5, 0.9)


def candidate(version: str, **changed: Any) -> Candidate:
    """A model's facts."""
    facts = Candidate(
        version, "D", ("sales",), frozenset({"promo"}), 14, LEVELS, "2024-06-30", frozenset({"a", "b"}), "f00d", "f00d"
    )
    return replace(facts, **changed)


def differing(relative: float, spread: float = 0.0, points: int = 500) -> Difference:
    """A comparison that came out so."""
    return Difference(0.2 * (1 + relative), 0.2, relative, relative - spread, relative + spread, points)


def evidence(**changed: Any) -> Evidence:
    """Evidence on which a challenger passes: a tenth better everywhere, and calibrated."""
    better = differing(-0.1, 0.02)
    whole = Evidence(
        challenger=candidate("stores/2"),
        champion=candidate("stores/1"),
        data=Judged("stores", "f00d", "f00d", "2024-09-30", "D", ("sales",)),
        today=date(2024, 10, 2),
        horizon=14,
        origins=("2024-09-02", "2024-09-16"),
        faults={"not finite": 0, "negative": 0},
        cost=Cost(20.0, 100.0),
        slices=dict.fromkeys(("all", "weekday", "weekend", "festival", "post_festival", "cold"), better),
        groups={"sales: lowest quarter": better},
        overall={CHALLENGER: {"wape": 0.2, "wql": 0.15, "mse": 4.0, "bias": -0.01, "coverage_80": 0.8, "n": 500}},
        reliability={
            CHALLENGER: Reliability(
                ("weekday",), LEVELS, np.array([100.0]), np.array([[10.0, 50, 90]]), np.zeros((1, 3))
            )
        },
    )
    return replace(whole, **changed)


def sums(absolute: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Sums [..., len(SUMS)] of one point each, from errors and actuals of the same shape."""
    made = np.zeros((*absolute.shape, len(SUMS)))
    for name, values in (("n", np.ones_like(absolute)), ("absolute", absolute), ("abs_actual", actual)):
        made[..., SUMS.index(name)] = values
    return made
