"""A panel that is larger than memory: it lies in files, from which the system brings what is gathered.

The files are written some regions at a time, mapped, and removed at once: they take no place any more when the process
ends, however it ends. Nothing is ever written to what is mapped, so that the system may drop any of it again.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stmp.data.panel import Panel
from stmp_platform.dataset.manifest import Manifest, load_manifest
from stmp_platform.dataset.storage import Reader, axis_of, calendar_of, layout_of, read_panel, region_names
from stmp_platform.settings import Settings

logger = logging.getLogger("stmp.data")

FIELDS = ("sales", "observed", "closed", "past", "known")
"""Of a panel, those with a value for each region and period."""
BLOCK_BYTES = 2**25
"""Of a panel, read and written together."""
COPIES = 2.5
"""What a panel in memory takes, in sizes of it: as it is read, what of it is worked on, for a moment what filling its
gaps needs (docs/scale.md)."""
CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def fits(manifest: Manifest, regions: int, split: bool, settings: Settings) -> bool:
    """Whether the panel of so many regions may be in this process' memory.

    It may take what ``STMP_PANEL_MEMORY_GB`` says, else half of the machine's or container's, shared among its workers.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    sizes += [int(text) for file in CGROUP if file.is_file() and (text := file.read_text().strip()).isdecimal()]
    allowed = min(sizes) / 2 / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if settings.panel_memory_gb is not None:
        allowed = settings.panel_memory_gb * 1e9
    needed = COPIES * panel_bytes(manifest, regions, split)
    if needed > allowed:
        logger.info(
            "%s: regions=%d need %.2f GB, more than %.2f: they are mapped from disk",
            manifest.name, regions, needed / 1e9, allowed / 1e9,
        )  # fmt: skip
    return needed <= allowed


def open_panel(uri: str, settings: Settings) -> Panel:
    """All regions of a dataset: in memory, or mapped from disk if they do not fit there.

    Parameters
    ----------
    uri : str
        Folder of the dataset.

    Raises
    ------
    DataError
        As in `read_panel`.
    OSError
        If the disk is full.
    """
    manifest = load_manifest(uri)
    if fits(manifest, manifest.regions, False, settings):
        return read_panel(uri)
    return read_mapped(uri, region_names(uri), split=False)[0]


def panel_bytes(manifest: Manifest, regions: int, split: bool = False) -> int:
    """Size of the panel of so many regions; if its series are split, at most."""
    series = len(manifest.series)
    columns = sum(len(layout_of(manifest.of_role(role), manifest.series)[0]) for role in ("past", "known"))
    rows, wide = (regions * series, 1) if split else (regions, series)
    return rows * axis_of(manifest, None).length * (5 * wide + 1 + 4 * columns)


def read_mapped(uri: str, regions: Sequence[str], split: bool) -> tuple[Panel, np.ndarray]:
    """Read some regions of a dataset as a panel whose `FIELDS` are mapped from disk, in the temporary folder.

    Parameters
    ----------
    uri : str
        Folder of the dataset.
    regions : sequence of str
        In the dataset's order.
    split : bool
        One row for each series of a region, as `Panel.split_series` makes them.

    Returns
    -------
    Panel
        The same values as `read_panel` gives.
    ndarray int64 [rows]
        Position of each row's region in `regions`.

    Raises
    ------
    DataError
        As in `read_panel`.
    OSError
        If the disk is full.
    """
    reader = Reader(uri)
    frame = reader.regions()
    frame = frame[frame["_region"].isin(list(regions))].reset_index(drop=True)
    calendar, calendar_index = calendar_of(reader, frame, axis_of(reader.manifest, None))
    block = max(1, BLOCK_BYTES // max(1, panel_bytes(reader.manifest, 1, split)))
    names: list[np.ndarray] = []
    static: list[Tensor] = []
    positions: list[np.ndarray] = []
    with tempfile.TemporaryDirectory(prefix="stmp-shard-") as scratch:
        with ExitStack() as stack:
            files = {name: stack.enter_context(Path(scratch, name).open("wb")) for name in FIELDS}
            for start in range(0, len(regions), block):
                part = read_panel(uri, regions=regions[start : start + block])
                positions.append(start + (part.series_rows()[0] if split else np.arange(part.shape[0])))
                part = part.split_series() if split else part
                names.append(part.regions)
                static.append(part.static)
                for name, file in files.items():
                    getattr(part, name).contiguous().numpy().tofile(file)
        of = np.concatenate(positions)
        fields: dict[str, Any] = {name: _mapped(Path(scratch, name), len(of), getattr(part, name)) for name in FIELDS}
    panel = replace(
        part,
        regions=np.concatenate(names),
        calendar=calendar,
        calendar_index=torch.from_numpy(calendar_index[of]),
        static=torch.cat(static),
        **fields,
    )
    return panel, of


def _mapped(file: Path, rows: int, like: Tensor) -> Tensor:
    """A file as so many rows of a tensor like another."""
    shape = (rows, *like.shape[1:])
    size = math.prod(shape)
    if size == 0:  # which cannot be mapped
        return like.new_empty(shape)
    return torch.from_file(str(file), shared=False, size=size, dtype=like.dtype).reshape(shape)
