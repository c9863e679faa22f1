"""An upload to a directory: any number of threads write parts in place into one temporary file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.store.base import Upload, view_of
from mlsync.store.directory.pending_file import PendingFile
from mlsync.store.part_ledger import PartLedger


class DirectoryUpload(Upload):
    """Fills *file* and publishes it; *translating* turns errors of the operating system into the store's."""

    def __init__(
        self,
        file: PendingFile,
        *,
        part_bytes: int,
        where: str,
        translating: Callable[[], AbstractContextManager[None]],
        publish: Callable[[], None],
    ) -> None:
        self._file = file
        self._where = where
        self._translating = translating
        self._publish = publish
        self._ledger = PartLedger(part_bytes)
        self._changed = threading.Condition()
        self._writers_count = 0
        self._is_over = False
        self._is_lost = False

    def write(self, offset: int, part: Buffer) -> None:
        """Send the part that begins at *offset*."""
        view = view_of(part)
        self._ledger.check(offset, len(view))
        with self._in_use(), self._translating():
            self._file.write(offset, view)
        self._ledger.add(offset, len(view))

    def finish(self, size_bytes: int) -> None:
        """Create the object; another call continues where a failed one stopped."""
        self._ledger.check_whole(size_bytes)
        with self._in_use(), self._translating():
            self._sync()
            self._publish()
        self.abort()

    def abort(self) -> None:
        """Remove the file; a published object stays."""
        with self._changed:
            self._is_over = True
            # If a descriptor is closed under a writer, it may be another file's when the writer uses it.
            self._changed.wait_for(lambda: self._writers_count == 0)
            self._file.discard()

    def _sync(self) -> None:
        try:
            self._file.sync()
        except OSError:
            # The kernel reports a failed write-back once and forgets the pages: a second fsync would lie.
            self._is_lost = True
            raise

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep the file open; abort, which frees its space at once, if the store is full."""
        with self._changed:
            self._check_usable()
            self._writers_count += 1
        is_full = False
        try:
            yield
        except errors.StoreFull:
            is_full = True
            raise
        finally:
            with self._changed:
                self._writers_count -= 1
                self._changed.notify_all()
            if is_full:
                self.abort()

    def _check_usable(self) -> None:
        if self._is_lost:
            what = "the disk lost bytes of this upload; begin it again"
            raise errors.StoreUnavailable(what, where=self._where)
        if self._is_over:
            raise errors.StoreUnavailable("this upload is over; begin it again", where=self._where)
