"""A real agent over fake jobs, run as a process by the tests: ``agent_process.py STATE REPORT NAME=KIND:DIRECTORY...``.

Each pass writes a line to REPORT. The kind says what a pass does: ``count`` makes a version when the directory's
listing changed, ``slow`` goes on until it is told to stop, ``deaf`` never ends, ``away`` finds the store away,
``other`` finds
another writer, ``bug`` raises what nobody expects, ``lock`` works under the run's real lock.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from mlsync.app.pass_result import PassResult
from mlsync.app.run_lock import RunLock
from mlsync.config.every import Never
from mlsync.errors import RunLocked, RunOfAnother, StoreUnavailable
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.job import Heartbeat
from mlsync.service.log import LogMonitor, log_to
from mlsync.service.worker import Timing


class FakeJob:
    """A job of one of the kinds."""

    holds = None

    def __init__(self, name, kind, directory, state, report):
        self.name = name
        self.directory = Path(directory)
        self.heartbeat = Heartbeat()
        self._kind = kind
        self._report = report
        self._lock = RunLock(state, "0" * 16, name)
        self._locked = False
        self._version = 0
        self._seen = None

    def say(self, text):
        """The report has one line more."""
        with self._report.open("a") as stream:
            stream.write(f"{self.name} {text}\n")

    def prepare(self):
        """Nothing to get ready."""

    def rests_until_s(self, since_s):
        """Nobody else needs the processors."""
        return float("-inf")

    def run(self, stop, *, may_join=False, deadline_s=None):
        """One pass, as the kind says."""
        self.say("begins" if deadline_s is None else "begins the last pass")
        if self._kind == "lock" and not self._locked:
            try:
                self._lock.acquire()
            except RunLocked:
                self.say("locked")
                raise
            self._locked = True
        if self._kind == "away":
            raise StoreUnavailable("the store is away")
        if self._kind == "other":
            raise RunOfAnother("run is written by another one")
        if self._kind == "bug":
            raise ZeroDivisionError("a bug")
        if self._kind == "slow" and deadline_s is None:
            stop.wait()
            self.say("saved its place")
            return PassResult(self.name, None, None, (), "")
        while self._kind == "deaf":
            time.sleep(3600)
        return self.count()

    def count(self):
        """A version if the listing changed."""
        seen = sorted((entry.path, entry.stat().st_mtime_ns, entry.stat().st_size) for entry in files(self.directory))
        if seen == self._seen:
            self.say("unchanged")
            return PassResult(self.name, None, None, (), "")
        self._seen = seen
        self._version += 1
        self.say(f"version {self._version} of {len(seen)} files")
        return PassResult(self.name, self._version, self._version, (), f"version {self._version}")


def files(directory):
    if directory.exists():
        for root, _, names in os.walk(directory):
            for entry in os.scandir(root):
                if entry.name in names:
                    yield entry


def main():
    state, report = Path(sys.argv[1]), Path(sys.argv[2])
    jobs = []
    for word in sys.argv[3:]:
        name, _, rest = word.partition("=")
        kind, _, directory = rest.partition(":")
        jobs.append(FakeJob(name, kind, directory, state, report))
    log_to(sys.stderr)
    number = {
        name: float(os.environ[name])
        for name in ("SETTLE", "RESCAN", "STOP_WITHIN", "HUNG", "RETRY")
        if name in os.environ
    }
    timing = Timing(
        settle_s=number.get("SETTLE", 0.05),
        settle_max_s=1.0,
        rescan_s=number.get("RESCAN", 3600.0),
        retry_first_s=number.get("RETRY", 5.0),
    )
    options = AgentOptions(
        repository="file:///nowhere",
        status_file=state / "status.json",
        every=Never(),
        timing=timing,
        stop_within_s=number.get("STOP_WITHIN", 10.0),
        hung_after_s=number.get("HUNG", 1800.0),
    )
    try:
        Agent(jobs, options, LogMonitor()).run()
    except RunLocked as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
