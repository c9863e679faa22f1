"""Back up one run: look for a change by stats alone, and make a version only if there is one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mlsync.backup.parents.parent import find_parent
from mlsync.backup.request import BackupOptions, BackupResult, Job, Source
from mlsync.backup.shrunk import forget_loss
from mlsync.backup.storing.avoided import Avoided
from mlsync.backup.unchanged import Unchanged, find_only_logs_changed, find_unchanged
from mlsync.errors import ObjectArchived, ObjectDamaged, ObjectMissing, WriteOnly
from mlsync.log_context import working_on
from mlsync.monitor import Monitor
from mlsync.proving.policy import Policy
from mlsync.repository.readable import report_skipped
from mlsync.repository.repository import Repository
from mlsync.source.paths import display
from mlsync.source.state import State

if TYPE_CHECKING:
    from mlsync.proof.prover import Prover

_LOG: Final = logging.getLogger(__name__)


def backup(
    repository: Repository,
    state: State,
    source: Source,
    open_prover: Callable[[], Prover],
    options: BackupOptions,
    monitor: Monitor,
) -> BackupResult:
    """Return what was done; the version, if one was made, is committed and proved as its manifest says.

    *open_prover* is called if there is something to prove; the prover is closed in the end.
    Raises ``SourceMissing``, ``SourceEmptied``, ``HistoryRolledBack``, ``VersionTaken``, ``Stopped`` or an error of the
    store or state; no version was made then, and the next backup uses what was stored.
    """
    avoided = Avoided(state.damaged(source.run), reuses_cold=options.reuse_cold)
    job = Job(repository, state, source, open_prover, options, monitor, avoided)
    while True:
        try:
            try:
                result = _attempt(job)
            finally:
                report_skipped(repository, monitor)
        except (ObjectMissing, ObjectDamaged) as error:
            # A pack that the version relied on is lost or damaged: its content is stored again, from the source.
            pack_id = avoided.note_lost(error, repository)
            monitor.notice("error", f"{error}; what this run needs of it is stored again")
            state.forget_packs([pack_id])
        except ObjectArchived as error:
            avoided.note_cold(error, repository, monitor)
        except WriteOnly as error:
            # Unchanged files that are proved together with changed ones: they are read and stored once more.
            avoided.note_closed(error)
        else:
            if avoided.lost:
                state.drop_damaged(source.run, avoided.lost)
            return result


def look(state: State, source: Source, *, logs_too: bool = False) -> BackupResult | None:
    """Return the result of a backup of an unchanged run, as far as the store is not needed for it; else ``None``.

    With *logs_too* a run counts as unchanged in which only logs changed, or files were deleted.
    """
    started_s = time.monotonic()
    head = state.head(source.run)
    find = find_only_logs_changed if logs_too else _find_unchanged
    unchanged = find(state, source, time.time_ns())
    return None if head is None or unchanged is None else _result(source, head.number, unchanged, started_s)


def _attempt(job: Job) -> BackupResult:
    """Back up once, without the packs that are to be avoided."""
    started_s = time.monotonic()
    _LOG.debug("looking for changed files in %s", display(job.source.directory))
    # The content of a lost pack is to be stored again, changed or not.
    unchanged = None
    with job.monitor.task(f"{job.source.run}: looking for changes", None) as task:
        if not job.avoided.lost and not any(save.is_deleted for save in job.source.held):
            unchanged = _find_unchanged(job.state, job.source, job.options.now_ns(), job.options.policy)
        _LOG.debug("looking for the last version")
        task.say("looking for the last version")
        find = find_parent
        if job.repository.is_write_only:
            from mlsync.backup.parents.closed_parent import find_closed_parent as find
        parent = find(job.repository, job.state, job.source.run)
    if unchanged is not None and parent.is_remembered:
        return _result(job.source, parent.number, unchanged, started_s)
    # Imported late: most backups find nothing changed, and need none of what reads, cuts and proves.
    from mlsync.backup.new_version import make_version

    with working_on(job.source.run, parent.number + 1):
        return make_version(job, parent, started_s)


def _find_unchanged(state: State, source: Source, now_ns: int, policy: Policy | None = None) -> Unchanged | None:
    """Return what the directory is like if nothing changed; all checkpoints that were missing are back then."""
    unchanged = find_unchanged(state, source, now_ns, policy)
    if unchanged is not None:
        forget_loss(state, source.run)
    return unchanged


def _result(source: Source, previous: int, unchanged: Unchanged, started_s: float) -> BackupResult:
    return BackupResult(
        source.run,
        previous,
        scanned_count=unchanged.count,
        troubles=unchanged.troubles,
        left_out=unchanged.left_out,
        seconds=time.monotonic() - started_s,
    )
