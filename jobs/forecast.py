"""The job behind `stmp forecast`: all regions, in bulk, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.batch import SUCCESS, Batch, told_missing, write_folder
from jobs.known import read_known
from jobs.load import load_forecaster
from jobs.screen import progress, say, warn
from jobs.tablefile import check_format, table_writer
from stmp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from stmp.forecaster import Forecaster
    from stmp.hierarchy import Totals
    from stmp_platform.dataset.manifest import Manifest

SAMPLED = 500
"""Regions on whose past the dependence of totals is measured: as many pairs as can be wished for."""


def forecast(
    data: str,
    model: str,
    out: str,
    *,
    origin: str | None = None,
    horizon: int | None = None,
    known: str | None = None,
    workers: int = 0,
    regions: Sequence[str] | None = None,
    replace: bool = False,
    totals: Sequence[str] | None = None,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Forecast every region of a dataset and write one row a region, series and date, with the origin.

    Regions are read, forecast and written some hundreds at a time, so memory does not grow with their number. A single
    file holds all regions or is an error; a folder holds those that can be forecast, and says which are missing.

    Parameters
    ----------
    data, model, out : str
        Dataset, model reference, and the file to write (``.parquet`` or ``.csv``; a URI is allowed), or a folder, named
        with a slash at its end, for a Parquet part of each shard of the regions (`jobs.batch`).
    origin : str, optional
        The last day whose sales are used; the dataset's last one if not given.
    horizon : int, optional
        Periods ahead; all that the model has learned if not given.
    known : str, optional
        A table of known-future covariates for days that the dataset does not hold.
    workers : int
        Ray tasks that write a folder's parts at a time; 0 forecasts in this process.
    regions : sequence of str, optional
        Only these.
    replace : bool
        As in `jobs.batch.write_folder`.
    totals : sequence of str, optional
        Columns of the regions table, such as ``state``: adds rows whose region is ``state=BY``, and one of ``total``,
        with the sums of the means and quantiles of their own (`stmp.hierarchy`). Empty: the grand total alone.

    Returns
    -------
    dict
        Among the rest ``missing``: regions of a folder that could not be forecast, and why. There are no totals then.

    Raises
    ------
    ConfigError
        If the file's ending is not known, there is no such model, the folder holds another forecast, or there are no
        such columns to add up by.
    DataError
        If the origin lies outside the data, known-future covariates of forecast days are missing (of any region for a
        single file, of all regions for a folder), or a region belongs to no total.
    """
    parts = out.endswith("/")
    if not parts:
        check_format(out)
        if workers:
            raise ConfigError(f"--workers write the parts of a folder, and '{out}' is a file: name a folder, {out}/.")
    from stmp.forecast import Forecast
    from stmp_platform.dataset import load_manifest
    from stmp_platform.settings import Settings
    from stmp_platform.training.job import absolute

    settings = Settings.from_env(tracking_uri)
    manifest = load_manifest(data)
    forecaster = load_forecaster(model, settings)
    batch = batch_of(
        data, manifest, forecaster, origin=origin, horizon=horizon, known=known, regions=regions, totals=totals
    )
    adder = None if totals is None else begin_totals(batch, forecaster, totals)
    missing: dict[str, str] = {}
    with progress("Forecast") as bar:
        if parts:
            done = write_folder(
                batch, forecaster, manifest, absolute(out.rstrip("/")), workers=workers, settings=settings, bar=bar,
                replace=replace, totals=adder,
            )  # fmt: skip
            rows, missing = done["rows"], done["missing"]
        else:
            rows = 0
            with table_writer(out) as write:
                for shard in range(batch.shards):
                    frame = batch.frame(forecaster, shard)
                    write(frame)
                    rows += len(frame)
                    if adder is not None:
                        adder.add(Forecast.from_frame(frame))
                    bar(shard + 1, batch.shards)
                if adder is not None:
                    frame = batch.signed(adder.forecast())
                    write(frame)
                    rows += len(frame)
    number = manifest.regions if regions is None else len(regions)
    of = f"{number - len(missing):,} of {number:,}" if missing else f"{number:,}"
    say(f"{rows:,} forecasts of {of} regions, {batch.steps} periods after {batch.origin}, are in {out}")
    if missing:
        without = " There are no totals without them." if adder is not None else ""
        warn(f"{told_missing(missing, number)} All that are missing are in {out}{SUCCESS}.{without}")
    return {
        "out": out,
        "rows": rows,
        "regions": number,
        "missing": missing,
        "origin": batch.origin,
        "horizon": batch.steps,
        "model": model,
        "model_version": forecaster.provenance.version,
        "dataset_fingerprint": manifest.fingerprint,
        "forecast_id": batch.forecast_id,
        **({} if adder is None or missing else {"totals": adder.groups.names, "shared": adder.shares}),
    }


def begin_totals(batch: Batch, forecaster: Forecaster, columns: Sequence[str]) -> Totals:
    """Groups of the regions, and how much of their luck they share by what was forecast of the past.

    Raises
    ------
    ConfigError, DataError
        If regions cannot be added up by these columns, or there is too little past.
    """
    from stmp.hierarchy import Dependence, Groups, Totals
    from stmp_platform.dataset import read_panel
    from stmp_platform.dataset.storage import read_regions

    table = read_regions(batch.data).set_index("_region")
    table = table.drop(columns=[name for name in table.columns if name.startswith("_")])
    if batch.regions is not None:
        table = table[table.index.isin(batch.regions)]
    groups = Groups.by(table, columns)
    sample = np.linspace(0, len(table) - 1, min(len(table), SAMPLED)).round().astype(int)
    panel = read_panel(batch.data, regions=list(table.index[sample]))
    return Totals(groups, Dependence.measure(forecaster, panel, batch.origin, batch.steps, groups))


def batch_of(
    data: str,
    manifest: Manifest,
    forecaster: Forecaster,
    *,
    origin: str | None,
    horizon: int | None,
    known: str | None,
    regions: Sequence[str] | None = None,
    totals: Sequence[str] | None = None,
) -> Batch:
    """What is to be forecast, by default from the dataset's last day on, as far as the model has learned.

    Raises
    ------
    DataError
        If the origin lies outside the data, or the table of known-future covariates cannot be read.
    """
    steps = horizon or forecaster.horizon
    if steps > forecaster.horizon:
        warn(f"the model has learned {forecaster.horizon} periods ahead; what lies beyond is less certain than it says")
    table, version = read_known(known, manifest) if known else None, forecaster.provenance.version
    return Batch.of(
        data,
        manifest,
        _origin_of(origin, manifest),
        steps,
        known=table,
        regions=regions,
        version=version,
        totals=totals,
    )


def _origin_of(asked: str | None, manifest: Manifest) -> str:
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
