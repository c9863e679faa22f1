"""What a backup would read, store and leave out: an estimate by stats and the local state, which changes nothing.

Neither the store nor a passphrase is needed. The directory and the files cache come in the same order and are compared
entry by entry, so neither is held in memory; what is counted is kept by directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from mlsync.backup.files_cache import CacheRow, decode_row
from mlsync.backup.request import Source
from mlsync.backup.unchanged import is_at_rest
from mlsync.errors import FormatUnsupported, ManifestDamaged, StateDamaged
from mlsync.monitor import Monitor
from mlsync.proving.policy import NO_POLICY, Policy
from mlsync.repository.encoding.segments import decode_entries
from mlsync.repository.manifest import refs_of
from mlsync.source.cached_file import is_same
from mlsync.source.exclude import Excludes
from mlsync.source.paths import display
from mlsync.source.root import Root, second_name_of
from mlsync.source.scan import Found, Walk
from mlsync.source.state import StateReader
from mlsync.source.temporary_names import is_own, is_temporary

_NAMED_MAX: Final = 100
_SAID_EVERY: Final = 1000
_DENIED: Final = "no permission to read it"

Row = tuple[bytes, bytes, bytes]


class Reason(Enum):
    """Why something is left out, as ``--json`` has it."""

    EXCLUDED = "excluded"  # by a pattern
    UNFINISHED = "unfinished"  # by its name
    SPECIAL = "special"  # no file, directory or link
    UNREADABLE = "unreadable"
    NOT_TAKEN = "not_taken"  # the last backup did not take it as it is, and it has not changed


@dataclass(slots=True)
class Tally:
    """A number of files and their bytes."""

    count: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """Add a file."""
        self.count += 1
        self.size_bytes += size_bytes


@dataclass(slots=True)
class LeftOutGroup:
    """What is left out for one reason, with the first of the paths; a directory stands for what is below it.

    *what* is the pattern, the error or the trouble.
    """

    reason: Reason
    what: str
    tally: Tally = field(default_factory=Tally)
    paths: list[bytes] = field(default_factory=list)

    def name(self, path: bytes) -> None:
        """Add a path to those that are named."""
        if len(self.paths) < _NAMED_MAX:
            self.paths.append(path)


@dataclass(slots=True)
class PreviewedDirectory:
    """What becomes of the files in one directory, without those in the directories below it."""

    read: Tally = field(default_factory=Tally)
    unchanged: Tally = field(default_factory=Tally)
    left_out: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Preview:
    """What a backup of *source* would do; *previous* is the last version that this machine knows of, 0 if none.

    *removed_count* are paths of that version that the next one would not have; *other_count* are directories and links
    that are new or changed.
    """

    source: Source
    previous: int = 0
    directories: dict[bytes, PreviewedDirectory] = field(default_factory=dict)
    groups: dict[tuple[Reason, str], LeftOutGroup] = field(default_factory=dict)
    removed_count: int = 0
    other_count: int = 0
    seconds: float = 0.0

    @property
    def read(self) -> Tally:
        """All files that would be read; not more than their bytes would be stored."""
        return _sum(one.read for one in self.directories.values())

    @property
    def unchanged(self) -> Tally:
        """All files that would not be read, since they are as the last backup saw them."""
        return _sum(one.unchanged for one in self.directories.values())

    @property
    def left_out(self) -> Tally:
        """All files that would be in no version."""
        return _sum(one.left_out for one in self.directories.values())

    @property
    def is_nothing(self) -> bool:
        """Whether nothing changed, so that no version would be made."""
        return not (self.read.count or self.removed_count or self.other_count)

    def group(self, reason: Reason, what: str) -> LeftOutGroup:
        """Return the group of what is left out for this reason."""
        return self.groups.setdefault((reason, what), LeftOutGroup(reason, what))

    def directory(self, path: bytes) -> PreviewedDirectory:
        """Return the directory at *path*."""
        one = self.directories.get(path)
        if one is None:
            one = self.directories[path] = PreviewedDirectory()
        return one


def preview(source: Source, state: StateReader | None, policy: Policy, monitor: Monitor) -> Preview:
    """Return what a backup would do; raises ``SourceMissing`` and others of the watched directory.

    A *state* that cannot be read counts as none, and a warning says so: everything would be read then.
    """
    began_s = time.monotonic()
    if state is not None:
        try:
            found = _Look(source, state, policy, monitor).run()
        except StateDamaged as error:
            monitor.notice("warning", f"{source.run}: {error}; everything counts as new")
            state = None
    if state is None:
        found = _Look(source, None, NO_POLICY, monitor).run()
    found.seconds = time.monotonic() - began_s
    return found


class _Look:
    """One walk over the watched directory beside the rows of the files cache."""

    def __init__(self, source: Source, state: StateReader | None, policy: Policy, monitor: Monitor) -> None:
        self._source = source
        self._policy = policy
        self._monitor = monitor
        self._now_ns = time.time_ns()
        self._excludes = [(pattern, Excludes((pattern,))) for pattern in source.exclude]
        self._is_unfinished = is_own if source.keep_temporary else is_temporary
        head = None if state is None else state.heads().get(source.run)
        is_known = state is not None and head is not None
        self._damaged = state.damaged(source.run) if state is not None and is_known else set()
        self._rows = state.file_rows(source.run) if state is not None and is_known else iter(())
        self._row: Row | None = None
        self._result = Preview(source, head.number if head is not None else 0)
        # Directories that are left out as a whole, with why.
        self._left_out: dict[bytes, LeftOutGroup] = {}
        # Files with several names, by device and inode: the first name that is not left out (the walk's own may be in
        # an excluded directory), and those that would not be read.
        self._linked: dict[tuple[int, int], bytes] = {}
        self._unread: set[tuple[int, int]] = set()

    def run(self) -> Preview:
        """Return what was found."""
        with Root.open_watched(self._source.directory) as root:
            # Without patterns: what is left out is counted too.
            walk = Walk(root, keep_temporary=True)
            self._row = next(self._rows, None)
            with self._monitor.task(f"{self._source.run}: looking", None) as task:
                for count, found in enumerate(walk):
                    if count % _SAID_EVERY == 0:
                        task.say(display(found.path))
                    self._pass_rows_before(found.path, walk)
                    self._take(root, found)
                self._pass_rows_before(None, walk)
            self._add_unlisted(walk)
        return self._result

    def _take(self, root: Root, found: Found) -> None:
        """Count one entry of the directory, and go on to the row behind its own."""
        known = self._row if self._row is not None and self._row[0] == found.path else None
        if known is not None:
            self._row = next(self._rows, None)
        row = None if known is None else decode_row(known[2])
        group = self._why_left_out(found)
        if group is None and found.kind == "file" and found.stat.link_count > 1:
            first = self._linked.setdefault(_inode(found), found.path)
            found.link_to = None if first == found.path else first
        is_unchanged = known is not None and row is not None and is_same(known[1], found)
        if group is not None:
            self._result.removed_count += row is not None and _is_in_version(row)
            self._leave_out(found, group)
        elif found.kind != "file" or found.link_to is not None:
            self._take_other(found, is_unchanged=is_unchanged)
        elif row is None or not is_unchanged or self._is_read_again(row, found):
            self._read(root, found)
        else:
            self._keep(found, row)

    def _take_other(self, found: Found, *, is_unchanged: bool) -> None:
        """Count a directory or a link; a further name of a file that is not read is in no version either."""
        if found.link_to is None or _inode(found) not in self._unread:
            self._result.other_count += not is_unchanged
            return
        what = f"a hard link to {display(found.link_to)}, which could not be taken"
        group = self._result.group(Reason.UNREADABLE, what)
        self._result.directory(_above(found.path)).left_out.add(0)
        group.tally.add(0)
        group.name(found.path)

    def _read(self, root: Root, found: Found) -> None:
        directory = self._result.directory(_above(found.path))
        why_not = _why_not_read(root, found)
        if why_not is None:
            directory.read.add(found.stat.size_bytes)
            return
        directory.left_out.add(found.stat.size_bytes)
        group = self._result.group(Reason.UNREADABLE, why_not)
        if found.stat.link_count > 1:
            self._unread.add(_inode(found))
        group.tally.add(found.stat.size_bytes)
        group.name(found.path)

    def _keep(self, found: Found, row: CacheRow) -> None:
        """Count a file that nobody touched: it is as in the last version, or not taken for the same reason again."""
        size_bytes, directory = found.stat.size_bytes, self._result.directory(_above(found.path))
        if row.trouble is None and not row.is_held:
            directory.unchanged.add(size_bytes)
            return
        directory.left_out.add(size_bytes)
        what = "its checkpoint was not complete" if row.trouble is None else row.trouble.text
        group = self._result.group(Reason.NOT_TAKEN, what)
        group.tally.add(size_bytes)
        group.name(found.path)

    def _is_read_again(self, row: CacheRow, found: Found) -> bool:
        """Return whether a file is looked at anew although nobody touched it."""
        if not self._policy.holds(row.refused_by):
            return True
        if row.is_held and (
            row.again_ns <= self._now_ns if row.again_ns else is_at_rest(found.stat.mtime_ns, self._now_ns)
        ):
            return True
        return bool(self._damaged) and not self._damaged.isdisjoint(_packs_of(row))

    # ------------------------------------------------------------ what is left out

    def _why_left_out(self, found: Found) -> LeftOutGroup | None:
        """Return the group of an entry that is left out, by its own name or by that of a directory above it."""
        path = found.path
        at = path.find(b"/")
        while at >= 0 and self._left_out:
            if (group := self._left_out.get(path[:at])) is not None:
                return group
            at = path.find(b"/", at + 1)
        is_directory = found.kind == "directory"
        group = None
        if self._is_unfinished(path.rpartition(b"/")[2]):
            group = self._result.group(Reason.UNFINISHED, "the name of an unfinished file")
        else:
            pattern = next((text for text, one in self._excludes if one.match(path, is_directory=is_directory)), None)
            if pattern is not None:
                group = self._result.group(Reason.EXCLUDED, pattern)
        if group is not None:
            group.name(path + b"/" if is_directory else path)
            if is_directory:
                self._left_out[path] = group
        return group

    def _leave_out(self, found: Found, group: LeftOutGroup) -> None:
        if found.kind != "file" or found.link_to is not None:
            return
        group.tally.add(found.stat.size_bytes)
        self._result.directory(self._top_of(found.path)).left_out.add(found.stat.size_bytes)

    def _top_of(self, path: bytes) -> bytes:
        """Return the directory that is left out as a whole and holds *path*, or else the one above it."""
        at = path.find(b"/")
        while at >= 0:
            if path[:at] in self._left_out:
                return path[:at]
            at = path.find(b"/", at + 1)
        return _above(path)

    def _add_unlisted(self, walk: Walk) -> None:
        """Add what the walk left out itself."""
        for path, error in walk.problems:
            if not self._is_below_left_out(path):
                group = self._result.group(Reason.UNREADABLE, error.what)
                group.tally.count += 1
                group.name(path)
        for reason, what, left_out in (
            (Reason.SPECIAL, "a socket, a pipe or a device", walk.special),
            (Reason.UNFINISHED, "the name of an unfinished file", walk.left_out),
        ):
            paths = [path for path in left_out.paths if not self._is_below_left_out(path)]
            if paths:
                group = self._result.group(reason, what)
                group.tally.count += left_out.count - (len(left_out.paths) - len(paths))
                for path in paths:
                    group.name(path)

    def _is_below_left_out(self, path: bytes) -> bool:
        return self._top_of(path) in self._left_out

    # ------------------------------------------------------------ what only the last version has

    def _pass_rows_before(self, path: bytes | None, walk: Walk) -> None:
        """Count the rows before *path*, or all that are left, which the directory does not have any more."""
        while self._row is not None and (path is None or self._row[0] < path):
            row = decode_row(self._row[2])
            # What is below a directory that cannot be read stays in the version.
            is_hidden = any(self._row[0].startswith(place + b"/") for place, _ in walk.problems)
            if row is not None and not is_hidden:
                self._result.removed_count += _is_in_version(row)
            self._row = next(self._rows, None)


def _is_in_version(row: CacheRow) -> bool:
    return row.packed_entry is not None and not row.is_held


def _packs_of(row: CacheRow) -> Iterator[bytes]:
    try:
        entries = [] if row.packed_entry is None else decode_entries(row.packed_entry, "local state")
    except (ValueError, ManifestDamaged, FormatUnsupported):
        return
    yield from (ref.pack for ref in refs_of(entries))


def _why_not_read(root: Root, found: Found) -> str | None:
    """Return why a backup could not read a file, or would refuse to; ``None`` if it would read it."""
    # Who reads everything need not ask for each file; one with a single name is nobody's secret.
    if root.is_guarded and found.stat.link_count == 1:
        return None
    try:
        with root.beside(found.path) as (descriptor, name):
            if root.is_guarded:
                now = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                return second_name_of(now.st_uid) if root.is_anothers_secret(now) else None
            is_readable = os.access(name, os.R_OK, dir_fd=descriptor, effective_ids=True)
    except OSError:
        is_readable = False
    return None if is_readable else _DENIED


def _inode(found: Found) -> tuple[int, int]:
    return found.stat.device, found.stat.inode


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _sum(tallies: Iterator[Tally]) -> Tally:
    total = Tally()
    for one in tallies:
        total.count += one.count
        total.size_bytes += one.size_bytes
    return total
