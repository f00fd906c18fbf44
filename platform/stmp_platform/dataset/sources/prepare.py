"""From what a user names on the command line to a dataset.yaml that can be ingested."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from stmp.errors import ConfigError, DataError

SOURCES = ("completejourney", "synthetic")
TABLES = (".csv", ".csv.gz", ".tsv", ".parquet", ".pq")


def prepare_source(source: str, workdir: str | os.PathLike[str], country: str | None = None, **options: Any) -> str:
    """Make a dataset.yaml of `source`, or find the one that it names.

    Parameters
    ----------
    source
        `completejourney`, `synthetic`, a path or URI of a dataset.yaml, or of one long table (CSV or Parquet).
    workdir
        Folder for the raw tables of the built-in sources. A long table on local disk has its dataset.yaml written
        beside it; one behind a URI has it written here.
    country
        For one long table: whose holidays, such as DE, DE-BE or US-CA.
    **options
        For `synthetic`: fields of `SyntheticConfig`; texts are turned into the field's type.

    Returns
    -------
    Path or URI of dataset.yaml.

    Raises
    ------
    ConfigError
        The source or an option is unknown, or does not go with the source.
    DataError
        The long table does not hold what a dataset needs.
    """
    kind = _kind(source)
    if country is not None and kind != "table":
        raise ConfigError(
            f"--country is for one long table, but the source is {source!r}: "
            + ("write a calendar table into the dataset.yaml" if kind == "yaml" else "it brings its own calendar")
        )
    if options and kind != "synthetic":
        raise ConfigError(f"settings ({', '.join(sorted(options))}) are for the source `synthetic`, not {source!r}")
    if kind == "yaml":
        return source
    if kind == "completejourney":
        from stmp_platform.dataset.sources.completejourney import write_completejourney

        return str(write_completejourney(Path(workdir)))
    if kind == "synthetic":
        from stmp.data.synthetic_files import write
        from stmp.data.synthetic_settings import configure

        return str(write(configure(**_typed(options)), Path(workdir)))
    from stmp_platform.dataset.sources.infer import infer_spec

    local = "://" not in source
    return str(infer_spec(source, country=country, out=None if local else Path(workdir)))


def _kind(source: str) -> str:
    if source in SOURCES:
        return source
    name = PurePosixPath(source).name.lower()
    if name.endswith((".yaml", ".yml")):
        kind = "yaml"
    elif name.endswith(TABLES):
        kind = "table"
    else:
        raise ConfigError(
            f"source {source!r} is not known: name a dataset.yaml, one long table ({', '.join(TABLES)}), "
            f"or a built-in source ({', '.join(SOURCES)})"
        )
    if "://" not in source and not os.path.isfile(source):
        raise DataError(f"{source} does not exist; give the path of a dataset.yaml or of a table")
    return kind


def _typed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the texts of a command line into the types of SyntheticConfig's fields; unknown names are told later."""
    from stmp.data.synthetic_settings import SyntheticConfig

    types = typing.get_type_hints(SyntheticConfig)
    typed: dict[str, Any] = {}
    for name, value in options.items():
        kind = types.get(name)
        if kind is None or not isinstance(value, str):
            typed[name] = value
        elif kind in (int, float):
            try:
                typed[name] = kind(value)
            except ValueError:
                raise ConfigError(f"synthetic city: {name}={value!r} is no {kind.__name__}") from None
        elif kind is str:
            typed[name] = value
        else:
            typed[name] = tuple(part.strip() for part in value.split(",") if part.strip())
    return typed
