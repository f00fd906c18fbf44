"""From a dataset, a log of forecasts and a backtest to the findings of a monitor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stmp.errors import ConfigError, DataError
from stmp.evaluation.slices import region_groups
from stmp_platform.files import Folder
from stmp_platform.monitoring.drift import drift
from stmp_platform.monitoring.log import read_log
from stmp_platform.monitoring.measures import match, roll
from stmp_platform.monitoring.report import Watched, write
from stmp_platform.monitoring.watch import Thresholds, findings
from stmp_platform.settings import Settings

if TYPE_CHECKING:
    from stmp.data.panel import Panel


def monitor(data: str, forecasts: str, baseline: str, out: str, thresholds: Thresholds | None = None) -> dict[str, Any]:
    """Hold forecasts against what was sold since, and both against a backtest; write the report.

    Parameters
    ----------
    data : str
        The dataset, with the new sales.
    forecasts : str
        The log (`stmp_platform.monitoring.log`).
    baseline : str
        What `stmp backtest --json` wrote, or ``backtest.json`` of its report.
    out : str
        Folder for page, numbers, metrics and event.

    Returns
    -------
    dict
        The numbers; ``crossed`` holds the thresholds that were crossed.

    Raises
    ------
    DataError
        If no forecast's day has been sold, or the log cannot be read.
    ConfigError
        If the baseline is no backtest, or is of days that the data do not have.
    """
    from stmp_platform.dataset import load_manifest, open_panel

    thresholds = thresholds or Thresholds()
    promised = read_baseline(baseline)
    manifest = load_manifest(data)
    panel = open_panel(data, Settings.from_env())
    log, levels = read_log(forecasts)
    sold = match(log, levels, panel)
    reference, groups = _reference(panel, promised)
    rolling = roll(sold, panel, groups, thresholds.window, thresholds.step)
    last = panel.index_of(panel.last_observed)
    recent = slice(max(0, last + 1 - thresholds.window), last + 1)
    found = findings(rolling, drift(panel, reference, recent), promised, thresholds)
    watched = Watched(
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        first=str(panel.dates[recent.start]),
        last=str(panel.dates[last]),
        reference=f"{panel.dates[reference.start]} to {panel.dates[reference.stop - 1]}",
        versions=tuple(rolling.versions),
        scored=len(sold.day),
        waiting=sold.waiting,
        unknown=sold.unknown,
    )
    return write(watched, rolling, found, thresholds, out)


def read_baseline(path: str) -> Mapping[str, Any]:
    """A backtest's numbers.

    Raises
    ------
    ConfigError
        If there are none.
    """
    folder, _, name = path.rpartition("/")
    remedy = "Give what `stmp backtest --json` wrote, or backtest.json of its report."
    try:
        content = json.loads(Folder(folder or ".").read(name))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The baseline {path} cannot be read: {error}. {remedy}") from error
    if not isinstance(content, dict) or not {"slices", "groups", "baselines", "settings"} <= set(content):
        raise ConfigError(f"The baseline {path} is no backtest. {remedy}")
    return content


def _reference(panel: Panel, baseline: Mapping[str, Any]) -> tuple[slice, dict[str, np.ndarray]]:
    """The backtest's days in this panel, and its groups of regions."""
    settings = baseline["settings"]
    try:
        begin, end = (panel.index_of(settings[key]) for key in ("start", "end"))
    except DataError as error:
        raise ConfigError(f"The baseline is of days that the data do not have: {error}") from error
    columns = {name.partition("=")[0] for name in baseline["groups"] if "=" in name}
    groups = region_groups(panel, columns.pop() if columns else None, begin)
    return slice(begin + 1, end + 1), groups
