"""When a run is backed up, with a clock of the test's own."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.courtesy.share import LOOK_S
from mlsync.errors import (
    ProofTimedOut,
    RunLocked,
    RunOfAnother,
    SourceEmptied,
    SourceMissing,
    SourceUnreadable,
    Stopped,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from mlsync.service.job import Heartbeat
from mlsync.service.watching.holds import Holds
from mlsync.service.watching.trigger import Changes, ChangeTimes, SaveTimes
from mlsync.service.worker import Timing, Worker

PATIENCE_S = 30.0


class Clock:
    """Stands until it is set."""

    def __init__(self):
        self.now_s = 1000.0
        self.wall_s = 5000.0

    def __call__(self):
        """The time."""
        return self.now_s

    def wall(self):
        """The time of day."""
        return self.wall_s


class Job:
    """A job whose passes end as the test's list says."""

    holds = None

    name = "yolo"
    directory = Path("/nowhere")

    def __init__(self, clock, ends):
        self.heartbeat = Heartbeat(clock)
        self.rested_until_s = -math.inf
        self._ends = iter(ends)

    def prepare(self):
        """Nothing to get ready."""

    def rests_until_s(self, since_s):
        """Nobody else needs the processors."""
        return self.rested_until_s

    def run(self, stop, *, may_join=False, deadline_s=None):
        """The next end."""
        end = next(self._ends)
        if isinstance(end, Exception):
            raise end
        return end


def outcome(version=None, *troubles, proved=True):
    return PassResult("yolo", version, version if proved else None, troubles, f"version {version}")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(clock):
    def make(*ends, uniform=lambda _low, high: high, **timing):
        monitor = RecordingMonitor()
        worker = Worker(
            Job(clock, ends),
            Timing(**timing),
            monitor,
            lambda: None,
            clock=clock,
            wall=lambda: clock.wall_s,
            uniform=uniform,
        )
        return worker, monitor

    return make


def test_the_first_pass_comes_at_once(make):
    """A fresh agent catches up with what changed while none ran, even if it goes by the clock only."""
    assert make()[0].due(Changes(), False) == -math.inf
    assert make(on_change=False)[0].due(Changes(), False) == -math.inf


def test_changes_settle_first(make, clock):
    """A pass begins when files were quiet for so long, or kept changing for so long."""
    worker, _ = make(outcome(1), settle_s=2.0, settle_max_s=60.0, rescan_s=300.0)
    worker._pass()
    assert worker.due(Changes(), False) == 1300.0
    assert worker.due(Changes(files=ChangeTimes(1000.0, 1000.0)), False) == 1002.0
    assert worker.due(Changes(files=ChangeTimes(1000.0, 1030.0)), False) == 1032.0
    assert worker.due(Changes(files=ChangeTimes(1000.0, 1059.5)), False) == 1060.0
    assert worker.due(Changes(files=ChangeTimes(1000.0, 1059.5)), True) == -math.inf


def test_a_pass_for_changes_waits_while_its_job_rests(make, clock):
    """Saves, files and logs wait for the processors; a request, a rescan and a failure's next try do not."""
    worker, _ = make(outcome(1), settle_s=2.0, settle_max_s=60.0, rescan_s=300.0, join_logs_s=0.0)
    worker._pass()
    times = ChangeTimes(1000.0, 1001.0)
    for changes in (Changes(saves={b"a": SaveTimes(times)}), Changes(files=times), Changes(logs=times)):
        worker.job.rested_until_s = 1080.0
        assert worker._plan(changes, is_requested=False) == 1080.0
        assert (worker.state.rests, worker._asks_again_s()) == (True, LOOK_S)
        assert worker._plan(changes, is_requested=True) == -math.inf
        assert (worker.state.rests, worker._asks_again_s()) == (False, math.inf)
        worker.job.rested_until_s = 1002.0
        assert worker._plan(changes, is_requested=False) in {1002.0, 1003.0}
    worker.job.rested_until_s = 5000.0
    assert worker._plan(Changes(), is_requested=False) == 1300.0
    assert not worker.state.rests


