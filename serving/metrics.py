"""What Prometheus scrapes of one replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one replica; each application has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        where: dict[str, Any] = {"registry": self.registry, "namespace": "stmp_serve"}
        self.requests = Counter("requests", "Requests by route and status.", ["route", "status"], **where)
        self.seconds = Histogram("request_seconds", "Time to answer.", ["route"], buckets=BUCKETS, **where)
        self.batch = Histogram("batch_jobs", "Jobs in a batch.", buckets=(1, 2, 4, 8, 16, 32), **where)
        self.waiting = Gauge("waiting_jobs", "Jobs that wait for the model.", **where)
        self.forecasts = Counter("region_days", "Region-days that were forecast.", **where)
        self.observed = Counter("observations", "Observations that were taken in.", ["what"], **where)
        self.sequence = Gauge("observation_sequence", "Last change of observations that forecasts use.", **where)
        self.model = Gauge("model_info", "1 for the version that answers.", ["version"], **where)
        self.loads = Counter("model_loads", "Models that were to be loaded.", ["outcome"], **where)
        self.trial = Gauge("trial_requests", "Requests of a challenger on trial.", ["version", "outcome"], **where)
        self.difference = Gauge("trial_difference", "Difference to the champion's forecasts.", ["version"], **where)
        self.store_failures = Counter("store_failures", "Looks at the observations that failed.", **where)

    def tell_trial(self, card: Mapping[str, Any] | None) -> None:
        """Take over what a trial has counted; None when there is none any more."""
        self.trial.clear()
        self.difference.clear()
        if card is None:
            return
        version = card["model_version"]
        for outcome in ("answered", "compared", "failed"):
            self.trial.labels(version, outcome).set(card[outcome])
        if card["sales"]:
            self.difference.labels(version).set(card["difference"] / card["sales"])
