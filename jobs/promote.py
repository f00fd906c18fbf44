"""The job behind `stmp promote`: a challenger through the gate."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.screen import cell, say, table

if TYPE_CHECKING:
    from stmp_platform.gate import Decision
    from stmp_platform.gate.checks import Check


def promote(
    challenger: str,
    data: str,
    *,
    champion: str | None = None,
    rules: Path | None = None,
    report: Path | None = None,
    today: str | None = None,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Hold a challenger against the champion on the same windows; make it champion if no rule is broken.

    Parameters
    ----------
    challenger, data : str
        Registered version (or the folder of its training), and the dataset that both are judged on.
    champion : str, optional
        ``models:/name@alias``; by default the alias ``champion`` of the challenger's model.
    rules : Path, optional
        YAML file of rules.
    report : Path, optional
        Folder for a copy of the report.
    today : str, optional
        The day against which the age of the data is measured; by default the day it is.

    Returns
    -------
    dict
        ``promoted`` says whether the challenger is champion now.

    Raises
    ------
    ConfigError, DataError, RegistryError
        If rules, data or models cannot be used, or another promotion came first.
    """
    from stmp_platform.gate import Rules
    from stmp_platform.gate import promote as ask
    from stmp_platform.settings import Settings

    decision = ask(
        challenger,
        data,
        today=date.fromisoformat(today) if today else date.today(),
        champion=champion,
        rules=Rules.load(rules),
        report=report,
        settings=Settings.from_env(tracking_uri),
    )
    _print(decision)
    if report is not None and decision.checks:
        say(f"Report: {report}")
    return {
        "promoted": decision.champion,
        "challenger": decision.version.uri,
        "before": decision.before,
        "move": None if decision.move is None else vars(decision.move),
        **decision.report,
    }


def _print(decision: Decision) -> None:
    version = decision.version
    name = f"{version.name}/{version.version}"
    if not decision.checks:
        say(f"{name} is champion already.")
        return
    signs = {True: "holds", False: "BROKEN", None: "not told"}
    rows = [(c.rule, signs[c.passed], c.value, _limit(c), c.broken_by) for c in decision.checks]
    against = f"{version.name}/{decision.before}" if decision.before else "seasonal naive, for there is no champion"
    table(("rule", "", "found", "allowed", "beyond"), rows, f"{name} against {against}")
    failed = [check for check in decision.checks if check.passed is False]
    for check in failed:
        say(f"{check.rule}: {check.text}")
    say(f"Promoted: {name} is champion." if decision.move else f"Refused: {len(failed)} of {len(rows)} rules broken.")


def _limit(check: Check) -> str | None:
    if check.limit is None:
        return None
    return f"{'≤' if check.sense == 'at most' else '≥'} {cell(check.limit)}"
