"""Which day of last year a day is like, against days read off a printed calendar."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from stmp.config import Config
from stmp.data.calendar import ANY_EVENT, Calendar, DayRule, build_calendar, period_dates
from stmp.data.counterpart import counterparts
from stmp.data.episodes import full_episode
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.learning.season import season
from stmp.learning.validation import history_of

pytestmark = pytest.mark.unit


def calendar_of(
    first: str, count: int, *events: tuple[str, str], frequency: str = "D", before: int = 1, after: int = 1
) -> Calendar:
    frame = pd.DataFrame([("", date, name) for date, name in events], columns=["scope", "date", "event"])
    rule = DayRule("festival", event=ANY_EVENT, before=before, after=after)
    dates = period_dates(np.datetime64(first), count, frequency)
    return build_calendar(dates, frequency, [rule], frame.assign(date=pd.to_datetime(frame["date"])))


def like(calendar: Calendar, *dates: str) -> list[str]:
    lag = counterparts(calendar)
    at = [int(np.flatnonzero(calendar.dates == np.datetime64(date))[0]) for date in dates]
    return [str(calendar.dates[i - lag[0, i]]) for i in at]


def test_a_day_is_like_the_same_weekday_of_the_same_week() -> None:
    calendar = calendar_of("2022-01-01", 800)
    assert like(calendar, "2023-01-02", "2023-07-05", "2024-02-29") == ["2022-01-03", "2022-07-06", "2023-03-02"]
    assert counterparts(calendar)[0, :364].tolist() == [364] * 364, "those before have none"


def test_a_festival_that_moves_is_like_itself_and_leaves_ordinary_days_behind() -> None:
    fairs = (("2022-06-11", "fair"), ("2023-06-24", "fair"))  # Saturdays, 54 weeks apart
    calendar = calendar_of("2022-01-01", 800, *fairs)
    assert like(calendar, "2023-06-23", "2023-06-24", "2023-06-25") == ["2022-06-10", "2022-06-11", "2022-06-12"]
    # 52 weeks before these the fair was on, and before the first one week earlier nothing was.
    assert like(calendar, "2023-06-09", "2023-06-10", "2023-06-11") == ["2022-06-03", "2022-06-04", "2022-06-05"]
    assert like(calendar, "2023-06-17", "2023-07-01") == ["2022-06-18", "2022-07-02"]


def test_a_festival_of_a_date_keeps_its_weekday_but_close_by() -> None:
    """A Sunday before Christmas is like a Sunday before Christmas; Christmas Eve is like Christmas Eve."""
    calendar = calendar_of("2013-01-01", 730, ("2013-12-25", "Christmas"), ("2014-12-25", "Christmas"), before=17)
    assert like(calendar, "2014-12-21", "2014-12-22") == ["2013-12-22", "2013-12-23"]
    assert like(calendar, "2014-12-23", "2014-12-24", "2014-12-25") == ["2013-12-23", "2013-12-24", "2013-12-25"]
    assert like(calendar, "2014-12-07") == ["2013-12-01"], "not yet Christmas, so not like the first day that is"


def test_what_is_held_on_several_days_keeps_its_weekday() -> None:
    market = [(str(day), "market") for day in np.arange("2022-05-01", "2022-05-20", dtype="datetime64[D]")]
    calendar = calendar_of("2022-01-01", 800, *market, ("2023-05-09", "market"), before=0, after=0)
    assert like(calendar, "2023-05-09") == ["2022-05-10"], "Tuesdays"


def test_a_festival_that_was_not_held_leaves_the_week_as_it_is() -> None:
    calendar = calendar_of("2022-01-01", 800, ("2023-06-24", "jubilee"))
    assert like(calendar, "2023-06-24") == ["2022-06-25"]


@pytest.mark.parametrize("named", [False, True])
def test_easter_is_known_without_a_calendar_of_events(named: bool) -> None:
    """In 2023 it was on 9 April, in 2022 on 17 April."""
    sundays = (("2022-04-17", "Easter"), ("2023-04-09", "Easter")) if named else ()
    calendar = calendar_of("2022-01-01", 800, *sundays, before=2, after=0)
    assert like(calendar, "2023-04-03", "2023-04-07", "2023-04-09") == ["2022-04-11", "2022-04-15", "2022-04-17"]
    assert like(calendar, "2023-04-10", "2023-04-16") == ["2022-04-04", "2022-04-10"], "no festival a week earlier"
    assert like(calendar, "2023-04-02", "2023-04-01") == ["2022-04-03", "2022-04-02"]


def test_weeks_of_easter() -> None:
    """Weeks that end on a Friday: Good Friday's, and that of Easter Sunday."""
    calendar = calendar_of("2010-02-05", 182, frequency="W-FRI")
    assert like(calendar, "2012-04-06", "2012-04-13") == ["2011-04-22", "2011-04-29"]
    assert like(calendar, "2012-04-20", "2012-03-30") == ["2011-04-15", "2011-04-01"]


def test_sales_of_the_counterpart_are_leaned_on() -> None:
    dates = pd.date_range("2022-01-01", periods=560)
    sales = np.random.default_rng(0).lognormal(3, 0.5, (10, 560))
    rows = [(f"r{r}", day, sales[r, t]) for r in range(10) for t, day in enumerate(dates)]
    panel = Panel.from_frame(pd.DataFrame(rows, columns=["unique_id", "ds", "y"]))
    config = Config.from_mapping({"model": {"hidden": 8}}).resolve(1, 500)
    history = history_of(panel, Schema.fit(panel, 500), config)
    origin = panel.index_of("2023-03-20")
    episode = full_episode(panel, origin, 28, 200, torch.zeros(10, 1, config.model.psi_size))
    rows_of = history.rows(episode.region, episode.start)
    then = season(history, rows_of, episode)
    target, counterpart = panel.index_of("2023-04-08"), panel.index_of("2022-04-16")
    plain, grown = (
        history.scale(panel.sales[:, counterpart], rows_of.level[:, day]) for day in (origin + 1, origin + 1 - 364)
    )
    assert bool(then.seen[:, target - origin - 1].all())
    torch.testing.assert_close(then.own[:, target - origin - 1], (plain + grown) / 2)
    changed = replace(panel, sales=panel.sales.clone())
    changed.sales[:, origin + 1 :] = 7.0
    again = history_of(changed, history.schema, config)
    torch.testing.assert_close(season(again, again.rows(episode.region, episode.start), episode).own, then.own)
