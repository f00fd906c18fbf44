"""The log of forecasts: one Parquet file, or a folder of them, written by `stmp forecast` or by a server.

===================  ==================================================================================================
``region, series``   text, as in the dataset
``date``             the day that is forecast
``mean, q0.1 ...``   the forecast; all files have the same levels, 0.5 among them
``model_version``    which model made it
``origin``           optional: the last day whose sales it knew. Two forecasts of a day from different origins are two
                     forecasts; of the same origin and version, the later row replaces the earlier
``forecast_id``      optional: by which `stmp trace` finds the model and the data that it comes from
``what_if``          optional, true where the answer was to a question about other inputs than the real ones; left out
===================  ==================================================================================================
"""

from __future__ import annotations

import re

import pandas as pd

from stmp.errors import DataError
from stmp_platform.files import Folder

REQUIRED = ("region", "series", "date", "mean", "model_version")
KEY = ["region", "series", "date", "origin", "model_version"]
_QUANTILE = re.compile(r"q(0?\.\d+)$")


def read_log(path: str) -> tuple[pd.DataFrame, tuple[float, ...]]:
    """Read forecasts, and the quantile levels that they hold.

    Parameters
    ----------
    path : str
        A Parquet file or a folder of them, local or on object storage.

    Returns
    -------
    (DataFrame, tuple of float)
        The columns above; one row a `KEY`.

    Raises
    ------
    DataError
        If there is none, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    place = Folder(path)
    if not place.exists():
        raise DataError(
            f"There are no forecasts at {path}. Give a file that `stmp forecast` wrote, or a folder of them."
        )
    try:
        stored = ds.dataset(place.path, filesystem=place.fs, format="parquet")
        # By itself a dataset has the columns of its first file.
        schemas = [fragment.physical_schema for fragment in stored.get_fragments()]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        stored = ds.dataset(place.path, filesystem=place.fs, format="parquet", schema=schema)
        names = stored.schema.names
        missing = [name for name in REQUIRED if name not in names]
        levels = sorted(float(found[1]) for name in names if (found := _QUANTILE.match(name)))
        if missing or 0.5 not in levels:
            wanted = missing or ["q0.5"]
            raise DataError(f"The forecasts at {path} lack the columns {wanted}; they have {list(names)}.")
        quantiles = [f"q{level:g}" for level in levels]
        optional = [name for name in ("origin", "what_if") if name in names]
        frame: pd.DataFrame = stored.to_table(columns=[*REQUIRED, *quantiles, *optional]).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"The forecasts at {path} cannot be read as Parquet: {error}") from error
    if "what_if" in frame:
        asked = frame["what_if"].astype("boolean").fillna(False).astype(bool)
        frame = frame[~asked].drop(columns="what_if")
    if "origin" not in frame:
        frame["origin"] = pd.NaT
    return frame.drop_duplicates(KEY, keep="last", ignore_index=True), tuple(levels)
