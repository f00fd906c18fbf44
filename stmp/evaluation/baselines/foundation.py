"""Chronos-2, a network that others have trained on many series of all kinds, and that learns nothing here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stmp.errors import ConfigError
from stmp.evaluation.baselines.base import LEVELS, Baseline, Rows, require
from stmp.forecaster import mean_of_quantiles

WEIGHTS = "amazon/chronos-2"
"""The public weights on the Hugging Face hub, 120 million parameters."""
CHUNK = 512
"""Rows that are handed over at a time: bounds memory."""


class Chronos2(Baseline):
    """Chronos-2 (Ansari et al. 2025), from its library `chronos-forecasting`.

    It gets each row's whole past with past covariates, known covariates, closed days and events, and for the horizon
    all of these but the past covariates. A closed day sold 0; a day that was not observed is missing. Its quantiles
    are put in order and are none below 0; its mean is that of the distribution behind them, since the library has none.

    Parameters
    ----------
    weights : str or Path
        Name on the Hugging Face hub, or a folder.
    pipeline : object, optional
        A ``chronos.Chronos2Pipeline`` in memory, in place of weights.
    """

    name = "chronos2"

    def __init__(
        self, weights: str | Path = WEIGHTS, *, levels: tuple[float, ...] = LEVELS, pipeline: Any = None
    ) -> None:
        self.weights, self.levels, self._pipeline = weights, levels, pipeline

    @property
    def pipeline(self) -> Any:
        """The library's pipeline, loaded when it is first asked for.

        Raises
        ------
        ConfigError
            If the library is not installed, or the weights are neither here nor to be had.
        """
        if self._pipeline is None:
            require("chronos", "chronos-forecasting", extra="foundation")
            from chronos import Chronos2Pipeline

            device = "cuda" if torch.cuda.is_available() else "cpu"
            try:
                self._pipeline = Chronos2Pipeline.from_pretrained(str(self.weights), device_map=device)
            except (OSError, ValueError, AssertionError) as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
                raise ConfigError(
                    f"The weights of Chronos-2, '{self.weights}', are no model's folder and not to be had: {reason}. "
                    f"Fetch them where there is a network, `hf download {WEIGHTS}`, and copy the cache ($HF_HOME) here."
                ) from error
        return self._pipeline

    def forecast_rows(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Forecast all rows, some at a time."""
        pipeline, tasks = self.pipeline, tasks_of(rows)
        parts = []
        for begin in range(0, len(tasks), CHUNK):
            found, _ = pipeline.predict_quantiles(
                tasks[begin : begin + CHUNK], prediction_length=rows.horizon, quantile_levels=list(self.levels)
            )
            parts += [quantiles[0] for quantiles in found]
        quantiles = torch.stack(parts).float().cpu().clamp(min=0.0).sort(dim=-1).values  # [N, H, Q]
        return mean_of_quantiles(quantiles, self.levels).numpy(), quantiles.numpy()


def tasks_of(rows: Rows) -> list[dict[str, Any]]:
    """What the library reads of each row, from its first observed day on.

    Returns
    -------
    list of dict
        ``target`` [t], ``past_covariates`` by name [t] and ``future_covariates`` by name [H]; the same names in all.
    """
    panel, end = rows.panel, rows.origin + 1
    target = np.where(rows.observed, rows.sales, np.where(rows.closed, 0.0, np.nan))
    known = {f"known {name}": panel.known[:, :, k].cpu().numpy() for k, name in enumerate(panel.known_names)}
    past = {f"past {name}": panel.past[:, :, k].cpu().numpy() for k, name in enumerate(panel.past_names)}
    if rows.closed.any():
        known["closed"] = rows.closed.astype(np.float32)
    if len(panel.calendar.events) > 1:
        calendar, which = panel.calendar, panel.calendar_index.cpu().numpy()
        on_date = np.where(calendar.offset == 0, calendar.event, 0)
        known["event"] = np.asarray(calendar.events, dtype=str)[on_date][which]
    begins = rows.observed.argmax(axis=1)
    return [
        {
            "target": target[row, begin:end],
            "past_covariates": {name: values[row, begin:end] for name, values in (past | known).items()},
            "future_covariates": {name: values[row, rows.future] for name, values in known.items()},
        }
        for row, begin in enumerate(begins)
    ]
