"""How forecasts are written: JSON, or one flat table as Arrow or Parquet."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from fastapi import Response
from pydantic_core import to_json

from serving.forecasts import Forecasts
from serving.problems import ApiError

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
DECIMALS = 6


def wanted_format(accept: str) -> str:
    """The format that an Accept header asks for.

    Raises
    ------
    ApiError
        406 where there is none of them.
    """
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for kind in kinds:
        if kind in (ARROW, PARQUET):
            return kind
        if kind in ("", "*/*", "application/*", JSON):
            return JSON
    raise ApiError(406, f"Answers are {JSON}, {ARROW} or {PARQUET}.")


def write(forecasts: Forecasts, kind: str) -> Response:
    """The answer in a format."""
    if kind == JSON:
        return Response(to_json(_document(forecasts), inf_nan_mode="null"), media_type=JSON)
    return Response(_table(forecasts, kind), media_type=kind)


def _document(f: Forecasts) -> dict[str, Any]:
    dates, types, events = _calendar(f)
    mean = np.round(f.mean.astype(np.float64).transpose(0, 2, 1), DECIMALS).tolist()  # [R][G][H]
    quantiles = np.round(f.quantiles.astype(np.float64).transpose(0, 2, 3, 1), DECIMALS).tolist()  # [R][G][Q][H]
    keys = [f"{level:g}" for level in f.levels]
    known = f.panel.dates[f.origin].astype(str).tolist()
    return {
        "model_version": f.model_version,
        "forecast_id": f.forecast_id,
        "sequence": f.sequence,
        "forecasts": [
            {
                "region": str(region), "series": series, "cold": bool(f.cold[r]), "data_date": known[r],
                "dates": dates[r], "day_types": types[r], "events": events[r],
                "mean": mean[r][g], "quantiles": dict(zip(keys, quantiles[r][g], strict=True)),
            }
            for r, region in enumerate(f.names)
            for g, series in enumerate(f.series)
        ],
    }  # fmt: skip


def _calendar(f: Forecasts) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """Dates, day types and events of each row, as texts."""
    calendar, rows = f.panel.calendar, f.calendar[:, None]
    types = np.asarray(calendar.day_types, dtype=object)[calendar.day_type[rows, f.days]]
    events = np.asarray(calendar.events, dtype=object)[calendar.event[rows, f.days]]
    return f.panel.dates[f.days].astype(str).tolist(), types.tolist(), events.tolist()


def _table(f: Forecasts, kind: str) -> bytes:
    """One row per region, series and date: `Forecast.to_frame`, and ``cold``, ``data_date`` and ``forecast_id``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, periods, series = f.mean.shape
    each = periods * series
    columns: dict[str, Any] = {
        "region": np.repeat(f.names.astype(str), each),
        "series": np.tile(np.repeat(np.asarray(f.series, dtype=str), periods), rows),
        "date": pa.array(np.repeat(f.panel.dates[f.days], series, axis=0).reshape(-1)),
        "mean": f.mean.transpose(0, 2, 1).reshape(-1),
    }
    flat = f.quantiles.transpose(0, 2, 1, 3).reshape(-1, len(f.levels))
    columns |= {f"q{level:g}": np.ascontiguousarray(flat[:, i]) for i, level in enumerate(f.levels)}
    columns |= {
        "cold": np.repeat(f.cold, each),
        "data_date": pa.array(np.repeat(f.panel.dates[f.origin], each)),
        "model_version": np.repeat(f.model_version, rows * each),
        "forecast_id": np.repeat(f.forecast_id, rows * each),
    }
    table = pa.table(columns)
    out = io.BytesIO()
    if kind == PARQUET:
        pq.write_table(table, out)
    else:
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()
