"""An agent whose wall clock is set back by an hour: no pass comes for that, and ages count on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.config.every import Never
from mlsync.errors import StoreUnavailable
from mlsync.service import status
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.job import Heartbeat
from mlsync.service.unit.notify import Notifier
from mlsync.service.watching.trigger import Changes

HOUR_S = 3600.0


class Job:
    """A job whose passes end as they are told to."""

    name, directory, holds = "yolo", Path("/run"), None

    def __init__(self):
        self.heartbeat = Heartbeat()
        self.end = PassResult("yolo", 1, 1, (), "version 1")

    def prepare(self):
        """Nothing to get ready."""

    def rests_until_s(self, since_s):
        """Nobody else needs the processors."""
        return float("-inf")

    def run(self, stop, *, may_join=False, deadline_s=None):
        """A pass."""
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


class World:
    """An agent on two clocks, of which somebody sets one."""

    def __init__(self, base):
        self.now_s, self.wall_s = 1000.0, 1_800_000_000.0
        self.job = Job()
        options = AgentOptions("file:///r", base / "status.json", every=Never(), proves=False)
        self.agent = Agent(
            [self.job],
            options,
            RecordingMonitor(),
            notifier=Notifier(None),
            clock=lambda: self.now_s,
            wall=lambda: self.wall_s,
        )
        (self.worker,) = self.agent._workers

    def go_on(self, seconds):
        """Time passes on both clocks."""
        self.now_s += seconds
        self.wall_s += seconds

    @property
    def run(self):
        """The run as the agent shows it."""
        (run,) = self.agent.statuses()
        return run


@pytest.fixture
def world(tmp_path):
    """An agent that has made and proved a version a minute ago."""
    world = World(tmp_path)
    world.worker._pass()
    world.go_on(60.0)
    yield world
    world.agent._place.release()


def test_no_pass_comes_for_it(world):
    """What is due, and the next version of logs, count by the clock that nobody sets."""
    due_s = world.worker.due(Changes(), False)
    world.wall_s -= HOUR_S
    assert world.worker.due(Changes(), False) == due_s
    world.worker._pass()
    assert world.worker.due(Changes(), False) == world.now_s + 60.0


def test_ages_count_on_from_there(world):
    """What seems to be of the future is of now, so that a failure after that shows as old as it is."""
    world.wall_s -= HOUR_S
    assert (world.run.unproved_s, world.run.state.last_proved_s) == (0.0, world.wall_s)
    world.job.end = StoreUnavailable("away")
    world.worker._pass()
    world.go_on(600.0)
    assert world.run.unproved_s == 600.0
    assert world.run.record.failing.since_s == world.wall_s - 600.0


def test_a_failure_is_told_in_time(world):
    """A store that was away before the step has not been away for minus an hour after it."""
    world.job.end = StoreUnavailable("away")
    world.worker._pass()
    world.go_on(30.0)
    world.wall_s -= HOUR_S
    assert world.run.now_s - world.run.record.failing.since_s == 0.0
    world.go_on(400.0)
    world.worker._pass()
    assert world.run.now_s - world.run.record.failing.since_s == 400.0


def test_the_lag_of_saves_has_no_step(world):
    """The time between two saves is that of the clock that nobody sets."""
    world.worker.trigger.note_save(b"last.pt", has_ended=True)
    world.wall_s -= HOUR_S
    world.go_on(5.0)
    world.worker.trigger.note_save(b"last.pt", has_ended=True)
    assert world.run.lag_s == 65.0
    world.worker._pass()
    assert world.run.lag_s == 0.0


def test_the_status_is_written_at_once(world):
    """A reader that saw the later moment gets the earlier one, since the file is news."""
    before = world.agent.as_json()
    world.wall_s -= HOUR_S
    assert status.is_news(world.agent.as_json(), before)
