"""Prunes once a day, if the configuration wants it, in a process of its own with the lowest priority.

No pass waits for it: a thread waits for the process, and the runs are backed up meanwhile, as beside any other prune.
The process may be killed at any moment: the next prune goes on. Only the idle agent has this module loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from mlsync.app.session import state_path
from mlsync.app.wording import count, size
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.config.model import Config
from mlsync.errors import Error, StoreDenied
from mlsync.monitor import Monitor
from mlsync.service.job import Heartbeat
from mlsync.service.passes.pass_process import Opened, PassProcess, PruneRequest
from mlsync.source.state import State

PRUNE_EVERY_S: Final = 24 * 3600.0
#: A prune that shows no progress for so long is ended once it is due again: whatever it waits for, it is tried anew.
SILENT_S: Final = 3600.0
# A prune is for all runs of the repository.
_ALL_RUNS: Final = ""
PRUNED: Final = "pruned"
_DENIED: Final = "prune denied"
_NOT_DENIED_NS: Final = 0
_NAME: Final = "pruning"
_NS: Final = 10**9


class _EitherEvent(threading.Event):
    """Is set once it is set itself, or the *other* one is."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        """Return whether one of both is set."""
        return super().is_set() or self._other.is_set()


class DailyPrune:
    """The prune of one agent, for all of its runs; each asks for it after a pass, in threads of their own."""

    def __init__(self, config: Config, monitor: Monitor, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._config = config
        self._monitor = monitor
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._heartbeat = Heartbeat()
        self._process = PassProcess(_NAME, self._heartbeat, does="prunes")
        self._stop: threading.Event | None = None
        self._is_closed = False
        #: Gets what each prune did that deleted something.
        self.told: Callable[[dict[str, Any]], None] = lambda _done: None

    def begin(self, opened: Opened, stop: threading.Event) -> None:
        """Begin a prune if one is due and none is under way, and do not wait for it; it ends once *stop* is set."""
        # A node that can only write cannot see what versions need: other machines prune.
        if self._config.retention.prune != "daily" or isinstance(opened.keys, WriteOnlyKeys):
            return
        with self._lock:
            if self._is_closed or not self._is_due(opened):
                return
            if self._thread is not None and self._thread.is_alive():
                if self._heartbeat.age_s > SILENT_S:
                    # Its thread tells that it was ended; the next pass begins another one.
                    self._process.close()
                return
            self._with_state(opened, lambda state: state.set_last_ns(_ALL_RUNS, PRUNED, self._now_ns()))
            self._heartbeat.beat()
            self._stop = ended = _EitherEvent(stop)
            self._thread = threading.Thread(target=self._run, args=(opened, ended), name=_NAME, daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Return when no prune is under way."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """End a prune that is under way, as a crash would, and begin none any more."""
        with self._lock:
            self._is_closed = True
            if self._stop is not None:
                # For a process that is just being started.
                self._stop.set()
        self._process.close()
        self.wait()

    def _run(self, opened: Opened, stop: threading.Event) -> None:
        """Prune, and tell what was done or what went wrong."""
        try:
            done = self._process.ask(PruneRequest(self._config, opened, self._now_ns()), stop)
        except StoreDenied as error:
            self._tell_denied(opened, str(error))
        except Error as error:
            # An agent that ends says nothing of it.
            if not stop.is_set():
                self._monitor.notice("warning", f"prune: {error}; next try in a day")
        else:
            self._tell(opened, done)
        finally:
            # What it loaded is not needed for a day.
            self._process.close()

    def _is_due(self, opened: Opened) -> bool:
        last_ns = self._with_state(opened, lambda state: state.last_ns(_ALL_RUNS, PRUNED))
        # A clock that was set back must not delay it until the clock has caught up.
        return last_ns is None or not 0 <= self._now_ns() - last_ns < PRUNE_EVERY_S * _NS

    def _with_state(self, opened: Opened, work: Callable[[State], Any]) -> Any:
        """Return what *work* does with the local state, which is opened for it alone: other processes write it too."""
        with State.open(state_path(self._config, opened.keys.repository_id)) as state:
            return work(state)

    def _tell(self, opened: Opened, done: dict[str, Any]) -> None:
        if done["versions"] or done["packs"]:
            self.told(done)
            versions, packs = count(done["versions"], "version"), count(done["packs"], "pack")
            self._monitor.notice("info", f"pruned {versions}, {packs} ({size(done['bytes'])})")
        for why in done["kept_back"]:
            self._monitor.notice("warning", f"prune: {why}")
        if done["denied"]:
            self._tell_denied(opened, done["denied"])
        else:
            self._with_state(opened, lambda state: state.set_last_ns(_ALL_RUNS, _DENIED, _NOT_DENIED_NS))

    def _tell_denied(self, opened: Opened, why: str) -> None:
        """Tell once that the store lets nothing go, and again only after it did."""
        if self._with_state(opened, lambda state: state.last_ns(_ALL_RUNS, _DENIED)):
            return
        self._with_state(opened, lambda state: state.set_last_ns(_ALL_RUNS, _DENIED, self._now_ns()))
        advice = 'give the agent the right to delete, or set prune = "never" and prune elsewhere'
        self._monitor.notice("warning", f"prune: {why} ({advice}); this is said once")
