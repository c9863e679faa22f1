"""One run as the agent works on it: its lock, a look at what changed, and a process of its own for what takes more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mlsync.app.passes import Outcome, outcome
from mlsync.app.run_lock import RunLock
from mlsync.app.session import source_of, state_path
from mlsync.backup.backup import look
from mlsync.codec.keys import Keys
from mlsync.config.model import Config, WatchSettings
from mlsync.monitor import Monitor
from mlsync.repository.keyslot import Unlock
from mlsync.service.job import Pulse
from mlsync.service.pass_process import Opened, OpenRequest, PassProcess, PassRequest
from mlsync.source.state import State

# For so long after a pass that asked the store, passes over a run that nobody touched are content with a look at it.
STORE_UNASKED_S = 900.0


class Opener:
    """Opens the repository once, whenever that works: an agent that starts while its store is away waits for it."""

    def __init__(self, config: Config, unlock: Unlock, monitor: Monitor) -> None:
        self.config = config
        self._unlock = unlock
        self._monitor = monitor
        self._lock = threading.Lock()
        self._opened: Opened | None = None

    def opened(self, stop: threading.Event) -> Opened:
        """Return the repository, unlocked now if it was not yet."""
        with self._lock:
            if self._opened is None:
                process = PassProcess(self._monitor, Pulse())
                try:
                    told = process.ask(OpenRequest(self.config, self._unlock), stop)
                finally:
                    process.close()
                keys = Keys(bytes.fromhex(told["master"]), bytes.fromhex(told["repository_id"]))
                self._opened = Opened(keys, told["conditional_create"], told["slot"])
            return self._opened


class BackupJob:
    """Backs one run up; holds the run's lock from its first pass to ``close``."""

    def __init__(
        self,
        opener: Opener,
        watch: WatchSettings,
        monitor: Monitor,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = watch.run
        self.directory = watch.directory
        self.pulse = Pulse()
        self._opener = opener
        self._watch = watch
        self._clock = clock
        self._lock: RunLock | None = None
        self._process = PassProcess(monitor, self.pulse)
        self._asked_s: float | None = None  # when the store was asked last, if that pass went well

    def run(self, stop: threading.Event) -> Outcome:
        """Make a version if anything changed."""
        opened = self._opener.opened(stop)
        self._have_lock(opened)
        asked_s, self._asked_s = self._asked_s, None
        if asked_s is not None and self._clock() < asked_s + STORE_UNASKED_S:
            untouched = self._look(opened)
            if untouched is not None:
                self._asked_s = asked_s
                return untouched
        began_s = self._clock()
        told = self._process.ask(PassRequest(self._opener.config, opened, self._watch), stop)
        self._asked_s = began_s
        return Outcome(**told | {"troubles": tuple(told["troubles"])})

    def close(self) -> None:
        """Let the run go; a pass that is still under way ends as by a crash."""
        self._process.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _look(self, opened: Opened) -> Outcome | None:
        """Return what a pass over the run would come to, if nothing was touched since the last one."""
        # Opened each time: what the process did to it is seen, also that it was put aside; and nothing of it is kept.
        with State.open(state_path(self._opener.config, opened.keys.repository_id)) as state:
            result = look(state, source_of(self._watch))
        return None if result is None else outcome(result)

    def _have_lock(self, opened: Opened) -> None:
        if self._lock is None:
            directory = self._opener.config.state_directory
            lock = RunLock(directory, opened.keys.repository_id.hex(), self._watch.run)
            lock.acquire()
            self._lock = lock
