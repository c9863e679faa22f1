"""The root of a directory store: held open, checked before each use, and the only place that makes directories."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mlsync import errors
from mlsync.beneath import Beneath
from mlsync.store.base import MARKER
from mlsync.store.directory.access import access_of
from mlsync.store.directory.directories import make_directory, make_root, sync
from mlsync.store.directory.os_errors import translated, translating
from mlsync.store.directory.pending_file import PendingFile

_ADVICE: Final = "check whether its disk is mounted; nothing was written there"


class StoreRoot:
    """The store's directory: everything in it is reached from its descriptor, without following a symbolic link.

    If its disk is unmounted or its name leads to another directory by now, the checks raise ``RepositoryMissing``.
    """

    def __init__(self, path: Path, *, create: bool, group: int | None = None) -> None:
        self.path = path
        self._creates = create
        with translating(str(path), path):
            if create:
                make_root(path, group)
            self.beneath = _open_root(path)
            self._opened = os.fstat(self.beneath.descriptor)
        self.access = access_of(self._opened)
        self._durable_directories: set[str] = set()

    def where(self, key: str) -> str:
        """Return the path of *key*, for messages."""
        return str(self.path / key)

    def close(self) -> None:
        """Close the root, so that its disk can be unmounted."""
        self.beneath.close()

    def check(self) -> None:
        """Raise unless the root's name still leads to the directory that was opened: its disk may be unmounted."""
        with translating(str(self.path), self.path):
            try:
                is_same = os.path.samestat(os.stat(self.path), self._opened)
            except (FileNotFoundError, NotADirectoryError):
                is_same = False
        if not is_same:
            what = "the repository's directory is gone, or another one replaced it"
            raise errors.RepositoryMissing(what, where=str(self.path), advice=_ADVICE)

    def check_writable(self) -> None:
        """Raise unless this is the opened directory and a repository; called before anything is created in it."""
        self.check()
        if not self._creates and not self.is_repository():
            raise errors.RepositoryMissing("the repository is gone", where=str(self.path), advice=_ADVICE)

    def is_repository(self) -> bool:
        """Return whether the object that every repository has exists."""
        try:
            return stat.S_ISREG(self.beneath.stat(MARKER.encode()).st_mode)
        except OSError:
            return False

    def publish(self, file: PendingFile, key: str, *, replaces: bool = False) -> None:
        """Make *file* the object *key*, durably; it *replaces* an object of that name, or refuses to."""
        directory = os.path.dirname(key)
        become = file.replace if replaces else file.become
        self.check_writable()
        self._make_directories(directory)
        try:
            become(key.encode())
        except FileNotFoundError:  # somebody removed the empty directory
            self._durable_directories.clear()
            self._make_directories(directory)
            become(key.encode())
        finally:
            # Even if the object exists already: the caller relies on it from now on, and its writer may have crashed.
            self._sync_directory(directory)

    @contextmanager
    def opened_directory(self, directory: str) -> Iterator[int | None]:
        """Give a directory's descriptor, or ``None`` if nothing has that name."""
        with translating(self.where(directory), self.path):
            try:
                fd = self.beneath.open_directory(directory.rstrip("/").encode())
            except FileNotFoundError:
                fd = None
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    @contextmanager
    def reading(self, key: str) -> Iterator[None]:
        """Translate errors of a look at *key*: what does not exist is ``NotFound``, if the root still does."""
        try:
            yield
        except FileNotFoundError as error:
            self.check()
            raise errors.NotFound("no such object", where=self.where(key)) from error
        except OSError as error:
            raise translated(error, self.where(key), self.path) from error

    @contextmanager
    def creating(self, key: str) -> Iterator[None]:
        """Translate errors of a create of *key*: what does not exist is not ``NotFound``, but worth a retry."""
        try:
            yield
        except FileNotFoundError as error:
            self.check()
            what = "a file or directory of the repository disappeared during a write"
            raise errors.StoreUnavailable(what, where=self.where(key)) from error
        except OSError as error:
            raise translated(error, self.where(key), self.path) from error

    def _make_directories(self, directory: str) -> None:
        """Make *directory* and its parents, durably; sync each once per store, whoever made it."""
        if not directory or directory in self._durable_directories:
            return
        parent = os.path.dirname(directory)
        self._make_directories(parent)
        make_directory(directory.encode(), self.beneath, self.access)
        self._sync_directory(parent)
        self._durable_directories.add(directory)

    def _sync_directory(self, directory: str) -> None:
        sync(self.beneath.open_directory(directory.encode()))


def _open_root(path: Path) -> Beneath:
    try:
        return Beneath.open(os.fsencode(path))
    except FileNotFoundError as error:
        advice = "check the path and whether its disk is mounted, or make a repository with: mlsync init"
        raise errors.RepositoryMissing("no such directory", where=str(path), advice=advice) from error
    except NotADirectoryError as error:
        raise errors.StoreLocationInvalid("not a directory", where=str(path)) from error
