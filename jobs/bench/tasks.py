"""The retail tasks of fev-bench (Shchur et al. 2025, arXiv 2509.26468), with fev's own settings.

fev-bench publishes what each of its models scores (`published.csv`, from its repository, August 2026), not the data. A
task says how to get from the public data sets of the same name to the series that fev forecasts.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs.bench.weeks import by_week
from stmp.data.panel import Panel
from stmp.errors import ConfigError, DataError

QUANTILES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


@dataclass(frozen=True)
class FevTask:
    """One task.

    Attributes
    ----------
    horizon, windows : int
        Periods in a window, and windows, one after the other up to the end of each series.
    season : int
        Of MASE, SQL and the seasonal naive.
    frequency : str
        Of the data that it starts from.
    first_cutoff : str
        The day after which the first window begins; by default the windows end where each series ends.
    min_length : int
        Shorter series are left out, as fev does.
    gaps_sell_nothing : bool
        A day without a row within a series counts as one that sold 0, for everyone.
    gaps_closed : bool
        It counts as closed, and is known to be ahead.
    in_every_row : str
        A past covariate that a row of the raw data always has: without one, a day counts as missing, not as closed.
    weeks : bool
        The data, by day, is added up to weeks (`jobs.bench.weeks`) before it is cut into windows.
    exact : bool
        Whether these are fev's very numbers: seasonal naive scores what is published. Else compare skill over it.
    """

    horizon: int
    windows: int
    season: int
    frequency: str
    first_cutoff: str = ""
    min_length: int = 0
    gaps_sell_nothing: bool = False
    gaps_closed: bool = False
    in_every_row: str = ""
    weeks: bool = False
    exact: bool = False

    def prepare(self, panel: Panel) -> Panel:
        """The panel as fev has the data: without short series, and with its gaps filled.

        Raises
        ------
        DataError
            If the panel has another frequency, or no series is long enough.
        """
        if panel.frequency[:1].upper() != self.frequency:
            raise DataError(f"The task wants data by {self.frequency}; the dataset is by {panel.frequency}.")
        rows = panel.observed | panel.closed[:, :, None]
        enough = panel.observed.sum(dim=1) >= self.min_length  # [R, G]
        within = lifetime(rows)
        least = self.horizon * self.windows * (7 if self.weeks else 1)
        if not (enough & (within.sum(dim=1) > least)).any():
            raise DataError(f"No series has {max(self.min_length, least + 1)} periods, which the task needs.")
        closed = panel.closed
        if self.in_every_row:
            has_row = panel.past[:, :, panel.past_names.index(self.in_every_row)].isfinite()
            closed = closed & (has_row | ~within.any(dim=2))
        if self.gaps_closed:
            closed = closed | (within & ~rows).all(dim=2)
        observed = panel.observed & enough[:, None]
        if self.gaps_sell_nothing:
            observed = within & enough[:, None] & ~closed[:, :, None]
        keep = observed.any(dim=2).any(dim=1)
        kept = replace(panel, observed=observed, closed=closed, sales=panel.sales * observed)
        kept = kept.select(keep.nonzero()[:, 0])
        return by_week(kept) if self.weeks else kept

    def settings(self, path: Path) -> dict[str, Any]:
        """What `fev.Task` is made of."""
        return {
            "dataset_path": str(path),
            "horizon": self.horizon,
            "num_windows": self.windows,
            "seasonality": self.season,
            "eval_metric": "SQL",
            "extra_metrics": ["MASE", {"name": "WAPE", "epsilon": 1.0}, {"name": "WQL", "epsilon": 1.0}],
            "quantile_levels": QUANTILES,
        } | ({"initial_cutoff": self.first_cutoff} if self.first_cutoff else {})


TASKS = {
    "rossmann_1D": FevTask(48, 10, 7, "D", in_every_row="customers", exact=True),
    "favorita_transactions_1D": FevTask(28, 10, 7, "D", min_length=721, gaps_sell_nothing=True),
    "rossmann_1W": FevTask(13, 8, 1, "D", gaps_closed=True, weeks=True, exact=True),
    "favorita_transactions_1W": FevTask(13, 10, 1, "D", min_length=721, gaps_sell_nothing=True, weeks=True),
    "rohlik_orders_1D": FevTask(61, 5, 7, "D", first_cutoff="2023-05-01"),
    "rohlik_orders_1W": FevTask(8, 5, 1, "D", first_cutoff="2023-05-01", weeks=True),
    "restaurant": FevTask(28, 8, 7, "D", min_length=76),
    "hierarchical_sales_1D": FevTask(28, 10, 7, "D", exact=True),
    "walmart": FevTask(39, 1, 1, "W", min_length=79),
}


def find_task(name: str) -> FevTask:
    """A task by its name.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in TASKS:
        raise ConfigError(f"There is no task '{name}'; there are {', '.join(TASKS)}.")
    return TASKS[name]


def published(name: str) -> list[dict[str, Any]]:
    """What each model of the public leaderboard scores on a task, the best SQL first."""
    with (Path(__file__).parent / "published.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == name]
    scores = ("SQL", "MASE", "WAPE", "WQL")
    return [
        {"model": row["model"], **{key: float(row[key]) for key in scores},
         "trained_on_this_dataset": row["trained_on_this_dataset"] == "true"}
        for row in rows
    ]  # fmt: skip


def lifetime(rows: Tensor) -> Tensor:
    """From the first to the last True of each series, bool [R, T, G]."""
    begun = rows.cumsum(dim=1) > 0
    ended = rows.flip(1).cumsum(dim=1).flip(1) > 0
    return torch.logical_and(begun, ended)
