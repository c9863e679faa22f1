"""A limit on the bytes that mlsync sends, and one on those that it fetches: a token bucket that processes can share.

Each transfer asks before each piece, so a part of 8 MiB does not go out in one burst. The bucket is one number, the
moment up to which the line is taken (the generic cell rate algorithm): a piece begins then, and moves it by the time
that its bytes take. In a file this number serves all processes that share it: the agent's passes over several runs, and
a backup from cron beside them, send no more together than one of them alone may.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from mlsync.courtesy.slowness import SLOWNESS, Slowness
from mlsync.courtesy.timetable import NO_LIMIT, Timetable, shown_rate

# Bytes that were not sent in the last moments may go out at once.
BURST_S: Final = 0.2
# A piece takes an eighth of a second, within bounds: each costs a few microseconds, and is a burst of its own.
_PIECES_PER_S: Final = 8
PIECE_BYTES_MIN: Final = 16 << 10
PIECE_BYTES_MAX: Final = 1 << 20
# With a slow line, more transfers at once only take longer each, until a server gives up.
_RATE_OF_ONE_BYTES: Final = 1 << 20
_AT_ONCE_MIN: Final = 2
# The longest wait between two looks at the clock: hours may end.
_SLICE_S: Final = 1.0
# Until a stopped process is passed over that holds the file.
_TRIES: Final = 50
_TRY_S: Final = 0.002
# No line is taken for so long: all transfers at once ask for a piece each.
_FAR_S: Final = 600.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FORMAT: Final = struct.Struct("<36sd")


class Limit:
    """How many bytes a second may go one way, *what*; without a ``set``, and in hours without a limit, as many as can.

    *wall* is seconds since 1970, for the timetable; *clock* is monotonic, the same for all processes of a machine.
    """

    def __init__(
        self,
        what: str,
        slowness: Slowness = SLOWNESS,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        wait: Callable[[float, str], None] | None = None,
    ) -> None:
        self._what = what
        self._slowness = slowness
        self._clock = clock
        self._wall = wall
        self._wait = wait or slowness.wait
        self._timetable = NO_LIMIT
        self._shared: Path | None = None
        self._lock = threading.Lock()
        self._taken_until_s = 0.0

    def set(self, timetable: Timetable, shared: Path | None = None) -> None:
        """Limit by *timetable* from now on, also what is under way, together with all processes that name *shared*."""
        with self._lock:
            self._timetable, self._shared = timetable, shared

    @property
    def rate(self) -> int | None:
        """The bytes a second that are allowed now; ``None`` for no limit."""
        if not self._timetable.lines or self._slowness.is_lifted:
            return None
        return self._timetable.rate(self._wall())

    def at_once(self, most: int) -> int:
        """Return how many transfers at once, up to *most*, fill the line."""
        rate = self.rate
        return most if rate is None else min(most, max(_AT_ONCE_MIN, rate // _RATE_OF_ONE_BYTES))

    def piece_bytes(self, most: int) -> int:
        """Return the length of the next piece of a transfer, *most* where there is no limit now."""
        rate = self.rate
        if rate is None:
            return most
        return min(most, max(PIECE_BYTES_MIN, min(rate // _PIECES_PER_S, PIECE_BYTES_MAX) & -PIECE_BYTES_MIN))

    def pieces(self, size_bytes: int) -> Iterator[slice]:
        """Yield the pieces of *size_bytes*, each once it may go: one, at once, where there is no limit now."""
        start = 0
        while True:
            stop = start + self.piece_bytes(size_bytes - start)
            self.admit(stop - start)
            yield slice(start, stop)
            start = stop
            if start >= size_bytes:
                return

    def admit_all(self, size_bytes: int) -> None:
        """Return once so many bytes may go, for a transfer that cannot be made in pieces.

        They are asked for in pieces all the same: whoever took the line for minutes would keep all others waiting.
        """
        for _ in self.pieces(size_bytes):
            pass

    def admit(self, size_bytes: int) -> None:
        """Return once a piece of so many bytes may go."""
        rate = self.rate
        if rate is None or not size_bytes:
            return
        began_s = self._take(size_bytes / rate)
        while (left_s := began_s - self._clock()) > 0:
            rate = self.rate
            if rate is None:
                return
            self._wait(min(left_s, _SLICE_S), f"{self._what} limited to {shown_rate(rate)}")

    def _take(self, lasts_s: float) -> float:
        """Take the line for so long, after what others took; return when that begins."""
        with self._lock, self._shared_until() as taken:
            begins_s = max(taken[0], self._clock() - BURST_S)
            taken[0] = begins_s + lasts_s
            return begins_s

    @contextmanager
    def _shared_until(self) -> Iterator[list[float]]:
        """Yield until when the line is taken, in a list whose item counts from now on; the caller holds the lock."""
        taken = [self._taken_until_s]
        with contextlib.ExitStack() as stack:
            descriptor = None
            with contextlib.suppress(OSError):
                descriptor = self._opened(stack)
                taken[0] = self._read(descriptor) if descriptor is not None else taken[0]
            yield taken
            self._taken_until_s = taken[0]
            if descriptor is not None:
                # What cannot be shared, as on a full disk, still counts in this process.
                with contextlib.suppress(OSError):
                    os.pwrite(descriptor, _FORMAT.pack(_boot_id(), taken[0]), 0)

    def _opened(self, stack: contextlib.ExitStack) -> int | None:
        """Return the locked file; ``None`` if there is none, or a process that does not run holds it."""
        if self._shared is None:
            return None
        descriptor = os.open(self._shared, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        stack.callback(os.close, descriptor)
        for _ in range(_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_TRY_S)
            else:
                return descriptor
        return None

    def _read(self, descriptor: int) -> float:
        """Return until when the line is taken, by the clock of this boot; what is no such number is long ago."""
        content = os.pread(descriptor, _FORMAT.size, 0)
        if len(content) != _FORMAT.size:
            return 0.0
        boot, taken_s = _FORMAT.unpack(content)
        is_sane = boot == _boot_id() and 0.0 <= taken_s < self._clock() + _FAR_S
        return float(taken_s) if is_sane else 0.0


@cache
def _boot_id() -> bytes:
    try:
        return _BOOT_ID.read_bytes()[:36].ljust(36)
    except OSError:
        return b" " * 36


#: What this process sends to stores, and what it fetches from them.
UPLOAD: Final = Limit("upload")
DOWNLOAD: Final = Limit("download")
