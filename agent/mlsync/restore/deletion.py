"""``restore --delete``: delete everything below the directory that the version does not hold, and nothing else.

Every step goes by descriptors and stays on one file system. What backups exclude stays unless the user asks for it, and
``survey`` counts what would be deleted before anything is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlsync.beneath import Beneath
from mlsync.errors import DeletionRefused, TargetError
from mlsync.source.exclude import Excludes
from mlsync.source.paths import joined
from mlsync.source.temporary_names import is_temporary
from mlsync.target.lock import LOCK_NAME
from mlsync.target.os_errors import translated
from mlsync.target.temporary import TEMPORARY_PREFIX

# To delete more than this share needs a confirmation, unless a restore made the directory.
_SHARE: Final = 0.25
# Another file system is mounted there, or another process removed or changed something meanwhile.
_SKIPPED: Final = frozenset({errno.ENOENT, errno.EXDEV, errno.EBUSY, errno.ENOTEMPTY, errno.EEXIST})


@dataclass(slots=True)
class Survey:
    """How much of the directory could be deleted at all, and how much of that would be."""

    found_count: int = 0
    found_bytes: int = 0
    deleted_count: int = 0
    deleted_bytes: int = 0

    def refuse_large(self, where: str) -> None:
        """Raise ``DeletionRefused`` if a large share would be deleted."""
        is_much = self.deleted_count > self.found_count * _SHARE or self.deleted_bytes > self.found_bytes * _SHARE
        if self.deleted_count and is_much:
            what = (
                f"--delete would delete {self.deleted_count} of the {self.found_count} files there "
                f"({self.deleted_bytes} of {self.found_bytes} bytes), and no restore of this run made the directory"
            )
            advice = "nothing was changed; if all that is to go, give --yes"
            raise DeletionRefused(what, where=where, advice=advice)


class Deletion:
    """Deletes what is not *kept* below *root*, except what the patterns *exclude* match, as in a scan.

    *everything* deletes that too, and unfinished files. ``failures`` holds what could not be deleted.
    """

    def __init__(self, root: Beneath, kept: set[bytes], exclude: Sequence[str], *, everything: bool) -> None:
        self._root = Beneath(os.dup(root.descriptor), root.where, one_file_system=True)
        self._kept = kept
        self._excludes = Excludes(exclude) if exclude and not everything else None
        self._everything = everything
        self.failures: list[tuple[bytes, TargetError]] = []

    def survey(self) -> Survey:
        """Count, and change nothing."""
        survey = Survey()
        for path, names in self._folders():
            if names is None:
                continue
            for name, is_directory, size_bytes in names:
                full = _below(path, name)
                if is_directory or not self._may_delete(full, name, is_directory=False):
                    continue
                survey.found_count += 1
                survey.found_bytes += size_bytes
                if full not in self._kept:
                    survey.deleted_count += 1
                    survey.deleted_bytes += size_bytes
        self.failures.clear()  # ``run`` meets them again
        return survey

    def run(self) -> int:
        """Delete; return how many files and links that were."""
        deleted_count = 0
        for path, names in self._folders():
            if names is not None:
                deleted_count += sum(self._deleted(_below(path, name), name) for name, is_dir, _ in names if not is_dir)
            elif path and path not in self._kept:
                self._remove(path, is_directory=True)
        return deleted_count

    def close(self) -> None:
        """Close the directory."""
        self._root.close()

    # ------------------------------------------------------------ inside

    def _deleted(self, path: bytes, name: bytes) -> bool:
        if path in self._kept or not self._may_delete(path, name, is_directory=False):
            return False
        return self._remove(path, is_directory=False)

    def _may_delete(self, path: bytes, name: bytes, *, is_directory: bool) -> bool:
        """Return whether a backup would have taken an entry that the version does not hold."""
        if path == LOCK_NAME:
            return False
        if self._everything or name.startswith(TEMPORARY_PREFIX):
            return True
        if self._excludes and self._excludes.match(path, is_directory=is_directory):
            return False
        return not is_temporary(name)

    def _remove(self, path: bytes, *, is_directory: bool) -> bool:
        try:
            with translated(joined(self._root.where, path)), self._root.beside(path) as (parent, name):
                os.rmdir(name, dir_fd=parent) if is_directory else os.unlink(name, dir_fd=parent)
        except TargetError as error:
            self._note_failure(path, error)
            return False
        return True

    def _folders(self) -> Iterator[tuple[bytes, list[tuple[bytes, bool, int]] | None]]:
        """Yield each directory twice: with its entries, and with ``None`` after everything below it."""
        pending = [(b"", False)]
        while pending:
            path, is_done = pending.pop()
            if is_done:
                yield path, None
                continue
            names = self._listed(path)
            if names is None:
                continue
            yield path, names
            pending.append((path, True))
            for name, is_directory, _ in names:
                full = _below(path, name)
                if is_directory and (full in self._kept or self._may_delete(full, name, is_directory=True)):
                    pending.append((full, False))

    def _listed(self, path: bytes) -> list[tuple[bytes, bool, int]] | None:
        """Return name, whether it is a directory, and size of each entry; ``None`` if the directory must be skipped."""
        try:
            with translated(joined(self._root.where, path) if path else self._root.where):
                descriptor = self._root.open_directory(path)
                try:
                    with os.scandir(descriptor) as entries:
                        return [_entry(entry) for entry in entries]
                finally:
                    os.close(descriptor)
        except TargetError as error:
            self._note_failure(path, error)
            return None

    def _note_failure(self, path: bytes, error: TargetError) -> None:
        cause = error.__cause__
        if not (isinstance(cause, OSError) and cause.errno in _SKIPPED):
            self.failures.append((path, error))


def _entry(entry: os.DirEntry[str]) -> tuple[bytes, bool, int]:
    try:
        size_bytes = entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        size_bytes = 0
    return os.fsencode(entry.name), entry.is_dir(follow_symlinks=False), size_bytes


def _below(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
