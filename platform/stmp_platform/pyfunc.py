"""The registered model as MLflow's plain function: a DataFrame of history and future rows in, a forecast out.

MLflow loads this module by its name, so a registered model holds weights and JSON, but no code and no pickle; the code
is that of the installed package.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from stmp.data.calendar import default_day_types, period_dates, period_index, period_unit
from stmp.errors import ConfigError
from stmp.forecaster import Forecaster
from stmp_platform.frames import (
    CALENDAR,
    CLOSED,
    DATE,
    DAY_TYPE,
    EVENT,
    REGION,
    SALES,
    SERIES,
    panel_of,
    required_columns,
    series_of,
)
from stmp_platform.tracking.record import version_of

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

LOADER = "stmp_platform.pyfunc"
_TEXTS = (REGION, SERIES, EVENT, DAY_TYPE)
_REQUIREMENTS = ("stmp-platform", "torch", "numpy", "pandas", "safetensors")
_EXAMPLE_REGIONS = 2


class ForecastFunction:
    """What `mlflow.pyfunc.load_model` gives: `predict` on a long table."""

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Forecast each region of a table.

        Parameters
        ----------
        frame : DataFrame
            Columns as in `stmp_platform.frames`: ``region``, ``date``, ``sales``, ``series`` where the model has
            several, its covariates and static features by name. Rows with empty sales after the last sale carry what
            is known of the future; ``event`` names a holiday on its date, ``closed`` is 1 on closed days.
        params : dict, optional
            ``horizon``: periods ahead; by default (0) as far as the table's rows go, or else all that the model has
            learned. ``origin``: the last day whose sales are used; by default (empty) the last one that has sales.

        Returns
        -------
        DataFrame
            Columns region, series, date, mean, q0.1 ... q0.9, model_version.

        Raises
        ------
        DataError
            For missing columns, unusable dates, no sales, or no covariates for the days that are forecast.
        """
        asked = params or {}
        schema = self.forecaster.schema
        days = pd.to_datetime(frame[DATE]) if DATE in frame.columns else pd.Series(dtype="datetime64[ns]")
        sold = days[frame[SALES].notna()] if SALES in frame.columns else days
        origin = np.datetime64(asked.get("origin") or (sold.max() if len(sold) else days.max()), "D")
        horizon = int(asked.get("horizon") or 0)
        if horizon < 0:
            raise ConfigError(f"The horizon is {horizon}; it must be 1 or more, or 0 for the rows that are given.")
        if horizon == 0 and len(days):
            last = np.asarray([days.max()], dtype="datetime64[D]")
            horizon = int(period_index(last, origin, schema.frequency)[0])
        horizon = horizon or self.forecaster.horizon
        panel = panel_of(frame, schema, horizon)
        return self.forecaster.predict(panel, origin, horizon).to_frame()


def _load_pyfunc(data_path: str) -> ForecastFunction:
    """Load the forecaster in a folder; MLflow calls this."""
    forecaster = Forecaster.load(data_path)
    package_file = Path(data_path).parent.parent / "MLmodel"
    if package_file.is_file():
        model_id = yaml.safe_load(package_file.read_text(encoding="utf-8")).get("model_id")
        if model_id and not forecaster.provenance.version:
            forecaster = forecaster.with_version(f"models:/{model_id}")
    return ForecastFunction(forecaster)