def test_a_job_is_asked_since_when_something_waits(make):
    """The first of all changes decides: the bound on waiting counts from there."""
    worker, _ = make(outcome(1))
    worker._pass()
    asked = []
    worker.job.rests_until_s = lambda since_s: asked.append(since_s) or -math.inf
    worker._plan(Changes(files=ChangeTimes(990.0, 1000.0), logs=ChangeTimes(970.0, 1000.0)), is_requested=False)
    worker._plan(Changes(logs=ChangeTimes(980.0, 1000.0)), is_requested=False)
    worker._plan(Changes(saves={b"a": SaveTimes(ChangeTimes(985.0, 1000.0))}), is_requested=False)
    assert asked == [970.0, 980.0, 985.0]


def test_a_rest_that_ends_early_wakes_the_worker(make, clock):
    """Its job is asked again and again, so that a training's end does not wait for the planned time."""
    job = Job(clock, [outcome(1), outcome(2)])
    job.rested_until_s = -math.inf
    passes = threading.Semaphore(0)
    run = job.run

    def counted(*arguments, **how):
        passes.release()
        return run(*arguments, **how)

    job.run = counted
    worker = Worker(job, Timing(settle_s=0.0), RecordingMonitor(), lambda: None, clock=clock, wall=lambda: 0.0)
    worker._asks_again_s = lambda: 0.01
    worker.start()
    assert passes.acquire(timeout=PATIENCE_S)
    job.rested_until_s = math.inf
    worker.trigger.note_change()
    assert not passes.acquire(timeout=0.1)
    job.rested_until_s = -math.inf
    assert passes.acquire(timeout=PATIENCE_S)
    worker.stop()
    worker.thread.join(PATIENCE_S)


def test_without_on_change_only_requests_count(make):
    """An agent that goes by the clock takes no notice of changes."""
    worker, _ = make(outcome(1), on_change=False)
    worker._pass()
    assert worker.due(Changes(files=ChangeTimes(1.0, 1.0)), False) == math.inf
    assert worker.due(Changes(), True) == -math.inf


def test_failures_are_retried_later_and_later(make, clock):
    """The wait doubles from five seconds to ten minutes, and the notice tells it."""
    worker, monitor = make(*[StoreUnavailable("the store is away")] * 10)
    waits = []
    for _ in range(10):
        worker._pass()
        waits.append(worker.due(Changes(), False) - clock.now_s)
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert monitor.notices[0] == ("error", "yolo: the store is away; next try in 5 s")
    assert worker.state.failures == 10


def test_retries_are_spread(make):
    """Two agents whose store went away together do not come back together, and none sooner than five seconds."""
    worker, _ = make(*[StoreUnavailable("away")] * 40, uniform=lambda low, high: low)
    delays = []
    for _ in range(40):
        worker._pass()
        delays.append(worker.due(Changes(), False) - 1000.0)
    assert delays[:4] == [5, 5, 10, 20]
    assert delays[-1] == 300


def test_changes_do_not_hasten_a_retry_but_requests_do(make):
    """A store that is away is not asked with every file that is saved; a person who asks is heard."""
    worker, _ = make(StoreUnavailable("away"))
    worker._pass()
    assert worker.due(Changes(files=ChangeTimes(0.0, 0.0)), False) == 1005.0
    assert worker.due(Changes(files=ChangeTimes(0.0, 0.0)), True) == -math.inf


def test_a_run_of_another_writer_is_tried_seldom(make):
    """A person, a restore here or the other writer's end changes it: ten minutes, shown as refused, until it works."""
    worker, monitor = make(RunOfAnother("it is another one's"), StoreUnavailable("away"), outcome(9))
    worker._pass()
    assert (worker.due(Changes(), False), worker._idle_phase()) == (1600.0, "refused")
    assert worker.due(Changes(files=ChangeTimes(1000.0, 1000.0)), False) == 1600.0
    assert worker.due(Changes(), True) == -math.inf
    assert worker.state.locked is None
    assert monitor.notices == [("error", "yolo: it is another one's; next try in 600 s")]
    worker._pass()
    assert worker._idle_phase() == "retrying"
    worker._pass()
    assert (worker._idle_phase(), worker.state.last_error, worker.state.last_version) == ("waiting", None, 9)


