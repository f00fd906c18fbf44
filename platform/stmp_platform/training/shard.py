"""What a worker reads: its regions, in memory if they fit there, or else mapped from disk."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch

from stmp.errors import DataError
from stmp.learning.meta import Shard
from stmp.learning.validation import Split
from stmp.learning.workers import Workers
from stmp_platform.dataset.manifest import load_manifest
from stmp_platform.dataset.mapped import panel_bytes, read_mapped
from stmp_platform.dataset.storage import read_panel, region_names
from stmp_platform.settings import Settings
from stmp_platform.training.job import Job

logger = logging.getLogger("stmp.training")

COPIES = 2.5
"""What a shard in memory takes, in sizes of its panel: as it is read, what of it is trained on, and for a moment what
filling its gaps needs (docs/scale.md)."""
CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


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
    needed, allowed = COPIES * panel_bytes(manifest, len(train), split), _memory_of_a_worker(settings)
    if device.type == "cpu" and needed > allowed:
        logger.info(
            "run=%s rank=%d phase=load regions=%d needs %.2f GB, more than %.2f: it is mapped from disk",
            job.run, workers.rank, len(train), needed / 1e9, allowed / 1e9,
        )  # fmt: skip
        panel, of = read_mapped(job.data, [names[i] for i in train], split)
        positions, validation = positions[of], read_panel(job.data, regions=[names[i] for i in scored])
    else:
        mine = np.union1d(train, scored)
        both = read_panel(job.data, regions=[names[i] for i in mine]).to(device)
        panel, validation = (both.select(np.searchsorted(mine, part)) for part in (train, scored))
    shard = Shard(panel, positions, regions=len(trained), validation=validation, held_out=held_out)
    return shard, tuple(names[i] for i in trained)


def _memory_of_a_worker(settings: Settings) -> float:
    """Bytes that a shard may take: what is set, else half of this machine's share for each of its workers."""
    if settings.shard_memory_gb is not None:
        return settings.shard_memory_gb * 1e9
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    sizes += [int(text) for file in CGROUP if file.is_file() and (text := file.read_text().strip()).isdecimal()]
    return min(sizes) / 2 / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
