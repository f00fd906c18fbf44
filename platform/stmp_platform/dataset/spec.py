"""dataset.yaml as types: which raw tables there are and what each column means.

All that can be checked without looking at the data is checked here, and everything found is told at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stmp.data.calendar import ANY_EVENT, DayRule, period_unit
from stmp.errors import ConfigError, DataError

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
Scalar = bool | int | float | str
Role = Literal["target", "past", "known"]


class _Strict(BaseModel):
    # A misspelt key must not be ignored in silence.
    model_config = ConfigDict(extra="forbid", frozen=True)


class SalesTable(_Strict):
    """One row per region, [series,] date."""

    path: str | list[str]
    region: str
    date: str
    series: str | None = None
    target: str
    past: list[str] = []
    known: list[str] = []


class RegionsTable(_Strict):
    """One row per region: static features, and the scopes that a calendar may name."""

    path: str | list[str]
    region: str
    numeric: list[str] = []
    categorical: list[str] = []
    scopes: list[str] = []


class CovariateTable(_Strict):
    """A further table, joined on the keys that it names: the date, and columns of the sales or regions table."""

    path: str | list[str]
    keys: list[str] = Field(min_length=1)
    past: list[str] = []
    known: list[str] = []


class CalendarTable(_Strict):
    """One row per (scope, date) that is special."""

    path: str | list[str]
    date: str
    scope: str | None = None
    everywhere: list[str] = []
    events: list[str] = []
    known: list[str] = []
    where: dict[str, list[Scalar]] = {}

    @field_validator("where", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item if isinstance(item, list) else [item] for key, item in value.items()}
        return value


class Tables(_Strict):
    """The raw tables."""

    sales: SalesTable
    regions: RegionsTable | None = None
    covariates: list[CovariateTable] = []
    calendar: CalendarTable | None = None


class Closed(_Strict):
    """Closed days sell nothing and are no lesson."""

    column: str
    equals: Scalar


class Rule(_Strict):
    """One line under a day type: an event, dates, or a month-day, with periods before and after."""

    event: Literal["any"] | list[str] | None = None
    dates: list[date] | None = None
    every: str | None = Field(default=None, pattern=r"^\d{2}-\d{2}$")
    before: int = Field(default=0, ge=0, le=366)
    after: int = Field(default=0, ge=0, le=366)
    name: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Rule:
        if sum(item is not None for item in (self.event, self.dates, self.every)) != 1:
            raise ValueError("give exactly one of event, dates, every")
        if self.event is not None and self.name is not None:
            raise ValueError("name belongs to dates and every; an event has its name from the calendar table")
        return self


class DatasetSpec(_Strict):
    """The content of dataset.yaml. Paths are absolute or relative to the working folder once it is loaded."""

    name: str = "dataset"
    description: str | None = None
    frequency: str = "D"
    tables: Tables
    closed: Closed | None = None
    day_types: dict[str, list[str | Rule]] | None = None
    fill: dict[str, Scalar] = {}
    units: dict[str, str] = {}
    horizon: int | None = Field(default=None, ge=1, description="Periods of known future to load, at most")

    @field_validator("frequency")
    @classmethod
    def _frequency_is_known(cls, value: str) -> str:
        try:
            period_unit(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        faults = list(self._faults())
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        sales, regions = self.tables.sales, self.tables.regions
        roles: dict[str, set[str]] = {}
        for role, name, where in self.columns():
            roles.setdefault(name, set()).add(role)
            if name in (sales.region, sales.date, sales.series):
                yield f"{where}: '{name}' is a key of the sales table and cannot be {role} as well"
        for name, held in roles.items():
            if len(held) > 1:
                yield f"column '{name}' is named as {' and as '.join(sorted(held))}: give it one role"
        if regions is not None:
            for name in sorted(set(regions.numeric) & self.text_columns()):
                yield f"tables.regions: '{name}' is numeric, so it cannot be categorical, a scope or a join key as well"
            if regions.region in regions.numeric + regions.categorical:
                yield f"tables.regions: '{regions.region}' is the region's id and cannot be a feature"
        for number, table in enumerate(self.tables.covariates):
            where = f"tables.covariates[{number}]"
            if sales.date not in table.keys:
                yield f"{where}.keys lacks the date '{sales.date}': what does not change belongs to tables.regions"
            if not table.past and not table.known:
                yield f"{where} names no column under past or known"
            others = self.join_keys(table)
            if others and regions is None:
                yield f"{where}.keys names {others}, which only a regions table could hold, and there is none"
            if others and sales.region in table.keys:
                yield f"{where}.keys: '{sales.region}' alone names the region, leave out {others}"
        calendar = self.tables.calendar
        if calendar is not None and calendar.scope is None and calendar.everywhere:
            yield "tables.calendar.everywhere needs tables.calendar.scope"
        if self.closed is not None and self.closed.column not in roles:
            yield f"closed.column '{self.closed.column}' is no past or known column: name it under tables.sales.known"
        if self.closed is not None and self.closed.column == sales.target:
            yield "closed.column is the target itself: a day without sales is not the same as a closed day"
        for name in self.fill:
            if roles.get(name, set()).isdisjoint({"past", "known"}):
                yield f"fill names '{name}', which is no past or known column"
        yield from self._day_type_faults()

    def _day_type_faults(self) -> Iterator[str]:
        for day_type, rules in (self.day_types or {}).items():
            for rule in rules:
                if isinstance(rule, str):
                    if _weekday(rule) is None:
                        yield f"day_types.{day_type}: '{rule}' is no day of the week"
                    elif period_unit(self.frequency) != "D":
                        yield f"day_types.{day_type}: days of the week have no meaning at frequency {self.frequency}"
                    continue
                if rule.every is not None:
                    try:
                        np.datetime64(f"2024-{rule.every}", "D")
                    except ValueError:
                        yield f"day_types.{day_type}: every: '{rule.every}' is no month-day, write e.g. '02-14'"
                calendar = self.tables.calendar
                if isinstance(rule.event, list) and (calendar is None or not calendar.events):
                    yield f"day_types.{day_type} names events {rule.event}, but tables.calendar.events names no column"

    def columns(self) -> Iterator[tuple[Role, str, str]]:
        """Yield (role, column, place in the file) for the target and each covariate, in order."""
        sales, calendar = self.tables.sales, self.tables.calendar
        yield "target", sales.target, "tables.sales.target"
        tables: list[tuple[str, SalesTable | CovariateTable]] = [("tables.sales", sales)]
        tables += [(f"tables.covariates[{i}]", table) for i, table in enumerate(self.tables.covariates)]
        for where, table in tables:
            yield from (("past", name, f"{where}.past") for name in table.past)
            yield from (("known", name, f"{where}.known") for name in table.known)
        if calendar is not None:
            yield from (("known", name, "tables.calendar.known") for name in calendar.known)

    def join_keys(self, table: CovariateTable) -> list[str]:
        """The columns of the regions table that a covariate table is joined on."""
        sales = self.tables.sales
        return [key for key in table.keys if key not in (sales.date, sales.region, sales.series)]

    def text_columns(self) -> set[str]:
        """The columns of the regions table that are text: categories, scopes and join keys."""
        regions = self.tables.regions
        joined = {key for table in self.tables.covariates for key in self.join_keys(table)}
        held = joined | set(regions.categorical) | set(regions.scopes) if regions else joined
        return held - {regions.region if regions else ""}

    def rules(self) -> tuple[DayRule, ...]:
        """The day types as rules of the calendar, in order.

        Without `day_types`, daily data has weekends and festivals (any event, two days before and one after it) and
        other data has festivals on the period of any event.
        """
        if self.day_types is None:
            daily = period_unit(self.frequency) == "D"
            festival = DayRule("festival", event=ANY_EVENT, before=2 * daily, after=1 * daily)
            return (festival, DayRule("weekend", weekdays=(5, 6))) if daily else (festival,)
        found: list[DayRule] = []
        for day_type, rules in self.day_types.items():
            names = [rule for rule in rules if isinstance(rule, str)]
            if names:
                found.append(DayRule(day_type, weekdays=tuple(sorted({_weekday(name) or 0 for name in names}))))
            found += [_day_rule(day_type, rule) for rule in rules if isinstance(rule, Rule)]
        return tuple(found)


def _weekday(name: str) -> int | None:
    matches = [i for i, day in enumerate(WEEKDAYS) if len(name) >= 3 and day.startswith(name.strip().lower())]
    return matches[0] if len(matches) == 1 else None


def _day_rule(day_type: str, rule: Rule) -> DayRule:
    event = None if rule.event is None else ANY_EVENT if rule.event == "any" else tuple(rule.event)
    dates = tuple(np.datetime64(day, "D") for day in rule.dates or ())
    return DayRule(
        day_type, event=event, dates=dates, every=rule.every, before=rule.before, after=rule.after, name=rule.name
    )


# --- reading the file ----------------------------------------------------------------------------------------------


def load_spec(path: str | os.PathLike[str]) -> DatasetSpec:
    """Read a dataset.yaml, local or behind a URI; the paths in it become absolute.

    Raises
    ------
    DataError
        If the file cannot be read.
    ConfigError
        If it is no YAML or has unknown, missing or contradicting keys; the message lists all of them.
    """
    from stmp_platform.files import Folder

    path = os.fspath(path)
    folder, _, name = path.rpartition("/")
    try:
        text = Folder(folder or ("/" if path.startswith("/") else ".")).read(name).decode()
    except (OSError, UnicodeDecodeError, ImportError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Give the path of a dataset.yaml.") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys such as 'tables', but holds {type(content).__name__}")
    base = folder or ("/" if path.startswith("/") else os.getcwd())
    content.setdefault("name", PurePosixPath(base).name or "dataset")
    _resolve_paths(content, base if "://" in base else os.path.abspath(base))
    return parse_spec(content, path)


def parse_spec(content: dict[str, Any], source: str = "dataset.yaml") -> DatasetSpec:
    """Turn the content of a dataset.yaml into a spec.

    Raises
    ------
    ConfigError
        Listing every fault.
    """
    try:
        return DatasetSpec.model_validate(content)
    except ValidationError as error:
        items = [
            item for item in error.errors() if not (item["type"] == "string_type" and item["loc"][0] == "day_types")
        ]
        faults = [line for item in items for line in _fault_lines(item)]
        listing = "\n".join(f"  - {line}" for line in faults)
        raise ConfigError(f"{source} has {len(faults)} fault{'s' * (len(faults) > 1)}:\n{listing}") from None


def _fault_lines(item: Any) -> list[str]:
    # a union of types adds its branches to the path: they are no keys of the file
    branches = ("str", "Rule", "list[str]", "literal['any']")
    place = ".".join(str(part) for part in item["loc"] if part not in branches and "function-" not in str(part))
    if item["type"] == "extra_forbidden":
        return [f"{place}: unknown key, take it out or correct its spelling"]
    if item["type"] == "missing":
        return [f"{place}: this key is missing"]
    message = item["msg"].removeprefix("Value error, ")
    return [f"{place}: {line}" if place else line for line in message.split("\n")]


def _resolve_paths(content: dict[str, Any], base: str) -> None:
    tables = content.get("tables")
    if not isinstance(tables, dict):
        return
    covariates = tables.get("covariates")
    for table in [tables.get(key) for key in ("sales", "regions", "calendar")] + (
        covariates if isinstance(covariates, list) else []
    ):
        if not isinstance(table, dict):
            continue
        path = table.get("path")
        if isinstance(path, str):
            table["path"] = _resolve(path, base)
        elif isinstance(path, list):
            table["path"] = [_resolve(str(item), base) for item in path]


def _resolve(path: str, base: str) -> str:
    if "://" in path or os.path.isabs(path):
        return path
    return f"{base.rstrip('/')}/{path}"
