"""Move packs from one store to another: many at once, in parts, in bounded memory, and with what the stores can do.

Where both ends are at one server, or are directories, the bytes do not pass through this process. Elsewhere each thread
reads a part into a buffer of its own and writes it. A pack counts once the mirror says that it has it, with its size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self

from mlsync.buffers import aligned_memory
from mlsync.errors import (
    AlreadyExists,
    Error,
    FormatUnsupported,
    NotFound,
    ObjectArchived,
    ObjectDamaged,
    ObjectMissing,
    StoreBroken,
)
from mlsync.monitor import SilentTask, Task
from mlsync.repository import names
from mlsync.repository.pack.pack import HEADER_BYTES, TRAILER_BYTES, parse_header, parse_trailer
from mlsync.repository.repository import Repository
from mlsync.store.base import Store, Upload

# More than any store asks for.
_THREADS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack to copy."""

    pack_id: bytes
    size_bytes: int

    @property
    def key(self) -> str:
        """Its name."""
        return names.pack(self.pack_id)


@dataclass(slots=True)
class Transferred:
    """What was transferred: sizes by pack, those bytes that no process saw, and why a pack could not be copied."""

    sizes: dict[bytes, int] = field(default_factory=dict)
    server_side_bytes: int = 0
    failed: dict[bytes, Error] = field(default_factory=dict)


@dataclass(slots=True)
class _Streamed:
    """A pack on its way through this process: how many parts are not written yet."""

    pack: Pack
    upload: Upload
    left_count: int
    error: Error | None = None


