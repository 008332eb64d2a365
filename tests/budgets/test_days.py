"""Budget days begin and end at local midnights, at least 20 hours apart, whatever a zone does with its clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.budgets.days import SHORTEST, Day, day_at, start_of


def utc(*moment: int) -> datetime:
    return datetime(*moment, tzinfo=UTC)  # type: ignore[misc, arg-type]


def hours(day: Day) -> float:
    return (day.ends_at - day.starts_at).total_seconds() / 3600


def test_a_day_in_oslo_lasts_from_midnight_to_midnight() -> None:
    assert day_at(utc(2026, 11, 20, 10), "Europe/Oslo") == Day(
        label=date(2026, 11, 20), starts_at=utc(2026, 11, 19, 23), ends_at=utc(2026, 11, 20, 23)
    )


def test_the_day_on_which_oslo_loses_an_hour_has_23() -> None:
    day = day_at(utc(2026, 3, 29, 12), "Europe/Oslo")
    assert (day.starts_at, day.ends_at) == (utc(2026, 3, 28, 23), utc(2026, 3, 29, 22))
    assert hours(day) == 23


def test_the_day_on_which_oslo_gains_an_hour_has_25() -> None:
    day = day_at(utc(2026, 10, 25, 12), "Europe/Oslo")
    assert (day.starts_at, day.ends_at) == (utc(2026, 10, 24, 22), utc(2026, 10, 25, 23))
    assert hours(day) == 25


def test_saint_johns_is_half_an_hour_off() -> None:
    day = day_at(utc(2026, 7, 1, 12), "America/St_Johns")
    assert (day.starts_at, day.ends_at) == (utc(2026, 7, 1, 2, 30), utc(2026, 7, 2, 2, 30))


def test_where_midnight_came_twice_the_first_one_counts() -> None:
    # Until 2011 the clocks of St. John's went back from 00:01 to 23:01.
    day = day_at(utc(2010, 11, 6, 12), "America/St_Johns")
    assert day.ends_at == utc(2010, 11, 7, 2, 30)
    # In the hour that comes again the new day is open already.
    again = day_at(utc(2010, 11, 7, 3), "America/St_Johns", previous_end=day.ends_at)
    assert again.starts_at == day.ends_at
    assert again.label == date(2010, 11, 7)


@pytest.mark.parametrize(
    ("zone", "day", "begins"),
    [
        ("America/Sao_Paulo", date(2018, 11, 4), utc(2018, 11, 4, 3)),
        ("Africa/Cairo", date(2024, 4, 26), utc(2024, 4, 25, 22)),
        ("Asia/Beirut", date(2024, 3, 31), utc(2024, 3, 30, 22)),
    ],
)
def test_a_day_without_midnight_begins_when_its_clocks_skip_it(
    zone: str, day: date, begins: datetime
) -> None:
    assert start_of(day, ZoneInfo(zone)) == begins
    found = day_at(begins + timedelta(hours=5), zone)
    assert (found.label, found.starts_at, hours(found)) == (day, begins, 23)
    assert day_at(begins - timedelta(seconds=1), zone).ends_at == begins


def test_a_skip_that_begins_before_midnight_begins_the_day() -> None:
    # In 1919 the clocks of Toronto went forward from 23:30 to 00:30.
    assert start_of(date(1919, 3, 31), ZoneInfo("America/Toronto")) == utc(1919, 3, 31, 4, 30)


def test_apia_had_no_30_december_2011() -> None:
    day = day_at(utc(2011, 12, 29, 20), "Pacific/Apia")
    assert (day.label, day.ends_at) == (date(2011, 12, 29), utc(2011, 12, 30, 10))
    following = day_at(day.ends_at, "Pacific/Apia", previous_end=day.ends_at)
    assert (following.label, hours(following)) == (date(2011, 12, 31), 24)


def test_a_change_of_zone_at_2359_gives_no_second_day() -> None:
    oslo = day_at(utc(2026, 11, 20, 22, 59), "Europe/Oslo")
    assert oslo.ends_at == utc(2026, 11, 20, 23)
    # A minute later, in Honolulu, where it is 13:00 of the same date: midnight is 11 hours away, so the one after it.
    honolulu = day_at(oslo.ends_at, "Pacific/Honolulu", previous_end=oslo.ends_at)
    assert honolulu.starts_at == oslo.ends_at
    assert honolulu.ends_at == utc(2026, 11, 22, 10)
    assert hours(honolulu) == 35


def test_a_person_who_comes_back_after_days_gets_a_whole_day() -> None:
    day = day_at(utc(2026, 11, 20, 10), "UTC", previous_end=utc(2026, 11, 12))
    assert (day.starts_at, day.ends_at) == (utc(2026, 11, 20), utc(2026, 11, 21))


ZONES = [
    "UTC",
    "Europe/Oslo",
    "America/St_Johns",
    "Pacific/Apia",
    "Pacific/Honolulu",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Asia/Beirut",
    "Antarctica/Troll",
    "Pacific/Kwajalein",
    "America/Havana",
    "Asia/Kathmandu",
]


@given(
    st.datetimes(datetime(1980, 1, 1), datetime(2037, 1, 1)),
    st.lists(st.tuples(st.sampled_from(ZONES), st.integers(0, 200_000)), min_size=1, max_size=8),
)
def test_days_follow_each_other_and_none_is_short(start: datetime, moves: list[tuple[str, int]]) -> None:
    now = start.replace(tzinfo=UTC)
    previous: Day | None = None
    for zone, seconds in moves:
        now += timedelta(seconds=seconds)
        if previous is not None and now < previous.ends_at:
            continue
        day = day_at(now, zone, previous_end=previous.ends_at if previous else None)
        assert day.starts_at <= now < day.ends_at
        assert SHORTEST <= day.ends_at - day.starts_at <= timedelta(hours=50)
        assert day.ends_at == start_of(day.ends_at.astimezone(ZoneInfo(zone)).date(), ZoneInfo(zone))
        assert previous is None or day.starts_at >= previous.ends_at
        previous = day
