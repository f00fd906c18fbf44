"""A model on trial: what its forecasts look like, how long one takes, and how much memory."""

from __future__ import annotations

import contextlib
import gc
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stmp.errors import StmpError
from stmp.forecast import Forecast, Predictor

if TYPE_CHECKING:
    from stmp.data.panel import DateLike, Panel
    from stmp.forecaster import Forecaster

BATCH = 64
"""Regions whose forecast is weighed: as many as a forecaster takes at a time."""
REPEATS = 5
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class TrialError(StmpError):
    """A model on trial could not forecast at all.

    Attributes
    ----------
    model : str
    """

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"{model}: {reason}")
        self.model = model


@dataclass
class OnTrial:
    """A predictor whose forecasts are watched, and cut to the quantile levels that both models have.

    Attributes
    ----------
    faults : dict of str to int
        Values that were not finite, or negative, by kind.
    """

    name: str
    model: Predictor
    levels: tuple[float, ...]
    faults: dict[str, int] = field(default_factory=lambda: {"not finite": 0, "negative": 0})

    def predict(self, panel: Panel, origin: DateLike, horizon: int) -> Forecast:
        """Forecast, and count what is wrong with the values.

        Raises
        ------
        TrialError
            Whatever the model raises, or if its forecast lacks regions, days or series.
        """
        try:
            forecast = self.model.predict(panel, origin, horizon)
        except Exception as error:  # whatever a model raises is the verdict on it
            raise TrialError(self.name, f"forecasting from {origin} raised {type(error).__name__}: {error}") from error
        wanted = (panel.shape[0], horizon, panel.shape[2])
        if forecast.mean.shape != wanted or list(forecast.regions) != list(panel.regions):
            raise TrialError(
                self.name, f"the forecast from {origin} has the shape {forecast.mean.shape} instead of {wanted}"
            )
        for values in (forecast.mean, forecast.quantiles):
            self.faults["not finite"] += int((~np.isfinite(values)).sum())
            self.faults["negative"] += int((values < 0).sum())
        places = [forecast.levels.index(level) for level in self.levels]
        return replace(forecast, levels=self.levels, quantiles=forecast.quantiles[..., places])


@dataclass(frozen=True)
class Cost:
    """What one forecast takes.

    Attributes
    ----------
    latency_ms : float
        Of one region over the whole horizon, best of `REPEATS`: noise of the machine only adds.
    memory_mb : float or None
        Weights, and the peak of resident memory above what was there before, of a forecast of up to `BATCH` regions.
        None where the system does not tell.
    """

    latency_ms: float
    memory_mb: float | None


def cost_of(trial: OnTrial, weights_mb: float, panel: Panel, origin: DateLike, horizon: int) -> Cost:
    """Measure a model's forecasts from real history.

    Call it before the model has forecast anything in this process: memory that is kept for later use is not seen again.

    Parameters
    ----------
    weights_mb : float
        Size of its weights.
    """
    few = panel.select(np.arange(min(BATCH, panel.shape[0]))).until(origin)
    gc.collect()
    before = _reset_peak()
    trial.predict(few, origin, horizon)
    peak = None if before is None else max(0.0, _status("VmHWM") - before)
    one = few.select(np.arange(1))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        trial.predict(one, origin, horizon)
        times.append(time.perf_counter() - began)
    return Cost(1000 * min(times), None if peak is None else weights_mb + peak)


def weights_of(model: Forecaster) -> float:
    """Size of a model's weights, in MB."""
    return sum(p.numel() * p.element_size() for p in model.model.parameters()) / 2**20


def _reset_peak() -> float | None:
    """Forget the peak of this process' resident memory; what is resident now, in MB, or None off Linux."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): resets VmHWM to the current size
        return _status("VmRSS")
    return None


def _status(key: str) -> float:
    line = next(text for text in _STATUS.read_text(encoding="ascii").splitlines() if text.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024
