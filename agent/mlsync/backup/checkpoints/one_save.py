"""Whether the files of a checkpoint are all of one save, by their times and the names beside them.

While a save overwrites the last one, file by file under the same names, there are moments in which every file is
complete and still, and yet some files are new and some old. Nothing in such files says so. What does is the writer: the
temporary name of the next file, the files that it has not written yet, how long it pauses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from mlsync.backup.unchanged import PATIENCE_NS, is_at_rest
from mlsync.beneath import Beneath
from mlsync.formats.groups.names import is_part, is_written_last
from mlsync.formats.groups.tree import Unit
from mlsync.repository.manifest import Entry
from mlsync.source.paths import display
from mlsync.source.temporary_names import is_temporary
from mlsync.versions.units import Entries

#: A writer that is silent for so long has ended; a backup waits no longer.
SILENT_NS: Final = 600 * 10**9
# As safetensors and most libraries make them: nothing in the name says what it will be called.
_NAMELESS: Final = re.compile(rb"\.tmp[A-Za-z0-9_]{4,}")
_OF_A_CHECKPOINT: Final = re.compile(rb"\.(safetensors|bin|pt|pth|ckpt|distcp|metadata)(\.|-|_|$)")


class Doubt(NamedTuple):
    """Why a checkpoint may hold files of two saves, and when to look again."""

    why: str
    until_ns: int


class Save(NamedTuple):
    """A checkpoint of several files as it was read, and as the last version has it, if it does."""

    unit: Unit
    entries: Entries
    last: Unit | None
    last_entries: Entries

    def doubt(self, root: Beneath, now_ns: int) -> Doubt | None:
        """Return why the writer may not be done, or ``None``."""
        return self.temporary(root, now_ns) or self._half_rewritten(now_ns) or self._pause(now_ns)

    def temporary(self, root: Beneath, now_ns: int) -> Doubt | None:
        """Return a temporary name beside the files that somebody still writes to."""
        written_ns, name = max(_temporary_names(self.unit, root), default=(0, b""))
        if not name or abs(now_ns - written_ns) > SILENT_NS:
            return None
        return Doubt(f"{display(name)} is being written beside it", written_ns + SILENT_NS)

    def lost_shard(self) -> str | None:
        """Return that a shard of the last version is gone, if no index would show that."""
        if self.last is None or self.unit.kind != "huggingface-shards":
            return None
        gone = [path for path in self.last.members if path not in self.entries]
        shared = [path for path in self.unit.members if path in self.last.members]
        if not gone or not any(_is_same(self.entries[path], self.last_entries[path]) for path in shared):
            return None
        return f"{display(gone[0])}, which the last version has, is gone"

    @property
    def has_ended(self) -> bool:
        """Whether the file that writers write last is no older than any of those before it."""
        newest_ns = max(_times(self.unit, self.entries), default=0)
        ends = [self.entries[path].mtime_ns for path in self.unit.members if is_written_last(path)]
        return bool(ends) and max(ends) >= newest_ns

    def _half_rewritten(self, now_ns: int) -> Doubt | None:
        """Return that some files are as the last version has them, and others were written since."""
        if self.last is None or self.last.lacking is not None:
            return None
        shared = [path for path in self.unit.members if is_part(path) and path in self.last.members]
        old = [path for path in shared if _is_same(self.entries[path], self.last_entries[path])]
        newest_ns = max(_times(self.unit, self.entries), default=0)
        if not old or len(old) == len(shared) or is_at_rest(newest_ns, now_ns):
            return None
        new = next(path for path in shared if path not in old)
        why = f"{display(new)} was written since the last version, {display(old[0])} was not"
        return Doubt(why, newest_ns + PATIENCE_NS)

    def _pause(self, now_ns: int) -> Doubt | None:
        """Return that the writer has been silent for less than it was between two files, now or in the last version."""
        if self.has_ended:
            return None
        times_ns = _times(self.unit, self.entries)
        before_ns = _times(self.last, self.last_entries) if self.last is not None else []
        pause_ns = min(max(_longest_pause(times_ns), _longest_pause(before_ns)), SILENT_NS)
        silent_ns = now_ns - max(times_ns, default=0)
        if not -SILENT_NS < silent_ns <= pause_ns:
            return None
        # The same words at each look, or the same trouble would be notified again.
        why = (
            f"the writer paused for {pause_ns / 1e9:.1f} s between two files, and has not been silent for longer since"
        )
        return Doubt(why, now_ns - silent_ns + pause_ns)


def _is_same(entry: Entry, last: Entry) -> bool:
    """Return whether a file is, with all that its stat says, the one that the last version has."""
    return (entry.mtime_ns, entry.chunks, entry.holes) == (last.mtime_ns, last.chunks, last.holes)


def _times(unit: Unit, entries: Entries) -> list[int]:
    return sorted(entries[path].mtime_ns for path in unit.members if is_part(path))


def _longest_pause(times_ns: list[int]) -> int:
    return max((later - earlier for earlier, later in pairwise(times_ns)), default=0)


def _temporary_names(unit: Unit, root: Beneath) -> Iterable[tuple[int, bytes]]:
    """Yield the time and name of each temporary file beside a checkpoint's files; skip files that are gone by now."""
    names = {path.rpartition(b"/")[2] for path in unit.members}
    for directory in {path.rpartition(b"/")[0] for path in unit.members}:
        try:
            descriptor = root.open_directory(directory)
        except OSError:
            continue
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if is_temporary(name) and _is_for_any(name, names):
                        try:
                            yield entry.stat(follow_symlinks=False).st_mtime_ns, name
                        except OSError:
                            continue
        finally:
            os.close(descriptor)


def _is_for_any(name: bytes, members: set[bytes]) -> bool:
    """Return whether a temporary name may become one of a checkpoint's files: a log's ``status.json.tmp`` will not."""
    if _NAMELESS.fullmatch(name) or _OF_A_CHECKPOINT.search(name):
        return True
    return any(member in name for member in members)