def test_success_ends_the_retries(make):
    """After a success failures are forgotten, and a person is told that it works again."""
    worker, monitor = make(StoreUnavailable("away"), outcome(7), StoreUnavailable("away"))
    worker._pass()
    worker._pass()
    assert (worker.state.failures, worker.state.last_error, worker.state.last_version) == (0, None, 7)
    assert worker.due(Changes(files=ChangeTimes(1000.0, 1000.0)), False) == 1002.0
    assert monitor.notices[1:] == [("info", "yolo: works again after 1 failed attempt"), ("info", "yolo: version 7")]
    worker._pass()
    assert worker.due(Changes(), False) == 1005.0


def test_a_directory_that_is_not_there_yet_is_waited_for(make, clock):
    """Before the first version it is no failure, is told once, and delays nothing when the trainer makes it."""
    worker, monitor = make(*[SourceMissing("it is not there")] * 30, outcome(1), SourceMissing("it is not there"))
    for _ in range(30):
        worker._pass()
        assert (worker._idle_phase(), worker.state.failures) == ("waiting", 0)
        assert worker.due(Changes(), False) == clock.now_s + 60
        clock.now_s += 60
    assert worker.due(Changes(files=ChangeTimes(clock.now_s, clock.now_s)), False) == clock.now_s + 2
    assert monitor.notices == [("info", "yolo: /nowhere is not there yet; waiting for it")]
    assert worker.state.last_error == "/nowhere is not there yet"
    worker._pass()
    assert monitor.notices[1:] == [("info", "yolo: version 1")]
    assert worker.state.last_error is None
    worker._pass()
    assert worker._idle_phase() == "retrying"
    assert monitor.notices[-1] == ("error", "yolo: it is not there; next try in 5 s")


def test_what_changed_during_a_pass_waits_for_the_next_one(make, clock):
    """A pass speaks for what was there when it began, not when it ended."""
    worker, _ = make(outcome(1))
    real = worker.job.run

    def run(stop):
        clock.wall_s += 100.0
        return real(stop)

    worker.job.run = run
    worker._pass()
    assert worker.state.last_pass_s == 5000.0
    assert worker.state.last_version_s == 5100.0


@pytest.mark.expected_warnings("yolo: unexpected error")
def test_bugs_are_logged_and_retried(make, caplog):
    """An exception that nobody expected leaves its traceback in the log and is retried like a failure."""
    worker, _ = make(ZeroDivisionError("a bug"), outcome(1))
    worker._pass()
    assert caplog.records[0].exc_info[0] is ZeroDivisionError
    assert worker.due(Changes(), False) == 1005.0
    worker._pass()
    assert worker.state.failures == 0


def test_a_version_that_was_not_proved_is_not_counted_as_proved(make):
    """The last proved version stays when a later one was not proved."""
    worker, _ = make(outcome(1), outcome(2, proved=False), outcome(None))
    for _ in range(3):
        worker._pass()
    assert (worker.state.last_version, worker.state.last_proved_version) == (2, 1)


def test_a_trouble_is_told_when_it_begins(make):
    """A checkpoint that stays broken is told once, and again only if it was whole in between."""
    worker, monitor = make(
        outcome(1, "a.pt is broken"), outcome(None, "a.pt is broken"), outcome(2), outcome(3, "a.pt is broken")
    )
    for _ in range(4):
        worker._pass()
    assert [text for severity, text in monitor.notices if severity == "warning"] == ["yolo: a.pt is broken"] * 2


def test_a_run_of_another_agent_is_given_up(make):
    """A run whose lock was never ours is given up, and looked at again only every ten minutes."""
    worker, _ = make(StoreUnavailable("away"), RunLocked("another mlsync works on run yolo"), outcome(1))
    worker._pass()
    assert worker.state.locked is None
    worker._pass()
    assert worker.state.locked is not None
    assert worker.due(Changes(files=ChangeTimes(0.0, 0.0)), False) == 1600.0
    worker._pass()
    assert worker.state.locked is None


