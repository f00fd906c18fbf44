"""Training in this process, from a Panel in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from stmp.config import Config
from stmp.data.panel import DateLike, Panel
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
) -> Forecaster:
    """Meta-train on all regions of a panel.

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

    Returns
    -------
    Forecaster
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
    trainer = MetaTrainer(shard, config, seed=seed, until=last, workers=Workers())
    run(trainer, store, report or _silent)
    return Forecaster.from_trainer(
        trainer,
        regions=tuple(panel.regions[train_regions].tolist()),
        until=panel.dates[last - 1],
        fingerprint=panel.fingerprint,
    )


def resolve(config: Config, panel: Panel, until: DateLike | None) -> tuple[Config, int]:
    """A configuration with all that the data decides, and one past the last period to learn from."""
    last = panel.index_of(panel.last_observed if until is None else min(_day(until), panel.last_observed)) + 1
    return config.resolve(panel.period_days, last), last


def _day(date: DateLike) -> np.datetime64:
    return np.datetime64(pd.Timestamp(date), "D")


def _silent(step: int, rows: list[dict[str, Any]]) -> None:
    """Report to nobody."""
