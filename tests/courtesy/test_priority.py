"""A process that stands back does so in all that decides, and in nothing that is others'."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from standing import LAST, needs_autogroups, standing_of

from mlsync.courtesy import priority

SOURCE = Path(priority.__file__)
# The file alone, as the programs that prove checkpoints have it.
ALONE = [sys._base_executable, "-I", "-S", "-c"]
WAIT = "\nprint('ready', flush=True)\ninput()\n"


@pytest.fixture
def started():
    """Starts a process that does *what* with the module's functions and then waits to be looked at."""
    running = []

    def start(what, *, before=""):
        words = [*ALONE, f"{SOURCE.read_text()}\n{what}{WAIT}"]
        if before:
            words = ["sh", "-c", f'{before} exec "$@"', "sh", *words]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, start_new_session=True))
        return running[-1]

    yield start
    for process in running:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def look(process):
    """The standing of a process that is ready to be looked at."""
    assert process.stdout.readline() == "ready\n"
    return standing_of(process.pid)


def test_a_process_stands_behind_all_others(started):
    """Policy, nice value, the session's weight and the disk's class are those of the last in line."""
    needs_autogroups()
    assert look(started("stand_back()")) == LAST


def test_threads_and_processes_stand_back_with_it(started):
    """What is started afterwards has all of it, a session of its own too once the process asked for that."""
    needs_autogroups()
    what = "stand_back()\nimport os\nif os.fork(): os.wait(); os._exit(0)\nos.setsid()\nfollow()\nprint(os.getpid())"
    process = started(what)
    child = int(process.stdout.readline())
    assert process.stdout.readline() == "ready\n"
    assert standing_of(child) == LAST
    os.killpg(child, 9)


def test_threads_that_are_there_stand_back_too(started):
    """What a library started when it was loaded keeps no higher priority."""
    what = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nstand_back()"
    process = started(what)
    assert process.stdout.readline() == "ready\n"
    threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
    assert len(threads) == 2
    seen = {(os.sched_getscheduler(one), os.getpriority(os.PRIO_PROCESS, one)) for one in threads}
    assert seen == {(LAST.policy, LAST.nice)}


def test_who_does_not_stand_back_is_not_followed(started):
    """A child of a process that is quick stays as it is."""
    before = standing_of(os.getpid())
    assert look(started("follow()")).policy == before.policy
    if before.session_nice is not None and before.policy == os.SCHED_OTHER:
        assert look(started("follow()")).session_nice == 0


def test_a_session_with_others_in_it_is_left_alone(started):
    """Who shares a session with a trainer stands behind it within the session, whose own weight stays."""
    needs_autogroups()
    process = started("stand_back()", before="sleep 60 &")
    assert look(process) == standing_of(process.pid)
    assert standing_of(process.pid) == LAST.__class__(LAST.policy, LAST.nice, 0, LAST.disk_class)


def test_ordinary_users_come_through_the_kernels_limit(started):
    """The kernel accepts ten such writes a second from users without rights: four at once all get there."""
    needs_autogroups()
    if os.getuid() != 0:
        pytest.skip("becoming other users takes root")
    # A process that becomes another user's is hidden from itself, which PR_SET_DUMPABLE (4) ends.
    drop = "os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\nctypes.CDLL(None).prctl(4, 1, 0, 0, 0)"
    processes = [started(f"{drop}\nstand_back()") for _ in range(4)]
    assert [look(process) for process in processes] == [LAST] * 4


def test_nothing_is_raised(started):
    """Who stands further back already stays there."""
    what = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nos.nice(19)\nstand_back()"
    seen = look(started(what))
    assert (seen.policy, seen.nice) == (os.SCHED_IDLE, 19)


def test_what_the_kernel_refuses_is_left_as_it_is(started):
    """Where no call and no file is granted, nothing fails, and the description says so."""
    what = (
        "def refuse(*_): raise PermissionError(1, 'no')\n"
        "os.sched_setscheduler = os.setpriority = refuse\nAUTOGROUP = '/nonexistent'\n_IOPRIO_SET = {}\n"
        "stand_back()\nprint(describe(), flush=True)"
    )
    process = started(what)
    said = process.stdout.readline()
    assert "ordinary policy, nice 0" in said or standing_of(os.getpid()).policy != os.SCHED_OTHER
    assert process.stdout.readline() == "ready\n"


def test_the_description_says_what_holds(started):
    """It names each part as the kernel has it."""
    needs_autogroups()
    process = started("stand_back()\nprint(describe(), flush=True)")
    said = process.stdout.readline()
    assert said == "processor: batch policy, nice 19, its session nice 19; disk: idle class\n"


def test_a_kernel_without_weights_for_sessions_is_told_apart(tmp_path):
    """No such file, or another content, is no weight."""
    assert priority.session_nice(str(tmp_path / "absent")) is None
    (tmp_path / "autogroup").write_text("/autogroup-7 nice -3\n")
    assert priority.session_nice(str(tmp_path / "autogroup")) == -3
    (tmp_path / "autogroup").write_text("something else\n")
    assert priority.session_nice(str(tmp_path / "autogroup")) is None


def test_time_in_line_is_told_of_processes_that_are_there():
    """Seconds in the run queue for a process, nothing for none."""
    assert priority.waited_for_processor_s(os.getpid()) >= 0
    assert priority.waited_for_processor_s(1 << 30) == 0
