"""Keeps a candidate from holding a part of a checkpoint whose other files are not there, or are of another save."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mlsync.flows.candidate import Candidate
from mlsync.flows.proving import Judged
from mlsync.flows.units import units_around
from mlsync.flows.untouched import is_at_rest
from mlsync.flows.wholes import Whole
from mlsync.formats.sharded import Unit
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.repository.tokens import TroubleKind
from mlsync.source.paths import display
from mlsync.source.root import Root
from mlsync.source.scan import FileStat


class WholeUnits:
    """The checkpoints of several files that changed since the last version; *root* is where the source has them."""

    def __init__(self, candidate: Candidate, reader: ChunkReader, root: Root, now_ns: int) -> None:
        self._candidate = candidate
        self._reader = reader
        self._root = root
        self._now_ns = now_ns
        self._units = units_around(candidate.moved(), candidate.by_path, reader)

    def hold_back(self) -> None:
        """Leave out, with what the last version had in its place, what is not whole and may still become so.

        What nobody has written to for long is let in as it is, with a word on what is lacking.
        """
        for unit in self._units:
            lacking = unit.lacking or self._member_in_trouble(unit)
            if self.are_being_written(unit.members):
                self._revert(unit, "a file of it was written while it was read")
            elif lacking is not None and self._is_at_rest(unit):
                self._candidate.note_incomplete(unit.members, f"of a checkpoint that is not whole: {lacking}")
            elif lacking is not None:
                self._revert(unit, f"not whole yet: {lacking}")

    def follow_refusals(self) -> None:
        """Leave the other files of a checkpoint out too where the proof refused one of them."""
        for unit in self._units:
            for path in unit.members:
                trouble = self._candidate.trouble_by_path.get(path)
                if trouble is not None and trouble.kind is TroubleKind.BROKEN and not self._is_at_rest(unit):
                    self._revert(unit, f"{display(path)} of it is broken")
                    break

    def refuse(self, whole: Whole, judged: Judged) -> None:
        """Keep a directory as it was that does not load as one; where it was being written that is no fault of it."""
        parts = self._candidate.parts_of(whole)
        if not self.are_being_written(parts):
            self._candidate.refuse_whole(whole, judged)
            return
        text = f"does not load, and was written while it was read: {judged.refused}"
        self._candidate.hold_back(parts, self._candidate.last_parts_of(whole), whole.path, text)

    def _revert(self, unit: Unit, why: str) -> None:
        text = f"{unit.kind} checkpoint: {why}"
        self._candidate.hold_back(unit.members, self._last_whole(unit), unit.directory, text)

    def _last_whole(self, unit: Unit) -> Iterator[Entry]:
        """Yield the files that the last version has of a checkpoint, of all of it if it has it whole."""
        base = self._candidate.base.entries
        before = [old for old in units_around(unit.members, base, self._reader) if old.directory == unit.directory]
        for old in before:
            if old.kind == unit.kind and old.lacking is None:
                yield from (base[path] for path in old.members)
                return
        yield from (base[path] for path in unit.members if path in base)

    def _member_in_trouble(self, unit: Unit) -> str | None:
        for path in unit.members:
            trouble = self._candidate.trouble_by_path.get(path)
            if trouble is not None:
                return f"{display(path)}: {trouble.text}"
        return None

    def are_being_written(self, paths: Iterable[bytes]) -> bool:
        """Whether the source has other files by now than those that were read, so that two saves may be mixed."""
        return any(self._has_changed(path) for path in paths)

    def _has_changed(self, path: bytes) -> bool:
        stat = self._candidate.stat_of(path)
        try:
            return stat is not None and FileStat.of(self._root.stat(path)) != stat
        except OSError:
            return True

    def _is_at_rest(self, unit: Unit) -> bool:
        entries = self._candidate.by_path
        places = [*unit.members, unit.directory]
        mtimes_ns = [entries[path].mtime_ns for path in places if path in entries]
        return is_at_rest(max(mtimes_ns, default=self._now_ns), self._now_ns)
