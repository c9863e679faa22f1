"""One run as the agent works on it: its lock, a quick check for changes, and a process for passes that need more."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from mlsync.app.flow_options import source_of
from mlsync.app.pass_result import PassResult
from mlsync.app.passes import outcome
from mlsync.app.run_lock import RunLock
from mlsync.app.session import state_path
from mlsync.backup.backup import look
from mlsync.codec.keys import Keys
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.config.model import Config, WatchSettings
from mlsync.courtesy.priority import stands_back
from mlsync.courtesy.share import ProcessorShare
from mlsync.errors import KeyRetired
from mlsync.repository.keys.keyslot import Unlock
from mlsync.service.afterwards.daily_prune import DailyPrune
from mlsync.service.afterwards.proof_due import is_proof_due
from mlsync.service.afterwards.registrations import Registrations
from mlsync.service.job import Heartbeat, Interruption, hung_after_s
from mlsync.service.passes.pass_process import (
    IDLE_S,
    Bounds,
    LookRequest,
    Opened,
    OpenRequest,
    PassProcess,
    PassRequest,
    ReadyRequest,
)
from mlsync.service.watching.holds import Holds
from mlsync.source.held import HeldSave
from mlsync.source.state import State

_LOG: Final = logging.getLogger(__name__)
# For this long after a pass that asked the store, passes over an untouched run only check the run's files.
STORE_UNASKED_S = 900.0
# After a pass that took longer, checkpoints may come faster than the store takes them.
_SLOW_PASS_S: Final = 20.0


def look_for_repository(config: Config) -> None:
    """Raise what a process without the secret finds wrong with the repository."""
    process = PassProcess("looking for the repository", Heartbeat())
    try:
        process.ask(LookRequest(config), threading.Event())
    finally:
        process.close()


class RepositoryOpener:
    """Opens the repository once, as soon as that works: an agent that starts while its store is away waits for it."""

    def __init__(self, config: Config, unlock: Unlock) -> None:
        self.config = config
        self._unlock = unlock
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        #: Whether a single secret opened the repository when it was unlocked: it may get lost.
        self.has_one_slot = False

    def opened(self, stop: threading.Event, heartbeat: Heartbeat | None = None) -> Opened:
        """Return the repository; unlock it now if no call did before. *heartbeat* shows what goes on meanwhile."""
        with self._lock:
            if self._opened is None:
                process = PassProcess("opening the repository", heartbeat or Heartbeat())
                try:
                    done = process.ask(OpenRequest(self.config, self._unlock), stop)
                finally:
                    process.close()
                self.has_one_slot = done["has_one_slot"]
                self._opened = Opened(_keys_of(done, self._unlock), done["conditional_create"], done["slot"])
            return self._opened

    def reconfigured(self, config: Config) -> RepositoryOpener:
        """Return what opens the same repository by another configuration; it is not unlocked again."""
        other = RepositoryOpener(config, self._unlock)
        with self._lock:
            other._opened = self._opened
        return other

    def forget(self, opened: Opened) -> None:
        """Unlock the repository anew next time: its key was rotated, and the secret may open the new one."""
        with self._lock:
            if self._opened is opened:
                self._opened = None


def _keys_of(done: dict[str, Any], unlock: Unlock) -> Keys:
    """Return the keys of a repository that the process opened; a write-only key is all that there is of them."""
    if isinstance(unlock, WriteOnlyKeys):
        return unlock
    first, *later = map(bytes.fromhex, done["masters"])
    return Keys(first, bytes.fromhex(done["repository_id"]), tuple(later))


class BackupJob:
    """Backs up one run; holds the run's lock from its first pass to ``close``.

    After a pass that asked the store it has *prune*, which serves all runs, begin if it is due. *gently* has its passes
    give way although this process does not, but for those with a deadline, and of a run that is behind for longer than
    ``max_lag``. With *keeps_ready* a process waits for those with a deadline all the time. *stored* gets the outcome of
    each pass that made a version. *share* is what passes may take of the processors, which all runs share.
    """

    def __init__(
        self,
        opener: RepositoryOpener,
        watch: WatchSettings,
        *,
        prune: DailyPrune | None = None,
        registrations: Registrations | None = None,
        gently: bool = False,
        keeps_ready: bool = False,
        stored: Callable[[PassResult], None] = lambda _outcome: None,
        share: ProcessorShare | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = watch.run
        self.directory = watch.directory
        self.heartbeat = Heartbeat()
        self._opener = opener
        self._watch = watch
        self._prune = prune
        self._registrations = registrations
        self._stored = stored
        self._share = share
        self._clock = clock
        self._lock: RunLock | None = None
        self._opened: Opened | None = None  # while the lock is held
        self._gently = gently
        self._keeps_ready = keeps_ready
        self._process = self._new_process(math.inf if keeps_ready and not gently else IDLE_S)
        # What gave way once does so for ever.
        self._urgent = self._new_process(math.inf) if keeps_ready and gently else self._process
        self.holds = Holds(watch.run, watch.directory)
        self._is_told = False  # the history of the run, by the first pass
        self._took_s = 0.0  # the last pass that made a version, or looked for one
        self._version_s = -math.inf  # when the last pass ended that made a version
        self._asked_s: float | None = None  # when a pass asked the store last, if that pass succeeded

    def _new_process(self, idle_s: float) -> PassProcess:
        bounds = Bounds(silent_s=hung_after_s(self._opener.config.proof.timeout_s))
        return PassProcess(self._watch.run, self.heartbeat, idle_s=idle_s, bounds=bounds)

    def prepare(self) -> None:
        """Start the process for the pass that is about to come, if there is none."""
        if self._opened is not None:
            self._process.start(ReadyRequest(self._opener.config, self._opened))

    def hold(self) -> None:
        """Take the run's lock now; raise ``RunLocked`` if another process holds it."""
        self._acquire_lock(self._opener.opened(threading.Event(), self.heartbeat))

    def run(
        self,
        stop: threading.Event,
        *,
        may_join: bool = False,
        deadline_s: float | None = None,
        goes_on: bool = False,
    ) -> PassResult:
        """Make a version if anything changed; with *may_join* only if anything but logs did.

        With *deadline_s* it is for the last time.
        """
        if deadline_s is not None:
            # Also where another process makes the pass, or none has to.
            self._process.leave_gpu()
        opened = self._opener.opened(stop, self.heartbeat)
        self._acquire_lock(opened)
        held = self.holds.taken(is_behind=self._took_s > _SLOW_PASS_S)
        try:
            return self._run(opened, held, stop, may_join=may_join, deadline_s=deadline_s, goes_on=goes_on)
        finally:
            self.holds.returned()
            if isinstance(stop, Interruption):
                # A pass that has ended is late no more.
                stop.late_at_s = math.inf

    def _run(
        self,
        opened: Opened,
        held: tuple[HeldSave, ...],
        stop: threading.Event,
        *,
        may_join: bool,
        deadline_s: float | None,
        goes_on: bool,
    ) -> PassResult:
        asked_s, self._asked_s = self._asked_s, None
        is_rotated = any(save.is_deleted for save in held)
        if not is_rotated and asked_s is not None and self._clock() < asked_s + STORE_UNASKED_S:
            untouched = self._check_untouched(opened)
            if untouched is None and may_join:
                untouched = self._check_untouched(opened, logs_too=True)
            if untouched is not None:
                _LOG.debug("%s: no file changed that cannot wait; the store is not asked", self.name)
                self._asked_s = asked_s
                self.holds.done(held)
                return untouched
        began_s = self._clock()
        is_urgent = deadline_s is not None or (isinstance(stop, Interruption) and stop.is_last)
        gently = self._gently and not is_urgent
        is_late = gently and self._is_late(stop)
        try:
            request = PassRequest(
                self._opener.config,
                opened,
                self._watch,
                deadline_s,
                goes_on=goes_on,
                tells_history=not self._is_told,
                is_unslowed=is_urgent,
                gently=gently and not is_late,
                is_late=is_late,
                held=held,
                keeps_warm_s=0.0 if is_urgent else self._keeps_warm_s(),
            )
            process = self._urgent if is_urgent else self._process
            with self._counted(process, counts=not is_urgent and not is_late and (gently or stands_back())):
                done = process.ask(request, stop)
        except KeyRetired:
            self._opener.forget(opened)
            # It would meet the same at the machine's end.
            self._urgent.close()
            raise
        self._asked_s, self._took_s = began_s, self._clock() - began_s
        self.holds.done(held)
        self._is_told = self._is_told or not goes_on
        if self._prune is not None and deadline_s is None:
            self._prune.begin(opened, stop)
        result = PassResult.of_json(done)
        if self._registrations is not None:
            self._registrations.passed(opened, self.name, result)
        if result.version is not None:
            self._version_s = self._clock()
            self._stored(result)
        return result

    @contextmanager
    def _counted(self, process: PassProcess, *, counts: bool) -> Iterator[None]:
        """Count what a pass takes of the processors, whether or not it fails."""
        if self._share is None or not counts:
            yield
            return
        seen, before_s = self._share.look(), process.processor_s()
        try:
            yield
        finally:
            self._share.spent(seen, max(0.0, process.processor_s() - before_s))

    def rests_until_s(self, since_s: float) -> float:
        """Return until when the processors are left to others: see ``ProcessorShare``."""
        if self._share is None:
            return -math.inf
        # The other half of the time is for the pass, which would else be late, and then give way to nobody.
        return min(self._share.free_at_s(), since_s + self._opener.config.limits.max_lag_s / 2)

    def _keeps_warm_s(self) -> float:
        """Return how long the process, and a child on a GPU, are to wait for the version after the one to be made.

        Where versions are farther apart than that, they would wait in vain each time.
        """
        keep_warm_s = self._opener.config.proof.keep_warm_s
        return keep_warm_s if self._clock() < self._version_s + keep_warm_s else 0.0

    def _is_late(self, stop: threading.Event) -> bool:
        """Return whether a pass that gives way would begin too late; have one that does not end when it is.

        Beside a training on all processors it may get nothing, and nobody but ``max_lag`` ends that.
        """
        if not isinstance(stop, Interruption):
            return False
        late_at_s = stop.behind_since_s + self._opener.config.limits.max_lag_s
        if time.monotonic() < late_at_s:
            stop.late_at_s = late_at_s
            return False
        _LOG.info("%s: versions are late (max_lag), so this pass gives way to nobody", self.name)
        return True

    def close(self) -> None:
        """Release the run; a pass that is still under way ends as in a crash."""
        self._process.close()
        self._urgent.close()
        self.holds.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = self._opened = None

    def _check_untouched(self, opened: Opened, *, logs_too: bool = False) -> PassResult | None:
        """Return the outcome of a pass if no file was touched since the last one, and no proof is due.

        With *logs_too* logs may have been.
        """
        # Opened for each check, so that it shows what the process wrote since, or that the process replaced it.
        with State.open(state_path(self._opener.config, opened.keys.repository_id)) as state:
            if is_proof_due(state, self.name, time.time_ns()):
                return None
            result = look(state, source_of(self._watch), logs_too=logs_too)
        return None if result is None else replace(outcome(result), waits=logs_too)

    def _acquire_lock(self, opened: Opened) -> None:
        if self._lock is not None and self._lock.is_lost:
            # Somebody deleted the state while the agent runs: another process could take the run.
            self._lock.release()
            self._lock = None
        if self._lock is None:
            directory = self._opener.config.state_directory
            lock = RunLock(directory, opened.keys.repository_id.hex(), self._watch.run)
            lock.acquire()
            self._lock = lock
        self._opened = opened
        if self._keeps_ready:
            self._urgent.start(ReadyRequest(self._opener.config, opened))