def test_a_run_that_was_ours_is_not_given_up(make):
    """A lock that a backup by hand holds for a while delays the run like any failure."""
    worker, _ = make(outcome(1), RunLocked("another mlsync works on run yolo"))
    worker._pass()
    worker._pass()
    assert worker.state.locked is None
    assert worker.due(Changes(), False) == 1005.0


def test_a_pass_cut_short_says_nothing(make):
    """A pass that was told to stop counts neither as success nor as failure."""
    worker, monitor = make(outcome(None), StoreUnavailable("cut"))
    worker.stop()
    worker._pass()
    worker._pass()
    assert (worker.state.last_pass_s, worker.state.failures, monitor.notices) == (None, 0, [])


def test_a_hung_worker_is_known(make, clock):
    """A pass without progress hangs; one that goes forward, however slowly, does not."""
    worker, _ = make()
    worker.thread = threading.main_thread()
    worker.state.phase = "running"
    worker.job.heartbeat.beat()
    clock.now_s += 100
    assert worker.hung(60)
    for _ in range(3):
        worker.job.heartbeat.beat()
        assert not worker.hung(60)
        clock.now_s += 50
    assert not worker.hung(60)


def test_a_sleeping_worker_does_not_hang_unless_it_oversleeps(make, clock):
    """A worker that waits for its next pass is well until long after that was due; a dead one never is."""
    worker, _ = make()
    worker.thread = threading.main_thread()
    worker.state.next_try_s = clock.now_s + 1000
    assert not worker.hung(60)
    clock.now_s += 1059
    assert not worker.hung(60)
    clock.now_s += 2
    assert worker.hung(60)
    worker.thread = threading.Thread()
    clock.now_s -= 2000
    assert worker.hung(60)
    worker.stop()
    assert not worker.hung(60)


LOGS = Changes(logs=ChangeTimes(1000.0, 1500.0))


def test_each_checkpoint_settles_by_itself(make):
    """A checkpoint whose last file is there settles for less than one of which more is to come, whatever a log does."""
    worker, _ = make(outcome(1), settle_s=2.0, settle_max_s=60.0, rescan_s=900.0)
    worker._pass()
    times = ChangeTimes(1000.0, 1010.0)
    logs = ChangeTimes(990.0, 1010.5)
    assert worker.due(Changes({b"checkpoint-1": SaveTimes(times)}, logs=logs), False) == 1012.0
    assert worker.due(Changes({b"checkpoint-1": SaveTimes(times, has_ended=True)}, logs=logs), False) == 1010.3
    assert worker.due(Changes({b"": SaveTimes(times, is_alone=True)}, logs=logs), False) == 1010.5
    both = {b"checkpoint-1": SaveTimes(times, has_ended=True), b"checkpoint-2": SaveTimes(ChangeTimes(1000.0, 1020.0))}
    assert worker.due(Changes(both), False) == 1010.3


def test_no_checkpoint_settles_longer_than_the_configuration_says(make):
    """With settle = 0s a pass begins at once."""
    worker, _ = make(outcome(1), settle_s=0.0)
    worker._pass()
    save = SaveTimes(ChangeTimes(1000.0, 1010.0), has_ended=True)
    assert worker.due(Changes({b"": save}), False) == 1010.0


def test_logs_alone_wait_for_the_next_version(make, clock):
    """A log's first line after a quiet time is stored soon; after a version logs wait for the next one, or so long."""
    worker, _ = make(outcome(1), settle_s=2.0, rescan_s=9000.0, join_logs_s=300.0)
    assert worker._due_by(LOGS) == 1002.0
    worker._pass()
    assert worker.due(LOGS, False) == 1300.0
    assert worker._joins_logs(LOGS)
    assert not worker._joins_logs(Changes(files=ChangeTimes(1000.0, 1000.0), logs=LOGS.logs))
    clock.now_s = 1300.0
    assert not worker._joins_logs(LOGS)


