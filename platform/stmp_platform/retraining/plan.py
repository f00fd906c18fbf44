"""Whether to retrain, and from where: what is new, what has drifted, and what the champion can be gone on from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Literal

import numpy as np

from stmp.data.calendar import period_days
from stmp.errors import ConfigError, DataError
from stmp.learning.graft import check_match
from stmp.learning.train import resolve_dates
from stmp_platform.files import Folder
from stmp_platform.gate.evidence import HORIZON

if TYPE_CHECKING:
    from stmp.config import Config
    from stmp.data.panel import Panel
    from stmp.forecaster import Forecaster
    from stmp_platform.dataset import Manifest
    from stmp_platform.gate import Rules

When = Literal["new", "drift", "always"]
WINDOWS = 4
"""Windows of the gate that are kept from learning, unless it is said how much."""


@dataclass(frozen=True)
class Event:
    """What `stmp monitor` writes when a threshold was crossed.

    Attributes
    ----------
    last : str
        The last day that it is about.
    versions : tuple of str
        Of the models whose forecasts were watched.
    crossed : tuple of (measure, part)
    """

    last: str
    versions: tuple[str, ...]
    crossed: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: str) -> Event | None:
        """Read an ``event.json``; None where there is none, because nothing was crossed.

        Raises
        ------
        ConfigError
            If the file is no event.
        """
        folder, _, name = path.rpartition("/")
        try:
            content = json.loads(Folder(folder or ".").read(name))
            crossed = tuple((str(one["measure"]), str(one["part"])) for one in content["crossed"])
            return cls(str(content["last"]), tuple(map(str, content["versions"])), crossed)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no event that `stmp monitor` has written ({error!r}).") from error

    def concerns(self, champion: Forecaster) -> bool:
        """Whether the champion was watched, on days that it has not learned from."""
        return champion.provenance.version in self.versions and self.last > champion.trained_until

    @property
    def inputs(self) -> list[str]:
        """Inputs that have drifted."""
        return [part for measure, part in self.crossed if measure == "drift"]


def due(when: When, manifest: Manifest, champion: Forecaster | None, event: Event | None) -> str:
    """Why a retraining is due, in words; empty if it is not."""
    if champion is None:
        return "there is no champion"
    if when == "always":
        return "it was asked for"
    drifted = event is not None and event.concerns(champion)
    if when == "drift":
        return f"thresholds were crossed by {event.last}" if drifted and event is not None else ""
    if champion.fingerprint == manifest.fingerprint:
        return ""
    return f"the data are not those that {champion.name} was trained on"


def reasons_for_scratch(champion: Forecaster | None, config: Config, panel: Panel, event: Event | None) -> list[str]:
    """Why the champion cannot be gone on from; empty if it can.

    Parameters
    ----------
    config : Config
        That would adapt the champion.
    panel : Panel
        Some of the data, for their columns.
    """
    if champion is None:
        return ["there is no champion"]
    reasons = changed_columns(champion, panel)
    try:
        check_match(champion, config, champion.schema.frequency)
    except ConfigError as error:
        reasons.append(str(error))
    if event is not None and event.concerns(champion) and event.inputs:
        reasons.append(f"inputs have drifted: {', '.join(event.inputs[:5])}")
    return reasons


def changed_columns(champion: Forecaster, panel: Panel) -> list[str]:
    """How the columns of the data differ from those that a model has learned.

    Regions that come and go change none: a new value of a category is no new column.
    """
    schema = champion.schema
    if period_days(schema.frequency) != period_days(panel.frequency):
        return [f"the data are {panel.frequency} and the champion's were {schema.frequency}"]
    rows = panel.split_series(unsold=True) if champion.config.model.series == "split" else panel
    sides = [
        {
            "known-future": _columns(one.known_names),
            "past": _columns(one.past_names),
            "static": _columns(one.static_names),
            "series": {n for n in one.static_names if n.startswith("series=")} or _series(one.series),
            "day types": set(days),
        }
        for one, days in ((schema, schema.day_types), (rows, panel.calendar.day_types))
    ]
    was, now = sides
    return [
        f"{role}: {what} {', '.join(sorted(names)[:5])}"
        for role in was
        for what, names in (("new", now[role] - was[role]), ("gone", was[role] - now[role]))
        if names
    ]


def _columns(names: Sequence[str]) -> set[str]:
    """Columns of the dataset behind a panel's: one for all values of a category, and for all series."""
    return {name.partition("=")[0].partition("@")[0] for name in names}


def _series(names: Sequence[str]) -> set[str]:
    """A single series is the same whatever its name."""
    return set(names) if len(names) > 1 else set()


@dataclass(frozen=True)
class Scope:
    """What is learned from.

    Attributes
    ----------
    until : str
        The last day.
    since : str
        A region whose last sale is of an earlier day has closed; empty if none ever does.
    regions : list of str
        Those that have not closed.
    horizon : int
        Periods ahead that are learned.
    window : int
        Periods in a window of the gate.
    """

    until: str
    since: str
    regions: list[str]
    horizon: int
    window: int


def days_and_regions(
    data: str, manifest: Manifest, config: Config, rules: Rules, hold_out: int | None, closed_after: int
) -> Scope:
    """Which days and regions to learn from, so that the gate has days that the model has not seen.

    Parameters
    ----------
    data : str
        URI of the dataset.
    hold_out : int or None
        Periods at the end that are kept from learning; None for `WINDOWS` windows of the gate.
    closed_after : int
        Days without sales after which a region has closed; 0 for never.

    Raises
    ------
    DataError
        If that leaves less to learn from than it keeps, or no region.
    """
    from stmp.data.calendar import period_range
    from stmp_platform.dataset.storage import region_names

    last = date.fromisoformat(manifest.last_sales_date)
    since = str(last - timedelta(days=closed_after)) if closed_after else ""
    regions = region_names(data, since)
    if not regions:
        raise DataError(f"No region of {data} has sold anything since {since}: set --closed-after higher.")
    first, days = np.datetime64(manifest.first_date, "D"), period_days(manifest.frequency)
    periods = rules.windows.horizon or HORIZON[days]
    held = hold_out or WINDOWS * periods
    dates = period_range(first, np.datetime64(last, "D"), manifest.frequency)
    if len(dates) < 2 * held + 1:
        raise DataError(
            f"Of {len(dates)} periods of sales {held} are to be kept for the gate, which leaves too few to learn from. "
            "Set --hold-out lower, or bring more history."
        )
    until = str(dates[-1 - held])
    resolved, _ = resolve_dates(config, first=first, last_sold=dates[-1], period_days=days, until=until)
    assert resolved.model.horizon is not None, "it is resolved"
    return Scope(until, since, regions, resolved.model.horizon, min(periods, resolved.model.horizon))


def check_future(manifest: Manifest, config: Config, horizon: int) -> None:
    """Refuse, before anything is trained, a forecast whose known-future covariates the data do not reach.

    Raises
    ------
    DataError
    """
    from stmp.data.calendar import period_dates

    last = np.datetime64(manifest.last_sales_date, "D")
    end = str(period_dates(last, horizon + 1, manifest.frequency)[-1])
    missing = [column.name for column in manifest.of_role("known") if column.fill is None]
    if config.model.known and missing and manifest.last_known_date < end:
        raise DataError(
            f"A forecast of {horizon} periods after {manifest.last_sales_date} needs {missing} until {end}, and the "
            f"data have them until {manifest.last_known_date}. Give fewer by --horizon, the values by --known, rows of "
            "those days with empty sales, or a `fill` in dataset.yaml."
        )
