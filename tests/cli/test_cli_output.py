"""What reaches a terminal."""

import io
import sys
import time
from datetime import UTC, datetime

import pytest

from mlsync.cli.terminal import output


@pytest.fixture
def in_berlin(monkeypatch):
    """The time zone of a city that changes its clocks."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_heading_names_both_zones_where_clocks_were_changed(in_berlin):
    """Of times in winter and in summer each is in the zone of its season, and the heading names both."""
    winter, summer = (int(datetime(2026, month, 1, 12, tzinfo=UTC).timestamp()) * 10**9 for month in (1, 7))
    assert (output.zone((winter,)), output.zone((summer,)), output.zone((winter, summer))) == (
        "CET",
        "CEST",
        "CET/CEST",
    )
    assert (output.moment(winter), output.moment(summer)) == ("2026-01-01 13:00:00", "2026-07-01 14:00:00")
    assert output.zoned(winter).split() == ["2026-01-01", "13:00:00", "CET"]
    assert output.zone(()) == "local"


def test_nothing_that_a_terminal_would_obey_is_printed(capsys):
    """Escapes, line breaks and lone surrogates of names and findings are shown, not sent."""
    output.say("record 'a\x1b[31m\n\udc80b' ✓")
    assert capsys.readouterr().out == "record 'a\\u001b[31m\\u000a\\udc80b' ✓\n"


def test_letters_that_the_encoding_lacks_are_escaped(monkeypatch):
    """A terminal that knows no Chinese shows which letters there are, and the command goes on."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    output.say("猫 é")
    assert output.message("猫", sys.stdout) == "\\u732b"
    sys.stdout.flush()
    assert raw.getvalue() == b"\\u732b \xe9\n"
