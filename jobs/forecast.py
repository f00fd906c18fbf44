"""The job behind `stmp forecast`: all regions, in bulk, as one table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.known import KnownTable, read_known, with_known
from jobs.load import load_forecaster
from jobs.screen import Progress, progress, say, warn
from jobs.tablefile import check_format, table_writer
from stmp.errors import DataError

if TYPE_CHECKING:
    from stmp.data.panel import Panel
    from stmp_platform.dataset.manifest import Manifest

REGIONS_AT_ONCE = 2000


def forecast(
    data: str,
    model: str,
    out: str,
    *,
    origin: str | None = None,
    horizon: int | None = None,
    known: str | None = None,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Forecast every region of a dataset and write one row a region, series and date, with the origin.

    Regions are read, forecast and written a few thousand at a time, so memory does not grow with their number.

    Parameters
    ----------
    data, model, out : str
        Dataset, model reference, and the file to write (``.parquet`` or ``.csv``; a URI is allowed).
    origin : str, optional
        The last day whose sales are used; the dataset's last one if not given.
    horizon : int, optional
        Periods ahead; all that the model has learned if not given.
    known : str, optional
        A table of known-future covariates for days that the dataset does not hold.

    Raises
    ------
    ConfigError
        If the file's ending is not known, or there is no such model.
    DataError
        If the origin lies outside the data, or known-future covariates of forecast days are missing.
    """
    check_format(out)
    from stmp_platform.dataset import load_manifest
    from stmp_platform.settings import Settings

    manifest = load_manifest(data)
    forecaster = load_forecaster(model, Settings.from_env(tracking_uri))
    steps = horizon or forecaster.horizon
    if steps > forecaster.horizon:
        warn(f"the model has learned {forecaster.horizon} periods ahead; what lies beyond is less certain than it says")
    last = origin_of(origin, manifest)
    future = read_known(known, manifest) if known else None
    rows = 0
    with table_writer(out) as write, progress("Forecast") as bar:
        for panel in panels(data, manifest, last, steps, future, bar):
            frame = forecaster.predict(panel, last, steps).to_frame().assign(origin=np.datetime64(last, "s"))
            write(frame)
            rows += len(frame)
    say(f"Wrote {rows:,} forecasts of {manifest.regions:,} regions, {steps} periods after {last}, to {out}")
    return {
        "out": out,
        "rows": rows,
        "regions": manifest.regions,
        "origin": last,
        "horizon": steps,
        "model": model,
        "model_version": forecaster.provenance.version,
        "dataset_fingerprint": manifest.fingerprint,
    }


def origin_of(asked: str | None, manifest: Manifest) -> str:
    """The last period whose sales are used: for weekly data the last week that was over on the day asked for."""
    from stmp.data.calendar import period_range

    if asked is None:
        return manifest.last_sales_date
    if not manifest.first_date <= asked <= manifest.last_sales_date:
        raise DataError(
            f"--origin {asked} is not in the data, whose sales go from {manifest.first_date} to "
            f"{manifest.last_sales_date}. Choose a day within, or add newer sales with `stmp ingest --append`."
        )
    dates = period_range(
        np.datetime64(manifest.first_date), np.datetime64(manifest.last_sales_date), manifest.frequency
    )
    return str(dates[dates <= np.datetime64(asked)][-1])


def panels(
    data: str, manifest: Manifest, origin: str, steps: int, future: KnownTable | None, bar: Progress
) -> Iterator[Panel]:
    """All regions, some thousands at a time, with dates that reach over the horizon."""
    from stmp.data.calendar import period_dates
    from stmp_platform.dataset import read_panel

    end = period_dates(np.datetime64(origin, "D"), steps + 1, manifest.frequency)[-1]
    shards = -(-manifest.regions // REGIONS_AT_ONCE)
    for shard in range(shards):
        bar(shard, shards)
        panel = read_panel(data, shard=(shard, shards), end=end.item())
        yield panel if future is None else with_known(panel, future)
    bar(shards, shards)
