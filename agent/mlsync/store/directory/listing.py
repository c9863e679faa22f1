"""Listings of a directory store: its objects in key order, and what else lies between them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from mlsync import errors
from mlsync.store.base import ObjectInfo, is_key
from mlsync.store.directory.os_errors import translating
from mlsync.store.directory.root import StoreRoot

# What can be in an object's place, in a person's words.
_KINDS: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_in_words(mode: int) -> str:
    """Return what a mode says that something is."""
    return _KINDS.get(stat.S_IFMT(mode), "something that is not a file")


def objects_below(root: StoreRoot, directory: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
    """Yield the objects below *directory* (empty, or ending in ``/``) in key order.

    Memory holds the names of one directory per level.
    """
    with root.opened_directory(directory) as fd:
        if fd is None:
            return
        for name in _names(root, fd, directory):
            path = directory + name
            if not path.endswith("/"):
                if path.startswith(prefix) and path > after:
                    yield from _info_unless_deleted(root, fd, path)
                continue
            # Everything below sorts before *after* unless it begins with the same path.
            is_done = path < after and not after.startswith(path)
            if not is_done and (path.startswith(prefix) or prefix.startswith(path)):
                yield from objects_below(root, path, prefix, after)


def strays_below(root: StoreRoot, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield name and kind of everything under *prefix* that is not an object."""
    with root.opened_directory(prefix) as fd:
        if fd is None:
            return
        with translating(root.where(prefix), root.path), os.scandir(fd) as entries:
            # Only entries that are not files cost a call: there may be many packs.
            found = sorted(
                (entry.name, stat.S_IFREG if entry.is_file(follow_symlinks=False) else _kind_of(entry))
                for entry in entries
                if not entry.is_file(follow_symlinks=False) or not is_key(prefix + entry.name)
            )
    for name, kind in found:
        path = prefix + name
        yield path, kind_in_words(kind)
        if kind == stat.S_IFDIR and is_key(path):
            yield from strays_below(root, f"{path}/")


def _names(root: StoreRoot, fd: int, directory: str) -> Sequence[str]:
    """Return the names in *directory*, directories with a final ``/``: so ``a-b`` < ``a/x`` < ``a0``, as in S3."""
    with translating(root.where(directory), root.path), os.scandir(fd) as entries:
        names = (f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries)
        return sorted(name for name in names if is_key(directory + name.rstrip("/")))


def _info_unless_deleted(root: StoreRoot, fd: int, path: str) -> Iterator[ObjectInfo]:
    with translating(root.where(path), root.path):
        try:
            found = os.stat(os.path.basename(path), dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return
    if stat.S_ISLNK(found.st_mode):
        # It may lead to a directory full of objects: without them the listing would be incomplete.
        what = "a symbolic link is in the repository, and mlsync follows none"
        where, advice = root.where(path), "replace it by what it leads to, or remove it"
        raise errors.StoreBroken(what, where=where, advice=advice, is_of_object=True)
    if stat.S_ISREG(found.st_mode):
        yield ObjectInfo(path, found.st_size, found.st_mtime)


def _kind_of(entry: os.DirEntry[str]) -> int:
    """Return the kind of a directory's entry, or 0 if it is gone."""
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0
