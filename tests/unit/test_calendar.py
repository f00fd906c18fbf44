"""The calendar against hand-worked days and a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stmp.data.calendar import (
    ANY_EVENT,
    CAP,
    DayRule,
    build_calendar,
    period_dates,
    period_index,
    period_range,
)
from stmp.errors import ConfigError, DataError

WEEKEND = DayRule("weekend", weekdays=(5, 6))


def days(first: str, count: int) -> np.ndarray:
    return period_dates(np.datetime64(first), count, "D")


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["scope", "date", "event"])
    return frame.assign(date=pd.to_datetime(frame["date"]))


def names(calendar, index: int = 0) -> list[str]:
    return [calendar.day_types[i] for i in calendar.day_type[index]]


def test_first_matching_rule_names_the_day() -> None:
    # 2015-12-25 was a Friday
    events = table(("", "2015-12-25", "Christmas"))
    festival = DayRule("festival", event=ANY_EVENT, before=1, after=1)
    first = build_calendar(days("2015-12-23", 5), "D", [festival, WEEKEND], events)
    assert names(first) == ["weekday", "festival", "festival", "festival", "weekend"]
    second = build_calendar(days("2015-12-23", 5), "D", [WEEKEND, festival], events)
    assert names(second) == ["weekday", "festival", "festival", "weekend", "weekend"]
    # the window holds the Saturday whatever type the day got
    assert first.offset[0].tolist() == second.offset[0].tolist() == [0, -1, 0, 1, 0]


def test_event_name_and_distance_of_the_nearest_event() -> None:
    events = table(("", "2020-01-04", "A"), ("", "2020-01-08", "B"))
    rule = DayRule("festival", event=ANY_EVENT, before=3, after=3)
    calendar = build_calendar(days("2020-01-01", 12), "D", [rule], events)
    assert [calendar.events[i] for i in calendar.event[0]] == ["A"] * 5 + ["B"] * 6 + [""]
    assert calendar.offset[0].tolist() == [-3, -2, -1, 0, 1, -2, -1, 0, 1, 2, 3, 0]
    assert calendar.days_to[0].tolist() == [3, 2, 1, 0, 3, 2, 1, 0, CAP, CAP, CAP, CAP]
    assert calendar.days_since[0].tolist() == [CAP, CAP, CAP, 0, 1, 2, 3, 0, 1, 2, 3, 4]


def test_a_rule_for_one_event_widens_its_window_only() -> None:
    events = table(("", "2020-01-10", "Big"), ("", "2020-01-20", "Small"))
    rules = [DayRule("festival", event=ANY_EVENT), DayRule("festival", event=("Big",), before=4)]
    calendar = build_calendar(days("2020-01-01", 25), "D", rules, events)
    assert np.flatnonzero(calendar.day_type[0] == 2).tolist() == [5, 6, 7, 8, 9, 19]


def test_scopes_select_events_and_regions_share_calendars() -> None:
    events = table(("BY", "2020-01-06", "Epiphany"), ("", "2020-01-01", "New Year"))
    rule = DayRule("festival", event=ANY_EVENT)
    calendar = build_calendar(days("2020-01-01", 7), "D", [rule], events, [frozenset({"BE"}), frozenset({"BY", "x"})])
    assert len(calendar) == 2
    assert (calendar.day_type == 2).tolist() == [[True] + [False] * 6, [True] + [False] * 4 + [True, False]]
    assert calendar.days_to[0].tolist() == [0] + [CAP] * 6


def test_events_outside_the_axis_count_for_windows_and_distances() -> None:
    events = table(("", "2019-12-30", "Before"), ("", "2020-01-08", "After"))
    rule = DayRule("festival", event=ANY_EVENT, before=5, after=2)
    calendar = build_calendar(days("2020-01-01", 4), "D", [rule], events)
    assert names(calendar) == ["festival", "weekday", "festival", "festival"]
    assert calendar.days_since[0].tolist() == [2, 3, 4, 5]
    assert calendar.days_to[0].tolist() == [7, 6, 5, 4]


def test_every_and_dates_rules_bring_their_own_events() -> None:
    rules = [
        DayRule("festival", every="02-29", name="leap"),
        DayRule("payday", dates=(np.datetime64("2023-01-31"), np.datetime64("2024-02-27"))),
    ]
    calendar = build_calendar(period_range(np.datetime64("2023-01-01"), np.datetime64("2024-12-31"), "D"), "D", rules)
    assert calendar.day_types == ("weekday", "weekend", "festival", "payday")
    assert calendar.events == ("", "leap", "payday")
    assert calendar.dates[calendar.day_type[0] == 2].astype(str).tolist() == ["2024-02-29"]
    assert calendar.dates[calendar.day_type[0] == 3].astype(str).tolist() == ["2023-01-31", "2024-02-27"]


def test_weekly_dates_stand_for_the_week_that_ends_there() -> None:
    dates = period_dates(np.datetime64("2012-12-07"), 6, "W")  # Fridays
    events = table(("", "2012-12-25", "Christmas"))  # in the week that ends on 2012-12-28
    rules = [DayRule("festival", event=ANY_EVENT, before=1), DayRule("sale", every="01-05", name="sale")]
    calendar = build_calendar(dates, "W", rules, events)
    assert names(calendar) == ["ordinary", "ordinary", "festival", "festival", "ordinary", "sale"]
    assert calendar.offset[0].tolist() == [0, 0, -1, 0, 0, 0]
    assert np.flatnonzero(calendar.post_festival(3)[0]).tolist() == [4]


def test_post_festival_leaves_out_festival_days() -> None:
    events = table(("", "2020-01-02", "A"), ("", "2020-01-04", "B"))
    calendar = build_calendar(days("2020-01-01", 9), "D", [DayRule("festival", event=ANY_EVENT)], events)
    assert np.flatnonzero(calendar.post_festival(3)[0]).tolist() == [2, 4, 5, 6]


def test_equals_a_plain_loop_on_random_events() -> None:
    rng = np.random.default_rng(7)
    dates = days("2021-03-01", 200)
    scopes = [frozenset({"a"}), frozenset({"b"}), frozenset({"a", "b"}), frozenset()]
    rows = [
        (str(rng.choice(["", "a", "b"])), str(dates[0] + int(rng.integers(-80, 280))), str(rng.choice(["x", "y", "z"])))
        for _ in range(25)
    ]
    rules = [DayRule("festival", event=ANY_EVENT, before=2, after=1), DayRule("long", event=("z",), before=9), WEEKEND]
    calendar = build_calendar(dates, "D", rules, table(*rows), scopes)
    for c, held in enumerate(scopes):
        mine = [(np.datetime64(day), name) for scope, day, name in rows if scope == "" or scope in held]
        for t, day in enumerate(dates):
            gaps = [(int((day - when).astype(int)), name) for when, name in mine]
            assert calendar.days_to[c, t] == min([-g for g, _ in gaps if g <= 0] + [CAP])
            assert calendar.days_since[c, t] == min([g for g, _ in gaps if g >= 0] + [CAP])
            near = any(-2 <= g <= 1 for g, _ in gaps)
            long = any(-9 <= g <= 0 and name == "z" for g, name in gaps)
            weekend = pd.Timestamp(day).weekday() >= 5
            expected = "festival" if near else "long" if long else "weekend" if weekend else "weekday"
            assert calendar.day_types[calendar.day_type[c, t]] == expected
            held_by = sorted(
                (abs(g), g > 0, name) for g, name in gaps if -2 <= g <= 1 or (name == "z" and -9 <= g <= 0)
            )
            if held_by:
                distance, after, name = held_by[0]
                assert calendar.offset[c, t] == (distance if after else -distance)
                assert calendar.events[calendar.event[c, t]] == name
            else:
                assert calendar.event[c, t] == calendar.offset[c, t] == 0


def test_row_order_of_events_is_no_matter() -> None:
    events = table(("", "2020-01-04", "B"), ("", "2020-01-04", "A"), ("", "2020-01-09", "C"))
    rule = DayRule("festival", event=ANY_EVENT, before=2, after=2)
    one = build_calendar(days("2020-01-01", 12), "D", [rule], events)
    two = build_calendar(days("2020-01-01", 12), "D", [rule], events.iloc[::-1])
    assert np.array_equal(one.event, two.event)
    assert np.array_equal(one.offset, two.offset)
    assert one.events[one.event[0, 3]] == "A"


def test_periods_of_months_and_quarters() -> None:
    ends = period_dates(np.datetime64("2020-01-31"), 4, "M")
    assert ends.astype(str).tolist() == ["2020-01-31", "2020-02-29", "2020-03-31", "2020-04-30"]
    assert period_dates(np.datetime64("2020-02-29"), 2, "M").astype(str).tolist() == ["2020-02-29", "2020-03-31"]
    assert period_index(np.array(["2020-02-01", "2019-12-31"], "datetime64[D]"), ends[0], "M").tolist() == [1, -1]
    quarter = np.array(["2020-01-15", "2020-03-31", "2020-04-01"], "datetime64[D]")
    assert period_index(quarter, np.datetime64("2020-03-31"), "Q").tolist() == [0, 0, 1]
    assert period_index(quarter, np.datetime64("2020-01-01"), "QS").tolist() == [0, 0, 1]


def test_slice_keeps_all_arrays_together() -> None:
    calendar = build_calendar(days("2020-01-01", 20), "D", [WEEKEND]).slice(3, 10)
    assert calendar.dates.size == calendar.day_type.shape[1] == calendar.days_to.shape[1] == 7
    assert names(calendar)[:3] == ["weekend", "weekend", "weekday"]


def test_bad_input_says_what_and_where() -> None:
    with pytest.raises(DataError, match="step apart"):
        build_calendar(np.array(["2020-01-01", "2020-01-03"], "datetime64[D]"), "D", [])
    with pytest.raises(ConfigError, match="days of the week"):
        build_calendar(period_dates(np.datetime64("2020-01-05"), 3, "W"), "W", [WEEKEND])
    with pytest.raises(ConfigError, match="month-day"):
        build_calendar(days("2020-01-01", 3), "D", [DayRule("festival", every="14.02.")])
    with pytest.raises(ConfigError, match="frequency 'h'"):
        build_calendar(days("2020-01-01", 3), "h", [])
