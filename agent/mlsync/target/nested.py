"""Locks on the directories themselves keep a restore into one and a restore into one below it apart."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from mlsync.errors import TargetLocked
from mlsync.source.paths import display

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WAIT_S: Final = 0.2
# Who cleans directories of old files (systemd-tmpfiles) locks each for a moment.
_PATIENCE: Final = 20
# Deeper than any path that the kernel takes in one call: the way up ends.
_DEPTH_MAX: Final = 4096


class NestedTargets:
    """Holds the directory *descriptor* for one restore alone, and each directory above it together with others.

    So of two restores, one into ``/a`` and one into ``/a/b``, the second is ``TargetLocked``, whichever began first;
    one into ``/a/b`` and one into ``/a/c`` are not. The locks are the kernel's, on the directories: nothing is
    written, and they die with their holder. What cannot be opened or locked is left out: a directory that another user
    hides, NFS.
    """

    def __init__(
        self, descriptor: int, where: bytes, *, tick: Callable[[], None], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._descriptor = descriptor
        self._where = where
        self._tick = tick
        self._sleep = sleep
        self._held: list[int] = []

    def __enter__(self) -> Self:
        """The directory is this restore's from here on."""
        try:
            self._hold(os.open(b".", _FLAGS, dir_fd=self._descriptor), fcntl.LOCK_EX, "a restore below it is under way")
            self._hold_above()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The directories are free."""
        self._release()

    def _hold_above(self) -> None:
        below = self._descriptor
        for _ in range(_DEPTH_MAX):
            try:
                above = os.open(b"..", _FLAGS, dir_fd=below)
            except OSError:  # search is not allowed: no restore of ours is seen there
                return
            if os.path.samestat(os.fstat(above), os.fstat(below)):
                os.close(above)
                return
            self._hold(above, fcntl.LOCK_SH, "a restore into a directory above it is under way")
            below = above

    def _hold(self, descriptor: int, kind: int, why_not: str) -> None:
        self._held.append(descriptor)
        for _ in range(_PATIENCE):
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    return
            else:
                return
            self._tick()
            self._sleep(_WAIT_S)
        raise TargetLocked(
            why_not, where=display(self._where), advice="wait for it, or restore with --to another place"
        )

    def _release(self) -> None:
        while self._held:
            os.close(self._held.pop())
