"""Where data comes from: a dataset.yaml, one long table, or a built-in source. Each ends as a dataset.yaml."""

from stmp_platform.dataset.sources.prepare import SOURCES, prepare_source

__all__ = ["SOURCES", "prepare_source"]
