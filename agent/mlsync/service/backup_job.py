"""One run as the agent works on it: the lock, the flow, and what came out in words."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

from mlsync.flows.backup import BackupResult, backup
from mlsync.monitor import Monitor
from mlsync.service.config import WatchSettings
from mlsync.service.job import Outcome, Pulse, PulsingMonitor
from mlsync.service.runlock import RunLock
from mlsync.service.session import Session, source_of
from mlsync.source.paths import display


class BackupJob:
    """Backs one run up; holds the run's lock from its first pass to ``close``."""

    def __init__(self, session: Session, watch: WatchSettings, monitor: Monitor) -> None:
        self.name = watch.run
        self.directory = watch.directory
        self.pulse = Pulse()
        self._session = session
        self._watch = watch
        self._monitor = PulsingMonitor(monitor, self.pulse)
        self._lock = run_lock(session, watch.run)
        self._is_locked = False

    def run(self, stop: threading.Event) -> Outcome:
        """Make a version if anything changed."""
        if not self._is_locked:
            self._lock.acquire()
            self._is_locked = True
        return outcome(back_up(self._session, self._watch, self._monitor, stop))

    def close(self) -> None:
        """Let the run go."""
        if self._is_locked:
            self._lock.release()
            self._is_locked = False


def run_lock(session: Session, run: str) -> RunLock:
    """Return the lock of a run of this repository on this machine."""
    return RunLock(Path(session.config.state_directory), session.repository.repository_id.hex(), run)


def back_up(session: Session, watch: WatchSettings, monitor: Monitor, stop: threading.Event) -> BackupResult:
    """Back a run up once; its lock is held by the caller."""
    options = dataclasses.replace(session.backup_options(), stop=stop.is_set)
    # A prover for each pass: its child holds torch, and the idle agent is to be small.
    with session.prover() as prover:
        return backup(session.repository, session.state, source_of(watch), prover, options, monitor)


def outcome(result: BackupResult) -> Outcome:
    """Return what a backup came to, in the agent's terms."""
    troubles = tuple(f"{display(trouble.path)}: {trouble.text}" for trouble in result.troubles)
    return Outcome(result.run, result.version or None, not result.pending, troubles, summary(result))


def summary(result: BackupResult) -> str:
    """Return one line on what a backup did, without the run's name."""
    if not result.version:
        return f"nothing changed since version {result.previous}" if result.previous else "nothing to back up yet"
    parts = [
        f"version {result.version} in {result.seconds:.1f} s",
        f"{result.changed_count} files read",
        f"{_mib(result.new_bytes)} new",
        f"{_mib(result.stored_bytes)} stored",
    ]
    if result.checkpoint_count:
        on_device = f" on {result.device}" if result.device else ""
        parts.append(f"{result.checkpoint_count} checkpoints at L{result.lowest_level} or above{on_device}")
    if result.pending:
        parts.append(f"{len(result.pending)} of them pending")
    return ", ".join(parts)


def _mib(count_bytes: int) -> str:
    return f"{count_bytes / (1 << 20):.1f} MiB"
