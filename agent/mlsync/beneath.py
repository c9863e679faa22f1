"""Open files below a directory through descriptors only, so that no symbolic link can lead out of it.

A path that is checked first and used later may have changed: a user who can write in the tree replaces a directory by
a symbolic link, and root reads, changes or deletes the link's target. So a directory is opened once, everything below
it is opened from that descriptor without following symbolic links, and the descriptor that was checked is the one that
is used.

Linux has ``openat2(2)`` for this since 5.6 (``RESOLVE_BENEATH``, ``RESOLVE_NO_SYMLINKS``). If it is missing, or a
container's filter forbids it, the path is walked with ``openat(2)`` and ``O_NOFOLLOW``, one part at a time.

Errors are the kernel's ``OSError``: ``ELOOP`` or ``ENOTDIR`` for a symbolic link on the way, ``EXDEV`` for a step onto
another file system where that is forbidden.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

# The same number on every architecture; uapi/asm-generic/unistd.h.
_OPENAT2: Final = 437
# uapi/linux/openat2.h
_NO_XDEV: Final = 0x01
_NO_MAGICLINKS: Final = 0x02
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08

_ALWAYS: Final = os.O_NOFOLLOW | os.O_CLOEXEC
_STEP: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# The errors of kernels before 5.6 and of container filters.
_NOT_HERE: Final = frozenset({errno.ENOSYS, errno.EPERM})
# Longer paths are walked: the kernel does not take them in one call.
_PATH_BYTES_MAX: Final = 4095


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Beneath:
    """A directory held open by *descriptor*, which this object closes; *where* is its name in messages.

    All paths are relative to it, of bytes, without empty parts and without ``.`` and ``..``.
    With *one_file_system* no step leads onto another file system: with ``openat2`` no mount at all, else no other
    device.
    """

    def __init__(self, descriptor: int, where: bytes, *, one_file_system: bool = False) -> None:
        self.descriptor = descriptor
        self.where = where
        self._one_file_system = one_file_system
        self._has_openat2 = _openat2_works(descriptor)
        self._device = os.fstat(descriptor).st_dev

    @classmethod
    def open(cls, directory: bytes, *, one_file_system: bool = False) -> Self:
        """Open *directory*, whose own path may contain symbolic links: the caller is responsible for it."""
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return cls(descriptor, directory, one_file_system=one_file_system)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        """Return itself; it is closed at the end of the ``with``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def open_file(self, path: bytes, flags: int, mode: int = 0o600) -> int:
        """Open what has the name *path* now, but never follow a symbolic link.

        It may be no regular file: ``O_NONBLOCK`` keeps a pipe from blocking the call, and only ``fstat`` of the result
        shows what was opened. *mode* is used if *flags* create a file.
        """
        makes_one = flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE
        return self._open(_checked(path), flags | _ALWAYS, mode if makes_one else 0)

    def open_directory(self, path: bytes) -> int:
        """Open a directory so that it can be listed and synced; ``b""`` is the one that all paths are relative to."""
        return self._open(_checked(path) if path else b".", os.O_RDONLY | os.O_DIRECTORY | _ALWAYS, 0)

    @contextlib.contextmanager
    def beside(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the directory that holds *path*, opened for use as ``dir_fd``, and the last part of the path.

        For calls on names (``os.rename``, ``os.unlink``, ``os.mkdir`` …): none of these follows the last
        part of a path if it is a symbolic link.
        """
        above, _, name = _checked(path).rpartition(b"/")
        if not above:
            yield self.descriptor, name
            return
        descriptor = self._open(above, _STEP, 0)
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    def stat(self, path: bytes) -> os.stat_result:
        """Return the stat of what has the name *path*, of a symbolic link itself."""
        descriptor = self._open(_checked(path), os.O_PATH | _ALWAYS, 0)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------ inside

    def _open(self, path: bytes, flags: int, mode: int) -> int:
        if self._has_openat2 and len(path) <= _PATH_BYTES_MAX:
            resolve = _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS | (_NO_XDEV if self._one_file_system else 0)
            return _openat2(self.descriptor, path, flags, mode, resolve)
        return self._walk(path, flags, mode)

    def _walk(self, path: bytes, flags: int, mode: int) -> int:
        *above, name = path.split(b"/")
        directory = self.descriptor
        try:
            for part in above:
                step = os.open(part, _STEP, dir_fd=directory)
                self._leave(directory)
                directory = step
                self._keep_device(directory)
            descriptor = os.open(name, flags, mode, dir_fd=directory)
        finally:
            self._leave(directory)
        try:
            self._keep_device(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _leave(self, directory: int) -> None:
        if directory != self.descriptor:
            os.close(directory)

    def _keep_device(self, descriptor: int) -> None:
        if self._one_file_system and os.fstat(descriptor).st_dev != self._device:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def reopen(descriptor: int, flags: int) -> int:
    """Open the file of *descriptor* again with other *flags*, whatever its name is now.

    It uses ``/proc/self/fd``, which leads to the open file itself: ``OSError`` if there is no ``/proc``.
    """
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)


def _checked(path: bytes) -> bytes:
    """Return *path*; raise ``ValueError`` if it could lead out, or contains a NUL byte."""
    if b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise ValueError(f"not a path below a directory: {path!r}")
    return path


def _openat2(directory: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    how = _OpenHow(flags, mode, resolve)
    while True:
        descriptor: int = _syscall(_OPENAT2, directory, path, ctypes.byref(how), ctypes.sizeof(how))
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number != errno.EINTR:  # as in Python's own calls; signal handlers have run by then
            raise OSError(number, os.strerror(number), path)


def _openat2_works(directory: int) -> bool:
    """Return whether the kernel has the call and no filter forbids it."""
    try:
        os.close(_openat2(directory, b".", os.O_PATH | os.O_CLOEXEC, 0, _BENEATH))
    except OSError as error:
        if error.errno in _NOT_HERE:
            return False
        raise
    return True


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_syscall.restype = ctypes.c_long
