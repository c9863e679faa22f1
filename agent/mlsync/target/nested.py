"""Locks that keep a restore into a directory apart from one into a directory below it."""

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
# systemd-tmpfiles, which removes old files, locks each directory for a moment.
_TRIES: Final = 20
# Deeper than any path that the kernel takes in one call, so that the way up ends.
_DEPTH_MAX: Final = 4096


class NestedTargets:
    """Holds an exclusive lock on the directory *descriptor*, and a shared one on each directory above it.

    So of two restores, into ``/a`` and ``/a/b``, the second raises ``TargetLocked``, whichever began first; restores
    into ``/a/b`` and ``/a/c`` do not exclude each other. The kernel's locks on the directories write nothing,
    and end with their holder. A directory that cannot be opened or locked (hidden by another user, on NFS) is skipped.
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
        """Acquire the locks."""
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
        """Release the locks."""
        self._release()

    def _hold_above(self) -> None:
        below = self._descriptor
        for _ in range(_DEPTH_MAX):
            try:
                above = os.open(b"..", _FLAGS, dir_fd=below)
            except OSError:  # no right to search it, so no restore of ours can be seen there
                return
            if os.path.samestat(os.fstat(above), os.fstat(below)):
                os.close(above)
                return
            self._hold(above, fcntl.LOCK_SH, "a restore into a directory above it is under way")
            below = above

    def _hold(self, descriptor: int, kind: int, why_not: str) -> None:
        self._held.append(descriptor)
        for _ in range(_TRIES):
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
