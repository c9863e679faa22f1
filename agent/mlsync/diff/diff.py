"""What differs between two versions of a run, or two paths: files, and what changed inside checkpoints.

The manifests say which files are equal; of the others only checkpoints that are on both sides are read.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mlsync.diff.checkpoint import CheckpointDiff, compare_checkpoints
from mlsync.diff.sides import OpenedSide, Side, normal, paired
from mlsync.errors import PathMissing
from mlsync.monitor import Monitor
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.evaluation import newest_numbers
from mlsync.repository.manifest import Entry, ManifestRoot
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.source.paths import display
from mlsync.versions.nearest import did_you_mean
from mlsync.versions.units import Entries

FileFate: TypeAlias = Literal["changed", "renamed", "copied", "came", "went"]


@dataclass(slots=True)
class FileDiff:
    """A file, link or directory that differs between the sides.

    *path* is its path, in the later version or else in the earlier; relative to the directories if two are compared. A
    *renamed* or *copied* one has the content that *before* has at another path. *new_bytes* of its content were in no
    file of the earlier side. *checkpoint* says what changed inside a checkpoint.
    """

    path: bytes
    change: FileFate
    before: Entry | None
    after: Entry | None
    new_bytes: int = 0
    checkpoint: CheckpointDiff | None = None


@dataclass(slots=True)
class DiffResult:
    """What differs, by path; *same_count* files and links are equal.

    *before_path* and *after_path* are the paths that are compared, ``None`` for whole versions. *new_bytes* counts
    content of several files once, *read_bytes* what was fetched besides the manifests. *numbers* are those that were
    measured of both versions or of one, ``None`` where it was not.
    """

    before: ManifestRoot
    after: ManifestRoot
    before_path: bytes | None = None
    after_path: bytes | None = None
    numbers: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    files: list[FileDiff] = field(default_factory=list)
    same_count: int = 0
    new_bytes: int = 0
    read_bytes: int = 0
    seconds: float = 0.0


def diff(repository: Repository, before: Side, after: Side, paths: tuple[bytes, ...], monitor: Monitor) -> DiffResult:
    """Return what differs from *before* to *after*: in all files, or, of whole versions, at and below *paths*.

    Raises ``PathMissing`` if a path is in neither version or a side has nothing at its own, ``ConfigInvalid`` for a
    directory and a file, ``Damage`` if a byte that is needed does not come back.
    """
    started_s = time.monotonic()
    left, right = OpenedSide.open(repository, before), OpenedSide.open(repository, after)
    result = DiffResult(left.root, right.root, left.path, right.path)
    old, new = paired(left, right)
    selection = _Selection(paths)
    selection.refuse_missing(old.keys() | new.keys(), result)
    result.files = [file for file in _changes(old, new) if selection.holds(file)]
    result.same_count = sum(
        _is_same(old.get(name), entry)
        for name, entry in new.items()
        if entry.kind is not EntryKind.DIRECTORY and selection.names(name)
    )
    _count_new_bytes(result, {ref.name for entry in old.values() for ref in entry.chunks})
    with repository.reader() as reader:
        _look_into(result.files, (left.entries, right.entries), reader, monitor)
        result.read_bytes = reader.read_bytes
    result.numbers = _numbers(repository, before.stored, after.stored)
    result.seconds = time.monotonic() - started_s
    return result


def _numbers(
    repository: Repository, before: StoredVersion, after: StoredVersion
) -> dict[str, tuple[float | None, float | None]]:
    """Return what was measured of the versions, by name."""
    was, now = (newest_numbers(repository.evaluations(one)) for one in (before, after))
    return {name: (was.get(name), now.get(name)) for name in sorted(was.keys() | now.keys())}


def _look_into(
    files: Iterable[FileDiff], beside: tuple[Entries, Entries], reader: ChunkReader, monitor: Monitor
) -> None:
    """Compare the checkpoints that are in both versions, pairs of equal content (last, best) once."""
    known: dict[Hashable, CheckpointDiff] = {}
    for file in files:
        before, after = file.before, file.after
        if before is None or after is None or before.proof is None or after.proof is None:
            continue
        contents = _content(before), _content(after)
        if contents[0] == contents[1]:
            continue
        if contents not in known:
            known[contents] = compare_checkpoints(reader, before, after, beside, monitor)
        file.checkpoint = known[contents]


def _count_new_bytes(result: DiffResult, known: set[bytes]) -> None:
    """Set how much content of each file, and of all together, was in no file of the earlier version."""
    new: dict[bytes, int] = {}
    for file in result.files:
        refs = file.after.chunks if file.after is not None else ()
        of_file = {ref.name: ref.plain_bytes for ref in refs if ref.name not in known}
        file.new_bytes = sum(of_file.values())
        new |= of_file
    result.new_bytes = sum(new.values())


# ---------------------------------------------------------------- which entries differ


def _changes(old: Mapping[bytes, Entry], new: Mapping[bytes, Entry]) -> Iterator[FileDiff]:
    """Yield what differs, by path; an added or removed directory is yielded only if it was empty."""
    origins = _Origins(old, new)
    came = {path: origins.came(path, entry) for path, entry in new.items() if path not in old}
    filled_old, filled_new = _directories_above(old), _directories_above(new)
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before is not None and after is not None:
            if not _is_same(before, after):
                yield FileDiff(path, "changed", before, after)
        elif after is not None:
            if path not in filled_new:
                yield came[path]
        elif path not in filled_old and path not in origins.renamed:
            yield FileDiff(path, "went", before, None)


class _Origins:
    """Finds the earlier path of an added file's content; *renamed* are the paths that were renamed."""

    def __init__(self, old: Mapping[bytes, Entry], new: Mapping[bytes, Entry]) -> None:
        self.renamed: set[bytes] = set()
        self._old = old
        self._gone: dict[Hashable, bytes] = {}
        self._there: dict[Hashable, bytes] = {}
        for path, entry in old.items():
            if entry.size_bytes:  # an empty file has no origin
                (self._there if path in new else self._gone).setdefault(_content(entry), path)

    def came(self, path: bytes, entry: Entry) -> FileDiff:
        """Return whether a new path was added, renamed or copied."""
        content = _content(entry)
        origin = self._gone.get(content)
        if origin is not None and origin not in self.renamed:
            self.renamed.add(origin)
            return FileDiff(path, "renamed", self._old[origin], entry)
        origin = self._there.get(content) if origin is None else origin
        if origin is None:
            return FileDiff(path, "came", None, entry)
        return FileDiff(path, "copied", self._old[origin], entry)


