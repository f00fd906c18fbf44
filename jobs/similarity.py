"""The job behind `stmp similarity`: what of one or several sources would carry over to a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.load import load_forecaster, trained_on
from jobs.screen import say, table, warn
from stmp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from stmp.data.panel import Panel
    from stmp.learning.similarity import Similarity
    from stmp_platform.settings import Settings

MOST = 2000
"""Regions compared of each: distances are found between all pairs."""


def similarity(
    sources: Sequence[str],
    target: str,
    *,
    source_data: Sequence[str] = (),
    until: str | None = None,
    report: Path | None = None,
    seed: int = 0,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Compare sources with a target's past, the best first, before anything is fine-tuned.

    Parameters
    ----------
    sources : sequence of str
        Models, or datasets where only what sales look like is to be compared.
    target : str
        Dataset.
    source_data : sequence of str, optional
        The dataset that each source was trained on, in their order; found from the training where not given.
    until : str, optional
        The target's last day to look at; what was sold later is not read.
    report : Path, optional
        Folder of the HTML report.
    seed : int
        Of permutations and bootstrap.

    Raises
    ------
    ConfigError
        If a source is neither a model nor a dataset, or the dataset of a model is not known.
    DataError
        If source and target cannot be compared.
    """
    from stmp.learning.similarity import rank
    from stmp_platform.dataset import load_manifest
    from stmp_platform.settings import Settings

    if source_data and len(source_data) != len(sources):
        raise ConfigError(
            f"--source-data is given {len(source_data)} times for {len(sources)} sources. Give it once for each, in "
            "their order, or not at all."
        )
    settings = Settings.from_env(tracking_uri)
    manifest = load_manifest(target)
    panel = _some_regions(target, end=manifest.last_sales_date)
    if until is not None:
        panel = panel.until(panel.dates[panel.index_of(until)])
    given: list[str | None] = list(source_data) or [None] * len(sources)
    found = rank([_compare(s, d, panel, seed, settings) for s, d in zip(sources, given, strict=True)])
    for text in dict.fromkeys(text for s in found if s.zero_shot for text in s.zero_shot.warnings):
        warn(text)
    content: dict[str, Any] = {"target": target, "ranking": [s.to_dict() for s in found]}
    _print(found, manifest.name)
    if report is not None:
        from stmp_platform.report.similarity import write_similarity

        content["report"] = str(write_similarity(found, manifest.name, report))
        say(f"Report: {content['report']}")
    return content


def _compare(source: str, data: str | None, target: Panel, seed: int, settings: Settings) -> Similarity:
    from stmp.learning.similarity import compare
    from stmp_platform.dataset import load_manifest
    from stmp_platform.dataset.storage import region_names
    from stmp_platform.files import Folder

    if not source.startswith("models:") and Folder(source, settings).exists("manifest.json"):
        return compare(load_manifest(source).name, _some_regions(source), target, seed=seed)
    forecaster = load_forecaster(source, settings)
    uri = data or trained_on(source, settings)
    if uri is None:
        raise ConfigError(f"It is not known which dataset {source} was trained on. Name it with --source-data.")
    missing = sorted(set(forecaster.trained_regions) - set(region_names(uri)))
    if missing:
        raise DataError(
            f"{uri} is not the dataset that {source} was trained on: it lacks {len(missing)} of its regions, such as "
            f"{missing[:3]}. Name the right one with --source-data."
        )
    panel = _some_regions(uri).until(forecaster.trained_until)
    if panel.fingerprint != forecaster.fingerprint:
        warn(f"{uri} has changed since {source} was trained on it; its days up to {forecaster.trained_until} are read.")
    return compare(_name(source), panel, target, forecaster=forecaster, seed=seed)


def _some_regions(uri: str, end: str | None = None) -> Panel:
    """A dataset; of one with more than `MOST` regions as many, spread evenly."""
    from stmp_platform.dataset import read_panel
    from stmp_platform.dataset.storage import region_names

    names = region_names(uri)
    if len(names) > MOST:
        say(f"{uri} has {len(names):,} regions; {MOST:,} of them, spread evenly, are compared.")
        names = [names[i * len(names) // MOST] for i in range(MOST)]
    return read_panel(uri, regions=names, end=end)


def _name(source: str) -> str:
    """What a model is called on the page: ``stores/3``, or the folder of its training."""
    if source.startswith("models:"):
        return source.removeprefix("models:/")
    return source.rstrip("/").removesuffix("/model").rpartition("/")[2]


def _print(found: Sequence[Similarity], target: str) -> None:
    from stmp.learning.similarity import ALL
    from stmp_platform.report.similarity import headline

    columns = ("source", "MSE saved", "low", "high", "WAPE", "naive", "traits", "psi", "p")
    rows = []
    for s in found:
        zero, psi = s.zero_shot, s.tasks.get(ALL)
        skill = (zero.skill, *(zero.interval or (None, None)), zero.wape, zero.wape_naive) if zero else [None] * 5
        rows.append((s.source, *skill, s.distance, psi.excess if psi else None, psi.p_value if psi else None))
    table(columns, rows, f"What carries over to {target}, the best first")
    for sentence in headline(found, target):
        say(sentence)
