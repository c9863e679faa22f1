"""What other processes wait for, from the kernel's pressure stall information, and how mlsync yields to them.

Where the kernel has none (before Linux 4.20, or switched off), mlsync assumes that nobody waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mlsync.courtesy.priority import stands_back

PROCESSOR: Final = Path("/proc/pressure/cpu")
DISK: Final = Path("/proc/pressure/io")
# Of the last ten seconds; below this share, it is only somebody who waits a moment.
BUSY_SHARE: Final = 0.1
# The bytes between two pauses: a tenth of a second for an ordinary disk.
STRETCH_BYTES: Final = 16 << 20
# The bytes of one call: the requests of others wait for as long as that takes.
PIECE_BYTES: Final = 4 << 20
PAUSE_MIN_S: Final = 0.005
PAUSE_MAX_S: Final = 0.5
# If others wait for the disk for this share of a pause, the next one is longer.
CONTENDED_SHARE: Final = 0.5
_LOGGED_PAUSE_S: Final = 0.1
_LOG: Final = logging.getLogger(__name__)


def threads(most: int, pressure: Path = PROCESSOR) -> int:
    """Return how many threads to use: one less than *most* where mlsync yields and others wait.

    The kernel's figure includes mlsync's own threads, so call this before they begin.
    """
    if most <= 1 or not stands_back():
        return most
    waiting = recent_share(pressure)
    return most - 1 if waiting is not None and waiting >= BUSY_SHARE else most


def recent_share(pressure: Path) -> float | None:
    """Return the share of the last ten seconds in which somebody waited; ``None`` where it is unknown."""
    value = _value(pressure, "avg10")
    return None if value is None else value / 100


def _value(pressure: Path, name: str) -> float | None:
    """Return a value of the line "some", which counts the time in which at least one task waits."""
    try:
        line = next(line for line in pressure.read_bytes().splitlines() if line.startswith(b"some "))
        return float(dict(word.split(b"=") for word in line.split()[1:])[name.encode()])
    except (OSError, ValueError, KeyError, StopIteration):
        return None


class Pace:
    """Pauses between stretches of reading and writing, for as long as others wait for the disk.

    The idle I/O class would do the same, but only one of the kernel's disk schedulers (bfq) respects it, not the one of
    fast disks (none), and nobody knows what is below a network file system or a volume. So after each stretch comes a
    pause without any transfer of this process: whoever waits for the disk then is another process. If one does, the
    next pause is twice as long, up to half a second; if not, half as long, down to five milliseconds. In processes that
    do not yield it does nothing.
    """

    def __init__(
        self,
        pressure: Path = DISK,
        *,
        is_wanted: Callable[[], bool] = stands_back,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.pause_s = PAUSE_MIN_S
        self._pressure = pressure
        self._is_wanted = is_wanted
        self._clock = clock
        self._sleep = sleep
        self._turn = threading.Condition()
        self._under_way = 0
        self._moved_bytes = 0
        self._is_pause = False

    def pieces(self, size_bytes: int) -> Iterator[slice]:
        """Yield the pieces in which to move *size_bytes*: one, or small ones, each within its own ``moving``."""
        if not self._is_wanted():
            yield slice(0, size_bytes)
            return
        for start in range(0, size_bytes, PIECE_BYTES):
            piece = slice(start, min(start + PIECE_BYTES, size_bytes))
            with self._moving(piece.stop - start):
                yield piece

    @contextmanager
    def moving(self, size_bytes: int) -> Iterator[None]:
        """Wait for the end of a pause, let the caller move up to *size_bytes*, and pause if that is due."""
        if not self._is_wanted():
            yield
            return
        with self._moving(size_bytes):
            yield

    @contextmanager
    def _moving(self, size_bytes: int) -> Iterator[None]:
        with self._turn:
            self._turn.wait_for(lambda: not self._is_pause)
            self._under_way += 1
        try:
            yield
        finally:
            with self._turn:
                self._under_way -= 1
                self._moved_bytes += size_bytes
                self._turn.notify_all()
                is_due = self._moved_bytes >= STRETCH_BYTES and not self._is_pause
                self._is_pause = self._is_pause or is_due
        if is_due:
            self._pause()

    def _pause(self) -> None:
        """Wait for our own transfers, pause, and adapt the next pause."""
        try:
            with self._turn:
                self._turn.wait_for(lambda: self._under_way == 0)
            waited_us, began_s = _value(self._pressure, "total"), self._clock()
            if self.pause_s >= _LOGGED_PAUSE_S:
                _LOG.debug("others wait for the disk: pausing %.2f s", self.pause_s)
            self._sleep(self.pause_s)
            now_us, lasted_s = _value(self._pressure, "total"), self._clock() - began_s
            if waited_us is not None and now_us is not None:
                is_contended = now_us - waited_us >= CONTENDED_SHARE * lasted_s * 1e6
                next_s = self.pause_s * 2 if is_contended else self.pause_s / 2
                self.pause_s = min(max(next_s, PAUSE_MIN_S), PAUSE_MAX_S)
        finally:
            with self._turn:
                self._moved_bytes = 0
                self._is_pause = False
                self._turn.notify_all()


#: The pace of this process, for everything that it reads and writes.
PACE: Final = Pace()
