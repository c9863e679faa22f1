"""Checkpoints of several files: a version holds none whose files are incomplete, or of two saves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Final

from mlsync.backup.checkpoints.one_save import Doubt, Save
from mlsync.backup.checkpoints.shard_headers import disagreement
from mlsync.backup.records import Records
from mlsync.backup.request import Job
from mlsync.backup.unchanged import is_at_rest
from mlsync.errors import Damage, ObjectArchived, WriteOnly
from mlsync.formats.groups.deepspeed import data_rank_count
from mlsync.formats.groups.names import is_part
from mlsync.formats.groups.tree import Unit
from mlsync.formats.torch.facts import DATA_RANKS
from mlsync.proof.verdict import Verdict
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.source.paths import display
from mlsync.source.root import Root
from mlsync.source.scan import FileStat
from mlsync.versions.loaded_directories import LoadedDirectory
from mlsync.versions.units import units_around

_LOG: Final = logging.getLogger(__name__)
# For all checkpoints of a backup together; a longer wait is left to the next backup.
_WAIT_NS_MAX: Final = 10 * 10**9
# Each rank of these formats writes its step.
_STEP_OF_EACH_RANK: Final = ("deepspeed", "megatron")
# The resolution of file systems' clocks.
_TICK_S: Final = 0.01


class WholeUnits:
    """The checkpoints of several files that changed since the last version; *root* is where the source has them."""

    def __init__(self, job: Job, records: Records, reader: ChunkReader, root: Root) -> None:
        self._job = job
        self._records = records
        self._reader = reader
        self._root = root
        self._now_ns = job.options.now_ns()
        units = units_around(records.moved(), records.entries, reader)
        self._units = [*units, *self._leftovers(units)]

    def hold_back(self) -> list[Save]:
        """Leave out what is not complete and may still become so; the last version's content takes its place.

        What nobody has written to for long is let in as it is, with a note of what is lacking. Return what is let in.
        """
        saves = [(unit, self._save(unit)) for unit in self._units]
        self._wait(save for _, save in saves)
        let_in = []
        for unit, save in saves:
            lacking = unit.lacking or self._member_in_trouble(unit) or save.lost_shard()
            if self.are_being_written(unit.members):
                self._revert(unit, "a file of it was written while it was read")
            elif lacking is not None and (self._records.are_cut_short or not self._is_at_rest(unit)):
                # However old it is, the rest may be what there was no time for.
                self._revert(unit, f"not whole yet: {lacking}")
            elif (doubt := save.doubt(self._root, self._now_ns)) is not None:
                self._doubt(unit, doubt)
            elif self._is_let_in(unit, lacking):
                let_in.append(save)
        return let_in

    def _is_let_in(self, unit: Unit, lacking: str | None) -> bool:
        """Take a checkpoint in unless its files are of two steps; note what is *lacking* or does not fit."""
        if unit.kind == "pointer":
            # Its files have no proof that could hold the note.
            self._job.warn(f"{lacking}: no training goes on from there")
            return False
        if unit.kind == "zarr":
            self._job.warn(f"{lacking}: what it holds cannot be read")
        found = disagreement(unit, self._records.entries, self._reader) if lacking is None else None
        if found is not None and found.of_two_saves and not self._is_at_rest(unit):
            self._revert(unit, f"of two saves: {found.what}")
            return False
        self._records.set_unit_note(unit.members, lacking if found is None else found.what)
        return True

    def look_again(self, let_in: Iterable[Save]) -> None:
        """Leave out what a writer began to write anew while it was stored and proved.

        The times of the files do not say which of those that were read are the first of the new save. Only the file
        that is written last says that a save had ended before.
        """
        now_ns = self._job.options.now_ns()
        for save in let_in:
            if self.are_being_written(save.unit.members):
                self._revert(save.unit, "a file of it was written while it was proved")
            elif not save.has_ended and (doubt := save.temporary(self._root, now_ns)) is not None:
                self._doubt(save.unit, doubt)

    def _save(self, unit: Unit) -> Save:
        # A copy: what is refused later is no entry any more, and was read all the same.
        entries = {path: self._records.entries[path] for path in unit.members}
        return Save(unit, entries, self._last(unit), self._records.parent.entries)

    def _wait(self, saves: Iterable[Save]) -> None:
        """Wait if that may be enough: a writer that pauses is as silent as one that is done."""
        doubts = [doubt for save in saves if (doubt := save.doubt(self._root, self._now_ns)) is not None]
        waits_ns = [doubt.until_ns - self._now_ns for doubt in doubts]
        wait_ns = max((wait_ns for wait_ns in waits_ns if wait_ns < _WAIT_NS_MAX), default=0)
        if wait_ns > 0:
            _LOG.debug("waiting %.1f s for the writers of checkpoints in several files", wait_ns / 1e9)
            self._job.sleep(wait_ns / 1e9 + _TICK_S)
            self._now_ns = self._job.options.now_ns()

    def _doubt(self, unit: Unit, doubt: Doubt) -> None:
        self._revert(unit, f"perhaps of two saves: {doubt.why}", doubt.until_ns)

    def follow_refusals(self) -> None:
        """Leave out the other files of a checkpoint too if the proof refused one of them."""
        for unit in self._units:
            for path in unit.members:
                trouble = self._records.trouble(path)
                if trouble is not None and trouble.kind is TroubleKind.BROKEN and not self._is_at_rest(unit):
                    self._revert(unit, f"{display(path)} of it is broken")
                    break

    def compare_steps(self, let_in: Iterable[Save]) -> list[Save]:
        """Leave out files of ranks that were saved at different steps, or are fewer than the ranks; return the rest.

        If nothing more is to come, note it in each file instead.
        """
        rest = []
        for save in let_in:
            unit = save.unit
            found = self._disagreement_of_ranks(unit) if unit.kind in _STEP_OF_EACH_RANK else None
            if found is not None and not self._is_at_rest(unit):
                self._revert(unit, ": ".join(found))
                continue
            if found is not None:
                self._records.set_unit_note(unit.members, found[1])
            rest.append(save)
        return rest

    def _disagreement_of_ranks(self, unit: Unit) -> tuple[str, str] | None:
        """Return how the ranks' files contradict each other, or their number: in a word, and in detail."""
        entries = [self._records.entries.get(path) for path in unit.members]
        facts = [entry.proof.facts for entry in entries if entry is not None and entry.proof is not None]
        steps = sorted({step for one in facts if isinstance(step := one.get("step"), int)})
        if len(steps) >= 2:  # noqa: PLR2004 - two of them are a contradiction
            return "of two saves", f"files of step {steps[0]} and of step {steps[1]}"
        wanted = max((count for one in facts if isinstance(count := one.get(DATA_RANKS), int)), default=0)
        held = data_rank_count(unit.members)
        # If no rank has a file of its own, one rank wrote for all.
        if 0 < held < wanted:
            return "not whole yet", f"files of {held} data-parallel ranks are there, of {wanted}"
        return None

    def refuse(self, whole: LoadedDirectory, judged: Verdict) -> None:
        """Keep the last content of a directory that does not load as one; hold it back if it was being written."""
        parts = self._records.parts_of(whole)
        if not self.are_being_written(parts):
            self._records.refuse_whole(whole, judged)
            return
        text = f"does not load, and was written while it was read: {judged.refused}"
        self._records.hold_back(parts, self._records.last_parts_of(whole), whole.path, text)

    def _revert(self, unit: Unit, why: str, again_ns: int = 0) -> None:
        """Hold back a checkpoint, and the pointer to it, until *again_ns* or until it is at rest."""
        text = f"{unit.kind} checkpoint: {why}"
        members = unit.members if unit.pointer is None else (*unit.members, unit.pointer)
        self._records.hold_back(members, self._last_whole(unit), unit.directory, text, again_ns)

    def _last_whole(self, unit: Unit) -> Iterator[Entry]:
        """Yield the last version's entries of a checkpoint, all of them if it is complete there, and of the pointer."""
        base = self._records.parent.entries
        last = self._last(unit)
        members = last.members if last is not None and last.lacking is None else unit.members
        if unit.pointer is not None:
            members = (*members, unit.pointer)
        yield from (base[path] for path in members if path in base)

    def _leftovers(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Yield the rest of checkpoints that are being deleted, if it does not look like a checkpoint of several files.

        A rest that nobody touches for long is meant to stay.
        """
        now = self._records.entries
        gone = [path for path in self._records.moved() if path not in now and is_part(path)]
        judged = {path for unit in units for path in unit.members}
        for old in self._units_before(gone):
            left = tuple(path for path in old.members if path in now)
            missing = next((path for path in gone if path in old.members), None)
            # Any file may be a member of a checkpoint in the watched directory itself.
            if missing is None or old.lacking is not None or not old.directory:
                continue
            if not judged.isdisjoint(left) or not any(map(is_part, left)):
                continue
            what = f"{display(missing)}, which the last version has, is gone"
            unit = Unit(old.kind, old.directory, left, what)
            if not self._is_at_rest(unit):
                yield unit

    def _units_before(self, paths: list[bytes]) -> list[Unit]:
        """Return the last version's checkpoints around *paths*, or none if the store does not return what is needed."""
        if not paths:
            return []
        try:
            return units_around(paths, self._records.parent.entries, self._reader)
        except (Damage, ObjectArchived, WriteOnly):
            return []

    def _last(self, unit: Unit) -> Unit | None:
        """Return the checkpoint as the last version has it, the complete one if there are several.

        ``None`` also if a pack is lost, cold or closed that is needed to find it: that stops no version.
        """
        base = self._records.parent.entries
        before = self._units_before([path for path in unit.members if path in base])
        here = [old for old in before if old.directory == unit.directory]
        # The rest of one may look like a part of another kind.
        same = [old for old in here if old.kind == unit.kind] or here
        if unit.kind == "tensorflow":  # many of them lie in one directory
            same = [old for old in same if not set(old.members).isdisjoint(unit.members)]
        return min(same, key=lambda old: old.lacking is not None, default=None)

    def _member_in_trouble(self, unit: Unit) -> str | None:
        for path in unit.members:
            trouble = self._records.trouble(path)
            if trouble is not None:
                return f"{display(path)}: {trouble.text}"
        return None

    def are_being_written(self, paths: Iterable[bytes]) -> bool:
        """Return whether the source has changed since the files were read, so that two saves may be mixed."""
        return any(self._has_changed(path) for path in paths)

    def _has_changed(self, path: bytes) -> bool:
        record = self._records.record(path)
        stat = None if record is None else record.stat
        try:
            return stat is not None and FileStat.of(self._root.stat(path)) != stat
        except OSError:
            return True

    def _is_at_rest(self, unit: Unit) -> bool:
        entries = self._records.entries
        places = [*unit.members, unit.directory]
        mtimes_ns = [entries[path].mtime_ns for path in places if path in entries]
        return is_at_rest(max(mtimes_ns, default=self._now_ns), self._now_ns)
