"""The entries of a version that a restore of some paths needs."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from mlsync.errors import ConfigInvalid, PathMissing
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry, Manifest
from mlsync.source.glob import expression, is_pattern
from mlsync.source.paths import display
from mlsync.versions.nearest import nearest

# As many paths as a person reads in one line
_NAMED_MAX: Final = 3
_CHARS_MAX: Final = 300


def paths_in_run(paths: Iterable[bytes], directories: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return *paths* relative to the run's directory; none, which means all, if one of them is that directory.

    An absolute path is taken if it is in one of *directories*: the one that the version was made from, or the target.
    Raises ``ConfigInvalid`` for an empty path, ``PathMissing`` for one that is outside.
    """
    found = [_path_in_run(path, directories) for path in paths]
    return () if b"" in found else tuple(found)


def select_entries(manifest: Manifest, paths: Sequence[bytes]) -> list[Entry]:
    """Return the entries at and below *paths*, all where empty, with the directories above them.

    A path that the version holds is meant as it is; any other one may be a pattern, or a path as listings print it.
    Raises ``PathMissing`` if the version holds nothing at one of them.
    """
    if not paths:
        return list(manifest.entries)
    tree = _Tree(manifest.entries)
    wanted: dict[bytes, Entry] = {}
    missing: list[bytes] = []
    for path in paths:
        found = tree.at(path)
        wanted |= {entry.path: entry for entry in found}
        if not found:
            missing.append(path)
    if missing:
        raise _missing(manifest, tree, missing)
    return tree.completed(wanted)


class _Tree:
    """The entries of a version by path."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.by_path = {entry.path: entry for entry in entries}
        self._sorted = sorted(self.by_path)

    def at(self, path: bytes) -> list[Entry]:
        """Return the entries that a path of the command line means, and those below them."""
        plain = path.rstrip(b"/")
        if plain in self.by_path:
            return self._with_below([plain])
        if not is_pattern(os.fsdecode(path)):
            return []
        if b"\\" in plain:
            shown = os.fsdecode(plain)
            printed = [one for one in self._sorted if display(one) == shown]
            if printed:
                return self._with_below(printed)
        return self._with_below(self.matching(path))

    def matching(self, pattern: bytes) -> list[bytes]:
        """Return the paths that match a pattern; one that ends in a slash is for directories."""
        # As text, so that "?" matches a character and not a byte; names that are no UTF-8 match too.
        matches = re.compile(f"(?s:{expression(os.fsdecode(pattern.rstrip(b'/')))})").fullmatch
        only_directories = pattern.endswith(b"/")
        return [
            path
            for path in self._sorted
            if matches(os.fsdecode(path)) and (not only_directories or self.by_path[path].kind is EntryKind.DIRECTORY)
        ]

    def _with_below(self, paths: Iterable[bytes]) -> list[Entry]:
        found: dict[bytes, Entry] = {}
        for path in paths:
            if path in found:
                continue  # with the directory above it, which comes first
            found[path] = self.by_path[path]
            # "0" is the character after "/".
            for at in range(bisect_left(self._sorted, path + b"/"), bisect_left(self._sorted, path + b"0")):
                found[self._sorted[at]] = self.by_path[self._sorted[at]]
        return list(found.values())

    def completed(self, wanted: dict[bytes, Entry]) -> list[Entry]:
        """Return *wanted* in order, with the directories above, and each hard link with a file to link to."""
        chosen = dict(wanted)
        for path in wanted:
            above = path.rpartition(b"/")[0]
            while above and above not in chosen:
                if above in self.by_path:
                    chosen[above] = self.by_path[above]
                above = above.rpartition(b"/")[0]
        for path, entry in wanted.items():
            # Without the file that it links to, a hard link becomes a file of its own, with that file's content.
            if entry.kind is EntryKind.HARD_LINK and entry.target not in chosen:
                chosen[path] = msgspec.structs.replace(self.by_path[entry.target], path=path)
        return [chosen[path] for path in sorted(chosen)]


def _path_in_run(path: bytes, directories: Sequence[bytes]) -> bytes:
    """Return a path relative to the run's directory, empty for that directory; a slash at the end stays."""
    if not path:
        raise ConfigInvalid("an empty PATH", advice="give no PATH for the whole version")
    plain = os.path.normpath(path)
    if plain.startswith(b"/"):
        plain = b"/" + plain.lstrip(b"/")
        inside = (_below(plain, os.path.normpath(directory)) for directory in directories)
        found = next((one for one in inside if one is not None), None)
    else:
        found = None if plain == b".." or plain.startswith(b"../") else plain
    if found is None:
        what = f"{display(path)} is outside of the run's directory"
        advice = "give the path as mlsync show lists it, relative to that directory"
        raise PathMissing(what, where=display(directories[0]), advice=advice)
    found = b"" if found == b"." else found
    return found + b"/" if found and path.endswith(b"/") else found


def _below(path: bytes, directory: bytes) -> bytes | None:
    """Return *path* relative to *directory*, ``None`` if it is not in it."""
    if path == directory:
        return b""
    above = directory.rstrip(b"/") + b"/"
    return path.removeprefix(above) if path.startswith(above) else None


def _missing(manifest: Manifest, tree: _Tree, missing: list[bytes]) -> PathMissing:
    """Return the error for paths that the version does not hold; it suggests the nearest that it does."""
    root = manifest.root
    named = " and ".join(map(_shortened, missing[:_NAMED_MAX]))
    more = f" and {len(missing) - _NAMED_MAX} more" if len(missing) > _NAMED_MAX else ""
    close = _nearest(tree, missing[0])
    question = f"did you mean {' or '.join(close)}? " if close else ""
    advice = f"{question}nothing was written; mlsync show {root.number} --run {root.run} lists what there is"
    return PathMissing(f"version {root.number} holds nothing at {named}{more}", where=f"run {root.run}", advice=advice)


def _nearest(tree: _Tree, path: bytes) -> list[str]:
    """Return the paths, as they are printed, that somebody who gave *path* may have meant; or a pattern."""
    if is_pattern(os.fsdecode(path)) and not path.startswith(b"**/") and tree.matching(b"**/" + path):
        return [f"'{display(b'**/' + path)}'"]
    return nearest(path, tree.by_path)


def _shortened(path: bytes) -> str:
    text = display(path)
    return text if len(text) <= _CHARS_MAX else text[:_CHARS_MAX] + "…"
