"""What the service manager is notified of, with a real socket."""

from __future__ import annotations

import os
import socket

import pytest

from mlsync.service.unit.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        name = str(tmp_path / "n") if request.param == "path" else f"@mlsync-test-{os.getpid()}"
        listening.bind(name.replace("@", "\0"))
        yield name, listening


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
