"""What ``restore --delete`` takes away: all below the directory that the version does not hold, and nothing else.

Everything is reached by descriptors. No step leads onto another file system, what backups leave out is left alone
unless it is asked for, and what would go is counted before anything does.
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
from mlsync.target.faults import translated
from mlsync.target.lock import LOCK_NAME
from mlsync.target.temporary import TEMPORARY_PREFIX

# More than this part of what is there needs a word, unless a restore made the directory.
_SHARE: Final = 0.25
# Another file system is mounted there, or something went or changed meanwhile.
_PASSED_OVER: Final = frozenset({errno.ENOENT, errno.EXDEV, errno.EBUSY, errno.ENOTEMPTY, errno.EEXIST})


@dataclass(slots=True)
class Survey:
    """How much is there, of what may go at all, and how much of it is to go."""

    there_count: int = 0
    there_bytes: int = 0
    going_count: int = 0
    going_bytes: int = 0

    def refuse_large(self, where: str) -> None:
        """Raise ``DeletionRefused`` if much of what is there would go."""
        is_much = self.going_count > self.there_count * _SHARE or self.going_bytes > self.there_bytes * _SHARE
        if self.going_count and is_much:
            what = (
                f"--delete would delete {self.going_count} of the {self.there_count} files there "
                f"({self.going_bytes} of {self.there_bytes} bytes), and no restore of this run made the directory"
            )
            advice = "nothing was changed; if all that is to go, give --yes"
            raise DeletionRefused(what, where=where, advice=advice)


class Deletion:
    """Deletes what is not *kept* below *root*; *exclude* are patterns of what stays besides, as the scan's.

    With *everything* that stays no longer, nor what has the name of an unfinished file. ``failures`` holds what could
    not be deleted.
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
                if is_directory or not self._may_go(full, name, is_directory=False):
                    continue
                survey.there_count += 1
                survey.there_bytes += size_bytes
                if full not in self._kept:
                    survey.going_count += 1
                    survey.going_bytes += size_bytes
        self.failures.clear()  # they come again when it is done
        return survey

    def run(self) -> int:
        """Delete; return how many files and links went."""
        deleted_count = 0
        for path, names in self._folders():
            if names is not None:
                deleted_count += sum(self._deleted(_below(path, name), name) for name, is_dir, _ in names if not is_dir)
            elif path and path not in self._kept:
                self._remove(path, is_directory=True)
        return deleted_count

    def close(self) -> None:
        """Let go of the directory."""
        self._root.close()

    # ------------------------------------------------------------ inside

    def _deleted(self, path: bytes, name: bytes) -> bool:
        if path in self._kept or not self._may_go(path, name, is_directory=False):
            return False
        return self._remove(path, is_directory=False)

    def _may_go(self, path: bytes, name: bytes, *, is_directory: bool) -> bool:
        """Whether an entry that the version does not hold is one that a backup would have taken."""
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
            self._note(path, error)
            return False
        return True

    def _folders(self) -> Iterator[tuple[bytes, list[tuple[bytes, bool, int]] | None]]:
        """Yield each directory twice: with what is in it, and, after all that is below it, with ``None``."""
        to_come = [(b"", False)]
        while to_come:
            path, is_done = to_come.pop()
            if is_done:
                yield path, None
                continue
            names = self._listed(path)
            if names is None:
                continue
            yield path, names
            to_come.append((path, True))
            for name, is_directory, _ in names:
                full = _below(path, name)
                if is_directory and (full in self._kept or self._may_go(full, name, is_directory=True)):
                    to_come.append((full, False))

    def _listed(self, path: bytes) -> list[tuple[bytes, bool, int]] | None:
        """List a directory: names, whether they are directories, sizes; ``None`` if it is not to be entered."""
        try:
            with translated(joined(self._root.where, path) if path else self._root.where):
                descriptor = self._root.open_directory(path)
                try:
                    with os.scandir(descriptor) as entries:
                        return [_told(entry) for entry in entries]
                finally:
                    os.close(descriptor)
        except TargetError as error:
            self._note(path, error)
            return None

    def _note(self, path: bytes, error: TargetError) -> None:
        cause = error.__cause__
        if not (isinstance(cause, OSError) and cause.errno in _PASSED_OVER):
            self.failures.append((path, error))


def _told(entry: os.DirEntry[str]) -> tuple[bytes, bool, int]:
    try:
        size_bytes = entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        size_bytes = 0
    return os.fsencode(entry.name), entry.is_dir(follow_symlinks=False), size_bytes


def _below(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
