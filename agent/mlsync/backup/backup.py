"""Back up one run: look for a change by stats alone, and make a version only where there is one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mlsync.backup.avoided import Avoided
from mlsync.backup.parent import find_base
from mlsync.backup.request import BackupOptions, BackupResult, Source
from mlsync.backup.shrunk import forget_loss
from mlsync.backup.unchanged import Untouched, look_for_change
from mlsync.errors import ObjectArchived, ObjectDamaged, ObjectMissing
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

    *open_prover* is called when there is something to prove, and what it gives is closed.
    Raises ``SourceMissing``, ``SourceEmptied``, ``HistoryRolledBack``, ``VersionTaken``, ``Stopped`` or a store's or
    state's error; no version was made then, and what had been stored is used by the next backup.
    """
    avoided = Avoided(state.damaged(source.run))
    while True:
        try:
            try:
                result = _once(repository, state, source, open_prover, options, monitor, avoided)
            finally:
                report_skipped(repository, monitor)
        except (ObjectMissing, ObjectDamaged) as error:
            # A pack that was relied on is lost or damaged: what lies in it is stored once more, from the source.
            pack_id = avoided.note_lost(error, repository)
            monitor.notice("error", f"{error}; what this run needs of it is stored again")
            state.forget_packs([pack_id])
        except ObjectArchived as error:
            avoided.note_cold(error, repository, monitor)
        else:
            if avoided.lost:
                state.drop_damaged(source.run, avoided.lost)
            return result


def look(state: State, source: Source) -> BackupResult | None:
    """Return what a backup of an untouched run comes to, as far as that shows without the store; else ``None``."""
    started_s = time.monotonic()
    head = state.head(source.run)
    untouched = _untouched(state, source, time.time_ns())
    if head is None or untouched is None:
        return None
    result = BackupResult(source.run, head.number)
    _tell_untouched(result, untouched)
    result.seconds = time.monotonic() - started_s
    return result


def _once(
    repository: Repository,
    state: State,
    source: Source,
    open_prover: Callable[[], Prover],
    options: BackupOptions,
    monitor: Monitor,
    avoided: Avoided,
) -> BackupResult:
    """Return what one try did, if none of the *avoided* packs is relied on."""
    started_s = time.monotonic()
    # What lies in a lost pack is to be stored again, changed or not.
    _LOG.debug("looking for changed files in %s", display(source.directory))
    untouched = None if avoided.lost else _untouched(state, source, options.now_ns(), options.policy)
    _LOG.debug("looking for the last version")
    base = find_base(repository, state, source.run)
    result = BackupResult(source.run, base.number)
    if untouched is not None and base.is_remembered:
        _tell_untouched(result, untouched)
    else:
        # Late: most backups find nothing changed, and do without all that reads, cuts and proves.
        from mlsync.backup.new_version import VersionMaker

        with working_on(source.run, base.number + 1):
            VersionMaker(repository, state, source, open_prover, options, monitor, avoided).make(base, result)
    result.seconds = time.monotonic() - started_s
    return result


def _untouched(state: State, source: Source, now_ns: int, policy: Policy | None = None) -> Untouched | None:
    """Return what an untouched tree is like; whatever was missing of it is back then."""
    untouched = look_for_change(
        state, source.run, source.directory, source.exclude, now_ns, policy, keep_temporary=source.keep_temporary
    )
    if untouched is not None:
        forget_loss(state, source.run)
    return untouched


def _tell_untouched(result: BackupResult, untouched: Untouched) -> None:
    result.scanned_count, result.troubles = untouched.count, untouched.troubles
    result.left_out = untouched.left_out
