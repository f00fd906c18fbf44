"""The data store: from raw tables to a Dataset on storage, and from there to a Panel."""

from stmp_platform.dataset.describe import describe, render
from stmp_platform.dataset.ingest import ingest
from stmp_platform.dataset.manifest import Manifest, load_manifest
from stmp_platform.dataset.mapped import open_panel
from stmp_platform.dataset.spec import DatasetSpec, load_spec
from stmp_platform.dataset.storage import read_panel

__all__ = [
    "DatasetSpec", "Manifest", "describe", "ingest", "load_manifest", "load_spec", "open_panel", "read_panel", "render",
]  # fmt: skip
