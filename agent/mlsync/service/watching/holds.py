"""Holds finished checkpoints open until a pass has read them, so that a trainer's rotation loses none of them.

Every save is a set of files, and a set of which a file is missing counts for nothing. Bounds keep this harmless: so
many files, so many bytes that the trainer deleted and does not get back yet, so many seconds. An unmount of the
directory waits as long as a hold lasts.
"""

from __future__ import annotations

import logging
import os
import resource
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from weakref import WeakSet

from mlsync.errors import SourceError
from mlsync.source.finished import Saved, is_one_save
from mlsync.source.held import HeldFile, HeldSave
from mlsync.source.paths import display
from mlsync.source.root import Root

_LOG: Final = logging.getLogger(__name__)
HELD_MAX: Final = 128
#: While a store is away nothing is read: then the trainer gets its space back, and an unmount goes through.
AGE_S: Final = 300.0
# Of the descriptors that this process may have, all runs together: sockets, pipes and watches need some as well.
_PART_OF_DESCRIPTORS: Final = 4
# Of the free space: so much at most is kept from the trainer.
_PART_OF_SPACE: Final = 4
# A file system with less of its space left is nearly full.
_NEARLY_FULL: Final = 0.05
# Files that are finished within so long may be of one save, although their names do not say so.
_SAME_SAVE_S: Final = 2.0
# Names of saves that were let go unread; of more, the oldest are forgotten.
_UNREAD_MAX: Final = 1000


@dataclass(slots=True)
class _Save:
    """A save under way or finished; *is_broken* if a file of it could not be held."""

    files: dict[bytes, HeldFile] = field(default_factory=dict)
    above: dict[bytes, os.stat_result] = field(default_factory=dict)
    has_ended: bool = False
    is_broken: bool = False
    last_s: float = 0.0


