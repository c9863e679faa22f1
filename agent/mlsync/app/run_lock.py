"""The lock that lets one process on this machine work on a run; it ends with its holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

from mlsync.errors import RunLocked, StateDamaged, StateError, StateFull

_CONTENT_BYTES_MAX = 4096


class RunLock:
    """Holds the lock of *run* while its context is open; ``RunLocked`` names another holder.

    The lock is the kernel's (``flock``), so it ends when its holder is killed. The file's content only says who holds
    it. The file is never removed: a lock on a removed file protects nothing.
    """

    def __init__(
        self, state_directory: Path, repository_id: str, run: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        # A digest: a run's name may be longer than a file's, or hold characters that a file's cannot.
        name = blake2b(run.encode(), digest_size=12).hexdigest() + ".lock"
        self.path = state_directory / repository_id / name
        self._run = run
        self._clock = clock
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, and write this process into its file."""
        assert self._descriptor is None, "the lock is held already"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Closed on exec: a child that outlives this process must not keep the lock.
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._failed("made", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write_holder(descriptor)
        except BlockingIOError:
            held_by = _describe(os.pread(descriptor, _CONTENT_BYTES_MAX, 0))
            os.close(descriptor)
            raise RunLocked(
                f"another mlsync works on run {self._run}",
                where=held_by,
                advice="one at a time; stop the other one first",
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise self._failed("taken", error) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock; do nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _failed(self, verb: str, error: OSError) -> StateError:
        what = f"the lock of run {self._run} cannot be {verb}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StateFull(what, where=str(self.path), advice="free some room; nothing was lost")
        return StateDamaged(what, where=str(self.path))

    def _write_holder(self, descriptor: int) -> None:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since_s": int(self._clock()), "run": self._run}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)

    def __enter__(self) -> Self:
        """Take the lock."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self.release()


def _describe(content: bytes) -> str:
    """Return the holder in words; the content may be anything, since no lock depends on it."""
    try:
        holder = json.loads(content)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(int(holder["since_s"])))
        return f"process {int(holder['pid'])} on {holder['host']}, since {since}"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return "a process that has not written its name yet"
