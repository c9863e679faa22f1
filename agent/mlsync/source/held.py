"""Files that the agent held open from the end of their save on, and hands to the pass that reads them.

A trainer that keeps the last two checkpoints deletes the others between two passes. What was seen whole is then in the
next version all the same, under the path that it had.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

import msgspec

from mlsync.source.exclude import Excludes
from mlsync.source.root import Root
from mlsync.source.scan import FileStat, Found, Scan
from mlsync.source.temporary_names import is_own, is_temporary

# A writer that did not say that it was done was, if nothing was written for so long before the first deletion.
_QUIET_NS: Final = 2 * 10**9


class HeldFile(msgspec.Struct, frozen=True):
    """A file that is held open by *descriptor*, and its *stat* when it was opened."""

    path: bytes
    descriptor: int
    stat: os.stat_result


class HeldSave(msgspec.Struct, frozen=True):
    """One save: all of its files. It *has_ended* if its writer said so, by a name; *above* are its directories."""

    files: tuple[HeldFile, ...]
    above: tuple[tuple[bytes, os.stat_result], ...]
    has_ended: bool

    @property
    def is_deleted(self) -> bool:
        """Whether a file of it has no name any more."""
        return any(os.fstat(one.descriptor).st_nlink == 0 for one in self.files)


def with_deleted(
    tree: Scan, root: Root, saves: Sequence[HeldSave], exclude: Sequence[str], *, keep_temporary: bool
) -> Scan:
    """Return what was found, and the files of each of *saves* that was whole when it was deleted.

    *root* holds the files: ``Root.adopt``. Of a save that was written again since, or of which the trainer took a file
    away while it wrote, nothing is added: a mixture of two saves is none.
    """
    if not saves:
        return tree
    there = {found.path: found for found in tree.found}
    excludes = Excludes(exclude) if exclude else None
    is_left_out = is_own if keep_temporary else is_temporary
    for save in saves:
        gone = [one for one in save.files if one.path not in there]
        if not gone or not _is_whole(save, there, root, gone):
            continue
        names = [*(path for path, _ in save.above), *(one.path for one in save.files)]
        if any(is_left_out(path.rpartition(b"/")[2]) for path in names):
            continue
        if excludes is not None and any(excludes.match(path, is_directory=True) for path, _ in save.above):
            continue
        for path, stat in save.above:
            there.setdefault(path, Found(path, "directory", FileStat.of(stat)))
        for one in gone:
            if excludes is None or not excludes.match(one.path, is_directory=False):
                there[one.path] = Found(one.path, "file", FileStat.of(one.stat))
    if len(there) > len(tree.found):
        tree.found = sorted(there.values(), key=attrgetter("path"))
    return tree


def _is_whole(save: HeldSave, there: dict[bytes, Found], root: Root, gone: list[HeldFile]) -> bool:
    """Return whether the save was complete when the first of its files was deleted, and is still what it was."""
    if any(there[path].kind != "directory" for path, _ in save.above if path in there):
        return False
    deleted = [root.deleted(one.path) for one in gone]
    if None in deleted:  # renamed, or written since
        return False
    for one in save.files:
        found = there.get(one.path)
        if found is not None and (found.stat.inode, found.stat.size_bytes, found.stat.mtime_ns) != (
            one.stat.st_ino,
            one.stat.st_size,
            one.stat.st_mtime_ns,
        ):
            return False
    first_ns = min(one.st_ctime_ns for one in deleted if one is not None)
    return save.has_ended or first_ns >= max(one.stat.st_mtime_ns for one in save.files) + _QUIET_NS
