"""Training in this process, from a Panel in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from stmp.config import Config
from stmp.data.panel import DateLike, Panel
from stmp.errors import DataError
from stmp.forecaster import Forecaster
from stmp.learning.checkpoint import CheckpointStore
from stmp.learning.meta import MetaTrainer, Report, Shard, run
from stmp.learning.workers import Workers


def train(
    panel: Panel,
    config: Config | None = None,
    *,
    seed: int = 0,
    until: DateLike | None = None,
    store: CheckpointStore | None = None,
    report: Report | None = None,
    source: Forecaster | None = None,
) -> Forecaster:
    """Meta-train on all regions of a panel, from the start or from a model of other data.

    Parameters
    ----------
    panel : Panel
    config : Config, optional
        The preset ``product`` where none is given.
    seed : int
        The same seed gives the same model.
    until : date, optional
        The last day to learn from; by default the last day with sales.
    store : CheckpointStore, optional
        Where to keep checkpoints, and go on from them.
    report : callable, optional
        Gets the metrics along the way.
    source : Forecaster, optional
        A model to adapt, with a `config` of `stmp.learning.transfer.adaptation_config`.

    Returns
    -------
    Forecaster

    Raises
    ------
    DataError
        If the panel has no sales to learn from.
    ConfigError
        If the source's parameters mean nothing to the panel, or to the configuration.
    """
    config, last = resolve(config or Config(), panel, until)
    train_regions, positions, scored, held_out = Shard.plan(panel.shape[0], config, rank=0, workers=1)
    shard = Shard(
        panel=panel.select(train_regions),
        positions=positions,
        regions=len(positions),
        validation=panel.select(scored),
        held_out=held_out,
    )
    trainer = MetaTrainer(shard, config, seed=seed, until=last, workers=Workers(), source=source)
    run(trainer, store, report or _silent)
    return Forecaster.from_trainer(
        trainer,
        regions=tuple(panel.regions[train_regions].tolist()),
        until=panel.dates[last - 1],
        fingerprint=panel.fingerprint,
    )


def resolve(config: Config, panel: Panel, until: DateLike | None) -> tuple[Config, int]:
    """A configuration with all that the data decides, and one past the last period to learn from."""
    resolved, last = resolve_dates(
        config, first=panel.dates[0], last_sold=panel.last_observed, period_days=panel.period_days, until=until
    )
    return resolved, panel.index_of(last) + 1


def resolve_dates(
    config: Config, *, first: np.datetime64, last_sold: np.datetime64, period_days: int, until: DateLike | None
) -> tuple[Config, np.datetime64]:
    """A configuration with all that the data decides, and the last period to learn from.

    Parameters
    ----------
    config : Config
    first : datetime64[D]
        First period of the data.
    last_sold : datetime64[D]
        Last period with sales.
    period_days : int
        1 or 7.
    until : date or None
        The last day to learn from; a week that ends later is not learned from.

    Raises
    ------
    DataError
        If fewer than two periods are left.
    """
    wanted = last_sold if until is None else min(np.datetime64(pd.Timestamp(until), "D"), last_sold)
    periods = int((wanted - first) // np.timedelta64(period_days, "D")) + 1
    if periods < 2:
        raise DataError(
            f"The data begins on {first} and has sales until {last_sold}: there is nothing to learn from until "
            f"{wanted}. Give a later --until, or more history."
        )
    return config.resolve(period_days, periods), first + np.timedelta64((periods - 1) * period_days, "D")


def _silent(step: int, rows: list[dict[str, Any]]) -> None:
    """Report to nobody."""
