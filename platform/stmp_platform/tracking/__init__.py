"""Runs in MLflow: the training's output folder is the truth, and the tracking store its mirror."""

from stmp_platform.tracking.metrics import MetricsLog, Report
from stmp_platform.tracking.mirror import Sent
from stmp_platform.tracking.tracker import Outcome, Tracker, sync

__all__ = ["MetricsLog", "Outcome", "Report", "Sent", "Tracker", "sync"]
