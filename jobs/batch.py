"""Batch forecasts: every region, shard by shard, in this process or as Ray tasks.

A folder of forecasts holds a Parquet part for each shard, and one for totals. ``_plan.json`` is written first and says
what the parts are of, so that a forecast that was killed is gone on with and another one is refused; ``_SUCCESS`` is
written last, and says what is there. Readers of Parquet folders pass over names that begin with ``_``.

A region whose planned covariates are not known does not hold up the others: it is missing from its part, whose metadata
say why, and ``_SUCCESS`` lists all that are missing. A total that lacks a region is none, and is not written then.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jobs.known import KnownTable, with_known
from jobs.screen import Progress
from stmp.errors import ConfigError, DataError, StmpError

if TYPE_CHECKING:
    from stmp.data.panel import Panel
    from stmp.forecast import Forecast
    from stmp.forecaster import Forecaster
    from stmp.hierarchy import Totals
    from stmp_platform.dataset.manifest import Manifest
    from stmp_platform.files import Folder
    from stmp_platform.settings import Settings

PART_REGIONS = 500
"""Regions in a part: some seconds of work, and some megabytes."""
PLAN, SUCCESS, TOTALS = "_plan.json", "_SUCCESS", "part-totals.parquet"
MISSING = b"stmp.missing"
"""In a part's metadata: its regions that could not be forecast, and why, as JSON."""
SHOWN = 3
"""Missing regions in a message."""


