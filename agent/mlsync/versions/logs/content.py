"""The bytes of small files of versions, fetched once for all that ask: facts, rules of retention, best, metrics."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final
from weakref import WeakKeyDictionary

from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.repository import Repository
from mlsync.versions.stored_file import RestoredFile

# As much as one log may have, twice: several questions about a version come one after the other.
_KEPT_BYTES_MAX: Final = 16 << 20


class Contents:
    """What was read last from a repository; a file is the same wherever its chunks are the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[ChunkRef, ...], bytes] = OrderedDict()
        self._kept_bytes = 0

    def find(self, entry: Entry) -> bytes | None:
        """Return a file's content if it is kept."""
        with self._lock:
            data = self._kept.get(entry.chunks)
            if data is not None:
                self._kept.move_to_end(entry.chunks)
            # A file with holes may have the chunks of another one
            return data if data is not None and len(data) == entry.size_bytes and not entry.holes else None

    def keep(self, entry: Entry, data: bytes) -> None:
        """Keep a file's content, and let go of what was not asked for the longest."""
        if entry.holes or len(data) > _KEPT_BYTES_MAX:
            return
        with self._lock:
            self._kept_bytes += len(data) - len(self._kept.pop(entry.chunks, b""))
            self._kept[entry.chunks] = data
            while self._kept_bytes > _KEPT_BYTES_MAX:
                _, oldest = self._kept.popitem(last=False)
                self._kept_bytes -= len(oldest)


_OF: Final[WeakKeyDictionary[Repository, Contents]] = WeakKeyDictionary()


def content_of(repository: Repository, entry: Entry) -> bytes:
    """Return a small file of a version as a whole; one that was read just before is not fetched again.

    This is for logs. What is proved or restored always comes from the store.
    """
    contents = _OF.setdefault(repository, Contents())
    data = contents.find(entry)
    if data is None:
        with repository.reader() as reader:
            data = RestoredFile(reader, entry, lambda _: None).read_at(0, entry.size_bytes)
        contents.keep(entry, data)
    return data
