"""The lock of a restore's directory: two versions restored at once would leave files of both."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from mlsync.beneath import Beneath
from mlsync.errors import TargetLocked
from mlsync.source.paths import display, joined
from mlsync.target.metadata import Notice
from mlsync.target.nested import NestedTargets
from mlsync.target.os_errors import blocked, translated
from mlsync.target.temporary import TEMPORARY_PREFIX

LOCK_NAME: Final = TEMPORARY_PREFIX + b"lock"
_WAIT_S: Final = 0.2
# A holder writes its identity right after it has the lock.
_TRIES: Final = 20
_CONTENT_BYTES_MAX: Final = 4096
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_NOT_WRITABLE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class TargetLock:
    """Holds the lock of the directory *root* for *version*, a token that is equal for equal versions only.

    It waits for another restore of the same version: the ranks of one training all restore, and all but the first find
    every file right. It raises ``TargetLocked`` for one of another version, or into a directory above or below. The
    kernel's lock (``flock``) on a file in the directory works between machines that share the directory, and ends with
    its holder.
    """

    def __init__(
        self,
        root: Beneath,
        version: str,
        label: str,
        *,
        notice: Notice,
        tick: Callable[[], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root = root
        self._version = version
        self._label = label
        self._notice = notice
        self._tick = tick
        self._sleep = sleep
        self._nested = NestedTargets(root.descriptor, root.where, tick=tick, sleep=sleep)
        self._descriptor: int | None = None
        self._has_warned = False
        self._nameless_count = 0

    def __enter__(self) -> Self:
        """Acquire the lock, if the directory can be written at all."""
        while not self._acquired():
            self._tick()
            self._sleep(_WAIT_S)
        try:
            self._nested.__enter__()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock and remove its file."""
        self._nested.__exit__(kind, error, trace)
        self._release()

    def remove(self) -> None:
        """Remove the file and keep the lock, so that ``__exit__`` changes no name in the directory."""
        if self._descriptor is not None and self._is_at_its_name(self._descriptor):
            with contextlib.suppress(OSError):
                os.unlink(LOCK_NAME, dir_fd=self._root.descriptor)

    # ------------------------------------------------------------ inside

    def _release(self) -> None:
        try:
            self.remove()
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _acquired(self) -> bool:
        """Try once; return whether there is nothing more to wait for."""
        with translated(self._where):
            opened = self._opened()
            if opened is None:
                return False
            descriptor, is_new = opened
            if descriptor < 0:
                return True
            try:
                is_held = self._locked(descriptor, is_new=is_new)
            except BaseException:
                os.close(descriptor)
                raise
            if is_held:
                self._descriptor = descriptor
            else:
                os.close(descriptor)
            return is_held

    @property
    def _where(self) -> bytes:
        return joined(self._root.where, LOCK_NAME)

    def _opened(self) -> tuple[int, bool] | None:
        """Open the file, with whether this made it; return -1 where none can be made, ``None`` to try again."""
        try:
            return os.open(LOCK_NAME, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._root.descriptor), True
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            # We can write nothing at the top, but may still find that every file is right already.
            return -1, False
        try:
            return os.open(LOCK_NAME, _FLAGS, dir_fd=self._root.descriptor), False
        except FileNotFoundError:
            return None
        except PermissionError:
            advice = "wait for it; if there is none, delete that file"
            raise TargetLocked(
                "another user's restore writes there", where=display(self._where), advice=advice
            ) from None
        except OSError:
            # A symbolic link or a directory, so no lock of ours.
            self._clear()
            return None

    def _clear(self) -> None:
        try:
            os.unlink(LOCK_NAME, dir_fd=self._root.descriptor)
        except IsADirectoryError:
            raise blocked("a directory stands where the restore's lock is to be", self._where) from None
        except FileNotFoundError:
            pass

    def _locked(self, descriptor: int, *, is_new: bool) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                self._notice("warning", "the file system has no locks: nothing keeps another restore from this place")
                return True
            if not isinstance(error, (BlockingIOError, PermissionError)):
                raise
            self._check_holder(descriptor)
            return False
        if not self._is_at_its_name(descriptor):
            return False
        if not is_new and not _is_ours(os.fstat(descriptor)):
            # Nobody holds it, and another user could write to it.
            self._clear()
            return False
        self._write_holder(descriptor)
        return True

    def _is_at_its_name(self, descriptor: int) -> bool:
        try:
            found = os.stat(LOCK_NAME, dir_fd=self._root.descriptor, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(descriptor))

    def _check_holder(self, descriptor: int) -> None:
        """Return if the holder is worth waiting for; raise ``TargetLocked`` if not."""
        holder = _holder(os.pread(descriptor, _CONTENT_BYTES_MAX, 0))
        if not holder and self._nameless_count < _TRIES:
            self._nameless_count += 1
            return
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} restores {holder.get('label', '?')}"
        if holder.get("version") != self._version:
            what = f"another restore writes to that place: {who}"
            raise TargetLocked(
                what, where=display(self._root.where), advice="wait for it, or restore with --to another place"
            )
        if not self._has_warned:
            self._has_warned = True
            self._notice("warning", f"{display(self._root.where)}: waiting for another restore: {who}")

    def _write_holder(self, descriptor: int) -> None:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "label": self._label, "version": self._version}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()


def _holder(content: bytes) -> dict[str, str]:
    """Return what the holder wrote about itself; it may be anything, or nothing yet."""
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return {name: str(value)[:200] for name, value in holder.items()} if isinstance(holder, dict) else {}