def _is_same(before: Entry | None, after: Entry) -> bool:
    """Return whether everything but the times is equal."""
    return before is not None and _state(before) == _state(after)


def _state(entry: Entry) -> Hashable:
    return entry.kind, entry.mode, entry.uid, entry.gid, entry.target, repr(entry.room), _content(entry)


def _content(entry: Entry) -> Hashable:
    """Return a key that is equal for files of the same bytes, wherever they are stored and however they were cut."""
    if entry.blake3 is not None:
        return entry.size_bytes, entry.blake3
    return entry.size_bytes, entry.holes, tuple(ref.name for ref in entry.chunks)


def _directories_above(entries: Iterable[bytes]) -> set[bytes]:
    return {path.rpartition(b"/")[0] for path in entries}


class _Selection:
    """The paths to compare; all if none is given."""

    def __init__(self, paths: tuple[bytes, ...]) -> None:
        normals = list(map(normal, paths))
        self._paths = [] if b"" in normals else normals

    def names(self, path: bytes) -> bool:
        """Return whether a path is selected, or below one that is."""
        return not self._paths or any(path == one or path.startswith(one + b"/") for one in self._paths)

    def holds(self, file: FileDiff) -> bool:
        """Return whether a file is selected by its path, or by the path that it was renamed from."""
        entries = (file.after,) if file.change == "copied" else (file.after, file.before)
        return any(entry is not None and self.names(entry.path) for entry in entries)

    def refuse_missing(self, known: Iterable[bytes], result: DiffResult) -> None:
        """Raise ``PathMissing`` for a selected path that is in neither version."""
        known = list(known)
        for path in self._paths:
            if not any(one == path or one.startswith(path + b"/") for one in known):
                what = f"neither version {result.before.number} nor {result.after.number} holds anything at"
                advice = did_you_mean(path, known)
                raise PathMissing(f"{what} {display(path)}", where=f"run {result.before.run}", advice=advice)
