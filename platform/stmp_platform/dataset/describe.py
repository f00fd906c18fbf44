"""What a Dataset holds, for people and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stmp.data.calendar import Calendar
from stmp_platform.dataset.manifest import Manifest
from stmp_platform.dataset.storage import Reader, axis_of, calendar_of

if TYPE_CHECKING:
    from rich.console import Group

_SHOWN = 12  # dates and names in one line of text


def describe(uri: str) -> dict[str, Any]:
    """Tell what a dataset holds, without reading its sales.

    Returns
    -------
    dict
        Plain values, fit for JSON: name, fingerprint, regions, series, dates, gaps, day_types (days and region-days of
        each), festivals (name, dates, scopes), covariates, static features, warnings, files, source.

    Raises
    ------
    DataError
        If there is no dataset at `uri`, or it is corrupt.
    """
    reader = Reader(uri)
    manifest, frame, events = reader.manifest, reader.regions(), reader.events()
    calendar, index = calendar_of(reader, frame, axis_of(manifest, None))
    weight = np.bincount(index, minlength=len(calendar))
    files = [file for table in manifest.tables for file in table.files]
    more = [file for file in (manifest.regions_file, manifest.events_file, manifest.defaults_file) if file is not None]
    return {
        "uri": uri,
        "name": manifest.name,
        "description": manifest.description,
        "fingerprint": manifest.fingerprint,
        "schema_version": manifest.schema_version,
        "frequency": manifest.frequency,
        "regions": {"count": manifest.regions, "first": frame["_region"].head(5).tolist()},
        "series": manifest.series,
        "rows": manifest.rows,
        "observed": int(frame["_observed"].sum()),
        "dates": {
            "first": manifest.first_date,
            "last_sales": manifest.last_sales_date,
            "last_known": manifest.last_known_date,
            "periods": len(calendar.dates),
        },
        "gaps": {"count": int(frame["_gaps"].sum()), "regions": int((frame["_gaps"] > 0).sum())},
        "late_regions": int((frame["_first"].astype(str) > manifest.first_date).sum()),
        "ended_regions": int((frame["_last"].astype(str) < manifest.last_sales_date).sum()),
        "day_types": _day_types(calendar, weight, manifest),
        "calendars": len(calendar),
        "festivals": _festivals(calendar, events, manifest),
        "columns": [column.model_dump(mode="json") for column in manifest.columns],
        "static": [column.model_dump(mode="json") for column in manifest.static],
        "closed": manifest.spec.closed.model_dump(mode="json") if manifest.spec.closed else None,
        "warnings": [fault.model_dump(mode="json") for fault in manifest.warnings],
        "files": {"count": len(files) + len(more), "bytes": sum(file.bytes for file in files + more)},
        "source": manifest.source,
        "created_at": manifest.created_at,
        "created_by": manifest.created_by,
    }


def _day_types(calendar: Calendar, weight: np.ndarray, manifest: Manifest) -> dict[str, dict[str, int]]:
    """Days of each type in the time with sales: dates on which any region has it, and region-days."""
    history = calendar.dates <= np.datetime64(manifest.last_sales_date, "D")
    found = {}
    for number, name in enumerate(calendar.day_types):
        held = (calendar.day_type == number) & history  # [C, T]
        found[name] = {"dates": int(held.any(axis=0).sum()), "region_days": int((held * weight[:, None]).sum())}
    return found


def _festivals(calendar: Calendar, events: pd.DataFrame, manifest: Manifest) -> list[dict[str, Any]]:
    """The events that the time axis holds: those of the calendar table, and those that rules bring in themselves."""
    first, last = manifest.first_date, str(calendar.dates[-1])
    rows = [(str(row.event), str(row.date), str(row.scope)) for row in events.itertuples()]
    known = {name for name, _, _ in rows}
    c, t = np.nonzero((calendar.event > 0) & (calendar.offset == 0))
    own = {(calendar.events[e], str(day)) for e, day in zip(calendar.event[c, t], calendar.dates[t], strict=True)}
    rows += [(name, day, "") for name, day in sorted(own) if name not in known]
    table = pd.DataFrame(rows, columns=["event", "date", "scope"])
    table = table[(table["date"] >= first) & (table["date"] <= last)]
    return [
        {"event": str(name), "dates": sorted(set(part["date"])), "scopes": sorted(set(part["scope"]) - {""})}
        for name, part in sorted(table.groupby("event"), key=lambda item: (item[1]["date"].min(), item[0]))
    ]


# --- for people ----------------------------------------------------------------------------------------------------


def render(content: dict[str, Any]) -> Group:
    """Lay out what `describe` returns, for `rich.print`."""
    from rich.console import Group
    from rich.text import Text

    dates, gaps, files, regions = content["dates"], content["gaps"], content["files"], content["regions"]
    lines = [
        f"{content['name']}  {content['uri']}",
        *([content["description"]] if content["description"] else []),
        f"fingerprint  {content['fingerprint']}",
        f"regions      {regions['count']:,} ({_some(regions['first'], regions['count'])})",
        f"series       {len(content['series']):,} ({_some(content['series'])})",
        f"dates        {dates['first']} to {dates['last_sales']}, by {content['frequency']}; "
        f"known to {dates['last_known']}",
        f"sales        {content['rows']:,} rows, {content['observed']:,} with a value, "
        f"{gaps['count']:,} gaps in {gaps['regions']:,} regions",
        f"openings     {content['late_regions']:,} regions begin later, {content['ended_regions']:,} end earlier",
        f"files        {files['count']:,}, {files['bytes'] / 1e6:,.1f} MB, written {content['created_at']}",
    ]
    parts: list[Any] = [Text("\n".join(lines)), _day_type_table(content), _column_table(content)]
    if content["festivals"]:
        parts.append(_festival_table(content))
    if content["warnings"]:
        told = "\n".join(f"- {_warning(fault)}" for fault in content["warnings"])
        parts.append(Text(f"Warnings\n{told}"))
    return Group(*parts)


def _warning(fault: dict[str, Any]) -> str:
    place = f"{fault['table']}.{fault['column']}" if fault["column"] else fault["table"]
    return f"{place}: {fault['what']}"


def _day_type_table(content: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("day type", "dates", "region-days", "share", title="Day types", title_justify="left")
    total = sum(item["region_days"] for item in content["day_types"].values()) or 1
    for name, item in content["day_types"].items():
        table.add_row(name, f"{item['dates']:,}", f"{item['region_days']:,}", f"{item['region_days'] / total:.1%}")
    return table


def _column_table(content: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("column", "role", "values", "unit", "missing", title="Columns", title_justify="left")
    for column in content["columns"] + [{**item, "role": "static"} for item in content["static"]]:
        if column["kind"] == "text":
            values = _some(column["vocabulary"] or [])
        elif column["low"] is None:
            values = "none"
        else:
            values = f"{column['low']:g} to {column['high']:g}"
        name = f"{column['name']} (by series)" if column.get("per_series") else column["name"]
        missing = f"{column['missing']:,}" if column["missing"] else ""
        table.add_row(name, column["role"], values, column.get("unit") or "", missing)
    return table


def _festival_table(content: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("event", "dates", "where", title="Festival days", title_justify="left")
    for item in content["festivals"]:
        table.add_row(item["event"], _some(item["dates"]), _some(item["scopes"]) or "everywhere")
    return table


def _some(items: list[str], count: int | None = None) -> str:
    count = len(items) if count is None else count
    shown = items[:_SHOWN]
    return ", ".join(shown) + (", ..." if count > len(shown) else "")
