"""What systemd hears, against a real socket."""

from __future__ import annotations

import io
import logging
import os
import socket
import sys

import pytest

from mlsync.service.notify import JournalFormatter, LogMonitor, Notifier, is_journal, log_to


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        name = str(tmp_path / "n") if request.param == "path" else f"@mlsync-test-{os.getpid()}"
        listening.bind(name.replace("@", "\0"))
        yield name, listening


@pytest.fixture
def logs():
    """The loggers as they were, afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("mlsync")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_each_message_reaches_the_manager(manager):
    """Readiness, status, life and end arrive as systemd spells them."""
    name, listening = manager
    notifier = Notifier(name)
    notifier.ready()
    notifier.status("2 runs\nnothing new")
    notifier.alive()
    notifier.reloading()
    notifier.stopping()
    heard = [listening.recv(4096).decode() for _ in range(5)]
    assert heard[:3] == ["READY=1", "STATUS=2 runs nothing new", "WATCHDOG=1"]
    assert heard[3].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert heard[4] == "STOPPING=1"


def test_without_a_manager_nothing_happens(tmp_path):
    """No socket, or one where nobody listens, is no error."""
    Notifier(None).ready()
    Notifier(str(tmp_path / "absent")).ready()


def test_the_environment_is_read_once_and_cleared():
    """The watchdog's time is ours only if it names our process, and no child can speak for the agent."""
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    assert (Notifier.from_environment(environ).watchdog_s, environ) == (3.0, {})
    assert Notifier.from_environment({"WATCHDOG_USEC": "3000000"}).watchdog_s == 3.0
    assert Notifier.from_environment({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier.from_environment({"WATCHDOG_USEC": "junk"}).watchdog_s is None
    assert Notifier.from_environment({}).watchdog_s is None


def test_journal_lines_carry_priorities():
    """Each line of a record, a traceback's too, carries the priority that journalctl sorts by."""
    try:
        raise ValueError("bad")
    except ValueError:
        record = logging.LogRecord("mlsync", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    lines = JournalFormatter("%(message)s").format(record).splitlines()
    assert lines[0] == "<3>failed"
    assert lines[-1] == "<3>ValueError: bad"
    assert all(line.startswith("<3>") for line in lines)
    for level, number in ((logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.CRITICAL, 2)):
        record = logging.LogRecord("mlsync", level, "f", 1, "x", (), None)
        assert JournalFormatter("%(message)s").format(record) == f"<{number}>x"


def test_priorities_go_to_the_journal_alone(tmp_path, logs):
    """Standard error that was redirected into a file gets times and no priorities."""
    with (tmp_path / "log").open("w+") as stream:
        info = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{info.st_dev}:{info.st_ino}"}
        assert is_journal(stream, environ)
        assert not is_journal(stream, {"JOURNAL_STREAM": "1:2"})
        log_to(stream, environ=environ)
        LogMonitor().notice("warning", "two\nlines")
        log_to(stream, environ={})
        LogMonitor().notice("error", "late")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert lines[0] == "<4>two\\nlines"
    assert lines[1].endswith("ERROR   late")
    assert not is_journal(io.StringIO(), {})
