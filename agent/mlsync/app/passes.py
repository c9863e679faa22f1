"""One pass over a run by the configuration, and its result in words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from mlsync.app.flow_options import backup_options, clear_leftovers, prover_of, source_of
from mlsync.app.session import Session
from mlsync.app.wording import count, listed, size
from mlsync.backup.backup import backup
from mlsync.backup.deadline import Deadline
from mlsync.backup.request import BackupResult
from mlsync.config.model import WatchSettings
from mlsync.courtesy.slowness import SLOWNESS
from mlsync.log_context import working_on
from mlsync.monitor import Monitor
from mlsync.repository.manifest import Trouble
from mlsync.source.held import HeldSave
from mlsync.source.paths import display

if TYPE_CHECKING:
    from mlsync.app.pass_result import PassResult
    from mlsync.proof.warm import WarmEngine

_MANY_FILES: Final = 10_000
_MANY_BYTES: Final = 1 << 30


def back_up(
    session: Session,
    watch: WatchSettings,
    monitor: Monitor,
    stop: threading.Event,
    *,
    accept_loss: bool = False,
    deadline_s: float | None = None,
    hurry: Callable[[], bool] = lambda: False,
    at_once: bool = False,
    is_late: bool = False,
    held: tuple[HeldSave, ...] = (),
    warm: WarmEngine | None = None,
) -> BackupResult:
    """Back a run up once; the caller holds its lock.

    With *deadline_s*, on the monotonic clock, it is the last backup before this machine goes away then. Once *hurry*
    says so, beside *stop*, a version whose content is stored is committed without its proof. With *at_once*, and with a
    deadline, neither limits nor the needs of others slow it: what is not stored by then is lost. One that *is_late* has
    waited for others long enough. *held* are saves whose files the agent held open, which stay open.
    *warm* is where a child waits that may prove it.
    """
    max_lag_s = 0.0 if is_late else session.config.limits.max_lag_s
    SLOWNESS.begin(hurries=at_once or deadline_s is not None, max_lag_s=max_lag_s)
    if stop.is_set():  # now: a stop that came before this began was to lift what it put back
        SLOWNESS.lift()
    if session.repository.is_retired:
        session.repository.refuse_retired()
    clear_leftovers(session.state_directory)
    options = msgspec.structs.replace(
        backup_options(session.config, session.state_directory, watch.run),
        stop=stop.is_set,
        hurry=hurry,
        accept_loss=accept_loss,
        deadline=None if deadline_s is None else Deadline.at(deadline_s),
        announce=partial(_announce, monitor, watch.run),
    )
    # A prover for each version: its child holds numpy or torch, and the idle agent has to stay small.
    prover = partial(prover_of, session.config, run=watch.run, warm=warm)
    with working_on(watch.run):
        source = msgspec.structs.replace(source_of(watch), held=held)
        return backup(session.repository, session.state, source, prover, options, monitor)


def _announce(monitor: Monitor, run: str, file_count: int, size_bytes: int) -> None:
    """Say beforehand how much a backup reads, if that takes long."""
    if file_count >= _MANY_FILES or size_bytes >= _MANY_BYTES:
        monitor.notice("status", f"{run}: {count(file_count, 'file')} to read, {size(size_bytes)}")


def outcome(result: BackupResult) -> PassResult:
    """Return a backup's result as the agent uses it."""
    from mlsync.app.pass_result import PassResult  # late: commands have no use for it

    troubles = tuple(map(trouble_text, result.troubles))
    version = result.version or None
    return PassResult(
        result.run,
        version,
        None if result.pending else version,
        troubles,
        summary(result),
        newest_checkpoint_ns=result.newest_checkpoint_ns,
    )


def trouble_text(trouble: Trouble) -> str:
    """Return one line on a file that is not in the version as the source has it."""
    kept = f"version {trouble.kept}'s content is kept" if trouble.kept else "no earlier content, left out"
    return f"{display(trouble.path)}: {trouble.kind.name.lower()}: {trouble.text}; {kept}"


def summary(result: BackupResult) -> str:
    """Return one line on what a backup did, without the run's name."""
    if not result.version:
        return f"nothing changed since version {result.previous}" if result.previous else "nothing to back up yet"
    made = f"version {result.version} in {result.seconds:.1f} s"
    parts = [
        f"{count(result.changed_count, 'file')} with {size(result.read_bytes)} read",
        f"{size(result.new_bytes)} new",
        f"{size(result.stored_bytes)} stored",
    ]
    if result.checkpoint_count:
        on_device = f" on {result.device}" if result.device else ""
        parts.append(f"{count(result.checkpoint_count, 'checkpoint')} proved to L{result.lowest_level}{on_device}")
    if result.pending:
        parts.append(f"{len(result.pending)} of them pending (mlsync show says why)")
    because = f" because {listed(result.why)}: " if result.why else ", "
    return made + because + ", ".join(parts)
