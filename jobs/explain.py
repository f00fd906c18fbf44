"""The job behind `stmp explain`: what the forecasts owe to promotion, festivals and recent sales."""

from __future__ import annotations

from typing import Any

import pandas as pd

from jobs.forecast import batch_of
from jobs.load import load_forecaster
from jobs.screen import progress, say, table
from jobs.tablefile import check_format, table_writer

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

    manifest = load_manifest(data)
    forecaster = load_forecaster(model, Settings.from_env(tracking_uri))
    batch = batch_of(data, manifest, forecaster, origin=origin, horizon=horizon, known=known)
    sums: list[pd.DataFrame] = []
    with table_writer(out) as write, progress("Explain") as bar:
        for shard in range(batch.shards):
            frame = ask(forecaster, batch.panel(shard), batch.origin, batch.steps).to_frame()
            write(frame)
            bar(shard + 1, batch.shards)
            sums.append(frame.drop(columns="date").groupby(["region", "series"], sort=False).sum())
    total = pd.concat(sums)
    causes = [name for name in total.columns if name not in ("mean", "ordinary")]
    shown = total.head(SHOWN)
    rows = [(", ".join(map(str, key)), *row) for key, row in zip(shown.index, shown.to_numpy().tolist(), strict=True)]
    title = f"Sales forecast for {batch.steps} periods after {batch.origin}, on ordinary days, and what each cause adds"
    table(("region, series", "forecast", "ordinary", *causes), rows, title)
    say(f"Wrote {len(total):,} series by date to {out}")
    whole = total.sum()
    sums_of = {name: float(whole[name]) for name in total.columns}
    return {"out": out, "origin": batch.origin, "horizon": batch.steps, "total": sums_of}
