"""What the agent does about a notice, with clouds that are played and clocks of the test's own."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.errors import StoreUnavailable
from mlsync.preemption.find import FoundPlatform
from mlsync.preemption.metadata import NoAnswer
from mlsync.preemption.notice import Effect, PlatformNotice
from mlsync.service.job import Heartbeat
from mlsync.service.preemption_watch import PreemptionOptions, PreemptionWatch
from mlsync.service.worker import Timing, Worker

NOON_S = 1_600_000_000.0
PATIENCE_S = 30.0


class Played:
    """A platform whose notices the test gives."""

    name, grace_s, lead_s, poll_s, patience_s = "played", 30.0, 30.0, 1.0, 0.0

    def __init__(self):
        self.now = []

    def notices(self, _now_s):
        """What the test gave."""
        if self.now is None:
            raise NoAnswer
        return self.now


class Hurried:
    """A worker that keeps what it was told."""

    def __init__(self):
        self.told = []

    def request(self):
        """Keep it."""
        self.told.append("now")

    def hurry(self, deadline_s):
        """Keep it."""
        self.told.append(round(deadline_s, 1))

    def relax(self):
        """Keep it."""
        self.told.append("relax")


class World:
    """A watch over one worker, on a platform that is played."""

    def __init__(self):
        self.platform, self.worker, self.monitor = Played(), Hurried(), RecordingMonitor()
        self.now_s = 0.0
        self.saves = []
        self.woken = 0
        self.watch = PreemptionWatch(
            PreemptionOptions((FoundPlatform(self.platform, "the test says so"),), 30.0),
            [self.worker],
            self.monitor,
            self.wake,
            request_save=lambda deadline_s: self.saves.append(round(deadline_s, 1)),
            clock=lambda: 5000.0 + self.now_s,
            wall=lambda: NOON_S + self.now_s,
        )

    def wake(self):
        """As the listener's thread does."""
        self.woken += 1

    def tell(self, *notices, after_s=1.0):
        """Let the platform tell these and no others; return what the worker is told."""
        self.now_s += after_s
        self.platform.now = list(notices)
        self.watch._listener.step()
        self.watch.heed()
        told, self.worker.told = self.worker.told, []
        return told


def notice(left_s, ident="one", effect=Effect.ENDS, kind="termination"):
    """A notice, by its time after noon."""
    deadline_s = None if left_s is None else NOON_S + left_s
    return PlatformNotice("played", kind, effect, deadline_s, certain=True, ident=ident)


@pytest.mark.parametrize(("left_s", "margin_s"), [(5, 0.5), (15, 1.5), (30, 2.0), (120, 2.0)])
def test_workers_and_trainer_hear_of_the_end_at_once(left_s, margin_s):
    """Each is told when it must be done: a little before the machine goes."""
    world = World()
    assert world.tell(notice(left_s), after_s=0) == [5000.0 + left_s - margin_s]
    assert world.saves == [5000.0 + left_s - margin_s]
    assert world.woken == 1
    (level, text) = world.monitor.notices[-1]
    assert level == "warning"
    assert text.startswith(f"played: termination in {left_s} s (2020-09-13 12:")
    assert world.tell(notice(left_s)) == []
    assert world.watch.as_json() == [
        {"platform": "played", "kind": "termination", "effect": "ends", "certain": True, "deadline_s": NOON_S + left_s}
    ]


def test_a_notice_that_is_withdrawn_lets_the_workers_go_on():
    """The nearest end counts; once none is left, passes are as before."""
    world = World()
    world.tell(notice(100))
    assert world.tell(notice(100), notice(50, "two")) == [5048.0]
    assert world.tell(notice(100)) == [5098.0]
    assert world.saves == [5098.0, 5048.0]
    assert world.tell() == ["relax"]
    assert world.monitor.notices[-1][1].endswith("did not come, or was withdrawn; going on as before")
    assert world.watch.as_json() == []


def test_a_risk_is_backed_up_without_hurry():
    """The proof is not put off, and the trainer not asked for anything."""
    world = World()
    assert world.tell(notice(None, effect=Effect.RISK, kind="rebalance")) == ["now"]
    assert world.saves == []
    assert world.monitor.notices[-1] == (
        "warning",
        "played: rebalance: this machine may end soon; backing up now",
    )


def test_a_pause_is_only_told():
    """Nothing is lost by a freeze of seconds."""
    world = World()
    assert world.tell(notice(900, effect=Effect.PAUSE, kind="freeze")) == []
    assert world.monitor.notices[-1] == ("info", "played: freeze: a pause of seconds; nothing is lost")