def test_a_rescan_too_leaves_logs_to_the_next_version(make, clock):
    """A pass without news of a checkpoint may join logs, one that somebody asked for may not."""
    asked = []
    worker, _ = make(outcome(1))
    worker._pass()

    def run(stop, *, may_join=False):
        asked.append(may_join)
        if len(asked) == 3:
            worker.stop()
        elif len(asked) == 1:
            worker.trigger.request()
        else:
            worker.trigger.note_save(b"checkpoint-1", has_ended=True)
            clock.now_s += 10
        return PassResult("yolo", None, None, (), "", waits=may_join)

    worker.job.run = run
    clock.now_s += 100
    worker._live()
    assert asked == [True, False, False]
    assert worker.state.last_pass_s == 5000.0


def test_a_directory_that_comes_back_is_not_kept_waiting(make):
    """What ended a failure of the directory is heard at once; a store that is away keeps its back-off."""
    worker, _ = make(outcome(1), SourceMissing("gone"), SourceEmptied("empty"), StoreUnavailable("away"))
    here = Changes(files=ChangeTimes(1000.0, 1000.0))
    worker._pass()
    for _ in range(2):
        worker._pass()
        assert worker.due(here, False) == 1002.0
        assert worker.due(Changes(), False) == 1005.0
    worker._pass()
    assert worker.due(here, False) == 1005.0


def test_failures_of_different_kinds_do_not_add_up(make, clock):
    """The wait for a store begins anew after a failure of another kind, and a directory never waits beyond a rescan."""
    away, denied, unread = StoreUnavailable("away"), StoreDenied("denied"), SourceUnreadable("unreadable")
    worker, _ = make(*[away] * 4, denied, away, *[unread] * 8, rescan_s=60.0)
    waits = []
    for _ in range(14):
        worker._pass()
        waits.append(worker.due(Changes(), False) - clock.now_s)
    assert waits == [5, 10, 20, 40, 5, 5, 5, 10, 20, 40, 60, 60, 60, 60]


def test_the_same_failure_is_told_now_and_then(make, clock):
    """Of a hundred tries that fail alike few are told, then their count; another failure is told at once."""
    worker, monitor = make(*[StoreUnavailable("away")] * 100, StoreDenied("denied"), outcome(7))
    for _ in range(102):
        worker._pass()
        clock.now_s += 1
    told = [text for level, text in monitor.notices if level == "error"]
    assert [text.partition("; next")[0] for text in told] == [
        "yolo: away",
        *(f"yolo: away ({tries} times now)" for tries in (2, 4, 8, 16, 32, 64)),
        "yolo: denied",
    ]
    assert ("info", "yolo: works again after 101 failed attempts") in monitor.notices


def test_the_same_failure_elsewhere_is_the_same(make):
    """A store that is full names another object at each try, which is no news."""
    worker, monitor = make(*[StoreFull("no space left", where=f"/disk/packs/{number}") for number in range(4)])
    for _ in range(4):
        worker._pass()
    told = [text.partition("; next")[0] for level, text in monitor.notices if level == "error"]
    places = ["0", "1", "3"]
    assert [text.partition("packs/")[2][0] for text in told] == places
    assert ["times now" in text for text in told] == [False, True, True]


def test_a_failure_that_lasts_is_told_each_hour(make, clock):
    """A store that is away for a day is in the log each hour, however seldom it is tried."""
    worker, monitor = make(*[StoreUnavailable("away")] * 5)
    for _ in range(5):
        worker._pass()
        clock.now_s += 1800
    assert [text.split()[2] for _, text in monitor.notices[1:]] == ["(2", "(4"]
    assert worker._failure.told_s == 1000.0 + 3 * 1800


