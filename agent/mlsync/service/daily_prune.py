"""Prunes once a day after a pass, if the configuration wants it, in a process of its own with the lowest priority.

The run waits for it, so that no version of this agent's is being committed beside its own prune. The process may be
killed at any moment: the next prune goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from mlsync.app.session import Session
from mlsync.app.wording import count, size
from mlsync.errors import Error, Stopped, StoreDenied
from mlsync.monitor import Monitor, Task
from mlsync.service.doing import Doing
from mlsync.service.job import Heartbeat
from mlsync.service.pass_process import Opened, PassProcess, PruneRequest

PRUNE_EVERY_S: Final = 24 * 3600.0
# A prune is for all runs of the repository.
_ALL_RUNS: Final = ""
PRUNED: Final = "pruned"
_DENIED: Final = "prune denied"
_NOT_DENIED_NS: Final = 0
_NAME: Final = "pruning"


class DailyPrune:
    """The prune of one agent; ``run`` is called when it is due."""

    def __init__(self, session: Session, monitor: Monitor, stop: threading.Event, now_ns: Callable[[], int]) -> None:
        self._session = session
        self._monitor = monitor
        self._stop = stop
        self._now_ns = now_ns

    def run(self) -> None:
        """Prune, and tell what was done or what went wrong; raise ``Stopped`` when the agent ends."""
        self._session.state.set_last_ns(_ALL_RUNS, PRUNED, self._now_ns())
        try:
            with self._monitor.task(_NAME, None) as task:
                done = self._ask(task)
        except StoreDenied as error:
            self._tell_denied(str(error))
        except Error as error:
            if self._stop.is_set():
                raise Stopped("the prune was cut short") from error
            self._monitor.notice("warning", f"prune: {error}; next try in a day")
        else:
            self._tell(done)

    def _ask(self, task: Task) -> dict[str, Any]:
        repository = self._session.repository
        opened = Opened(repository.keys, repository.conditional_create, repository.slot)
        process = PassProcess(_NAME, _TaskHeartbeat(task), does="prunes")
        try:
            return process.ask(PruneRequest(self._session.config, opened, self._now_ns()), self._stop)
        finally:
            process.close()

    def _tell(self, done: dict[str, Any]) -> None:
        if done["versions"] or done["packs"]:
            versions, packs = count(done["versions"], "version"), count(done["packs"], "pack")
            self._monitor.notice("info", f"pruned {versions}, {packs} ({size(done['bytes'])})")
        for why in done["kept_back"]:
            self._monitor.notice("warning", f"prune: {why}")
        if done["denied"]:
            self._tell_denied(done["denied"])
        else:
            self._session.state.set_last_ns(_ALL_RUNS, _DENIED, _NOT_DENIED_NS)

    def _tell_denied(self, why: str) -> None:
        """Tell once that the store lets nothing go, and again only after it did."""
        state = self._session.state
        if not state.last_ns(_ALL_RUNS, _DENIED):
            state.set_last_ns(_ALL_RUNS, _DENIED, self._now_ns())
            advice = 'give the agent the right to delete, or set prune = "never" and prune elsewhere'
            self._monitor.notice("warning", f"prune: {why} ({advice}); this is said once")


class _TaskHeartbeat(Heartbeat):
    """Passes the beats of the prune's process on to whoever watches the pass."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task

    def beat(self, doing: Doing | None = None) -> None:
        """Record progress, and pass it on."""
        super().beat(doing)
        self._task.advance(0)
