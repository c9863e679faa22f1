"""The last pass of a run, before the agent ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.errors import RunLocked, SourceMissing, StoreUnavailable
from mlsync.service.job import Heartbeat
from mlsync.service.worker import LastPass, Timing, Worker

PATIENCE_S = 30.0


class Job:
    """A job that makes a version each time; *meets* is what the first passes raise, or ``"wait"`` for a long one."""

    holds = None

    name = "yolo"
    directory = Path("/nowhere")

    def __init__(self, *meets):
        self.heartbeat = Heartbeat()
        self.begun = threading.Semaphore(0)
        self.deadlines = []
        self.interruptions = []
        self._meets = list(meets)

    def prepare(self):
        """Nothing to get ready."""

    def rests_until_s(self, since_s):
        """Nobody else needs the processors."""
        return float("-inf")

    def run(self, stop, *, may_join=False, deadline_s=None):
        """One pass."""
        self.deadlines.append(deadline_s)
        self.interruptions.append(stop)
        self.begun.release()
        meets = self._meets.pop(0) if self._meets else None
        if meets == "wait":
            assert stop.wait(PATIENCE_S)
            return PassResult("yolo", None, None, (), "")
        if meets is not None:
            raise meets
        number = len(self.deadlines)
        return PassResult("yolo", number, number, (), f"version {number}")


def started(*meets):
    """A worker whose first pass has begun, its job, and its monitor."""
    job, monitor = Job(*meets), RecordingMonitor()
    worker = Worker(job, Timing(), monitor, lambda: None)
    worker.start()
    assert job.begun.acquire(timeout=PATIENCE_S)
    return worker, job, monitor


def ended(worker):
    worker.thread.join(PATIENCE_S)
    assert not worker.thread.is_alive()
    return worker.last


def test_it_interrupts_the_pass_under_way_and_knows_its_deadline():
    """The newest files are not behind those of a pass that began long ago."""
    worker, job, _ = started("wait")
    deadline_s = time.monotonic() + 60
    worker.last_pass(deadline_s)
    assert ended(worker) == LastPass(None, 2)
    assert job.deadlines == [None, deadline_s]
    assert job.interruptions[0].by_s <= time.monotonic() + 3
    assert job.interruptions[1].by_s == deadline_s
    assert not job.interruptions[1].is_set()
    assert (worker.state.last_version, worker.state.phase) == (2, "stopped")


def test_its_failure_is_told_as_such():
    """A person learns that what is on the disk is not stored."""
    worker, _, monitor = started("wait", StoreUnavailable("the store is away"))
    worker.last_pass(time.monotonic() + 60)
    assert ended(worker) == LastPass("the store is away")
    assert monitor.notices == [("error", "yolo: the last pass failed: the store is away")]
    assert worker.state.last_error == "the store is away"


def test_a_bug_in_it_is_told(caplog: pytest.LogCaptureFixture):
    """An error that nobody expects ends the run's last pass, and neither the thread nor the agent."""
    worker, _, _ = started("wait", ZeroDivisionError("a bug"))
    with caplog.at_level("CRITICAL"):
        worker.last_pass(time.monotonic() + 60)
        assert ended(worker) == LastPass("a bug")


def test_a_directory_that_never_came_is_no_failure():
    """Nothing was ever saved of it, and nothing is lost."""
    worker, _, monitor = started("wait", SourceMissing("no directory"))
    worker.last_pass(time.monotonic() + 60)
    assert ended(worker) == LastPass()
    assert monitor.notices == []


def test_a_run_of_another_process_has_none():
    """What another process holds is backed up there."""
    worker, job, _ = started(RunLocked("another process backs it up"))
    while worker.state.locked is None or worker.state.phase == "running":
        time.sleep(0.01)
    worker.last_pass(time.monotonic() + 60)
    assert ended(worker) == LastPass("another process backs it up")
    assert job.deadlines == [None]


def test_it_can_be_stopped_too():
    """Whoever signals twice does not want to wait for it."""
    worker, job, _ = started("wait", "wait")
    worker.last_pass(time.monotonic() + 3600)
    assert job.begun.acquire(timeout=PATIENCE_S)
    worker.stop()
    assert ended(worker) == LastPass()


def test_without_it_a_worker_just_ends():
    """A stop alone makes no pass."""
    worker, job, _ = started("wait")
    worker.stop()
    assert ended(worker) is None
    assert job.deadlines == [None]


@pytest.mark.parametrize(("left_s", "commits"), [(60, True), (None, False)])
def test_only_a_deadline_has_a_version_committed_without_its_proof(left_s, commits):
    """Where there is time, the last pass proves what the one under way had only stored."""
    worker, job, _ = started("wait")
    worker.last_pass(None if left_s is None else time.monotonic() + left_s)
    ended(worker)
    assert job.interruptions[0].commits is commits
