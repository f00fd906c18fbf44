"""The synthetic city as files: raw tables and dataset.yaml as a user has them, and beside them the truth."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from stmp.data.synthetic import SyntheticCity, generate_chunks
from stmp.data.synthetic_settings import (
    EVERYWHERE,
    FEATURES,
    FESTIVALS,
    KINDS,
    OFFSETS,
    PROMO_LIFT,
    RESPONSE,
    SHAPE,
    TYPES,
    WEEKLY,
    YEARLY,
    SyntheticConfig,
    festival_calendar,
)


def write(city: SyntheticCity | SyntheticConfig, folder: str | Path, chunk: int = 1000, truth: bool = True) -> Path:
    """Write raw tables, `dataset.yaml` and the truth, as a user would have them (and could not have it).

    Parameters
    ----------
    city : a city, or settings; from settings it is made and written `chunk` regions at a time
    folder : where the files go; made if absent
    truth : write truth.parquet (a row a region) and expected.parquet (a row a sales row) too

    Returns
    -------
    Path of dataset.yaml, beside sales.parquet, regions.parquet, calendar.parquet, truth.json.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = city.config if isinstance(city, SyntheticCity) else city
    chunks = iter([city]) if isinstance(city, SyntheticCity) else generate_chunks(config, chunk)
    writers: dict[str, pq.ParquetWriter] = {}
    try:
        for part in chunks:
            frames = {"sales": part.sales, "regions": part.regions}
            if truth:
                frames |= {"truth": truth_frame(part), "expected": expected_frame(part)}
            for name, frame in frames.items():
                table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
                if name not in writers:
                    writers[name] = pq.ParquetWriter(folder / f"{name}.parquet", table.schema, compression="zstd")
                writers[name].write_table(table)
    finally:
        for writer in writers.values():
            writer.close()
    festival_calendar(config).to_parquet(folder / "calendar.parquet", index=False)
    if truth:
        known = {
            "config": asdict(config),
            "types": TYPES,
            "kinds": KINDS,
            "weekly": WEEKLY.tolist(),
            "yearly": YEARLY.tolist(),
            "response": RESPONSE.tolist(),
            "promo_lift": PROMO_LIFT.tolist(),
            "offsets": OFFSETS.tolist(),
            "shape": SHAPE.tolist(),
            "festivals": FESTIVALS,
        }
        (folder / "truth.json").write_text(json.dumps(known, indent=2), encoding="utf-8")
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(dataset_yaml(config), sort_keys=False), encoding="utf-8")
    return path


def dataset_yaml(config: SyntheticConfig) -> dict[str, Any]:
    """The `dataset.yaml` of a written city, as a mapping."""
    sales: dict[str, Any] = {"path": "sales.parquet", "region": "region_id", "date": "date", "target": "sales"}
    if len(config.series) > 1:
        sales["series"] = "series_id"
    sales |= {"past": ["customers"], "known": ["promo", "price", "open"]}
    return {
        "name": "synthetic",
        "frequency": "D",
        "tables": {
            "sales": sales,
            "regions": {
                "path": "regions.parquet",
                "region": "region_id",
                "numeric": list(FEATURES),
                "categorical": ["district", "store_format"],
                "scopes": ["district"],
            },
            "calendar": {
                "path": "calendar.parquet",
                "date": "date",
                "scope": "scope",
                "everywhere": [EVERYWHERE],
                "events": ["event"],
            },
        },
        "closed": {"column": "open", "equals": 0},
        "day_types": {
            "festival": [{"event": "any", "before": 2, "after": 1}],
            "weekend": ["saturday", "sunday"],
        },
    }


def truth_frame(city: SyntheticCity) -> pd.DataFrame:
    """The truth, one row a region."""
    truth = city.truth
    frame = pd.DataFrame(
        {
            "region_id": city.regions["region_id"],
            "type": np.array(TYPES, dtype=object)[truth.region_type],
            "gain": truth.gain,
            "promo_lift": truth.promo_lift,
            "level": truth.level,
            "trend": truth.trend,
            "opened": pd.to_datetime(truth.opened),
        }
    )
    for k, kind in enumerate(KINDS):
        frame[f"festival_{kind}"] = truth.festival[:, k]
    return frame


def expected_frame(city: SyntheticCity) -> pd.DataFrame:
    """Noise-free expected sales, row by row of `city.sales`."""
    keys = [c for c in ("region_id", "date", "series_id") if c in city.sales.columns]
    frame = city.sales[keys].copy()
    expected = city.truth.expected.reshape(-1)
    frame["expected"] = expected[~np.isnan(expected)]
    return frame
