"""How much of the processors' time passes take while a training needs all of it.

The lowest priority is not free. Where a training has a thread on each processor, the kernel still gives mlsync a few
milliseconds now and then, and the threads of a training wait for each other: one that waits delays all of them. What
remains is to work less. After each pass beside a training that left nothing of the processors, the next one begins only
when both together stay within a share of the processors' time. A pass itself is not drawn out: a checkpoint that its
trainer overwrites in place is torn if it is read slowly.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, NamedTuple

STAT: Final = Path("/proc/stat")
#: So often ``free_at_s`` looks whether the others still need the processors.
LOOK_S: Final = 5.0
# With as much of one processor idle, the others do not need all of them.
_IDLE_PROCESSORS: Final = 0.25
# Below this share of the processors it is mlsync itself that has them.
_OTHERS_SHARE: Final = 0.5
# The kernel counts in hundredths of a second: what is shorter is not measured.
_MEASURED_S: Final = 0.2
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class ProcessorsSeen(NamedTuple):
    """For how long the processors had been idle, added up, at a moment on the monotonic clock."""

    at_s: float
    idle_s: float
    processor_count: int


class ProcessorShare:
    """When passes may begin that have time: any thread may ask, and all runs of an agent share it.

    *share* is that of the time of all processors that this process may use; 1 or more is no limit.
    """

    def __init__(
        self,
        share: float,
        *,
        stat: Path = STAT,
        processors: Callable[[], Collection[int]] = lambda: os.sched_getaffinity(0),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._stat = stat
        self._processors = processors
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at_s = -math.inf
        self._seen: ProcessorsSeen | None = None

    def look(self) -> ProcessorsSeen | None:
        """Return how idle the processors were until now; ``None`` without a limit, and where it is unknown."""
        if self._share >= 1:
            return None
        try:
            own = self._processors()
            lines = [line.split() for line in self._stat.read_bytes().splitlines()]
            # Idle, and idle while a disk is waited for: see proc_stat(5).
            idle = [int(words[4]) + int(words[5]) for words in lines if _number(words) in own]
        except (OSError, ValueError, IndexError):
            return None
        return ProcessorsSeen(self._clock(), sum(idle) * _TICK_S, len(idle)) if idle else None

    def spent(self, before: ProcessorsSeen | None, own_s: float) -> None:
        """Note a pass that began when *before* was seen and took *own_s* of processor time."""
        after = self.look()
        if before is None or after is None or not _is_crowded(before, after, own_s):
            return
        with self._lock:
            # Passes of several runs may overlap: each takes its own part.
            since_s = max(before.at_s, self._free_at_s)
            self._free_at_s = since_s + own_s / (self._share * after.processor_count)
            self._seen = after

    def free_at_s(self) -> float:
        """Return from when on a pass may begin, minus infinity if one may now; it falls once processors are idle."""
        with self._lock:
            now_s = self._clock()
            if now_s >= self._free_at_s:
                return -math.inf
            if self._seen is None or now_s >= self._seen.at_s + LOOK_S:
                before, self._seen = self._seen, self.look()
                if before is None or self._seen is None or _has_room(before, self._seen):
                    self._free_at_s = -math.inf
            return self._free_at_s


def processor_s(pid: int) -> float:
    """Return the processor time of a process and of those of its children that have ended; 0 where it is unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Behind the program's name, which may hold anything: the times are the fields 14 to 17 of proc_pid_stat(5).
            words = file.read().rpartition(b")")[2].split()
        return sum(map(int, words[11:15])) * _TICK_S
    except (OSError, ValueError, IndexError):
        return 0.0


def _number(words: list[bytes]) -> int:
    """Return which processor a line is about, -1 for none."""
    name = words[0] if words else b""
    return int(name[3:]) if name.startswith(b"cpu") and name[3:].isdigit() else -1


def _idle_processors(before: ProcessorsSeen, after: ProcessorsSeen) -> float:
    return (after.idle_s - before.idle_s) / max(after.at_s - before.at_s, _TICK_S)


def _has_room(before: ProcessorsSeen, after: ProcessorsSeen) -> bool:
    return before.processor_count != after.processor_count or _idle_processors(before, after) >= _IDLE_PROCESSORS


def _is_crowded(before: ProcessorsSeen, after: ProcessorsSeen, own_s: float) -> bool:
    """Return whether others had most of the processors' time, and nothing was left."""
    lasted_s = after.at_s - before.at_s
    if lasted_s < _MEASURED_S or _has_room(before, after):
        return False
    others = after.processor_count - _idle_processors(before, after) - own_s / lasted_s
    return others >= _OTHERS_SHARE * after.processor_count
