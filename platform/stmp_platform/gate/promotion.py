"""Promotion and rollback: what is decided by the gate, kept with the version, and carried out on the alias.

A promotion writes in this order: the report among the version's artifacts, in a folder of its own; one tag that names
the report and says how it came out; one entry in the log of champions, by which the promotion has happened; the alias.
A promoter may be killed between any two of them.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmp.errors import ConfigError, RegistryError
from stmp_platform.gate.champions import Champions, Move, now, whoami
from stmp_platform.gate.checks import Check, judge
from stmp_platform.gate.evidence import Evidence, gather
from stmp_platform.gate.report import NUMBERS, PAGE, passed, write_report
from stmp_platform.gate.rules import Rules
from stmp_platform.gate.trial import TrialError
from stmp_platform.registry import Version, annotate, attach, attached, find, resolve
from stmp_platform.settings import Settings

if TYPE_CHECKING:
    from stmp.forecaster import Forecaster

GATE_TAG = "stmp.gate"
"""JSON: ``passed``, ``failed`` (rules), ``against``, ``at``, ``by``, ``report`` (folder among the artifacts)."""
_CHAMPION = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)$")


@dataclass(frozen=True)
class Decision:
    """What came of asking for a promotion.

    Attributes
    ----------
    version : Version
        The challenger's.
    before : str or None
        The champion that it was measured against.
    checks : list of Check
        Empty if it was champion already.
    move : Move or None
        The promotion, if it was promoted.
    report : dict
        The numbers of the report.
    """

    version: Version
    before: str | None
    checks: Sequence[Check]
    move: Move | None
    report: dict[str, Any]

    @property
    def champion(self) -> bool:
        """Whether the challenger is champion now."""
        return self.move is not None or self.before == self.version.version


def promote(
    challenger: str,
    data: str,
    *,
    today: date,
    champion: str | None = None,
    rules: Rules | None = None,
    report: Path | None = None,
    settings: Settings | None = None,
) -> Decision:
    """Hold a challenger against the champion, and make it champion if it passes the gate.

    Parameters
    ----------
    challenger : str
        ``models:/name/version``, or the folder of a training that was registered.
    data : str
        The dataset on which both are judged.
    today : date
        Against which the age of the data is measured.
    champion : str, optional
        ``models:/name@alias``; by default the alias ``champion`` of the challenger's model.
    report : Path, optional
        Folder for a copy of the report.

    Raises
    ------
    ConfigError
        If the champion is not named by an alias of the challenger's model.
    RegistryError
        If the registry does not answer, the champion cannot forecast these data, or another promotion came first.
    """
    from stmp_platform.dataset import load_manifest, open_panel

    settings, rules = settings or Settings.from_env(), rules or Rules()
    manifest = load_manifest(data)
    version = find(challenger, settings)
    champions = Champions(version.name, _alias(champion, version.name), settings)
    before = champions.current()
    if before == version.version:
        return Decision(version, before, [], None, {})
    ours = _load(version.name, version.version, settings)
    theirs = None if before is None else _load(version.name, before, settings)
    panel = open_panel(data, settings)
    try:
        evidence = gather(ours, theirs, panel, manifest, rules, today, recorded=version.dataset_fingerprint)
    except TrialError as error:
        raise RegistryError(
            f"The champion {version.name}/{before} cannot forecast {data}, so there is nothing to measure against: "
            f"{error}. Judge on data that both models can read, or go back with `stmp rollback`."
        ) from error
    return conclude(evidence, rules, version, champions, before, report, settings)


def conclude(
    evidence: Evidence,
    rules: Rules,
    version: Version,
    champions: Champions,
    before: str | None,
    report: Path | None,
    settings: Settings,
) -> Decision:
    """Judge the evidence, keep what was found with the version, and move the alias if it passed.

    Parameters
    ----------
    before : str or None
        The champion that the version was measured against.
    """
    checks = judge(evidence, rules)
    at, by = now(), whoami()
    place = f"gate/{at[:19].replace(':', '')}-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as scratch:
        content = write_report(evidence, checks, rules, Path(scratch), at=at, by=by)
        if report is not None:
            report.mkdir(parents=True, exist_ok=True)
            for file in Path(scratch).iterdir():
                shutil.copyfile(file, report / file.name)
        attach(version, Path(scratch), place, settings)
    outcome = {
        "passed": passed(checks),
        "failed": content["failed"],
        "against": before,
        "at": at,
        "by": by,
        "report": f"{place}/{PAGE}",
    }
    annotate(version, GATE_TAG, json.dumps(outcome), settings)
    move = champions.move("promotion", before, version.version, place) if passed(checks) else None
    return Decision(version, before, checks, move, content)


def report_of(version: str, outcome: str, settings: Settings | None = None) -> dict[str, Any]:
    """The numbers of the report that a version was judged by.

    Parameters
    ----------
    version : str
        ``models:/name/version``.
    outcome : str
        Its tag `GATE_TAG`.

    Raises
    ------
    RegistryError
        If the registry does not answer, or the report is not there any more.
    """
    place = str(json.loads(outcome)["report"]).removesuffix(PAGE)
    content: dict[str, Any] = json.loads(attached(version, f"{place}{NUMBERS}", settings))
    return content


def rollback(champion: str, settings: Settings | None = None) -> Move:
    """Make the previous champion champion again.

    Parameters
    ----------
    champion : str
        ``models:/name@alias``.

    Raises
    ------
    RegistryError
        If there is no champion, or none before it that still exists.
    """
    settings = settings or Settings.from_env()
    parts = _CHAMPION.match(champion)
    if parts is None:
        raise ConfigError(f"'{champion}' names no alias. Use models:/name@champion.")
    champions = Champions(parts["name"], parts["alias"], settings)
    before = champions.current()
    previous = champions.previous()
    if previous is None:
        there = f"version {before} is the first" if before else f"nothing has the alias '{parts['alias']}'"
        raise RegistryError(f"'{parts['name']}' has no earlier champion to return to: {there}.")
    resolve(f"models:/{parts['name']}/{previous}", settings)  # its files are there
    return champions.move("rollback", before, previous)


def _alias(champion: str | None, name: str) -> str:
    if champion is None:
        return "champion"
    parts = _CHAMPION.match(champion)
    if parts is None or parts["name"] != name:
        raise ConfigError(
            f"'{champion}' is no alias of the challenger's model '{name}'. A promotion moves an alias from one version "
            f"of a model to another: use models:/{name}@champion."
        )
    return parts["alias"]


def _load(name: str, number: str, settings: Settings) -> Forecaster:
    from stmp.forecaster import Forecaster

    return Forecaster.load(resolve(f"models:/{name}/{number}", settings)).with_version(f"{name}/{number}")
