"""The lock that lets one process on this machine work on a run; it ends with its holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
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
    it. mlsync never removes the file: a lock on a removed file protects nothing. If somebody else does, the lock
    ``is_lost``.
    """

    def __init__(
        self, state_directory: Path, repository_id: str, run: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = _path(state_directory, repository_id, run)
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
            held = _held(self._run, descriptor)
            os.close(descriptor)
            raise held from None
        except OSError as error:
            os.close(descriptor)
            raise self._failed("taken", error) from error
        self._descriptor = descriptor

    @property
    def is_lost(self) -> bool:
        """Whether the file that is locked is not the one that others would lock: the state directory was replaced."""
        return self._descriptor is not None and not is_still_named(self._descriptor, self.path)

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
        # What gethostname says, without the module for sockets.
        host = os.uname().nodename
        holder = {"pid": os.getpid(), "host": host, "since_s": int(self._clock()), "run": self._run}
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


def is_still_named(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one that has this name now."""
    held = os.fstat(descriptor)
    try:
        there = path.lstat()
    except OSError:
        return False
    return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)


def refuse_held(state_directory: Path, repository_id: str, run: str) -> None:
    """Raise ``RunLocked`` if a process holds the lock of *run* now; take and make nothing."""
    try:
        descriptor = os.open(_path(state_directory, repository_id, run), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        # Shared, so that two who look at the same time do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _held(run, descriptor) from None
    except OSError:
        return
    finally:
        os.close(descriptor)


def _path(state_directory: Path, repository_id: str, run: str) -> Path:
    # A digest: a run's name may be longer than a file's, or hold characters that a file's cannot.
    return state_directory / repository_id / (blake2b(run.encode(), digest_size=12).hexdigest() + ".lock")


def _held(run: str, descriptor: int) -> RunLocked:
    """Return the error that names the holder of an open lock."""
    holder = _describe(os.pread(descriptor, _CONTENT_BYTES_MAX, 0))
    advice = "one at a time: wait for it, or stop it with kill and the number of its process"
    return RunLocked(f"another mlsync works on run {run}", where=holder, advice=advice)


def _describe(content: bytes) -> str:
    """Return the holder in words; the content may be anything, since no lock depends on it."""
    try:
        holder = json.loads(content)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(int(holder["since_s"])))
        return f"process {int(holder['pid'])} on {holder['host']}, since {since}"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return "a process that has not written its name yet"