def test_maintenance_in_days_is_backed_up_now_and_hurried_when_it_comes():
    """Proofs go on until five minutes before."""
    world = World()
    far = notice(5 * 86_400, kind="maintenance")
    assert world.tell(far) == ["now"]
    assert "played: maintenance in 5 d (2020-09-18 12:26:40 UTC): backing up now" in world.monitor.notices[-1][1]
    assert world.tell(far, after_s=86_400) == []
    world.now_s = 5 * 86_400 - 300
    assert world.tell(far, after_s=0) == [5000.0 + 5 * 86_400 - 2]


@pytest.mark.parametrize("left_s", [-1e6, 1e15])
def test_dates_that_cannot_be_are_survived(left_s):
    """One that is long over leaves some seconds; one in the far future is only told."""
    world = World()
    told = world.tell(notice(left_s), after_s=0)
    assert told == ([5000.0 + 4.5] if left_s < 0 else ["now"])


def test_without_platforms_nothing_listens():
    """Notices can be switched off."""
    monitor = RecordingMonitor()
    watch = PreemptionWatch(None, [], monitor, lambda: None)
    with watch.going_on():
        assert watch.as_json() == []
    assert monitor.notices == []


# ---------------------------------------------------------------- the worker


class Job:
    """A job whose passes end as the test says: an error, ``"wait"`` for a long one, or a version."""

    holds = None

    name = "yolo"
    directory = Path("/nowhere")

    def __init__(self, *meets):
        self.heartbeat = Heartbeat()
        self.begun = threading.Semaphore(0)
        self.passes = []
        self._meets = list(meets)

    def prepare(self):
        """Nothing to do."""

    def rests_until_s(self, since_s):
        """Nobody else needs the processors."""
        return float("-inf")

    def run(self, stop, **how):
        """One pass."""
        self.passes.append(how)
        meets = self._meets.pop(0) if self._meets else None
        self.begun.release()
        if meets == "wait":
            assert stop.wait(PATIENCE_S)
            return PassResult("yolo", None, None, (), "")
        if meets is not None:
            raise meets
        return PassResult("yolo", len(self.passes), None, (), f"version {len(self.passes)}")

    def wait(self):
        """A pass has begun."""
        assert self.begun.acquire(timeout=PATIENCE_S)


@pytest.fixture
def worker_of():
    """Make workers, and stop them in the end."""
    workers = []

    def make(*meets):
        job = Job(*meets)
        workers.append(Worker(job, Timing(), RecordingMonitor(), lambda: None))
        workers[-1].start()
        job.wait()
        return workers[-1], job

    yield make
    for worker in workers:
        worker.stop()
        worker.thread.join(PATIENCE_S)
        assert not worker.thread.is_alive()


def test_a_pass_under_way_makes_way_for_one_with_a_deadline(worker_of):
    """A pass that began without hurry ends at a safe point; the next one knows the deadline, and that more may come."""
    worker, job = worker_of("wait")
    deadline_s = time.monotonic() + 60
    worker.hurry(deadline_s)
    job.wait()
    assert job.passes == [{}, {"deadline_s": deadline_s, "goes_on": True}]


def test_further_passes_hurry_until_the_notice_is_withdrawn(worker_of):
    """A checkpoint that the trainer writes after the notice is committed by the same deadline."""
    worker, job = worker_of()
    deadline_s = time.monotonic() + 60
    worker.hurry(deadline_s)
    job.wait()
    worker.request()
    job.wait()
    worker.relax()
    worker.request()
    job.wait()
    hurried = {"deadline_s": deadline_s, "goes_on": True}
    assert [one for one in job.passes[1:] if one] == [hurried, hurried]
    assert job.passes[-1].get("deadline_s") is None


def test_after_the_deadline_passes_are_as_ever(worker_of):
    """A machine that lives on must not go without proofs."""
    worker, job = worker_of()
    worker.hurry(time.monotonic() - 1)
    job.wait()
    assert job.passes[-1].get("deadline_s") is None


def test_a_hurried_pass_that_fails_is_tried_again_soon(worker_of):
    """The back-off of minutes for a store that is away would outlast the machine."""
    worker, job = worker_of("wait", StoreUnavailable("the store is away"))
    worker.hurry(time.monotonic() + 60)
    job.wait()
    deadline_s = time.monotonic() + PATIENCE_S
    while worker._retry_at_s is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert worker._retry_at_s <= time.monotonic() + 1.0


def test_a_second_notice_does_not_interrupt_a_hurried_pass(worker_of):
    """It is already as quick as it can be; the pass after it has the new deadline."""
    worker, job = worker_of("wait", "wait")
    worker.hurry(time.monotonic() + 60)
    job.wait()
    interruption = worker._interruption
    worker.hurry(time.monotonic() + 30)
    assert not interruption.is_set()
    worker.stop()