@dataclass(frozen=True)
class Batch:
    """What is to be forecast, as a worker needs it.

    Attributes
    ----------
    data : str
        URI of the dataset.
    regions : list of str or None
        Those that are forecast; None for all.
    origin, end : str
        The last day whose sales are used, and the last day that is read: the one after those that are forecast, since
        a day is read with what is known of the days around it.
    steps : int
        Periods that are forecast.
    shards : int
    forecast_id : str
    fingerprint : str
        Of the dataset, which every shard must be of.
    known : KnownTable or None
        Known-future covariates beyond the dataset's.
    totals : tuple of str or None
        Columns by whose values regions are added up, beside the total of all; None for no totals.
    """

    data: str
    regions: Sequence[str] | None
    origin: str
    end: str
    steps: int
    shards: int
    forecast_id: str
    fingerprint: str
    known: KnownTable | None = None
    totals: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        data: str,
        manifest: Manifest,
        origin: str,
        steps: int,
        *,
        known: KnownTable | None = None,
        regions: Sequence[str] | None = None,
        version: str = "",
        totals: Sequence[str] | None = None,
    ) -> Batch:
        """All regions of a dataset, or some, in shards of `PART_REGIONS`.

        Parameters
        ----------
        version : str
            Of the model that forecasts.
        """
        from stmp.data.calendar import period_dates
        from stmp_platform.forecast_id import ForecastId
        from stmp_platform.training.job import absolute

        number = manifest.regions if regions is None else len(regions)
        return cls(
            data=absolute(data),
            regions=regions,
            origin=origin,
            end=str(period_dates(np.datetime64(origin, "D"), steps + 2, manifest.frequency)[-1]),
            steps=steps,
            shards=-(-number // PART_REGIONS),
            forecast_id=str(ForecastId.of(version, manifest.fingerprint, origin)),
            fingerprint=manifest.fingerprint,
            known=known,
            totals=None if totals is None else tuple(totals),
        )

    def panel(self, shard: int) -> Panel:
        """The regions of one shard, with dates that reach a period over the horizon.

        Raises
        ------
        DataError
            If the dataset is not the one that the forecast began with.
        """
        from stmp_platform.dataset import read_panel

        panel = read_panel(self.data, regions=self.regions, shard=(shard, self.shards), end=self.end)
        if panel.fingerprint != self.fingerprint:
            raise DataError(
                f"The dataset {self.data} has changed since this forecast began (fingerprint {panel.fingerprint}, was "
                f"{self.fingerprint}), and its parts would be of two. Forecast again."
            )
        return panel if self.known is None else with_known(panel, self.known.complete_after(panel.dates[-2]))

    def frame(self, forecaster: Forecaster, shard: int) -> pd.DataFrame:
        """The forecasts of one shard: `Forecast.to_frame` with ``origin`` and ``forecast_id``."""
        return self.signed(forecaster.predict(self.panel(shard), self.origin, self.steps))

    def part(self, forecaster: Forecaster, shard: int) -> tuple[pd.DataFrame, dict[str, str]]:
        """The forecasts of one shard without the regions that cannot be forecast, and why each of those cannot."""
        panel = self.panel(shard)
        missing = forecaster.without_future(panel, self.origin, self.steps)
        able = np.flatnonzero(~np.isin(panel.regions, list(missing)))
        panel = panel.select(able) if missing else panel
        return self.signed(forecaster.predict(panel, self.origin, self.steps)), missing

    def signed(self, forecast: Forecast) -> pd.DataFrame:
        """A forecast as a table that says what it is from."""
        return forecast.to_frame().assign(origin=np.datetime64(self.origin, "s"), forecast_id=self.forecast_id)

    def plan(self, manifest: Manifest) -> dict[str, Any]:
        """What makes it different from other forecasts."""
        names = self.regions or ()
        known = b"" if self.known is None else pd.util.hash_pandas_object(self.known.frame, index=False).to_numpy()
        return {
            "forecast_id": self.forecast_id,
            "dataset_fingerprint": manifest.fingerprint,
            "origin": self.origin,
            "horizon": self.steps,
            "parts": self.shards,
            "regions": len(names) or manifest.regions,
            **({} if self.totals is None else {"totals": list(self.totals)}),
            "digest": hashlib.sha256("\n".join(names).encode() + bytes(known)).hexdigest()[:16],
        }


def part_name(shard: int) -> str:
    """``part-00007.parquet``"""
    return f"part-{shard:05d}.parquet"


def write_folder(
    batch: Batch,
    forecaster: Forecaster,
    manifest: Manifest,
    out: str,
    *,
    workers: int,
    settings: Settings,
    bar: Progress,
    replace: bool = False,
    totals: Totals | None = None,
) -> dict[str, Any]:
    """Forecast into a folder of parts, or go on with one that was not finished.

    Parameters
    ----------
    workers : int
        Ray tasks at a time; 0 forecasts in this process.
    replace : bool
        Another forecast in the folder is removed; otherwise it is refused.
    totals : Totals, optional
        To add the regions up with, into a part of their own.

    Returns
    -------
    dict
        The content of ``_SUCCESS``, with all ``missing`` regions and why each could not be forecast, and whether it was
        ``finished_before``.

    Raises
    ------
    ConfigError
        If the folder holds another forecast.
    DataError
        If no region at all could be forecast; then nothing is left in the folder.
    StmpError
        Whatever a forecast raises.
    """
    from stmp.forecast import Forecast
    from stmp_platform.files import Folder

    folder = Folder(out, settings)
    plan, there = batch.plan(manifest), folder.read_json(PLAN)
    if replace and there != plan:
        _clear(folder)
    elif there and there != plan:
        differ = [key for key in {**there, **plan} if there.get(key) != plan.get(key)]
        told = "; ".join(f"{key} was {there.get(key)!r}, now {plan.get(key)!r}" for key in differ)
        raise ConfigError(f"{out} holds another forecast: {told}. Choose another --out.")
    done = folder.read_json(SUCCESS)
    if done:
        return {"missing": {}, **done, "finished_before": True}
    folder.write_json(PLAN, plan)
    missing = [shard for shard in range(batch.shards) if not folder.exists(part_name(shard))]
    if workers:
        work = _on_ray(batch, forecaster, out, missing, workers, settings)
    else:
        work = _here(batch, forecaster, folder, missing)
    for number, _ in enumerate(work, start=1 + batch.shards - len(missing)):
        bar(number, batch.shards)
    parts = {part_name(shard): _rows_and_missing(folder, part_name(shard)) for shard in range(batch.shards)}
    lacking = {region: why for _, missing in parts.values() for region, why in missing.items()}
    if lacking and len(lacking) == plan["regions"]:
        _clear(folder)
        raise DataError(f"Nothing was forecast. {told_missing(lacking, plan['regions'])}")
    if totals is not None and not lacking:
        for name in parts:
            totals.add(Forecast.from_frame(pd.read_parquet(io.BytesIO(folder.read(name)))))
        folder.write(TOTALS, _parquet(batch.signed(totals.forecast()), {}))
        parts[TOTALS] = _rows_and_missing(folder, TOTALS)
    content = {
        **plan,
        "model_version": forecaster.provenance.version,
        "rows": sum(rows for rows, _ in parts.values()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {name: rows for name, (rows, _) in parts.items()},
        "missing": lacking,
    }
    folder.write_json(SUCCESS, content)
    return {**content, "finished_before": False}


def told_missing(missing: Mapping[str, str], regions: int) -> str:
    """How many of so many regions could not be forecast, why, and what to do."""
    some = "; ".join(f"{region}: {why}" for region, why in list(missing.items())[:SHOWN])
    more = f"; and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return (
        f"{len(missing)} of {regions} regions could not be forecast ({some}{more}). Give the values of those days "
        "(rows with empty sales, or --known FILE), or set a `fill` in dataset.yaml, and forecast again."
    )


def _clear(folder: Folder) -> None:
    """Remove a forecast, so that what is left at any moment is not taken for another: its plan goes last."""
    for name in sorted(folder.names(), key=lambda name: (name != SUCCESS, name == PLAN)):
        folder.remove(name)


def _here(batch: Batch, forecaster: Forecaster, folder: Folder, shards: Sequence[int]) -> Iterator[int]:
    for shard in shards:
        folder.write(part_name(shard), _parquet(*batch.part(forecaster, shard)))
        yield shard


def _on_ray(
    batch: Batch, forecaster: Forecaster, out: str, shards: Sequence[int], workers: int, settings: Settings
) -> Iterator[int]:
    """The shards as they are written, some at a time; a task whose machine dies is started again by Ray."""
    import ray

    from stmp_platform.training.cluster import check_folders, connect

    connect()
    check_folders(batch.data, out, settings)
    shared = [ray.put(value) for value in (batch, forecaster)]
    task = ray.remote(num_cpus=1)(_write_part)
    waiting = list(shards)
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(task.remote(*shared, out, waiting.pop(0), settings))
            (done, *_), running = ray.wait(running)
            yield ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, StmpError) else error from None
    finally:
        for left in running:
            ray.cancel(left)


def _write_part(batch: Batch, forecaster: Forecaster, out: str, shard: int, settings: Settings) -> int:
    from stmp_platform.files import Folder

    # What reads storage without settings of its own must find them too.
    os.environ.setdefault("STMP_STORAGE_OPTIONS", settings.storage_options.get_secret_value())
    list(_here(batch, forecaster, Folder(out, settings), [shard]))
    return shard


def _parquet(frame: pd.DataFrame, missing: Mapping[str, str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    # Text without rows would have no type, and readers take the first part's types for all.
    fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in table.schema]
    table = table.cast(pa.schema(fields, {**table.schema.metadata, MISSING: json.dumps(missing).encode()}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _rows_and_missing(folder: Folder, name: str) -> tuple[int, dict[str, str]]:
    import pyarrow.parquet as pq

    with folder.fs.open(f"{folder.path.rstrip('/')}/{name}", "rb") as file:
        metadata = pq.read_metadata(file)
    return int(metadata.num_rows), json.loads(metadata.metadata.get(MISSING, b"{}"))
