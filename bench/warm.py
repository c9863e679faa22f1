"""Gets the machine into the same state before each step that is timed.

Nothing is left to be written, what is read next is in the page cache, and the rest of memory is full of pages that
nobody needs, as it is wherever a training has run for a while. Without that, the same ``cp`` took from two to eleven
seconds: a virtual machine gives memory that is free back to its host, and pays for having it again. Whoever came right
after something large was deleted was the quickest.
"""

from __future__ import annotations

import os
from pathlib import Path

import report
import trees

PIECE_BYTES = 4 << 20
LOOK_EVERY_BYTES = 64 << 20
# The kernel keeps about so much free whatever one reads.
FULL_AT_BYTES = 640 << 20


class Warmer:
    """Owns the file that fills the memory: a hole as long as it, so that it takes no disk and is read at once.

    Without *fills* the memory is left as it is: where sizes are what is asked for, and seconds only roughly.
    """

    def __init__(self, directory: Path, *, fills: bool = True) -> None:
        self._fills = fills
        self._file = directory / "filler"
        self._size_bytes = report.memory_bytes("MemTotal")
        self._at = 0
        self._buffer = memoryview(bytearray(PIECE_BYTES))
        with self._file.open("wb") as stream:
            stream.truncate(self._size_bytes)

    def settle(self, read_next: Path) -> None:
        os.sync()
        if self._fills:
            self._fill()
        # Twice: what was read only once is among the first that the kernel takes away.
        for file in [*trees.files(read_next)] * 2:
            self._read(file)

    def _fill(self) -> None:
        """Read on from where the last time ended, where the pages lie that the kernel took away first."""
        with self._file.open("rb", buffering=0) as stream:
            for _ in range(self._size_bytes // LOOK_EVERY_BYTES):
                if report.memory_bytes("MemFree") < FULL_AT_BYTES:
                    return
                for _ in range(LOOK_EVERY_BYTES // PIECE_BYTES):
                    os.preadv(stream.fileno(), [self._buffer], self._at)
                    self._at = (self._at + PIECE_BYTES) % self._size_bytes

    def _read(self, file: Path) -> None:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(self._buffer):
                pass
