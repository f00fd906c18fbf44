"""Retraining as a pipeline that can be repeated: whether it is due, its steps and their records, and who may run it."""

from stmp_platform.retraining.lock import Busy, Lease
from stmp_platform.retraining.plan import Event, When
from stmp_platform.retraining.steps import Steps, records

__all__ = ["Busy", "Event", "Lease", "Steps", "When", "records"]
