"""Chunks that a restore needs again, in a file without a name: it goes with the restore, however that ends.

They are not worth the page cache, and copying into fresh pages takes longer than decoding them anew: so writes and
reads go past it, through aligned memory of each thread.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Final

from mlsync.buffers import ThreadMemory
from mlsync.direct_io import ALIGNMENT, read_cached, read_direct, slack_bytes, write_direct
from mlsync.target.staging import open_again, write_at

_NAMELESS: Final = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
_MODE: Final = 0o600

_memory = ThreadMemory()


class Spool:
    """Holds chunks by their names, for several threads; a context manager."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._offsets: dict[bytes, int] = {}
        self._end = 0

    @classmethod
    def make(cls, directory: int) -> Spool | None:
        """Make one on the file system of an open directory, or return ``None`` where files need names."""
        try:
            return cls(os.open(b".", _NAMELESS, _MODE, dir_fd=directory))
        except OSError:
            return None

    def close(self) -> None:
        """Free its space."""
        with self._lock:
            self._offsets.clear()
            os.close(self._descriptor)
            self._descriptor = -1

    def put(self, name: bytes, plain: memoryview) -> None:
        """Keep a chunk; without room for it, do nothing."""
        with self._lock:
            if name in self._offsets or self._descriptor < 0:
                return
            offset, self._end = self._end, self._end + len(plain) + -len(plain) % ALIGNMENT
        copy = _memory.room(len(plain))
        copy[:] = plain
        try:
            done = write_direct(partial(open_again, self._descriptor), offset, copy)
            write_at(self._descriptor, offset + done, copy[done:])
        except OSError:
            return
        with self._lock:
            self._offsets[name] = offset

    def read(self, name: bytes, into: memoryview) -> bool:
        """Fill *into* with a chunk; return whether it is there."""
        offset = self._offsets.get(name)
        try:
            return offset is not None and read_whole(self._descriptor, offset, into)
        except OSError:
            return False


def read_whole(descriptor: int, offset: int, into: memoryview) -> bool:
    """Fill *into* from a file, past the page cache where that has not all; return whether the file has so much."""
    done = read_cached(descriptor, offset, into)
    start = offset + done
    slack = slack_bytes(start)
    end = start + len(into) - done
    aligned = _memory.room(end - start + slack + -end % ALIGNMENT)
    if done < len(into):
        count = read_direct(partial(open_again, descriptor), start - slack, aligned)
        count = min(max(count - slack, 0), len(into) - done)
        into[done : done + count] = aligned[slack : slack + count]
        done += count
    while done < len(into):
        count = os.preadv(descriptor, [into[done:]], offset + done)
        if count == 0:
            return False
        done += count
    return True
