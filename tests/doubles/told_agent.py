"""A real agent, but for its main thread, over runs whose passes say what the test wants."""

from __future__ import annotations

import threading
from pathlib import Path

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.config.every import Never
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.job import Heartbeat
from mlsync.service.talk.talk import Talk, TalkOptions
from mlsync.service.worker import Timing
from mlsync.upkeep.version_seen import VersionSeen


class ToldJob:
    """Makes a version in each pass in which a file changed, of the level and with the troubles that the test says."""

    holds = None

    def __init__(self, name, directory):
        self.name = name
        self.directory = Path(directory)
        self.heartbeat = Heartbeat()
        self.passes = 0
        self.level = 4
        self.is_pending = False
        self.troubles = ()
        self.error = None
        #: A pass ends when this is set.
        self.may_end = threading.Event()
        self.may_end.set()
        self._version = 0
        self._seen = []

    def prepare(self):
        """Nothing to get ready."""

    def rests_until_s(self, since_s):
        """Nobody else needs the processors."""
        return float("-inf")

    def run(self, stop, *, may_join=False, deadline_s=None):
        """One pass."""
        self.passes += 1
        self.may_end.wait(10)
        if self.error is not None:
            raise self.error
        seen = sorted((str(path), path.stat().st_mtime_ns) for path in self.directory.rglob("*") if path.is_file())
        if seen == self._seen:
            return PassResult(self.name, None, None, (), "nothing changed")
        self._seen = seen
        self._version += 1
        versions = (VersionSeen(self._version, 0.0, level=self.level, is_pending=self.is_pending),)
        proved = None if self.is_pending else self._version
        return PassResult(self.name, self._version, proved, self.troubles, f"version {self._version}", versions)


class ToldAgent:
    """Workers and sockets; no clock and no watcher starts a pass. *trainings* is for a socket for all users."""

    def __init__(self, jobs, state, trainings=None):
        options = AgentOptions(
            repository="file:///nowhere",
            status_file=state / "status.json",
            every=Never(),
            timing=Timing(on_change=False),
            talk=TalkOptions(trainings=trainings),
        )
        self._agent = Agent(jobs, options, RecordingMonitor())
        self._talk = Talk(self._agent, self._agent._place, RecordingMonitor(), options.talk).going_on()
        self._jobs = jobs

    def __enter__(self):
        self._talk.__enter__()
        for worker in self._agent._workers:
            worker.start()
        waiting = threading.Event()
        for _ in range(1000):
            statuses = self._agent.statuses()
            # The first pass comes by itself.
            if all(one.state.phase != "running" and job.passes for one, job in zip(statuses, self._jobs, strict=True)):
                return self
            waiting.wait(0.01)
        raise AssertionError("no first pass")

    @property
    def told_count(self):
        """How often it was told of a save."""
        return self._agent._asked._last

    def __exit__(self, *_):
        for job in self._jobs:
            job.may_end.set()
        for worker in self._agent._workers:
            worker.stop()
            worker.thread.join(20)
            assert not worker.thread.is_alive()
        self._talk.__exit__(None, None, None)
