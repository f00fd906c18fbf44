"""One long table becomes a dataset.yaml: what is known ahead, when the shop is closed, which days are festivals.

What cannot be seen in the data is guessed by name, and every guess is a comment in the file, for its owner to correct.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd
import yaml

from stmp.errors import ConfigError
from stmp_platform.dataset.sources.country import CountryCalendar, country_calendar
from stmp_platform.dataset.sources.longtable import DATE, LongTable, normal, read_long_table

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# Parts of names of what a retailer plans or reads off a calendar.
_PLANNED = re.compile(
    r"promo|price|discount|deal|markdown|offer|coupon|campaign|mailer|display|feature|advert|^ads?_|_ads?$"
    r"|(^|_)open(ed)?(_|$)|closed|holiday|school|event|festival|weekend|day_of|weekday|dow$|^month$|^year$"
)
_ZERO_IF_EMPTY = re.compile(r"promo|discount|deal|markdown|offer|coupon|campaign|mailer|display|feature|holiday|event")


_MANY = 30  # more values of a text are no covariate: each becomes a column of its own


@dataclass(frozen=True)
class Inferred:
    """What was inferred, as the files to write: name -> text."""

    files: dict[str, str]
    notes: tuple[str, ...]


def infer_spec(
    sales_path: str | os.PathLike[str], country: str | None = None, out: str | os.PathLike[str] | None = None
) -> Path:
    """Infer a dataset.yaml from one long table, and write it beside the table.

    Parameters
    ----------
    sales_path
        CSV or Parquet in long format: unique_id, ds, y and covariates, or near names.
    country
        Whose public holidays are festivals: DE, DE-BE, US-CA. Without one they are the days that a column names.
    out
        Folder for dataset.yaml, calendar.csv and regions.csv; default the folder of the table.

    Returns
    -------
    Path of dataset.yaml. Files that are there already are left alone if they say the same.

    Raises
    ------
    DataError
        The table does not hold what a dataset needs.
    ConfigError
        The country is unknown, or a file is there already and says something else.
    """
    source = os.fspath(sales_path)
    folder = Path(out) if out is not None else Path(source).parent
    table = read_long_table(source)
    near = "://" not in source and Path(source).resolve().parent == folder.resolve()
    inferred = infer(table, country, path=Path(source).name if near else _absolute(source))
    _write(folder, inferred.files, source)
    return folder / "dataset.yaml"


def infer(table: LongTable, country: str | None, path: str) -> Inferred:
    """Decide on the content of dataset.yaml and of the files it names, without writing anything."""
    calendar = None
    if country is not None:
        dates = table.by_date["date"]
        years = range(int(dates.iloc[0].year), int(dates.iloc[-1].year) + 2)
        calendar = country_calendar(country, list(years))
    elif table.event_names:
        calendar = _named_days(table)
    known, past, fill, notes = _covariates(table, () if country is not None else table.event_names)
    files = {"dataset.yaml": _render(table, path, country, calendar, known, past, fill, notes)}
    if calendar is not None:
        files["calendar.csv"] = calendar.events.to_csv(index=False, lineterminator="\n")
    if table.constant:
        files["regions.csv"] = table.static.to_csv(index=False, lineterminator="\n")
    return Inferred(files, tuple(notes))


# --- inside ---------------------------------------------------------------------------------------------------------


def _absolute(source: str) -> str:
    return source if "://" in source else str(Path(source).resolve())


def _named_days(table: LongTable) -> CountryCalendar:
    """The days that the table itself names, as a calendar; it says nothing of the weekend."""
    feast = table.events[table.events["date"].str.endswith("-12-25")]
    names = pd.Series(feast[list(table.event_names)].to_numpy().ravel()).mode()
    return CountryCalendar(table.events, (5, 6), str(names[0]) if len(names) else "")


def _covariates(
    table: LongTable, events: Sequence[str]
) -> tuple[dict[str, str], dict[str, str], dict[str, str], list[str]]:
    """Known and past covariates with the reason for each, fills for empty known values, and what was left out."""
    known: dict[str, str] = {}
    past: dict[str, str] = {}
    fill: dict[str, str] = {}
    notes: list[str] = []
    future = table.future
    for name in table.covariates:
        column = table.columns[name]
        if name in table.constant or name in events:
            continue  # a static feature, or in the calendar
        if normal(name) in DATE:
            notes.append(f"{name}: left out, {table.date} is the date already")
            continue
        if column.filled == 0:
            notes.append(f"{name}: left out, it is empty in all rows")
        elif column.values > _MANY:
            notes.append(f"{name}: left out, it is text with {column.values} values that change over time")
        elif column.filled == table.rows and (column.values == 1 or (column.numeric and column.low == column.high)):
            notes.append(f"{name}: left out, it has one value in all rows")
        elif len(future):
            if int(future[f"n_{name}"].sum()):
                known[name] = "rows after the last sales hold it"
            else:
                past[name] = "rows after the last sales do not hold it"
        elif _PLANNED.search(normal(name)):
            known[name] = "guess, by its name"
        else:
            past[name] = "guess, by its name"
    for name in known:
        empty = table.rows - table.columns[name].filled
        if empty and _ZERO_IF_EMPTY.search(normal(name)):
            fill[name] = "0" if table.columns[name].numeric else "none"
        elif empty:
            known[name] += f"; {empty} rows lack it, see `fill` in the documentation"
    for name, rows in table.disagree.items():
        notes.append(f"{name}: not used to find closed days, as {rows} rows have sales on days that it calls closed")
    return known, past, fill, notes


def _render(
    table: LongTable,
    path: str,
    country: str | None,
    calendar: CountryCalendar | None,
    known: dict[str, str],
    past: dict[str, str],
    fill: dict[str, str],
    notes: list[str],
) -> str:
    name = PurePosixPath(path).name
    lines = [
        f"# Inferred from {name}" + (f" with --country {country}" if country else "") + ". It is yours to edit;",
        "# then run `stmp ingest dataset.yaml --out URI`. Look at the lines that say `guess`: a column is `known`",
        "# only if you have its values for the days to be forecast.",
        f"name: {_q(re.sub(r'[.](csv|tsv|parquet|pq)([.]gz)?$', '', name, flags=re.IGNORECASE))}",
        f"frequency: {table.frequency}"
        + (f"   # weeks are dated by their {WEEKDAYS[table.weekday].title()}" if table.weekday is not None else ""),
        "tables:",
        "  sales:",
        f"    path: {_q(path)}",
        f"    region: {_q(table.region)}",
        f"    date: {_q(table.date)}",
    ]
    if table.series is not None:
        lines.append(f"    series: {_q(table.series)}")
    lines.append(f"    target: {_q(table.target)}")
    meaning = {"past": "known up to the day of the forecast only", "known": "known for future days too"}
    for role, members in (("past", past), ("known", known)):
        if members:
            lines.append(f"    {role}:   # {meaning[role]}")
            lines += [f"      - {_q(member)}   # {why}" for member, why in members.items()]
    if table.constant:
        numeric = [c for c in table.constant if table.columns[c].numeric]
        text = [c for c in table.constant if c not in numeric]
        lines += ["  regions:   # columns that never change within a region", "    path: regions.csv"]
        lines.append(f"    region: {_q(table.region)}")
        lines += [f"    numeric: {_flow(numeric)}"] if numeric else []
        lines += [f"    categorical: {_flow(text)}"] if text else []
    if calendar is not None:
        names = [str(name) for name in calendar.events.columns if name not in ("date", "region")]
        told = "" if country else f"   # the days named by {' and '.join(names)}; add those to come"
        lines += [f"  calendar:{told}", "    path: calendar.csv", "    date: date"]
        lines += ["    scope: region"] if "region" in calendar.events else []
        lines.append(f"    events: {_flow(names)}")
    closed = next((c for c in table.closed if c in known or c in past), None)
    if closed is not None:
        value = int(table.closed[closed])
        lines.append(f"closed: {{column: {_q(closed)}, equals: {value}}}   # no row that it calls closed has sales")
    if fill:
        pairs = ", ".join(f"{_q(column)}: {value}" for column, value in fill.items())
        lines.append(f"fill: {{{pairs}}}   # guess: empty means none")
    lines += _day_types(table, calendar)
    lines += [f"# {note}." for note in notes]
    text_of_file = "\n".join(lines) + "\n"
    yaml.safe_load(text_of_file)  # a name that breaks the file must not reach the disk
    return text_of_file


def _day_types(table: LongTable, calendar: CountryCalendar | None) -> list[str]:
    daily = table.frequency == "D"
    if calendar is None:
        hint = "# No festivals: give --country, or add rules such as"
        rule = '{every: "12-25", before: 10, name: christmas}'
        lines = [f"{hint} `festival: [{rule}]` under day_types."]
        return [*lines, "day_types:", "  weekend: [saturday, sunday]   # guess"] if daily else lines
    lines = ["day_types:", "  festival:   # guess: how many days before and after an event sales feel it"]
    before, after, ramp = (2, 1, 10) if daily else (0, 0, 2)
    lines.append(f"    - {{event: any, before: {before}, after: {after}}}")
    if calendar.christmas:
        lines.append(f"    - {{event: [{_q(calendar.christmas)}], before: {ramp}, after: {after}}}")
    if daily and calendar.weekend:
        lines.append(f"  weekend: [{', '.join(WEEKDAYS[day] for day in calendar.weekend)}]")
    return lines


def _q(text: str) -> str:
    """A YAML scalar: bare where that is safe, else in double quotes."""
    return text if re.fullmatch(r"[A-Za-z_/][\w./-]*", text) and yaml.safe_load(text) == text else json.dumps(text)


def _flow(names: list[str]) -> str:
    return "[" + ", ".join(_q(name) for name in names) + "]"


def _grown(name: str, old: str, new: str) -> bool:
    """Whether a derived file only grew with the data: later holidays at its end, or more regions."""
    if name == "calendar.csv":
        more = new.removeprefix(old)
        return new.startswith(old) and old.endswith("\n") and old.splitlines()[-1][:10] < more[:10]
    return name == "regions.csv" and set(old.splitlines()) <= set(new.splitlines())


def _write(folder: Path, files: dict[str, str], source: str) -> None:
    """Write what is not there; refuse all, before anything is written, where a file says something else."""
    for name, text in files.items():
        path = folder / name
        if not path.exists():
            continue
        old = path.read_text(encoding="utf-8")
        if old != text and not _grown(name, old, text):
            raise ConfigError(
                f"{path} is there already and differs from what {PurePosixPath(source).name} would give "
                f"(edited, or of another table). To use it: stmp ingest {folder / 'dataset.yaml'} --out URI. "
                f"To infer anew: move {name} away"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        temporary = path.with_name(f".{name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
