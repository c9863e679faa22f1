"""A command that goes on in a session of its own looks from outside as if it had not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from standing import LAST, needs_autogroups, standing_of

BEGIN = (
    "import os, signal, sys, time\n"
    "from mlsync.courtesy.priority import stand_back\n"
    "from mlsync.courtesy.session import go_on_in_own_session\n"
    "go_on_in_own_session()\n"
    "stand_back()\n"
)
READY = "print(os.getpid(), flush=True)\n"
PATIENCE_S = 20.0


@pytest.fixture
def command():
    """Starts a command in the session of the tests, which holds others; gives its process and the one that works."""
    needs_autogroups()
    running = []

    def start(what, **environment):
        words = [sys.executable, "-c", BEGIN + READY + what]
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=os.environ | environment)
        running.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def gone(pid):
    """Wait until there is no such process."""
    deadline_s = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}/stat").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_the_work_has_a_session_of_its_own(command):
    """The work goes on last in line, alone in its session; the session that it was started in keeps its weight."""
    before = standing_of(os.getpid()).session_nice
    process, worker = command("input()")
    assert worker != process.pid
    assert os.getsid(worker) == worker
    assert os.getsid(process.pid) == os.getsid(0)
    assert standing_of(worker) == LAST
    assert standing_of(os.getpid()).session_nice == before


def test_the_exit_status_is_the_works(command):
    """A script sees the status that the work ended with."""
    process, _ = command("sys.exit(42)")
    assert process.wait(PATIENCE_S) == 42


def test_input_and_output_are_the_works(command):
    """What is written to the command reaches the work, and its answer comes back."""
    process, _ = command("print(input()[::-1])")
    out, _ = process.communicate("abc\n", timeout=PATIENCE_S)
    assert out == "cba\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_handed_on(command, number):
    """The work hears what is sent to the command, and ends as it likes."""
    process, _ = command(
        f"signal.signal({number}, lambda *_: sys.exit(7))\nprint('hears', flush=True)\ntime.sleep({PATIENCE_S})"
    )
    assert process.stdout.readline() == "hears\n"
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 7


def test_a_work_that_dies_of_a_signal_is_told_as_such(command):
    """A shell sees the signal that the work died of."""
    process, worker = command("input()")
    os.kill(worker, signal.SIGKILL)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL


def test_the_work_does_not_outlive_the_command(command):
    """SIGKILL for the command is one for the work."""
    process, worker = command("input()")
    process.kill()
    process.wait()
    gone(worker)


def test_stopping_stops_the_work(command):
    """Ctrl-Z stops both, and "fg" lets both go on."""
    process, worker = command("print(input())")
    process.send_signal(signal.SIGTSTP)
    for pid in (worker, process.pid):
        deadline_s = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate("on\n", timeout=PATIENCE_S)
    assert (out, process.returncode) == ("on\n", 0)


def test_who_waits_holds_no_secret(command):
    """The process that waits has nothing of the environment but what a Python needs to start."""
    process, _ = command("input()", MLSYNC_PASSPHRASE="open sesame")
    deadline_s = time.monotonic() + PATIENCE_S
    while b"waiting.py" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    kept = {one.partition(b"=")[0] for one in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0") if one}
    assert kept <= {b"PATH", b"LD_LIBRARY_PATH"}


def test_who_is_alone_in_a_session_stays_there():
    """As under systemd, or as a container's first process: nothing is forked."""
    needs_autogroups()
    words = [sys.executable, "-c", "import os\nbefore = os.getpid()\n" + BEGIN + "print(os.getpid() == before)"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, start_new_session=True)
    assert done.stdout == "True\n"
