"""Write one large table piece by piece, whole or not at all, as Parquet or CSV, to local disk or object storage."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from stmp.errors import ConfigError

FORMATS = (".parquet", ".csv")


def check_format(path: str) -> str:
    """Return a file's ending.

    Raises
    ------
    ConfigError
        If it is none that we write.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"'{path}' is neither a .parquet nor a .csv file; choose one of these endings.")
    return suffix


@contextmanager
def table_writer(path: str) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Give a function that appends frames of the same columns; the file appears when all of them are written.

    Raises
    ------
    ConfigError
        If the file's ending is none that we write, or its place cannot be written to.
    """
    suffix = check_format(path)
    from fsspec.core import url_to_fs

    from stmp_platform.settings import Settings

    target_fs, target = url_to_fs(path, **Settings.from_env().options_for(path))
    local = "file" in target_fs.protocol
    try:
        if local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="stmp-") as scratch:
            # Beside its place if local, so that the last step is a rename within one disk.
            part = (
                Path(target).with_name(f".{Path(target).name}.{uuid.uuid4().hex[:8]}")
                if local
                else Path(scratch, "part")
            )
            try:
                with _appender(part, suffix) as append:
                    yield append
                if local:
                    part.replace(target)
                else:
                    target_fs.put_file(str(part), target)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error


@contextmanager
def _appender(part: Path, suffix: str) -> Iterator[Callable[[pd.DataFrame], None]]:
    if suffix == ".csv":
        with part.open("w", encoding="utf-8", newline="") as file:
            yield lambda frame: frame.to_csv(file, index=False, header=file.tell() == 0)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None

    def append(frame: pd.DataFrame) -> None:
        nonlocal writer
        piece = pa.Table.from_pandas(frame, preserve_index=False, schema=writer.schema if writer else None)
        if writer is None:
            writer = pq.ParquetWriter(part, piece.schema, compression="zstd")
        writer.write_table(piece)

    try:
        yield append
    finally:
        if writer is not None:
            writer.close()


def read_table(path: str) -> pd.DataFrame:
    """Read a whole Parquet or CSV file; text stays text.

    Raises
    ------
    ConfigError
        If the file's ending is none that we read.
    DataError
        If it cannot be read.
    """
    from stmp.errors import DataError
    from stmp_platform.settings import Settings

    suffix = check_format(path)
    options = Settings.from_env().options_for(path) or None
    try:
        if suffix == ".csv":
            return pd.read_csv(path, storage_options=options)
        return pd.read_parquet(path, storage_options=options)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