class Holds:
    """What is held of one watched *directory*; any thread may call it. *run* is for the log."""

    def __init__(
        self,
        run: str,
        directory: Path,
        *,
        count_max: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[int], tuple[int, int]] | None = None,
    ) -> None:
        self._run = run
        self._directory = bytes(directory)
        self._count_max = HELD_MAX if count_max is None else count_max
        #: How many files are held.
        self.count = 0
        self._clock = clock
        self._free_bytes = free_bytes or _free_bytes
        self._lock = threading.Lock()
        self._saves: dict[bytes, _Save] = {}
        self._unread: dict[bytes, None] = {}
        # What a pass was given, and what of that was let go since: a number that is closed means another file soon.
        self._lent: set[int] = set()
        self._let_go: list[int] = []
        #: How many finished saves were deleted before a pass could read them, since the agent started.
        self.missed_count = 0
        _ALL.add(self)

    def add(self, path: bytes, saved: Saved) -> None:
        """Hold a file that its writer just closed or renamed, and all of the save if this was its last file."""
        key = path if saved.is_alone else saved.place
        with self._lock:
            try:
                with Root.open_watched(self._directory) as root:
                    save = self._save(key)
                    save.has_ended = saved.has_ended or saved.is_alone
                    if saved.has_ended and (is_one_save(saved.place) or path == saved.place):
                        self._hold_all(root, save, saved.place)
                    else:
                        self._hold(root, save, path)
            except (SourceError, OSError) as error:
                _LOG.debug("%s: %s is not held open: %s", self._run, display(path), error)
                return
            self._keep_bounds()

    def look(self) -> None:
        """Let go of what is held too long, or keeps too much space from the trainer."""
        if self._saves:
            with self._lock:
                self._keep_bounds()

    def taken(self, *, is_behind: bool = False) -> tuple[HeldSave, ...]:
        """Return the whole saves, for a pass that begins; their descriptors stay open until ``returned``.

        If the store *is_behind*, of those that were deleted only the newest is kept: each one more would make the next
        version come later.
        """
        with self._lock:
            if is_behind:
                self._thin()
            for key in [key for key, save in self._saves.items() if save.is_broken]:
                self._drop(key)
            for path in self._unread:
                self.missed_count += not os.path.lexists(os.path.join(self._directory, path))
            self._unread.clear()
            self._lent = {one.descriptor for save in self._saves.values() for one in save.files.values()}
            return tuple(
                HeldSave(tuple(save.files.values()), tuple(save.above.items()), save.has_ended)
                for save in self._saves.values()
            )

    def returned(self) -> None:
        """Close what was let go while a pass had it: that pass is over."""
        with self._lock:
            self._lent.clear()
            let_go, self._let_go = self._let_go, []
            for descriptor in let_go:
                os.close(descriptor)

    def done(self, saves: Sequence[HeldSave]) -> None:
        """Let go of what a pass has read; a save that went on meanwhile stays."""
        read = {one.files for one in saves}
        with self._lock:
            for key in [key for key, save in self._saves.items() if tuple(save.files.values()) in read]:
                self._drop(key, is_read=True)

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            for key in list(self._saves):
                self._drop(key, is_read=True)
        self.returned()

    def _save(self, key: bytes) -> _Save:
        """Return the save as the newest one."""
        save = self._saves.pop(key, None) or _Save()
        self._saves[key] = save
        save.last_s = self._clock()
        return save

    def _hold_all(self, root: Root, save: _Save, place: bytes) -> None:
        """Hold exactly what is there now: writers take files away as well, before they are done."""
        paths = list(_files_below(root, place, self._count_max + 1))
        self._close(save)
        save.is_broken = len(paths) > self._count_max
        if not save.is_broken:
            for path in paths:
                self._hold(root, save, path)

    def _hold(self, root: Root, save: _Save, path: bytes) -> None:
        before = save.files.pop(path, None)
        if before is not None:
            self._close_file(before)
        try:
            descriptor = root.open_file(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            save.is_broken = True
            raise
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or root.is_anothers_secret(info):
            os.close(descriptor)
            save.is_broken = True
            return
        save.files[path] = HeldFile(path, descriptor, info)
        above = path
        while (above := above.rpartition(b"/")[0]) and above not in save.above:
            save.above[above] = root.stat(above)

    def _keep_bounds(self) -> None:
        """Drop the oldest saves until all bounds hold; only deleted files cost the trainer anything."""
        for key in [key for key, save in self._saves.items() if save.last_s + AGE_S <= self._clock()]:
            _LOG.debug("%s: %s is held no longer: no pass read it in time", self._run, display(key))
            self._drop(key)
        while self._saves and (self._note_count() > self._count_max or self._is_too_much()):
            self._drop(next(iter(self._saves)))
        kept_bytes = {key: _deleted_bytes(save) for key, save in self._saves.items()}
        for key, deleted_bytes in kept_bytes.items():
            if not deleted_bytes:
                continue
            descriptor = next(iter(self._saves[key].files.values())).descriptor
            free, all_bytes = self._free_bytes(descriptor)
            if free < all_bytes * _NEARLY_FULL or sum(kept_bytes.values()) > free // _PART_OF_SPACE:
                _LOG.debug("%s: %s is held no longer: the space is needed", self._run, display(key))
                kept_bytes[key] = 0
                self._drop(key)

    def _thin(self) -> None:
        deleted = {key: save.last_s for key, save in self._saves.items() if _deleted_bytes(save)}
        newest_s = max(deleted.values(), default=0.0)
        for key, last_s in deleted.items():
            if last_s < newest_s - _SAME_SAVE_S:
                self._drop(key)

    def _note_count(self) -> int:
        self.count = sum(len(save.files) for save in self._saves.values())
        return self.count

    def _is_too_much(self) -> bool:
        """Return whether all runs together hold more than their part of what this process may open."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return sum(one.count for one in tuple(_ALL)) > limit // _PART_OF_DESCRIPTORS

    def _drop(self, key: bytes, *, is_read: bool = False) -> None:
        save = self._saves.pop(key)
        # Of what was never held, the name may have been one for a moment.
        if not is_read and save.files:
            self._unread[next(iter(save.files))] = None
            if len(self._unread) > _UNREAD_MAX:
                del self._unread[next(iter(self._unread))]
        self._close(save)
        self._note_count()

    def _close(self, save: _Save) -> None:
        files, save.files = save.files, {}
        for one in files.values():
            self._close_file(one)

    def _close_file(self, one: HeldFile) -> None:
        if one.descriptor in self._lent:
            self._let_go.append(one.descriptor)
        else:
            os.close(one.descriptor)


_ALL: Final[WeakSet[Holds]] = WeakSet()


def _deleted_bytes(save: _Save) -> int:
    held = [os.fstat(one.descriptor) for one in save.files.values()]
    return sum(one.st_blocks * 512 for one in held if one.st_nlink == 0)


def _free_bytes(descriptor: int) -> tuple[int, int]:
    free = os.fstatvfs(descriptor)
    return free.f_bavail * free.f_frsize, free.f_blocks * free.f_frsize


def _files_below(root: Root, place: bytes, most: int) -> Iterator[bytes]:
    """Yield the regular files below a directory, *most* of them at most."""
    count, directories = 0, [place]
    while directories:
        directory = directories.pop()
        descriptor = root.open_directory(directory)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    path = directory + b"/" + os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        yield path
                        count += 1
                        if count >= most:
                            return
        finally:
            os.close(descriptor)