def package(folder: Path, to: Path, model_id: str | None = None, run_id: str | None = None) -> Path:
    """Lay a trained forecaster out as an MLflow model: its own files, a signature, an input example, no pickle.

    The example is forecast once, so that a model that cannot be loaded or cannot forecast is never registered.

    Parameters
    ----------
    folder : Path
        What `Forecaster.save` wrote.
    to : Path
        A folder that does not exist yet.
    """
    from mlflow import pyfunc
    from mlflow.models import Model

    forecaster = Forecaster.load(folder)
    example = example_of(forecaster)
    params = {"horizon": min(7, forecaster.horizon), "origin": ""}
    forecast = ForecastFunction(forecaster).predict(example, params)
    with tempfile.TemporaryDirectory() as scratch:
        named = shutil.copytree(folder, Path(scratch) / "model")
        pyfunc.save_model(
            str(to),
            loader_module=LOADER,
            data_path=str(named),
            mlflow_model=Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
            signature=signature_of(forecaster, forecast),
            input_example=(example, params),
            # Named, because MLflow would else load the model in further processes to see what it imports.
            pip_requirements=[f"{name}=={v}" if (v := version_of(name)) else name for name in _REQUIREMENTS],
            metadata={
                "trained_until": forecaster.trained_until,
                "trained_regions": len(forecaster.trained_regions),
                "dataset_fingerprint": forecaster.fingerprint,
                "horizon": forecaster.horizon,
                "series": list(series_of(forecaster.schema)),
            },
        )
    return to


def signature_of(forecaster: Forecaster, forecast: pd.DataFrame) -> ModelSignature:
    """Columns and types of the table that the model takes, of its parameters and of its forecast."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    def column(name: str, required: bool) -> ColSpec:
        kind = DataType.datetime if name == DATE else DataType.string if name in _TEXTS else DataType.double
        return ColSpec(kind, name, required=required)

    needed = required_columns(forecaster.schema)
    # One-hot features may come as their text column instead.
    inputs = [column(n, required="=" not in n) for n in needed] + [column(n, False) for n in (CLOSED, *CALENDAR)]
    inputs += [
        ColSpec(DataType.string, n, required=False)
        for n in dict.fromkeys(name.partition("=")[0] for name in needed if "=" in name)
    ]
    kinds = {"region": DataType.string, "series": DataType.string, "date": DataType.datetime}
    outputs = [
        ColSpec(DataType.string if n == "model_version" else kinds.get(n, DataType.float), n) for n in forecast.columns
    ]
    params = ParamSchema([ParamSpec("horizon", DataType.long, 0), ParamSpec("origin", DataType.string, "")])
    return ModelSignature(Schema(inputs), Schema(outputs), params)


def example_of(forecaster: Forecaster) -> pd.DataFrame:
    """A small table that the model takes: made-up sales of its usual size, up to the day to which it was trained.

    Made up, so that nobody's figures lie open in a registry.
    """
    schema = forecaster.schema
    series = series_of(schema)
    daily = period_unit(schema.frequency) == "D"
    history, ahead = (56, 7) if daily else (26, 4)
    ahead = min(ahead, forecaster.horizon)
    step = 1 if daily else 7
    last = np.datetime64(forecaster.trained_until, "D")
    first = last - np.timedelta64((history - 1) * step, "D")
    dates = period_dates(first, history + ahead, schema.frequency)
    level = np.resize(np.asarray(schema.default_level, dtype=np.float64), len(series))
    week = 1 + 0.2 * np.sin(2 * np.pi * np.arange(len(dates)) / (7 if daily else 13))
    regions = (forecaster.trained_regions or ("1",))[:_EXAMPLE_REGIONS]
    parts = []
    for region in regions:
        for g, name in enumerate(series):
            sales = np.where(np.arange(len(dates)) < history, np.round(level[g] * week, 2), np.nan)
            part = pd.DataFrame({REGION: str(region), DATE: dates.astype("datetime64[ns]"), SALES: sales, CLOSED: 0.0})
            parts.append(part.assign(**{SERIES: name}) if len(series) > 1 else part)
    frame = pd.concat(parts, ignore_index=True)
    usual = {
        name: float(np.sign(center) * np.expm1(abs(center)) if log else center)
        for name, center, log in zip(schema.known_names, schema.known_center, schema.known_log, strict=True)
    }
    for name in required_columns(schema):
        if name not in frame.columns:
            frame[name] = round(usual.get(name, 0.0), 4)
    if set(schema.day_types) - set(default_day_types(schema.frequency)):  # those cannot be told from the dates
        weekend = pd.to_datetime(frame[DATE]).dt.dayofweek >= 5
        frame[DAY_TYPE] = np.where(weekend & ("weekend" in schema.day_types), "weekend", schema.day_types[0])
    return frame
