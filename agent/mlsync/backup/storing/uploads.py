"""Interrupted uploads: finish those that this machine began, and drop stale ones, which nobody will finish."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlsync.errors import StoreError
from mlsync.monitor import Monitor
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.journal import PackJournal
from mlsync.repository.repository import Repository

# Longer than any outage after which a machine still resumes its upload. Until then, the store bills for its parts.
STALE_AGE_S: Final = 3 * 24 * 3600.0
DROP_EVERY_S: Final = 24 * 3600.0
# Its time says when stale uploads were last dropped.
_MARK: Final = "swept"
_MIB: Final = 1 << 20


def resume_uploads(
    journal: PackJournal, repository: Repository, remember: Callable[[list[ChunkRef]], None], monitor: Monitor
) -> None:
    """Finish every pack that a writer on this machine began and did not finish; its chunks need not be sent again.

    Raises the store's error if the store cannot be reached: the notes stay for the next time.
    """

    def notify(error: StoreError) -> None:
        # Only what a person can do something about. That an upload is gone by now is normal.
        if error.advice is not None:
            monitor.notice("warning", f"an upload that was cut off is sent anew: {error}")

    finished_count, there_bytes = 0, 0
    for noted in journal.interrupted():
        refs = repository.finish_pack(noted, notify)
        if refs:
            # Of a difference, the footer does not say where its base lies: such a chunk is sent again.
            remember([ref for ref in refs if ref.base is None])
            finished_count += 1
            there_bytes += noted.sent_bytes
        journal.forget(noted.pack_id)
    if finished_count:
        uploads = "1 upload that was" if finished_count == 1 else f"{finished_count} uploads that were"
        monitor.notice("info", f"finished {uploads} cut off: {there_bytes / _MIB:.0f} MiB need not be sent again")


def drop_stale_uploads(directory: Path, repository: Repository, monitor: Monitor, now_s: float) -> None:
    """Drop, once a day, the uploads that no machine has resumed for days, whichever began them."""
    if 0 <= now_s - _last_dropped_s(directory) < DROP_EVERY_S:
        return
    try:
        count = repository.store.remove_stale_uploads(STALE_AGE_S)
    except StoreError as error:
        # A backup does not depend on it, and not everybody may list uploads.
        monitor.notice("info", f"uploads that were cut off long ago could not be looked for: {error}")
    else:
        if count:
            monitor.notice("info", f"dropped what was left in the store of {count} uploads that were cut off days ago")
    with suppress(OSError):
        _note_dropped(directory, now_s)


def _last_dropped_s(directory: Path) -> float:
    try:
        return (directory / _MARK).stat().st_mtime
    except OSError:
        return 0.0


def _note_dropped(directory: Path, now_s: float) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / _MARK
    path.touch(mode=0o600)
    os.utime(path, (now_s, now_s))
