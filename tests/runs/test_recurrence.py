"""When a schedule comes due: cron expressions in their time zone, through both changes of the clock, and intervals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from flujo.errors import InvalidInput

from runs.recurrence import Recurrence

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(expression: str, zone: str = "UTC") -> Recurrence:
    return Recurrence(expression, zone, None, utc("2030-01-01T00:00"))


def instants(of: Recurrence, since: str, count: int) -> list[str]:
    """The next instants, in UTC."""
    found = [utc(since)]
    for _ in range(count):
        found.append(of.after(found[-1]))
    return [f"{moment:%d %H:%M}" for moment in found[1:]]


def test_time_of_day_is_that_of_the_zone() -> None:
    assert instants(cron("30 6 * * MON-FRI", BERLIN), "2030-01-04T12:00", 2) == ["07 05:30", "08 05:30"]


def test_a_time_that_the_clock_leaves_out_is_due_right_after_the_gap() -> None:
    assert instants(cron("30 2 * * *", BERLIN), "2030-03-30T00:00", 3) == ["30 01:30", "31 01:00", "01 00:30"]


def test_next_instants_are_told_on_the_clock_of_the_zone() -> None:
    told = cron("30 2 * * *", BERLIN).upcoming(utc("2030-03-30T00:00"))
    assert [f"{when:%d %H:%M %Z}" for when in told] == ["30 02:30 CET", "31 03:00 CEST", "01 02:30 CEST"]
    every = Recurrence("", "", timedelta(hours=5), utc("2030-01-01T00:00")).upcoming(utc("2030-01-01T01:00"))
    assert [f"{when:%d %H:%M %Z}" for when in every] == ["01 05:00 UTC", "01 10:00 UTC", "01 15:00 UTC"]


def test_a_time_that_comes_twice_is_due_the_first_time_only() -> None:
    assert instants(cron("30 2 * * *", BERLIN), "2030-10-26T00:00", 3) == ["26 00:30", "27 00:30", "28 01:30"]


@pytest.mark.parametrize("minute", range(0, 120, 7))
def test_every_instant_is_later_than_the_moment_asked_about_in_the_hour_that_comes_twice(minute: int) -> None:
    moment = utc("2030-10-27T00:00") + timedelta(minutes=minute)
    for expression in ("30 2 * * *", "*/20 * * * *", "15 * * * *"):
        assert cron(expression, BERLIN).after(moment) > moment


def test_an_expression_with_a_star_follows_the_clock_through_the_hour_that_comes_twice() -> None:
    expected = ["27 00:00", "27 00:30", "27 01:00", "27 01:30", "27 02:00"]
    assert instants(cron("*/30 * * * *", BERLIN), "2030-10-26T23:59", 5) == expected


def test_an_interval_is_elapsed_time_from_its_anchor_and_keeps_its_rhythm() -> None:
    hourly = Recurrence("", "", timedelta(hours=1), utc("2030-03-31T00:10"))
    assert instants(hourly, "2030-03-31T00:59", 3) == ["31 01:10", "31 02:10", "31 03:10"]
    assert hourly.after(utc("2030-04-03T05:10")) == utc("2030-04-03T06:10")


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "0 * * * * *", "61 * * * *", "0 0 30 2 *", "every day", "\0 * * * *"]
)
def test_an_expression_that_cannot_be_understood_is_refused_at_its_field(expression: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        cron(expression).after(utc("2030-01-01T00:00"))
    assert refused.value.details["field"] == "cron"


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "Europe/Berlin\0"])
def test_a_zone_that_there_is_not_is_refused_at_its_field(zone: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        cron("0 6 * * *", zone).after(utc("2030-01-01T00:00"))
    assert refused.value.details["field"] == "zone"


@pytest.mark.parametrize("every", [timedelta(0), timedelta(seconds=59), timedelta(days=-1), timedelta(days=367)])
def test_an_interval_out_of_bounds_is_refused(every: timedelta) -> None:
    with pytest.raises(InvalidInput, match="one minute to 366 days"):
        Recurrence("", "", every, utc("2030-01-01T00:00")).after(utc("2030-01-01T00:00"))
