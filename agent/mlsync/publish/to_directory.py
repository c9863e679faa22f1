"""Plain copies in a directory, reached by descriptors only: others may own what is below it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from mlsync.beneath import Beneath
from mlsync.errors import ExportRefused
from mlsync.source.paths import display
from mlsync.target.os_errors import translated
from mlsync.target.temporary import open_temporary

_PIECE_BYTES: Final = 1 << 20
# File systems without hard links say so in one of these ways.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EXDEV})


class DirectoryPlace:
    """A directory, which is made if it is missing; use it in a ``with``."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.fsencode(directory)
        with translated(self._directory):
            os.makedirs(self._directory, exist_ok=True)
            self._root = Beneath.open(self._directory)
        # A umask can only be asked for by setting it.
        mask = os.umask(0o077)
        os.umask(mask)
        self._mode = 0o666 & ~mask
        self._directory_mode = 0o777 & ~mask

    def __enter__(self) -> Self:
        """Be used in a ``with``."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close the directory."""
        self._root.close()

    def where(self, path: bytes) -> str:
        """Return the name for people."""
        return display(os.path.join(self._directory, path))

    def sha256(self, path: bytes, size_bytes: int, expected: str) -> str | None:
        """Return the SHA-256 of the file of that name; ``""`` for what is none or has another size."""
        del expected
        with translated(os.path.join(self._directory, path)):
            try:
                descriptor = self._root.open_file(path, os.O_RDONLY | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    return ""
                raise
            with os.fdopen(descriptor, "rb") as stream:
                found = os.fstat(stream.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
                    return ""
                return hashlib.file_digest(stream, "sha256").hexdigest()

    def write(self, path: bytes, pieces: Iterator[memoryview], size_bytes: int, *, force: bool) -> None:
        """Write under a temporary name beside it, make that durable, and give it the name in one step."""
        del size_bytes
        with translated(os.path.join(self._directory, path)):
            self._make_above(path)
            with self._root.beside(path) as (parent, name):
                temporary = open_temporary(parent, name)
                try:
                    os.ftruncate(temporary.descriptor, 0)
                    for piece in pieces:
                        _write_all(temporary.descriptor, piece)
                    os.fchmod(temporary.descriptor, self._mode)
                    os.fsync(temporary.descriptor)
                    if force:
                        os.rename(temporary.name, name, src_dir_fd=parent, dst_dir_fd=parent)
                    else:
                        self._name(parent, temporary.name, name, path)
                    _sync(parent)
                except BaseException:
                    temporary.remove()
                    raise
                finally:
                    os.close(temporary.descriptor)

    def _name(self, parent: int, temporary: bytes, name: bytes, path: bytes) -> None:
        """Give a file its name, unless something has it."""
        try:
            os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            raise ExportRefused(
                "something came there meanwhile; it was left as it is", where=self.where(path)
            ) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=parent, follow_symlinks=False)
                what = "something came there meanwhile; it was left as it is"
                raise ExportRefused(what, where=self.where(path)) from None
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        else:
            os.unlink(temporary, dir_fd=parent)

    def _make_above(self, path: bytes) -> None:
        above = path.split(b"/")[:-1]
        for depth in range(1, len(above) + 1):
            with self._root.beside(b"/".join(above[:depth])) as (parent, name), contextlib.suppress(FileExistsError):
                os.mkdir(name, self._directory_mode, dir_fd=parent)


def _sync(parent: int) -> None:
    """Make the names in a directory durable; *parent* is open for names alone."""
    descriptor = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece[:_PIECE_BYTES]) :]