def test_who_asks_for_a_pass_learns_how_it_ended(make):
    """A pass that began after it was asked for tells its version, or its error; one that never comes tells neither."""
    away = StoreUnavailable("away")
    worker, _ = make(outcome(4), away)
    asked = [worker.request_now(), None]
    worker._pass(None, worker.trigger.clear())
    asked[1] = worker.request_now()
    assert (asked[0].wait(0), asked[0].result.version, asked[0].error) == (True, 4, None)
    assert not asked[1].wait(0)
    worker._pass(None, worker.trigger.clear())
    assert (asked[1].wait(0), asked[1].result, asked[1].error) == (True, None, away)
    last = worker.request_now()
    worker.stop()
    worker.trigger.end_asked()
    late = worker.request_now()
    assert [(one.wait(0), one.result, one.error) for one in (last, late)] == [(True, None, None)] * 2


def test_a_file_system_that_keeps_silent_is_rescanned_sooner(make):
    """The next rescan comes as soon as the watcher asks for, and no later than configured."""
    worker, _ = make(outcome(1), outcome(None), rescan_s=60.0)
    worker.trigger.rescan_within_s = 10.0
    worker._pass()
    assert worker.due(Changes(), False) == 1010.0
    worker.trigger.rescan_within_s = 300.0
    worker._pass()
    assert worker.due(Changes(), False) == 1060.0


def test_missed_checkpoints_are_told_when_they_become_more(make, tmp_path):
    """A warning says how many checkpoints no backup could read, again when they are twice as many."""
    worker, monitor = make(*[outcome(1)] * 5)
    worker.trigger.holds = Holds("yolo", tmp_path)
    for missed in (0, 2, 2, 3, 5):
        worker.trigger.holds.missed_count = missed
        worker._pass()
    told = [text for level, text in monitor.notices if level == "warning"]
    assert [text.split(": ")[1].split(" deleted")[0] for text in told] == [
        "2 finished checkpoints",
        "5 finished checkpoints",
    ]
    assert worker.state.missed_saves == 5


def test_the_lag_is_that_of_saves(make, clock):
    """A failed pass stores nothing, and a version that is pending is stored."""
    worker, _ = make(StoreUnavailable("away"), outcome(1), outcome(2, proved=False))
    clock.now_s += 5
    worker.trigger.note_save(b"last.pt", has_ended=True)
    worker._pass()
    assert worker.behind_s() == (5.0, 5.0)
    worker._pass()
    assert worker.behind_s() == (0.0, 0.0)
    clock.now_s += 10
    worker.trigger.note_save(b"last.pt", has_ended=True)
    worker._pass()
    assert worker.behind_s() == (0.0, 10.0)


class LateJob(Job):
    """A job whose passes find the run late as the list says; it notes since when the run was behind."""

    def __init__(self, clock, ends):
        super().__init__(clock, ends)
        self.behind = []

    def run(self, stop, *, may_join=False, deadline_s=None):
        """The next end, which may be late."""
        self.behind.append(stop.behind_since_s)
        is_late, end = next(self._ends)
        if is_late:
            stop.is_late = True
            stop.set()
        if isinstance(end, Exception):
            raise end
        return end


def passes_of(clock, *ends):
    """Run a worker until its job has no more ends, and return since when each pass found the run behind."""
    job = LateJob(clock, ends)
    worker = Worker(job, Timing(), RecordingMonitor(), lambda: None, clock=clock, wall=clock.wall)
    for _ in ends:
        assert worker.due(worker.trigger.changes, worker.trigger.is_requested) <= clock.now_s
        worker._note_behind(worker.trigger.changes.first_s)
        worker.trigger.clear()
        worker._begin()
        worker._pass()
        clock.now_s += 700.0
    return job.behind


def test_a_pass_that_was_late_is_made_again_at_once(clock):
    """The next one knows since when the run has been behind, and the one after a success begins anew."""
    ends = (True, outcome(1, proved=False)), (True, Stopped("late")), (False, outcome(2)), (False, outcome(3))
    assert passes_of(clock, *ends) == [1000.0, 1000.0, 1000.0, 3100.0]


def test_a_store_that_was_away_makes_no_run_late(clock):
    """Priority would not have helped: after such a failure lateness counts anew, after any other it goes on."""
    ends = (False, StoreUnavailable("away")), (False, ProofTimedOut("slow")), (False, outcome(1))
    assert passes_of(clock, *ends) == [1000.0, 1700.0, 1700.0]
