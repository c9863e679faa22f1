"""By when a last version has to be committed, before the machine goes away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Self

import msgspec

# What is left of the time when reading ends: to send what was read, and to write the manifest.
_SHARE_TO_COMMIT: Final = 0.25
_TO_COMMIT_S_MIN, _TO_COMMIT_S_MAX = 0.5, 8.0
# A wait for a writer that pauses must not cost what has been read.
_SHARE_TO_WAIT: Final = 0.5


class OutOfTime(Exception):
    """The time to read is up; what is left keeps its content from the last version."""


class Deadline(msgspec.Struct, frozen=True):
    """Until when a last backup waits for writers and reads; times are those of *clock*, in seconds.

    The monotonic clock is the same in all processes of a machine, so that one process can tell another the time.
    """

    wait_until_s: float
    read_until_s: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def at(cls, end_s: float, clock: Callable[[], float] = time.monotonic) -> Self:
        """Return the plan of a backup that begins now and commits before *end_s*."""
        now_s = clock()
        left_s = max(0.0, end_s - now_s)
        to_commit_s = min(max(left_s * _SHARE_TO_COMMIT, _TO_COMMIT_S_MIN), _TO_COMMIT_S_MAX)
        return cls(now_s + left_s * _SHARE_TO_WAIT, end_s - to_commit_s, clock)

    @property
    def is_reading_over(self) -> bool:
        """Whether the rest of the time is needed to commit what was read."""
        return self.clock() >= self.read_until_s

    def checked(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """Return *advance*, which raises ``OutOfTime`` once reading is over: a single file may take minutes."""

        def advanced(amount: int) -> None:
            advance(amount)
            if self.is_reading_over:
                raise OutOfTime

        return advanced
