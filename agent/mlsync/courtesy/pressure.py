"""What other processes wait for, from the kernel's pressure stall information, and how mlsync yields to them.

In a container the kernel's word on the container counts (its control group's), elsewhere that on the whole machine.
Where the kernel has none (before Linux 4.20, or switched off), mlsync assumes that nobody waits.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mlsync.courtesy.priority import stands_back
from mlsync.courtesy.slowness import SLOWNESS, Slowness

PROCESSOR: Final = Path("/proc/pressure/cpu")
# Of the last ten seconds; below this share, it is only somebody who waits a moment.
BUSY_SHARE: Final = 0.1
# The bytes between two pauses: a tenth of a second for an ordinary disk.
STRETCH_BYTES: Final = 16 << 20
# The bytes of one call: the requests of others wait for as long as that takes.
PIECE_BYTES: Final = 4 << 20
PAUSE_MIN_S: Final = 0.005
# Not longer: a file that its trainer overwrites in place is torn if it is read too slowly.
PAUSE_MAX_S: Final = 0.5
# If others wait for this share of a pause, the next one is longer.
CONTENDED_SHARE: Final = 0.5
# Between two files: everybody is stalled for this share of the time, and nobody works. Of memory a little is much.
STALLED_SHARES: Final[Mapping[str, tuple[str, float]]] = {
    "memory": ("some", 0.1),
    "disk": ("full", 0.3),
    # Only within a control group, whose quota is used up: all its processes wait for a processor together.
    "processor": ("full", 0.3),
}
REST_S: Final = 1.0
# Not after each of many small files.
_REST_EVERY_S: Final = 2.0
_LOGGED_PAUSE_S: Final = 0.1
_KERNEL_NAMES: Final = {"processor": "cpu", "disk": "io", "memory": "memory"}
_ARGUMENTS_BYTES_MAX: Final = 4096
_LOG: Final = logging.getLogger(__name__)


def files(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> dict[str, Path]:
    """Return where the kernel says how much others wait for "processor", "disk" and "memory".

    The control group's own word counts where others are in it, as in a container: in a service's group are mlsync's
    processes alone, and what they wait for is no reason to yield.
    """
    group = _group_with_others(proc, groups)
    if group is not None and (group / "io.pressure").exists():
        return {what: group / f"{name}.pressure" for what, name in _KERNEL_NAMES.items()}
    return {what: proc / "pressure" / name for what, name in _KERNEL_NAMES.items()}


def _group_with_others(proc: Path, groups: Path) -> Path | None:
    """Return this process's control group (v2) if a process in it is not mlsync's."""
    try:
        lines = (proc / "self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
        own = next(line for line in lines if line.startswith("0::"))[3:]
        for base in (groups, groups / "unified"):
            group = base / own.lstrip("/")
            if (group / "io.pressure").exists():
                pids = (group / "cgroup.procs").read_text("ascii").split()
                return group if any(_is_anothers(proc / pid / "cmdline") for pid in pids) else None
    except (OSError, ValueError, StopIteration):
        pass
    return None


def _is_anothers(arguments: Path) -> bool:
    """Return whether a process is not mlsync's, by its command line; the kernel's have none."""
    try:
        with arguments.open("rb") as file:
            words = file.read(_ARGUMENTS_BYTES_MAX)
    except OSError:
        return False
    return bool(words) and b"mlsync" not in words


def threads(most: int, pressure: Path = PROCESSOR) -> int:
    """Return how many threads to use: one less than *most* where mlsync yields and others wait.

    The kernel's figure includes mlsync's own threads, so call this before they begin.
    """
    if most <= 1 or not stands_back():
        return most
    waiting = recent_share(pressure)
    return most - 1 if waiting is not None and waiting >= BUSY_SHARE else most


def recent_share(pressure: Path, line: str = "some") -> float | None:
    """Return the share of the last ten seconds in which somebody waited; ``None`` where it is unknown.

    With the *line* "full" it is the time in which nobody worked, since all who could waited.
    """
    value = _value(pressure, "avg10", line)
    return None if value is None else value / 100


def _value(pressure: Path, name: str, line: str = "some") -> float | None:
    """Return a value of a line."""
    begins = line.encode() + b" "
    try:
        found = next(one for one in pressure.read_bytes().splitlines() if one.startswith(begins))
        return float(dict(word.split(b"=") for word in found.split()[1:])[name.encode()])
    except (OSError, ValueError, KeyError, StopIteration):
        return None


def own_wait_us(tasks: Path = Path("/proc/self/task")) -> float:
    """Return for how long the threads of this process waited for a processor; 0 where that is unknown."""
    total_ns = 0
    try:
        for task in os.listdir(tasks):
            # A thread may end meanwhile: then others seem to wait for less.
            total_ns += int((tasks / task / "schedstat").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return total_ns / 1000


class Pace:
    """Pauses between stretches of reading and writing, for as long as others wait for disk, memory or processor.

    The idle I/O class would do the same for the disk, but only one of the kernel's disk schedulers (bfq) respects it,
    not the one of fast disks (none), and nobody knows what is below a network file system or a volume. So after each
    stretch comes a pause without any transfer of this process: whoever waits then is another process. If one does, the
    next pause is twice as long, up to half a second; if not, half as long, down to five milliseconds. Between two files
    it *rests* for longer, where the machine is stalled. In processes that do not yield, or no longer, it does nothing.
    """

    def __init__(
        self,
        pressure: Path | Mapping[str, Path] | None = None,
        *,
        is_wanted: Callable[[], bool] = stands_back,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        slowness: Slowness = SLOWNESS,
        own_wait: Callable[[], float] = own_wait_us,
    ) -> None:
        self.pause_s = PAUSE_MIN_S
        self._files = {"disk": pressure} if isinstance(pressure, Path) else pressure
        self._stands_back = is_wanted
        self._clock = clock
        self._sleep = sleep
        self._slowness = slowness
        self._own_wait = own_wait
        self._turn = threading.Condition()
        self._under_way = 0
        self._moved_bytes = 0
        self._is_pause = False
        self._rest_at_s = -1.0

    def _is_wanted(self) -> bool:
        return self._stands_back() and self._slowness.is_patient

    @property
    def _pressure(self) -> Mapping[str, Path]:
        if self._files is None:
            self._files = files()
        return self._files

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
        with self._nothing_moving():
            before = self._totals("some")
            if self.pause_s >= _LOGGED_PAUSE_S:
                _LOG.debug("others wait: pausing %.2f s", self.pause_s)
            began_s = self._clock()
            self._sleep(self.pause_s)
            shares = self._shares(before, self._totals("some"), self._clock() - began_s)
            contended = [what for what, share in shares.items() if share >= CONTENDED_SHARE]
            if shares:
                next_s = self.pause_s * 2 if contended else self.pause_s / 2
                self.pause_s = min(max(next_s, PAUSE_MIN_S), PAUSE_MAX_S)
            if contended and self.pause_s >= _LOGGED_PAUSE_S:
                self._slowness.note(f"others wait for the {contended[0]}")
                self._slowness.on_wait()

    def rest(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait while the machine is stalled, *check* again and again; for between two files, where nothing is torn."""
        if not self._is_wanted() or self._clock() < self._rest_at_s or self._stalled_lately() is None:
            return
        is_due = self._begin_pause()
        try:
            while is_due and self._is_wanted():
                check()
                before, began_s = self._stall_totals(), self._clock()
                self._slowness.wait(REST_S, f"others wait for the {self._stalled_lately() or 'machine'}")
                shares = self._shares(before, self._stall_totals(), self._clock() - began_s)
                if not any(share >= STALLED_SHARES[what][1] for what, share in shares.items()):
                    break
        finally:
            self._rest_at_s = self._clock() + _REST_EVERY_S
            if is_due:
                self._end_pause()

    def _stalled_lately(self) -> str | None:
        """Return what others were stalled for in the last ten seconds, if anything; our own waits count too."""
        for what, (line, least) in STALLED_SHARES.items():
            if what in self._pressure and (recent_share(self._pressure[what], line) or 0.0) >= least:
                return what
        return None

    def _totals(self, line: str) -> dict[str, float]:
        """Return the microseconds that somebody waited, for each thing of which the kernel tells; ours do not count."""
        totals = {what: _value(file, "total", line) for what, file in self._pressure.items()}
        known = {what: total for what, total in totals.items() if total is not None}
        if "processor" in known:
            known["processor"] -= self._own_wait()
        return known

    def _stall_totals(self) -> dict[str, float]:
        some, full = self._totals("some"), self._totals("full")
        lines = {"some": some, "full": full}
        return {what: lines[line][what] for what, (line, _) in STALLED_SHARES.items() if what in lines[line]}

    @staticmethod
    def _shares(before: Mapping[str, float], after: Mapping[str, float], lasted_s: float) -> dict[str, float]:
        """Return for which share of the time somebody waited."""
        us = max(lasted_s, 1e-9) * 1e6
        return {what: (total - before[what]) / us for what, total in after.items() if what in before}

    @contextmanager
    def _nothing_moving(self) -> Iterator[None]:
        """Within a pause that was begun: wait for our own transfers, and end it afterwards."""
        try:
            with self._turn:
                self._turn.wait_for(lambda: self._under_way == 0)
            yield
        finally:
            self._end_pause()

    def _begin_pause(self) -> bool:
        """Let no transfer begin, and wait for those under way; return ``False`` if another thread pauses already."""
        with self._turn:
            if self._is_pause:
                return False
            self._is_pause = True
            self._turn.wait_for(lambda: self._under_way == 0)
            return True

    def _end_pause(self) -> None:
        with self._turn:
            self._moved_bytes = 0
            self._is_pause = False
            self._turn.notify_all()


#: The pace of this process, for everything that it reads and writes.
PACE: Final = Pace()
