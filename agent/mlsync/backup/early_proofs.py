"""Prove large files beside the storing: each pack is read back once it is durable, while the next ones are stored.

A thread follows the files in the order in which they are read. It takes each chunk from the store as soon as the pack
is durable, opens it, and passes over the file as a proof does: digests, checksums, numbers on the device. Where the
tensors lie is known from the source until then. Nothing of that is believed before the file is stored: its structure is
read from the store then, and has to be the very same, for the very same chunks. If anything differs or fails, the file
is proved from the start, as if nobody had begun; so errors come in the same order and mean the same as without this.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Self

from mlsync.backup.files_cache import FilesCache
from mlsync.backup.parents.parent import Parent
from mlsync.backup.request import Job
from mlsync.backup.storing.archiver import ReadFile
from mlsync.backup.storing.source_reader import SourceReader, came_back
from mlsync.codec.digest import FileDigester, file_digest_kind
from mlsync.courtesy.pressure import threads
from mlsync.errors import ObjectDamaged, Stopped
from mlsync.proof.prover import Allocate, Passed, Prover
from mlsync.proof.verdict import Verdict
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.reader import ChunkReader, ReadBase
from mlsync.repository.writer import PackWriter, PlacedChunk
from mlsync.source.root import Root
from mlsync.versions.stored_file import RestoredFile, zeros

_LOG: Final = logging.getLogger(__name__)
# A pack is durable when it is full, or at the end. So there is something to gain from a few packs on, and the structure
# of a file is read twice for it.
FILE_BYTES_MIN: Final = 256 << 20
# Smaller chunks, such as headers, are alike in many files.
_TENSOR_BYTES_MIN: Final = 64 << 10
# How long the thread sleeps where nothing tells it that it may go on.
_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Done:
    """A file that was passed over, and of what it consisted."""

    passed: Passed
    refs: tuple[ChunkRef, ...]
    holes: tuple[tuple[int, int], ...]
    digest: bytes


class EarlyProofs:
    """The proofs that one backup begins while it stores; a context manager, since it owns a thread."""

    def __init__(self, job: Job, root: Root, prover: Prover, parent: Parent, cache: FilesCache) -> None:
        self._job = job
        self._root = root
        self._prover = prover
        self._parent = parent
        self._cache = cache
        self._writer: PackWriter | None = None
        self._read_base: ReadBase | None = None
        self._thread: threading.Thread | None = None
        self._last: ReadFile | None = None
        self._queue: queue.SimpleQueue[ReadFile | None] = queue.SimpleQueue()
        self._done: dict[bytes, _Done] = {}
        self._is_cancelled = False
        self._read_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def has_begun(self) -> bool:
        """Whether something was begun that nobody has waited for yet."""
        return self._thread is not None

    @property
    def read_bytes(self) -> int:
        """How many bytes came back from the store."""
        return self._read_bytes

    def follow(self, writer: PackWriter, read_base: ReadBase | None = None) -> Callable[[ReadFile], None]:
        """Return what has a file followed: it is called with each piece that *writer* may have to store.

        *read_base* is that of ``prove``.
        """
        self._writer, self._read_base = writer, read_base
        return self._begin if self._is_worth_it() else lambda _read: None

    def _is_worth_it(self) -> bool:
        """Return whether nobody is kept waiting for processors by it, and no trainer's GPU is taken for it."""
        options = self._job.options
        if options.read_back != "new" or options.proves_later or options.deadline is not None:
            return False
        # A process that waits on a GPU keeps some of its memory from the trainer.
        return not self._prover.may_use_gpu and threads(2) == 2  # noqa: PLR2004 - one for it, beside those that store

    def _begin(self, read: ReadFile) -> None:
        if read is self._last or read.size_bytes < FILE_BYTES_MIN or self._is_cancelled:
            return
        self._last = read
        if self._thread is None:
            # Here and not in the thread: the child ends with the thread that started it.
            self._prover.start()
            self._thread = threading.Thread(target=self._work, name="mlsync-early-proof", daemon=True)
            self._thread.start()
        self._queue.put(read)

    def wait(self, check: Callable[[], None]) -> None:
        """Wait until all that was begun is done; all chunks are durable by then. *check* is called now and then."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(None)
        try:
            while thread.is_alive():
                check()
                thread.join(_LOOK_S)
        except BaseException:
            self._thread = thread
            raise

    def verdict(self, entry: Entry, file: RestoredFile) -> Verdict | None:
        """Return the verdict on a file of the version, if what was passed over is this very file in the store."""
        done = self._done.pop(entry.path, None)
        if done is None or (done.refs, done.holes, done.digest) != (entry.chunks, entry.holes, entry.digest):
            return None
        return self._prover.confirm(done.passed, file, entry.path)

    def close(self) -> None:
        """End the thread, whatever it does; what is not done is proved from the start."""
        self._is_cancelled = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        has_failed = False
        while (read := self._queue.get()) is not None:
            try:
                has_failed = not self._pass(read) or has_failed
            except Exception as error:  # noqa: BLE001 - the proof from the start meets the same, and says it
                _LOG.debug("%r is proved after it is stored: %s", os.fsdecode(read.found.path), error)
                has_failed = True
        if has_failed:
            # A child that this thread started ends with it, and must not do so in the middle of a proof.
            self._prover.close()

    def _pass(self, read: ReadFile) -> bool:
        """Pass over a file, unless its proof costs nothing; return whether nothing was wrong with it."""
        assert self._writer is not None
        path = read.found.path
        self._prover.on_tick = self._check
        places: dict[bytes, tuple[bytes, int]] = {}
        before = self._parent.entries.get(path)
        repository = self._job.repository
        found = came_back([] if before is None else [before], self._parent, self._cache, repository)
        with SourceReader(repository, found, places.get, self._root, self._read_base) as reader:
            file = _FileAsStored(read, self._writer, reader, places, self._check)
            if file.shares_with_others(found):
                return True
            try:
                # What was waited for until now is not in the time that the pass takes.
                file.waited_s = 0.0
                with _Source(self._root, read) as source:
                    passed = self._prover.pass_over(source, file, path, lambda: file.waited_s)
            finally:
                self._read_bytes += reader.read_bytes
        if passed is not None:
            self._done[path] = _Done(passed, tuple(file.refs), read.holes, read.digest)
        return passed is not None

    def _check(self) -> None:
        if self._is_cancelled:
            raise Stopped("what was begun early is given up", where=self._job.source.run)


class _Source:
    """A file of the source, as far as parsers look into it."""

    def __init__(self, root: Root, read: ReadFile) -> None:
        self.size_bytes = read.size_bytes
        self._descriptor = root.open_file(read.found.path, os.O_RDONLY | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def read_at(self, offset: int, length: int) -> bytes:
        content = os.pread(self._descriptor, length, offset)
        if len(content) != length:
            raise ObjectDamaged("the source became shorter", where="source")
        return content


class _FileAsStored:
    """A file that is being stored, as the store gives it back: chunk by chunk, each once its pack is durable."""

    def __init__(
        self,
        read: ReadFile,
        writer: PackWriter,
        reader: ChunkReader,
        places: dict[bytes, tuple[bytes, int]],
        check: Callable[[], None],
    ) -> None:
        self.size_bytes = read.size_bytes
        self.refs: list[ChunkRef] = []
        self.waited_s = 0.0
        self._read = read
        self._writer = writer
        self._reader = reader
        self._places = places
        self._check = check
        self._offsets: list[int] = []

    def shares_with_others(self, known: AbstractSet[ChunkRef]) -> bool:
        """Return whether its first tensor is another file's too, beside what is *known* of its own last version.

        Then it is mostly a copy, whose proof is the other's, or has what came back for another file.
        """
        for placed, ref in self._stored_chunks():
            if ref.plain_bytes >= _TENSOR_BYTES_MIN:
                return not placed.is_new and ref not in known
        return False

    def stream(self, allocate: Allocate | None = None) -> Iterator[memoryview]:
        """Yield the file in order; raise ``ObjectDamaged`` if the digest differs from the source's."""
        digester = FileDigester(file_digest_kind(self.size_bytes, self._read.holes), self._read.holes)
        offset = 0
        allocate_for = (
            None if allocate is None else lambda nth: allocate(self._offsets[nth], self.refs[nth].plain_bytes)
        )
        for nth, view in enumerate(self._reader.stream(self._durable(), allocate_for)):
            yield from zeros(self._offsets[nth] - offset)
            digester.update(view)
            yield view
            offset = self._offsets[nth] + len(view)
        yield from zeros(self.size_bytes - offset)
        if not self._read.is_over or digester.digest() != self._read.digest:
            raise ObjectDamaged("a file's chunks do not make the file", where=repr(self._read.found.path))

    def _durable(self) -> Iterator[ChunkRef]:
        """Yield the chunks of the file in order, and note where they are in it."""
        holes = dict(self._read.holes)
        offset = 0
        for placed, ref in self._stored_chunks():
            offset += holes.get(offset, 0)
            if not placed.is_new:
                self._places[ref.name] = self._read.found.path, offset
            self.refs.append(ref)
            self._offsets.append(offset)
            yield ref
            offset += ref.plain_bytes

    def _stored_chunks(self) -> Iterator[tuple[PlacedChunk, ChunkRef]]:
        """Yield the chunks of the file in order, each once its pack is durable, until the file is over."""
        nth = 0
        while True:
            # In this order: the last pieces are there before the file is over.
            is_over = self._read.is_over
            placed = self._read.placed[nth] if nth < len(self._read.placed) else None
            if placed is None and is_over:
                return
            ref = None if placed is None else self._writer.durable_ref(placed)
            if placed is None or ref is None:
                self._wait()
                continue
            yield placed, ref
            nth += 1

    def _wait(self) -> None:
        self._check()
        began_s = time.monotonic()
        self._writer.wait_durable(_LOOK_S)
        self.waited_s += time.monotonic() - began_s
