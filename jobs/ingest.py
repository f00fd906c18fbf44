"""The jobs behind `stmp ingest` and `stmp data describe`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from jobs.screen import say, show, warn
from stmp.errors import ConfigError

if TYPE_CHECKING:
    from stmp_platform.dataset.manifest import Manifest


def ingest(
    source: str,
    out: str,
    *,
    append: bool = False,
    revise: bool = False,
    country: str | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Check raw tables and write them as a dataset.

    Parameters
    ----------
    source : str
        A dataset.yaml, one long table, or the name of a built-in source. Raw tables of a built-in source are written
        to ``OUT-raw``.
    out : str
        Folder of the dataset.
    append, revise : bool
        Add new days; with `revise`, new values may replace old ones.
    country : str, optional
        For one long table: whose holidays.
    settings : sequence of ``key=value``
        For the source `synthetic`.

    Raises
    ------
    DataError
        Listing every fault of the raw tables.
    ConfigError
        If the source, a setting or dataset.yaml cannot be used.
    """
    from stmp_platform.dataset import ingest as write_dataset
    from stmp_platform.dataset.sources.prepare import prepare_source

    with ExitStack() as stack:
        if "://" in out:
            raw = stack.enter_context(tempfile.TemporaryDirectory(prefix="stmp-raw-"))
        else:
            raw = f"{out.rstrip('/')}-raw"
        spec = prepare_source(source, raw, country=country, **_options(settings))
        if spec != source:
            say(f"The raw tables are described in {spec}")
        manifest = write_dataset(spec, out, append=append, revise=revise)
    for fault in manifest.warnings:
        warn(str(fault))
    say(
        f"Wrote {out}: {manifest.regions:,} regions, {len(manifest.series)} series, {manifest.first_date} to "
        f"{manifest.last_sales_date}, {manifest.rows:,} rows, fingerprint {manifest.fingerprint[:12]}"
    )
    return summary(out, manifest)


def summary(uri: str, manifest: Manifest) -> dict[str, Any]:
    """What the manifest says, for machines."""
    names = ("name", "fingerprint", "frequency", "regions", "first_date", "last_sales_date", "last_known_date", "rows")
    return {
        "uri": uri,
        **{name: getattr(manifest, name) for name in names},
        "series": list(manifest.series),
        "warnings": [fault.model_dump(mode="json") for fault in manifest.warnings],
    }


def _options(settings: Sequence[str]) -> dict[str, str]:
    options = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting} is not of the form key=value, such as regions=60.")
        options[key.strip()] = value.strip()
    return options


def describe(uri: str) -> dict[str, Any]:
    """Print what a dataset holds.

    Raises
    ------
    DataError
        If there is no dataset, or it is corrupt.
    """
    from stmp_platform.dataset import describe as look
    from stmp_platform.dataset import render

    content = look(uri)
    show(render(content))
    return content
