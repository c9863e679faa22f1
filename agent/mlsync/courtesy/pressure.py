"""What others on the machine wait for, as the kernel tells it (pressure stall information), and what follows from it.

Where the kernel tells nothing (before Linux 4.20, or switched off) nobody is taken to wait.
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
# Of the last ten seconds: in less than this, somebody always waits a moment.
BUSY_SHARE: Final = 0.1
# So much is moved between two looks at whether others wait: a tenth of a second's work of an ordinary disk.
STRETCH_BYTES: Final = 16 << 20
# And so much in one call: what others ask the disk for meanwhile waits for that long.
PIECE_BYTES: Final = 4 << 20
PAUSE_MIN_S: Final = 0.005
PAUSE_MAX_S: Final = 0.5
# In how much of a pause somebody has to wait for the disk for the next one to be longer.
CONTENDED_SHARE: Final = 0.5
_LOGGED_PAUSE_S: Final = 0.1
_LOG: Final = logging.getLogger(__name__)


def threads(most: int, pressure: Path = PROCESSOR) -> int:
    """Return how many threads to work with: one less than *most* where mlsync stands back and others wait.

    That mlsync's own threads wait shows in the figure as well: to be asked before they begin.
    """
    if most <= 1 or not stands_back():
        return most
    waiting = recent_share(pressure)
    return most - 1 if waiting is not None and waiting >= BUSY_SHARE else most


def recent_share(pressure: Path) -> float | None:
    """Return in how much of the last ten seconds somebody waited; None where that is not known."""
    value = _value(pressure, "avg10")
    return None if value is None else value / 100


def _value(pressure: Path, name: str) -> float | None:
    """Return a value of the line "some", which counts whenever one task at least waits."""
    try:
        line = next(line for line in pressure.read_bytes().splitlines() if line.startswith(b"some "))
        return float(dict(word.split(b"=") for word in line.split()[1:])[name.encode()])
    except (OSError, ValueError, KeyError, StopIteration):
        return None


class Pace:
    """Lets the disk rest between stretches of reading and writing, for as long as others are seen to wait for it.

    The idle class of transfers, which would do, is heeded by one of the kernel's disk schedulers (bfq), not by the one
    that fast disks have (none), and what lies below a network file system or a volume cannot be told. So after each
    stretch there is a pause in which nothing of this process is under way, and who waits for the disk then is another.
    Such a pause makes the next one twice as long, up to half a second; one that nobody needed makes it half as long,
    down to five milliseconds. It is for processes that stand back; in others it does nothing.
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
        """Yield the pieces in which to move *size_bytes*: one, or bounded ones each within its own ``moving``."""
        if not self._is_wanted():
            yield slice(0, size_bytes)
            return
        for start in range(0, size_bytes, PIECE_BYTES):
            piece = slice(start, min(start + PIECE_BYTES, size_bytes))
            with self._moving(piece.stop - start):
                yield piece

    @contextmanager
    def moving(self, size_bytes: int) -> Iterator[None]:
        """Move up to *size_bytes* meanwhile, after the pause if there is one, before the next one if that is due."""
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
        """Wait until nothing of ours is under way, pause, and see whether that was any good."""
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


#: The one pace of this process, whatever it reads and writes.
PACE: Final = Pace()
