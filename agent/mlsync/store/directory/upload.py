"""An upload to a directory: parts are written in place into one unfinished file, from any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.store.base import Upload, view_of
from mlsync.store.directory.unfinished import UnfinishedFile
from mlsync.store.parts import PartLedger


class DirectoryUpload(Upload):
    """Fills *file* and has it published; *translating* is the store's border for errors of the operating system."""

    def __init__(
        self,
        file: UnfinishedFile,
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
        self._turn = threading.Condition()
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
        """Make the object appear; what a failed try left undone is done by the next one."""
        self._ledger.check_whole(size_bytes)
        with self._in_use(), self._translating():
            self._sync()
            self._publish()
        self.abort()

    def abort(self) -> None:
        """Forget the file; an object that was published stays."""
        with self._turn:
            self._is_over = True
            # A descriptor that is closed under a writer may be another file's by the time that it writes.
            self._turn.wait_for(lambda: self._writers_count == 0)
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
        """The file stays open meanwhile; its room is given back at once if the store is full."""
        with self._turn:
            self._check_usable()
            self._writers_count += 1
        is_full = False
        try:
            yield
        except errors.StoreFull:
            is_full = True
            raise
        finally:
            with self._turn:
                self._writers_count -= 1
                self._turn.notify_all()
            if is_full:
                self.abort()

    def _check_usable(self) -> None:
        if self._is_lost:
            what = "the disk lost bytes of this upload; begin it again"
            raise errors.StoreUnavailable(what, where=self._where)
        if self._is_over:
            raise errors.StoreUnavailable("this upload is over; begin it again", where=self._where)
