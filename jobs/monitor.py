"""The job behind `stmp monitor`: forecasts beside what was sold since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.screen import cell, say, table


def monitor(data: str, forecasts: str, baseline: str, out: str, *, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Compare rolling error, bias and coverage, and the inputs, with a backtest.

    Parameters
    ----------
    data, forecasts, baseline, out : str
        Dataset with the new sales, log of forecasts, numbers of a backtest, and folder for what is found.
    settings : sequence of str
        Thresholds, as ``key=value``.

    Returns
    -------
    dict
        ``crossed`` holds the thresholds that were crossed.

    Raises
    ------
    DataError, ConfigError
        If one of them cannot be used.
    """
    from stmp_platform.monitoring import Thresholds
    from stmp_platform.monitoring import monitor as watch

    found = watch(data, forecasts, baseline, out, Thresholds.from_settings(settings))
    rows = [
        (f["part"], f["measure"], f["points"] or None, f["value"], f["baseline"], _verdict(f["crossed"]))
        for f in found["findings"]
    ]
    title = f"Forecasts of {found['first']} to {found['last']}, against the backtest of {found['reference']}"
    table(("part", "measure", "days", "now", "backtest", ""), rows, title)
    for f in found["crossed"]:
        was = "" if f["baseline"] is None else f", in the backtest {cell(f['baseline'])}"
        allowed = f"off by {cell(f['off'])}, allowed {cell(f['limit'])}"
        say(f"{f['measure']} of {f['part']}: {cell(f['value'])}{was}; {allowed}")
    say(f"{len(found['crossed'])} thresholds crossed. Report: {out}")
    return found


def _verdict(crossed: bool | None) -> str:
    return "not told" if crossed is None else "CROSSED" if crossed else "within"
