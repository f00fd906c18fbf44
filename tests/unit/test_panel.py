"""A panel of a long table: what the table must not leave open."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stmp.data.panel import Panel
from stmp.errors import DataError

pytestmark = pytest.mark.unit

DAYS = pd.date_range("2024-01-01", periods=10)


def table() -> pd.DataFrame:
    """Two regions that sell two products on ten days."""
    rows = [(region, item, day, 5.0) for region in "xy" for item in "ab" for day in DAYS]
    return pd.DataFrame(rows, columns=["unique_id", "item", "ds", "y"])


def fair(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"date": [DAYS[4], DAYS[8]], "event": "Fair", **columns})


@pytest.mark.parametrize("events", [fair(), fair(scope=""), fair(scope=[None, np.nan])], ids=["none", "empty", "nan"])
def test_events_without_a_place_are_everyones(events: pd.DataFrame) -> None:
    calendar = Panel.from_frame(table(), series="item", events=events).calendar
    assert calendar.event[0].nonzero()[0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]


def test_events_of_places_are_refused() -> None:
    """They would hold for no region, and nobody would know."""
    with pytest.raises(DataError, match=r"'scope', which is \['x'\] in 1 of its 2 rows, .* ingest the tables"):
        Panel.from_frame(table(), series="item", events=fair(scope=["", "x"]))


@pytest.mark.parametrize("order", [1, -1], ids=["as they are", "the other way round"])
def test_a_day_is_closed_if_all_rows_that_say_anything_say_so(order: int) -> None:
    frame = table().assign(shut=0.0)
    first, other = frame["item"] == "a", frame["item"] == "b"
    frame.loc[frame["ds"] == DAYS[3], "shut"] = 1.0
    frame.loc[first & (frame["ds"] == DAYS[6]), "shut"] = 1.0
    frame.loc[other & (frame["ds"] == DAYS[6]), "shut"] = np.nan
    frame.loc[frame["ds"] == DAYS[7], "shut"] = np.nan
    panel = Panel.from_frame(frame.iloc[::order], series="item", closed="shut")
    assert panel.closed[0].nonzero()[:, 0].tolist() == panel.closed[1].nonzero()[:, 0].tolist() == [3, 6]
    assert not panel.observed[:, [3, 6]].any() and panel.observed[:, [2, 4, 5, 7]].all()


@pytest.mark.parametrize("order", [1, -1], ids=["as they are", "the other way round"])
def test_rows_that_disagree_on_a_closed_day_are_refused(order: int) -> None:
    frame = table().assign(shut=0)
    frame.loc[(frame["item"] == "a") & (frame["unique_id"] == "y") & frame["ds"].isin(DAYS[5:8]), "shut"] = 1
    with pytest.raises(DataError, match=r"'shut' .* 3 times, first of region y on 2024-01-06"):
        Panel.from_frame(frame.iloc[::order], series="item", closed="shut")
