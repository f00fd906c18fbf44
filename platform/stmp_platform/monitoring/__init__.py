"""Watching forecasts: what was forecast beside what was sold since, and inputs beside what they were."""

from stmp_platform.monitoring.job import monitor
from stmp_platform.monitoring.watch import Finding, Thresholds

__all__ = ["Finding", "Thresholds", "monitor"]
