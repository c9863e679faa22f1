"""Uploads that were cut off: what this machine began is finished, what nobody will finish is swept away."""

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

# Longer than a network is away for and somebody still comes back to the upload; its parts are paid for meanwhile.
ABANDONED_AGE_S: Final = 3 * 24 * 3600.0
SWEEP_EVERY_S: Final = 24 * 3600.0
_SWEPT: Final = "swept"
_MIB: Final = 1 << 20


def finish_cut_off(
    journal: PackJournal, repository: Repository, remember: Callable[[list[ChunkRef]], None], monitor: Monitor
) -> None:
    """Finish every pack that a writer on this machine began and could not; its chunks need not be sent again.

    Raises the store's error where it cannot be reached: the notes stay for the next time.
    """

    def tell(error: StoreError) -> None:
        # Where there is something that a person can do about it; that it is gone by now happens.
        if error.advice is not None:
            monitor.notice("warning", f"an upload that was cut off is sent anew: {error}")

    finished_count, there_bytes = 0, 0
    for noted in journal.interrupted():
        refs = repository.finish_pack(noted, tell)
        if refs:
            remember(refs)
            finished_count += 1
            there_bytes += noted.sent_bytes
        journal.forget(noted.pack_id)
    if finished_count:
        uploads = "1 upload that was" if finished_count == 1 else f"{finished_count} uploads that were"
        monitor.notice("info", f"finished {uploads} cut off: {there_bytes / _MIB:.0f} MiB need not be sent again")


def sweep_abandoned(directory: Path, repository: Repository, monitor: Monitor, now_s: float) -> None:
    """Once a day, have uploads dropped that nobody went on with for days, whichever machine began them."""
    if 0 <= now_s - _swept_s(directory) < SWEEP_EVERY_S:
        return
    try:
        count = repository.store.remove_stale_uploads(ABANDONED_AGE_S)
    except StoreError as error:
        # Tidiness is no condition of a backup, and not everybody may list uploads.
        monitor.notice("info", f"uploads that were cut off long ago could not be looked for: {error}")
    else:
        if count:
            monitor.notice("info", f"dropped what was left in the store of {count} uploads that were cut off days ago")
    with suppress(OSError):
        _note_swept(directory, now_s)


def _swept_s(directory: Path) -> float:
    try:
        return (directory / _SWEPT).stat().st_mtime
    except OSError:
        return 0.0


def _note_swept(directory: Path, now_s: float) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / _SWEPT
    path.touch(mode=0o600)
    os.utime(path, (now_s, now_s))
