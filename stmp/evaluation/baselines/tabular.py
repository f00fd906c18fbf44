"""TabPFN, a network that others have trained on made-up tables: a series is one table, with a row a day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from stmp.data.features import calendar_features
from stmp.errors import ConfigError
from stmp.evaluation.baselines.base import LEVELS, Baseline, Rows, require

WEIGHTS = ("Prior-Labs/TabPFN-v2-reg", "tabpfn-v2-regressor-2noar4o2.ckpt")
"""Repository and file on the Hugging Face hub: those that TabPFN-TS took at the paper's time."""
CONTEXT = 4096
"""Last observed days that are shown, as its authors had it: time grows with their square."""
RHYTHMS = 5
"""Periods at most that are read off a series' spectrum, as its authors had it."""
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, EOFError, SafetensorError)
"""What the libraries raise for weights that cannot be had, and for files that hold none."""


class TabPFN(Baseline):
    """TabPFN-TS (Hoo et al. 2025, arXiv 2501.02945): TabPFN's regression (Hollmann et al. 2025) on a table of days.

    A series' observed days are the rows that it learns from, those of the horizon the rows that it is asked for. The
    columns: position in time, year, the calendar as our model reads it, the event, closed days before and after, known
    covariates, and the strongest rhythms of the series. It has no place for past covariates. Quantiles are put in
    order and none is below 0; the mean is the library's own, of its whole distribution, and not below 0. Of fewer
    than two observed days it repeats the one, or says 0.

    Each series is a table of its own, read eight times by a transformer: it wants a GPU. On one thread of a processor
    a series of 900 days takes two minutes.

    Parameters
    ----------
    weights : str or Path, optional
        A checkpoint's file. By default `WEIGHTS`, whose license is Apache 2.0 with a duty to name its source. Those of
        later versions want an account, and are not for commercial use.
    regressor : object, optional
        A ``tabpfn.TabPFNRegressor`` in memory, in place of weights.
    """

    name = "tabpfn"

    def __init__(
        self, weights: str | Path | None = None, *, levels: tuple[float, ...] = LEVELS, regressor: Any = None
    ) -> None:
        self.weights, self.levels, self._regressor = weights, levels, regressor

    @property
    def regressor(self) -> Any:
        """The library's regressor, loaded when it is first asked for.

        Raises
        ------
        ConfigError
            If the library is not installed, or the weights are neither here nor to be had.
        """
        if self._regressor is None:
            require("tabpfn", "tabpfn", extra="foundation")
            from tabpfn import TabPFNRegressor
            from tabpfn.base import ModelSpecs

            try:
                path = self._file()
                found = TabPFNRegressor(model_path=path)
                inference = found.get_inference_config()
            except UNREADABLE as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
                raise ConfigError(
                    f"The weights of TabPFN, '{self.weights or WEIGHTS[1]}', are no checkpoint's file and not to be "
                    f"had: {reason}. Fetch them where there is a network, `hf download {' '.join(WEIGHTS)}`, and copy "
                    "the cache ($HF_HOME) here. For those of later versions accept their license on "
                    "https://ux.priorlabs.ai, fetch the file, and give its path."
                ) from error
            # Each table is a fit, and each fit would build the network from its file again. The limit of 1,000 days
            # on a processor is lifted: it only guards one's patience.
            network = ModelSpecs(found.model_, found.configs_[0], inference, found.znorm_space_bardist_)
            self._regressor = TabPFNRegressor(model_path=network, ignore_pretraining_limits=True)
        return self._regressor

    def _file(self) -> str:
        """Where the weights lie. The library, left to find them itself, may open a browser and wait for a login."""
        if self.weights is None:
            from huggingface_hub import hf_hub_download

            return str(hf_hub_download(*WEIGHTS))
        if not Path(self.weights).is_file():
            raise FileNotFoundError("there is no such file")
        return str(self.weights)

    def forecast_rows(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Forecast row by row."""
        regressor, levels = self.regressor, [float(level) for level in self.levels]
        mean = np.empty((len(rows.sales), rows.horizon), dtype=np.float64)
        quantiles = np.empty((*mean.shape, len(levels)), dtype=np.float64)
        for row, table in enumerate(tables_of(rows)):
            if len(table.sold) < 2:
                mean[row] = quantiles[row] = table.sold.sum()
                continue
            regressor.fit(table.past, table.sold)
            found = regressor.predict(table.future, output_type="main", quantiles=levels)
            mean[row], quantiles[row] = found["mean"], np.stack(found["quantiles"], axis=-1)
        return np.maximum(mean, 0.0), np.sort(np.maximum(quantiles, 0.0), axis=-1)


@dataclass(frozen=True)
class Table:
    """A series as the library reads it.

    Attributes
    ----------
    past : DataFrame [n, F]
        Observed days, the last `CONTEXT` of them.
    sold : ndarray float64 [n]
        Sales of these.
    future : DataFrame [H, F]
        Days of the horizon, with the same columns.
    """

    past: pd.DataFrame
    sold: np.ndarray
    future: pd.DataFrame


def tables_of(rows: Rows) -> Iterator[Table]:
    """Each row's table."""
    panel = rows.panel
    end = rows.origin + 1 + rows.horizon
    told = calendar_features(panel.calendar, turn=True)[:, :end]  # [C, T, F]
    year = panel.dates[:end].astype("datetime64[Y]").astype(int) + 1970
    known = panel.known.cpu().numpy()
    neighbours = {"closed before": np.roll(rows.closed, 1, axis=1), "closed after": np.roll(rows.closed, -1, axis=1)}
    neighbours["closed before"][:, 0] = neighbours["closed after"][:, -1] = False
    for row, which in enumerate(panel.calendar_index.cpu().numpy()):
        seen = np.flatnonzero(rows.observed[row])[-CONTEXT:]
        columns = {"day": np.arange(end), "year": year}
        columns |= {f"calendar {k}": told[which, :, k] for k in range(told.shape[-1])}
        columns |= {name: closed[row, :end].astype(float) for name, closed in neighbours.items()}
        columns |= {f"known {name}": known[row, :end, k] for k, name in enumerate(panel.known_names)}
        for k, period in enumerate(rhythms(rows.sales[row], seen)):
            angle = 2 * np.pi * np.arange(end) / period
            columns |= {f"sin {k}": np.sin(angle), f"cos {k}": np.cos(angle)}
        table = pd.DataFrame(columns)
        if len(panel.calendar.events) > 1:
            # A category, or it would be read as a number with an order.
            every = range(len(panel.calendar.events))
            table["event"] = pd.Categorical(panel.calendar.event[which, :end], categories=every)
        yield Table(table.iloc[seen], rows.sales[row, seen].astype(np.float64), table.iloc[rows.future])


def rhythms(sales: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The strongest periods of a series: peaks of the spectrum of what is left of it without a linear trend.

    Parameters
    ----------
    sales : ndarray [T]
    seen : ndarray of int [n]
        Positions of the observed ones, in order; gaps between them are bridged by straight lines.

    Returns
    -------
    ndarray [at most RHYTHMS]
        Periods in steps of the time axis, the strongest first.
    """
    if len(seen) < 2:
        return np.zeros(0)
    at = np.arange(seen[0], seen[-1] + 1)
    filled = np.interp(at, seen, sales[seen])
    rest = filled - np.polyval(np.polyfit(at - at[0], filled, 1), at - at[0])
    strength = np.abs(np.fft.rfft(rest * np.hanning(len(rest))))
    peaks = 1 + np.flatnonzero((strength[1:-1] > strength[:-2]) & (strength[1:-1] >= strength[2:]))
    return len(rest) / peaks[np.argsort(strength[peaks])[::-1][:RHYTHMS]]
