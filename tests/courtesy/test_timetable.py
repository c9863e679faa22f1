"""The grammar of ``[limits]``, and what it means at an hour: local time, nights, and days on which clocks change."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from mlsync.courtesy.timetable import NO_LIMIT, parse_timetable, shown_rate

MIB = 1 << 20
BERLIN = ZoneInfo("Europe/Berlin")


def rate_at(timetable, text, *, fold=0):
    """The rate when clocks in Berlin show a time, the second time if that comes twice."""
    moment = datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()
    return timetable.rate(moment, lambda now_s: datetime.fromtimestamp(now_s, BERLIN).timetuple())


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20 MiB/s", 20 * MIB),
        ("20MiB/s", 20 * MIB),
        ("1.5 GiB/s", 1536 * MIB),
        ("800 KiB/s", 800 << 10),
        ("100 kB/s", 100_000),
        ("2.5 MB/s", 2_500_000),
        ("100 Mbit/s", 12_500_000),
        ("unlimited", None),
    ],
)
def test_rate_alone_holds_always(text, rate):
    """Bytes are binary or decimal as their unit says, bits are an eighth."""
    assert rate_at(parse_timetable(text), "2026-11-29 03:00") == rate


def test_first_line_that_holds_counts():
    """By day on workdays there is the first limit, at other times the last one."""
    timetable = parse_timetable(["20 MiB/s 08:00-20:00 Mon-Fri", "80 MiB/s"])
    at = {
        "2026-11-27 07:59": 80,  # a Friday
        "2026-11-27 08:00": 20,
        "2026-11-27 19:59": 20,
        "2026-11-27 20:00": 80,
        "2026-11-28 12:00": 80,
    }
    assert {text: rate_at(timetable, text) // MIB for text in at} == at


def test_where_no_line_holds_there_is_no_limit():
    """A limit for some days is none for the others."""
    timetable = parse_timetable("5 MiB/s Sat,Sun")
    assert rate_at(timetable, "2026-11-28 12:00") == 5 * MIB
    assert rate_at(timetable, "2026-11-30 12:00") is None


def test_night_belongs_to_the_day_on_which_it_begins():
    """Friday from 22:00 to 06:00 reaches into Saturday, and not from Thursday into Friday."""
    timetable = parse_timetable("5 MiB/s Fri 22:00-06:00")
    held = [text for text in ("27 05:00", "27 23:00", "28 05:59", "28 06:00") if rate_at(timetable, f"2026-11-{text}")]
    assert held == ["27 23:00", "28 05:59"]


def test_days_may_reach_over_the_end_of_the_week():
    """Sat-Mon is three days."""
    timetable = parse_timetable("5 MiB/s Sat-Mon")
    held = [day for day in range(23, 30) if rate_at(timetable, f"2026-11-{day} 12:00")]
    assert held == [23, 28, 29]


def test_hours_are_those_of_the_clock_on_the_wall():
    """When clocks go back the hour holds twice; when they go forward it begins where the clock is by then."""
    back = parse_timetable("5 MiB/s 02:00-03:00")
    assert [rate_at(back, "2026-10-25 02:30", fold=fold) for fold in (0, 1)] == [5 * MIB] * 2
    forward = parse_timetable("5 MiB/s 02:30-04:00")
    assert rate_at(forward, "2026-03-29 01:59") is None
    assert rate_at(forward, "2026-03-29 03:00") == 5 * MIB


def test_nothing_but_unlimited_is_no_limit():
    """What limits at no hour costs what no key costs."""
    assert parse_timetable(["unlimited 08:00-09:00", "unlimited"]) is NO_LIMIT


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (20, "a rate like"),
        ([], "a rate like"),
        ([20], "a rate like"),
        ("", "a rate like"),
        ("fast", "a rate like"),
        ("-1 MiB/s", "a rate like"),
        ("20 MiB", "a rate like"),
        ("20 MiB/s08:00-09:00", "a rate like"),
        ("20 Mib/s", "one of KiB/s, MiB/s"),
        ("0 MiB/s", "at least 64 KiB/s"),
        ("1 KiB/s", "at least 64 KiB/s"),
        ("5 MiB/s 8-20", "days like Mon-Fri"),
        ("5 MiB/s 8:0-20:00", "hours like 08:00-20:00"),
        ("5 MiB/s 08:00-24:01", "from 00:00 to 24:00"),
        ("5 MiB/s 24:00-08:00", "from 00:00 to 24:00"),
        ("5 MiB/s 08:60-09:00", "from 00:00 to 24:00"),
        ("5 MiB/s 08:00-08:00", "another time"),
        ("5 MiB/s mon", "days like Mon-Fri"),
        ("5 MiB/s Mon-Wed-Fri", "days like Mon-Fri"),
        ("5 MiB/s Mon Tue", "one list of days"),
        ("5 MiB/s 08:00-09:00 10:00-11:00", "one pair of hours"),
        (["5 MiB/s", "unlimited Sat"], "must be the last one"),
        (["5 MiB/s Sat"] * 101, "at most 100"),
    ],
)
def test_what_is_no_timetable_is_refused_with_what_is_allowed(value, said):
    """Each mistake has its own words."""
    with pytest.raises(ValueError, match=said):
        parse_timetable(value)


@pytest.mark.parametrize(("rate", "text"), [(20 * MIB, "20 MiB/s"), (12_500_000, "11.9 MiB/s"), (1 << 16, "64 KiB/s")])
def test_rate_is_shown_in_the_largest_unit(rate, text):
    """A status says a rate as a person writes it."""
    assert shown_rate(rate) == text
