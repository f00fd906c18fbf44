"""How much of a source to keep: Ray Tune searches lambda on validation windows of the target."""

from stmp_platform.tuning.driver import Tuning, tune
from stmp_platform.tuning.space import SEARCHABLE

__all__ = ["SEARCHABLE", "Tuning", "tune"]
