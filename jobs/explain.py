"""The job behind `stmp explain`: what the forecasts owe to promotion, festivals and recent sales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from jobs.batch import Batch
from jobs.forecast import origin_of
from jobs.known import read_known
from jobs.load import load_forecaster
from jobs.screen import progress, say, table
from jobs.tablefile import check_format, table_writer

if TYPE_CHECKING:
    from stmp_platform.dataset.manifest import Manifest

SHOWN = 12
"""Regions on the screen."""


def explain(
    data: str,
    model: str,
    out: str,
    *,
    origin: str | None = None,
    horizon: int | None = None,
    known: str | None = None,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Forecast every region as it is, and without each cause; write what each adds, by region, series and date.

    Parameters
    ----------
    data, model, out, origin, horizon, known
        As for `stmp forecast`, whose errors are raised.
    """
    check_format(out)
    from stmp.explain import explain as ask
    from stmp_platform.dataset import load_manifest
    from stmp_platform.settings import Settings

    manifest: Manifest = load_manifest(data)
    forecaster = load_forecaster(model, Settings.from_env(tracking_uri))
    steps = horizon or forecaster.horizon
    last = origin_of(origin, manifest)
    batch = Batch.of(data, manifest, last, steps, known=read_known(known, manifest) if known else None)
    sums: list[pd.DataFrame] = []
    with table_writer(out) as write, progress("Explain") as bar:
        for shard in range(batch.shards):
            bar(shard, batch.shards)
            frame = ask(forecaster, batch.panel(shard), last, steps).to_frame()
            write(frame)
            sums.append(frame.drop(columns="date").groupby(["region", "series"], sort=False).sum())
    total = pd.concat(sums)
    causes = [name for name in total.columns if name not in ("mean", "ordinary")]
    shown = total.head(SHOWN)
    rows = [(", ".join(map(str, key)), *row) for key, row in zip(shown.index, shown.to_numpy().tolist(), strict=True)]
    title = f"Sales forecast for {steps} periods after {last}, on ordinary days, and what each cause adds"
    table(("region, series", "forecast", "ordinary", *causes), rows, title)
    say(f"Wrote {len(total):,} series by date to {out}")
    whole = total.sum()
    return {"out": out, "origin": last, "horizon": steps, "total": {name: float(whole[name]) for name in total.columns}}
