"""What a worker reads: its regions, in memory if they fit there, or else mapped from disk."""

from __future__ import annotations

import numpy as np
import torch

from stmp.errors import DataError
from stmp.learning.meta import Shard
from stmp.learning.validation import Split
from stmp.learning.workers import Workers
from stmp_platform.dataset.manifest import load_manifest
from stmp_platform.dataset.mapped import fits, read_mapped
from stmp_platform.dataset.storage import read_panel, region_names
from stmp_platform.settings import Settings
from stmp_platform.training.job import Job


def load_shard(job: Job, workers: Workers, device: torch.device, settings: Settings) -> tuple[Shard, tuple[str, ...]]:
    """A worker's regions, and the names of all that are trained on.

    A shard that would take more memory than it may is mapped from disk; the training is the same. On a GPU it must fit
    into the GPU's memory.

    Raises
    ------
    DataError
        If the dataset is not the one that the training began with.
    """
    manifest = load_manifest(job.data)
    if manifest.fingerprint != job.fingerprint:
        raise DataError(
            f"The dataset {job.data} has changed since this training began (fingerprint {manifest.fingerprint}, was "
            f"{job.fingerprint}). Train into another --out."
        )
    names = region_names(job.data, job.since)
    train, positions, scored, held_out = Shard.plan(len(names), job.config, workers.rank, workers.size)
    trained = Split.of(len(names), job.config.validation.regions).train
    split = job.config.model.series == "split"
    if device.type == "cpu" and not fits(manifest, len(train), split, settings):
        panel, of = read_mapped(job.data, [names[i] for i in train], split)
        positions, validation = positions[of], read_panel(job.data, regions=[names[i] for i in scored])
    else:
        mine = np.union1d(train, scored)
        both = read_panel(job.data, regions=[names[i] for i in mine]).to(device)
        panel, validation = (both.select(np.searchsorted(mine, part)) for part in (train, scored))
    shard = Shard(panel, positions, regions=len(trained), validation=validation, held_out=held_out)
    return shard, tuple(names[i] for i in trained)
