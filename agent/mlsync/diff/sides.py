"""The two sides of a comparison: a version, or what it holds at one path."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import msgspec

from mlsync.errors import ConfigInvalid, PathMissing
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry, ManifestRoot
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.source.paths import display
from mlsync.versions.nearest import did_you_mean


@dataclass(frozen=True, slots=True)
class Side:
    """A side of a comparison: what a version holds at *path*, all of it where that is ``None``."""

    stored: StoredVersion
    path: bytes | None = None


@dataclass(frozen=True, slots=True)
class OpenedSide:
    """A side with its entries: all of its version's by their paths, and those to compare by the names to pair.

    *path* is as the version holds it, empty for the run's directory, ``None`` for a whole version. The names of a
    directory's entries are their paths in that directory.
    """

    root: ManifestRoot
    path: bytes | None
    entries: Mapping[bytes, Entry]
    named: Mapping[bytes, Entry]

    @classmethod
    def open(cls, repository: Repository, side: Side) -> Self:
        """Return the side; raise ``PathMissing`` if its version holds nothing at its path."""
        root = side.stored.root
        entries = {entry.path: entry for entry in repository.entries(side.stored)}
        if side.path is None:
            return cls(root, None, entries, entries)
        path = _held(side.path, root, entries)
        return cls(root, path, entries, dict(_below(path, entries)))

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, or a whole version."""
        return self.path is None or b"" not in self.named


def paired(before: OpenedSide, after: OpenedSide) -> tuple[Mapping[bytes, Entry], Mapping[bytes, Entry]]:
    """Return the entries of both sides by the names that pair them.

    A file is paired with the other, whatever they are called. Raises ``ConfigInvalid`` for a directory and a file.
    """
    if before.is_directory and after.is_directory:
        return before.named, after.named
    if before.is_directory or after.is_directory:
        what = f"{_is_what(before)}, and {_is_what(after)}"
        raise ConfigInvalid(what, advice="compare two directories, or two files")
    (old,), (new,) = before.named.values(), after.named.values()
    return {new.path: old}, {new.path: new}


def normal(path: bytes) -> bytes:
    """Return a path as versions hold it: no ``./``, no slash at either end, empty for the run's directory."""
    plain = os.path.normpath(path).strip(b"/")
    return b"" if plain == b"." else plain


def _below(path: bytes, entries: Mapping[bytes, Entry]) -> Iterator[tuple[bytes, Entry]]:
    """Yield the entries below a directory by their names in it; a file by the empty name, with its content.

    A hard link has the content of the file that it links to.
    """
    prefix = path + b"/" if path else b""
    for other, entry in entries.items():
        if other == path:
            if entry.kind is EntryKind.HARD_LINK:
                yield b"", msgspec.structs.replace(entries[entry.target], path=path)
            elif entry.kind is not EntryKind.DIRECTORY:
                yield b"", entry
        elif other.startswith(prefix):
            yield other.removeprefix(prefix), entry


def _held(path: bytes, root: ManifestRoot, entries: Mapping[bytes, Entry]) -> bytes:
    """Return a path as the version holds it: given so, in the directory that was backed up, or as listings print it."""
    plain = normal(os.path.normpath(path).removeprefix(root.directory.rstrip(b"/") + b"/"))
    if not plain or plain in entries:
        return plain
    printed = [one for one in entries if display(one) == os.fsdecode(plain)] if b"\\" in plain else []
    if len(printed) == 1:
        return printed[0]
    advice = did_you_mean(plain, entries) or f"mlsync show {root.number} lists what there is"
    what = f"version {root.number} holds nothing at {display(plain)}"
    raise PathMissing(what, where=f"run {root.run}", advice=advice)


def _is_what(side: OpenedSide) -> str:
    entry = side.named.get(b"")
    kind = "directory" if entry is None else entry.kind.name.lower().replace("_", " ")
    target = f" to {display(entry.target)}" if entry is not None and entry.target else ""
    return f"{display(side.path or b'.')} of version {side.root.number} is a {kind}{target}"