class PackTransfer:
    """Copies packs of *source* to *target*; a context manager, since it owns threads and their buffers."""

    def __init__(self, source: Repository, target: Store, *, server_side: bool, stop: Callable[[], bool]) -> None:
        self._done = Transferred()
        self._source = source
        self._from = source.store
        self._to = target
        self._server_side = server_side
        self._stop = stop
        self._task: Task = SilentTask()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._under_way: dict[bytes, _Streamed] = {}
        self._threads = ThreadPoolExecutor(_THREADS_MAX, thread_name_prefix="mlsync-copy")

    def __enter__(self) -> Self:
        """Return it, for a ``with`` statement."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def move(self, packs: Iterable[Pack], task: Task) -> Transferred:
        """Copy packs, and return what became of them; raise the error of a store that does not work at all.

        A pack that cannot be copied is among those that failed, and the others go on. When asked to stop, no further
        one is begun.
        """
        self._task, self._done = task, Transferred()
        running: set[Future[None]] = set()
        try:
            for job in self._jobs(packs):
                while len(running) >= max(1, min(_THREADS_MAX, self._to.writes_at_once)):
                    running = _left_of(running)
                running.add(self._threads.submit(job))
            while running:
                running = _left_of(running)
        except BaseException:
            for future in running:
                future.cancel()
            wait(running)
            for streamed in tuple(self._under_way.values()):
                streamed.upload.abort()
            self._under_way.clear()
            raise
        return self._done

    def _jobs(self, packs: Iterable[Pack]) -> Iterator[Callable[[], None]]:
        """Yield what threads do: one job for a pack that the store copies, and one for each part of another."""
        for pack in packs:
            if self._stop():
                return
            if self._server_side and self._to.copies_from(self._from):
                yield partial(self._copy, pack)
            else:
                yield from self._parts(pack)

    def _copy(self, pack: Pack) -> None:
        """Have the store copy a pack, or stream it if the store refuses."""
        was_copied = True
        try:
            was_copied = self._to.copy_from(self._from, pack.key, pack.size_bytes)
        except AlreadyExists:
            pass  # by another copier, whose bytes are the same
        except _OF_PACK as error:
            self._fail(pack, error)
            return
        if was_copied:
            self._count(pack, is_server_side=True)
            self._task.advance(pack.size_bytes)
            return
        for part in self._parts(pack):
            part()

    def _parts(self, pack: Pack) -> Iterator[Callable[[], None]]:
        part_bytes = self._to.part_bytes
        starts = range(0, pack.size_bytes, part_bytes)
        streamed = _Streamed(pack, self._to.upload(pack.key), len(starts))
        with self._lock:
            self._under_way[pack.pack_id] = streamed
        for start in starts:
            yield partial(self._move_part, streamed, start, min(part_bytes, pack.size_bytes - start))

    def _move_part(self, streamed: _Streamed, start: int, size_bytes: int) -> None:
        try:
            # After an error of one part the others have no use.
            if streamed.error is None:
                self._send(streamed, start, size_bytes)
                self._task.advance(size_bytes)
        except _OF_PACK as error:
            if isinstance(error, StoreBroken) and not error.is_of_object:
                raise
            streamed.error = error
        with self._lock:
            streamed.left_count -= 1
            is_last = streamed.left_count == 0
        if is_last:
            self._end(streamed)

    def _send(self, streamed: _Streamed, start: int, size_bytes: int) -> None:
        buffer = self._buffer()[:size_bytes]
        self._from.read(streamed.pack.key, start, buffer)
        self._look_at(streamed.pack, start, buffer)
        streamed.upload.write(start, buffer)

    def _look_at(self, pack: Pack, start: int, part: memoryview) -> None:
        """Raise ``ObjectDamaged`` unless the pack begins and ends as one of this name and length."""
        if start == 0 and len(part) >= HEADER_BYTES:
            parse_header(bytes(part[:HEADER_BYTES]), self._source.keys, pack.pack_id)
        if start + len(part) == pack.size_bytes and len(part) >= TRAILER_BYTES:
            parse_trailer(bytes(part[-TRAILER_BYTES:]), pack.size_bytes, pack.key)

    def _end(self, streamed: _Streamed) -> None:
        with self._lock:
            self._under_way.pop(streamed.pack.pack_id, None)
        if streamed.error is not None:
            streamed.upload.abort()
            self._fail(streamed.pack, streamed.error)
            return
        try:
            streamed.upload.finish(streamed.pack.size_bytes)
        except AlreadyExists:
            streamed.upload.abort()  # by another copier, whose bytes are the same
        except BaseException:
            streamed.upload.abort()
            raise
        self._count(streamed.pack, is_server_side=False)

    def _count(self, pack: Pack, *, is_server_side: bool) -> None:
        """Count a pack, once the mirror says that it has it."""
        try:
            found_bytes = self._to.stat(pack.key).size_bytes
        except NotFound:
            what = "the mirror took a pack, and does not have it"
            self._fail(pack, ObjectMissing(what, where=f"{self._to.url} {pack.key}"))
            return
        if found_bytes != pack.size_bytes:
            what = f"the mirror has {found_bytes} bytes of a pack of {pack.size_bytes}"
            self._fail(pack, ObjectDamaged(what, where=f"{self._to.url} {pack.key}"))
            return
        with self._lock:
            self._done.sizes[pack.pack_id] = pack.size_bytes
            self._done.server_side_bytes += pack.size_bytes if is_server_side else 0

    def _fail(self, pack: Pack, error: Error) -> None:
        if isinstance(error, StoreBroken) and not error.is_of_object:
            raise error
        with self._lock:
            self._done.failed[pack.pack_id] = error

    def _buffer(self) -> memoryview:
        """Return this thread's buffer."""
        found: memoryview | None = getattr(self._local, "buffer", None)
        if found is None:
            found = self._local.buffer = memoryview(aligned_memory(self._to.part_bytes))
        return found


def _left_of(running: set[Future[None]]) -> set[Future[None]]:
    """Wait until one has ended, and raise its error if it has one; return those that still run."""
    ended, left = wait(running, return_when=FIRST_COMPLETED)
    for future in ended:
        future.result()
    return left


# About one pack; any other error of a store ends the copy.
_OF_PACK: Final = (NotFound, ObjectArchived, ObjectDamaged, FormatUnsupported, StoreBroken)
