"""The records of all paths, and the candidate that follows from them: its entries, its troubles, its files cache.

A file that does not hold still, cannot be read or was refused by the proof keeps the content of the last version. One
that was in no version yet stays out. Either way a trouble names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from mlsync.backup.files_cache import FilesCache
from mlsync.backup.parents.parent import Parent
from mlsync.backup.record import Action, Record, Refusal, Status
from mlsync.backup.storing.archiver import ReadFile
from mlsync.backup.storing.avoided import Avoided
from mlsync.backup.storing.presence import placed
from mlsync.errors import SourceError
from mlsync.proof.verdict import Verdict
from mlsync.proving.judge import LOADED_IN, not_loaded, refusing_policy
from mlsync.proving.policy import Policy
from mlsync.repository.encoding.room import Room
from mlsync.repository.encoding.tokens import EntryKind, TroubleKind
from mlsync.repository.encoding.validation import TIME_NS_MAX
from mlsync.repository.manifest import ChunkRef, Entry, Trouble, refs_of
from mlsync.source.cached_file import CachedFile
from mlsync.source.paths import display
from mlsync.source.scan import Found
from mlsync.values import Finding, Level, Proof, Severity
from mlsync.versions.incomplete import INCOMPLETE
from mlsync.versions.loaded_directories import LoadedDirectory, directory_above, is_described_by

_ANOTHER_DIRECTORY: Final = "the directory that was loaded is another one by now"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that only has to be committed, and what the files cache keeps of it.

    It is worth a version if it *differs* from the parent in more than times. *clamped* are paths whose times are the
    nearest that a version can hold, and were not in the parent. *cached* are the rows by path, made one by one: those
    of a hundred thousand files take fifty megabytes.
    """

    entries: tuple[Entry, ...]
    troubles: tuple[Trouble, ...]
    differs: bool
    clamped: tuple[bytes, ...]
    cached: Iterable[tuple[bytes, CachedFile]]
    uncached: Sequence[bytes]


class Records:
    """One record for each path that the source or the candidate has.

    *entries* is what the records hold by path, at any moment; all changes to it go through the methods here.
    """

    def __init__(
        self,
        records: dict[bytes, Record],
        problems: Iterable[tuple[bytes, SourceError]],
        parent: Parent,
        avoided: Avoided,
        policy: Policy,
    ) -> None:
        """Give each path its entry; all files have been read, and the writer has finished."""
        self.parent = parent
        self.entries: dict[bytes, Entry] = {}
        self._records = records
        self._avoided = avoided
        self._policy = policy
        for record in list(records.values()):
            self._set_entry(record, self._first_entry(record))
        for path, error in problems:
            self._set_trouble(self._record(path), TroubleKind.UNREADABLE, error.what)
            self._keep_below(path)
        self._links = [path for path, entry in self.entries.items() if entry.kind is EntryKind.HARD_LINK]
        self._mend_links()

    # ------------------------------------------------------------ what there is to prove

    def trouble(self, path: bytes) -> Trouble | None:
        """Return why the version does not hold what the source has at *path*."""
        record = self._records.get(path)
        return None if record is None else record.trouble

    def record(self, path: bytes) -> Record | None:
        """Return the record of *path*."""
        return self._records.get(path)

    @property
    def are_cut_short(self) -> bool:
        """Whether there was no time to read one of the files."""
        return any(record.is_put_off for record in self._records.values())

    def moved(self) -> set[bytes]:
        """Return the paths of files that are not as the last version has them, or that only it has."""
        old, new = self.parent.entries, self.entries
        moved = {path for path, entry in new.items() if not _has_same_chunks(entry, old.get(path))}
        return moved | {path for path, entry in old.items() if entry.kind is EntryKind.FILE and path not in new}

    def moved_parts(self) -> set[bytes]:
        """Return those of them that change what a directory is that is loaded as one."""
        old, new = self.parent.entries, self.entries
        is_part = {path: (new.get(path) or old[path]).proof is not None for path in self.moved()}
        return {path for path, has_proof in is_part.items() if has_proof or is_described_by(path)}

    def unproved(self) -> list[tuple[Entry, bool]]:
        """Return the files with new content, and checkpoints without proof; each with whether it is a checkpoint."""
        new = [(record, record.entry) for record in self._records.values() if record.is_new]
        return [
            (entry, record.is_checkpoint)
            for record, entry in new
            if entry is not None
            and (
                not _has_same_chunks(entry, self.parent.entries.get(entry.path))
                or (record.is_checkpoint and entry.proof is None)
            )
        ]

    def is_mixed(self, whole: LoadedDirectory) -> bool:
        """Return whether a file of a directory is not as the source has it: loaded as one, it would be a mixture."""
        return any(record.trouble is not None and whole.holds(path) for path, record in self._records.items())

    def parts_of(self, whole: LoadedDirectory) -> list[bytes]:
        """Return the checkpoints of a directory that is loaded as one, and the files that describe them."""
        return [path for path, entry in self.entries.items() if _is_part(whole, entry)]

    def last_parts_of(self, whole: LoadedDirectory) -> list[Entry]:
        """Return those of the last version."""
        return [entry for entry in self.parent.entries.values() if _is_part(whole, entry)]

    # ------------------------------------------------------------ what is decided

    def hold_back(
        self, members: Sequence[bytes], instead: Iterable[Entry], directory: bytes, why: str, again_ns: int = 0
    ) -> None:
        """Leave files out that are worth nothing without each other, with *instead* in their place, and say *why*.

        The next backup looks at them again at *again_ns*, or when nobody has written to them for long.
        """
        for path in members:
            entry = self.entries.get(path)
            if entry is not None:
                record = self._record(path)
                self._set_entry(record, None)
                if entry != self.parent.entries.get(path):
                    record.held, record.again_ns = entry, again_ns
        is_kept = False
        for entry in instead:
            if not self._avoided.is_lost(entry):
                self._put_back(entry)
                is_kept = True
        # Under the name that it had before: under another one, the same trouble would be notified once more.
        named = next((path for path in members if path in self.parent.troubles), None)
        held = (path for path in members if self._record(path).held is not None)
        where = directory or named or next(held, members[-1])
        kept = self._kept_number(where if where in self.parent.troubles else named or where) if is_kept else 0
        self._record(where).unit_trouble = Trouble(where, TroubleKind.TORN, why, kept)
        self._mend_links()

    def set_unit_note(self, members: Iterable[bytes], why: str | None) -> None:
        """Have the proof of each of these files say *why* they are not complete together, and nothing else of that."""
        for path in members:
            record = self._record(path)
            record.unit_note = why or ""
            if record.entry is not None and record.entry.proof is not None:
                self._set_proof(record, record.entry.proof)

    def forget_loads(self) -> set[bytes]:
        """Take level 5 from checkpoints whose directory was loaded as one and has changed since; return their paths.

        Loading the directory again gives it back.
        """
        loaded = {path: entry.proof for path, entry in self.entries.items() if entry.proof is not None}
        loaded = {path: proof for path, proof in loaded.items() if LOADED_IN in proof.facts}
        moved = self.moved_parts() if loaded else set()
        has_changed: dict[bytes | None, bool] = {None: True}
        forgotten = set()
        for path, proof in loaded.items():
            directory = directory_above(path, proof.facts[LOADED_IN])
            if directory is not None and directory not in has_changed:
                has_changed[directory] = any(map(LoadedDirectory(directory).holds, moved))
            if has_changed[directory]:
                left = msgspec.structs.replace(not_loaded(proof), shortfall=_ANOTHER_DIRECTORY)
                record = self._record(path)
                self._set_entry(record, msgspec.structs.replace(self.entries[path], proof=left))
                forgotten.add(path)
        return forgotten

    def judge(self, path: bytes, judged: Verdict) -> None:
        """Record a verdict: store the proof in the entry, or fall back to the last good content."""
        record = self._record(path)
        if judged.refused is None:
            self._set_proof(record, judged.proof)
            return
        self._refuse(record, judged.proof, judged.refused)
        self._set_entry(record, self._kept(path))
        self._mend_links()

    def note_read_back(self, entries: Iterable[Entry]) -> None:
        """Have the files cache say that the content of these files came back from the store."""
        for entry in entries:
            self._record(entry.path).came_back = True

    def refuse_whole(self, whole: LoadedDirectory, judged: Verdict) -> None:
        """Replace the checkpoints of a directory that does not load as one, and the files that describe them.

        The content of the last version takes their place. The logs of a training in it stay as the source has them.
        """
        assert judged.refused is not None
        parts = self.parts_of(whole)
        kept = {entry.path: self._kept(entry.path) for entry in self.last_parts_of(whole)}
        where = whole.path or min(path for path in parts if self.entries[path].proof is not None)
        number = self._kept_number(where) if kept and None not in kept.values() else 0
        trouble = Trouble(where, TroubleKind.BROKEN, judged.refused, number)
        self._record(where).unit_trouble = trouble
        for path in parts:
            record = self._record(path)
            self._set_entry(record, None)
            record.refusal = Refusal(refusing_policy(judged.proof, self._policy), whole.path, trouble)
        for entry in kept.values():
            if number and entry is not None:
                self._put_back(entry)
        self._mend_links()

    def move(self, places: Mapping[ChunkRef, ChunkRef]) -> None:
        """Have entries name the new *places* of chunks that were moved to other packs."""
        for record in self._records.values():
            entry = record.entry
            if entry is not None and any(ref in places for ref in refs_of([entry])):
                chunks = tuple(placed(ref, places) for ref in entry.chunks)
                self._set_entry(record, msgspec.structs.replace(entry, chunks=chunks))
                record.is_moved = True

    # ------------------------------------------------------------ what follows

    def candidate(self, cache: FilesCache) -> Candidate:
        """Return what the records come to; *cache* is the files cache that it replaces."""
        in_trouble = [record for record in self._records.values() if record.trouble or record.unit_trouble]
        in_trouble.sort(key=lambda record: record.path)
        named = tuple(trouble for record in in_trouble if (trouble := record.trouble or record.unit_trouble))
        clamped = [entry for entry in self.entries.values() if abs(entry.mtime_ns) == TIME_NS_MAX]
        old = self.parent.entries
        return Candidate(
            entries=tuple(self.entries[path] for path in sorted(self.entries)),
            troubles=named,
            differs=self._differs(named),
            clamped=tuple(e.path for e in clamped if e.path not in old or old[e.path].mtime_ns != e.mtime_ns),
            cached=self._rows(),
            uncached=[path for path in (*cache.files, *cache.unreadable) if not self._is_present(path)],
        )

    def _rows(self) -> Iterator[tuple[bytes, CachedFile]]:
        for path, record in self._records.items():
            row = None if record.found is None else record.cache_row()
            if row is not None:
                yield path, row

    def _differs(self, troubles: Iterable[Trouble]) -> bool:
        """Return whether content, kind, owner or mode of anything differs, or a refusal is not in the parent yet."""
        old, new = self.parent.entries, self.entries
        if self._avoided.lost and not self._avoided.lost.isdisjoint(self.parent.packs()):
            # The last version cannot be restored; this one can.
            return True
        if not self.parent.number and not any(entry.kind is EntryKind.FILE for entry in new.values()):
            return False
        if old.keys() != new.keys():
            return True
        if any(entry is not old[path] and not is_same_but_times(entry, old[path]) for path, entry in new.items()):
            return True
        known = {(trouble.path, trouble.text) for trouble in self.parent.troubles.values()}
        return any(t.kind is TroubleKind.BROKEN and (t.path, t.text) not in known for t in troubles)

    def _is_present(self, path: bytes) -> bool:
        """Return whether the source or the candidate has *path*; what cannot be looked at keeps row and entry."""
        record = self._records.get(path)
        if record is None:
            return False
        return record.entry is not None or record.status not in (Status.ABSENT, Status.GONE)

    # ------------------------------------------------------------ inside

    def _record(self, path: bytes) -> Record:
        record = self._records.get(path)
        if record is None:
            record = self._records[path] = Record(path)
        return record

    def _set_entry(self, record: Record, entry: Entry | None) -> None:
        record.entry = entry
        if entry is None:
            self.entries.pop(record.path, None)
        else:
            self.entries[record.path] = entry

    def _set_proof(self, record: Record, proof: Proof) -> None:
        assert record.entry is not None
        if record.unit_note is not None:
            findings = [finding for finding in proof.findings if not finding.what.startswith(INCOMPLETE)]
            if record.unit_note:
                findings.append(Finding(Level.CONTAINER, Severity.WARN, f"{INCOMPLETE}{record.unit_note}"))
            proof = msgspec.structs.replace(proof, findings=findings)
        self._set_entry(record, msgspec.structs.replace(record.entry, proof=proof))

    def _first_entry(self, record: Record) -> Entry | None:
        """Return the entry of a path by what became of it in the source, before anything is proved."""
        found, cached = record.found, record.cached
        if found is not None and record.status is Status.NOT_A_FILE:
            return _entry_without_content(found, record.room)
        if isinstance(record.read, ReadFile):
            entry, record.read = record.read.take_entry()
            return self._unless_broken(record, entry)
        if record.fault is not None:
            self._set_trouble(record, *record.fault)
            return self._kept(record.path)
        if record.status is not Status.UNCHANGED or cached is None:
            return None
        if not record.was_held and cached.row.trouble is not None:
            if cached.row.refused_in is None:
                record.trouble = cached.row.trouble
            else:
                self._record(cached.row.trouble.path).unit_trouble = cached.row.trouble
        return None if cached.entry is None else self._unless_broken(record, cached.entry)

    def _unless_broken(self, record: Record, entry: Entry) -> Entry | None:
        """Return an entry with the proof of its content; refuse one that a later proof found broken."""
        before = self.parent.entries.get(entry.path)
        if before is not None and before.proof is not None and _has_same_content(entry, before):
            entry = msgspec.structs.replace(entry, proof=before.proof)
        if entry.proof is None or not entry.proof.is_broken:
            return entry
        self._refuse(record, entry.proof, entry.proof.refusal)
        return None

    def _refuse(self, record: Record, proof: Proof, why: str) -> None:
        self._set_trouble(record, TroubleKind.BROKEN, why)
        record.refusal = Refusal(refusing_policy(proof, self._policy))

    def _set_trouble(self, record: Record, kind: TroubleKind, text: str) -> None:
        kept = 0 if self._kept(record.path) is None else self._kept_number(record.path)
        record.trouble = Trouble(record.path, kind, text, kept)

    def _kept(self, path: bytes) -> Entry | None:
        """Return the last version's content for *path*, as a file of its own."""
        before = self.parent.file(path)
        if before is None or before.kind is not EntryKind.FILE or self._avoided.is_lost(before):
            return None
        if before.proof is not None and before.proof.is_broken:
            return None
        return msgspec.structs.replace(before, path=path)

    def _kept_number(self, path: bytes) -> int:
        """Return the version whose content is kept: an older one than the last, if there was trouble before."""
        before = self.parent.troubles.get(path)
        return before.kept if before is not None and before.kept else self.parent.number

    def _keep_below(self, path: bytes) -> None:
        """Keep what the last version has below a directory that cannot be read."""
        for kept_path, entry in self.parent.entries.items():
            if kept_path in self.entries or (kept_path != path and not kept_path.startswith(path + b"/")):
                continue
            if not self._avoided.is_lost(entry):
                self._set_entry(self._record(kept_path), entry)
            else:
                text = "cannot be read, and its content is lost in the store"
                self._set_trouble(self._record(kept_path), TroubleKind.UNREADABLE, text)

    def _put_back(self, entry: Entry) -> None:
        """Put an entry of the last version in place, with the directories above it that the source does not have."""
        path = entry.path
        self._set_entry(self._record(path), entry)
        while path := path.rpartition(b"/")[0]:
            if path not in self.entries:
                self._set_entry(self._record(path), self.parent.entries[path])

    def _mend_links(self) -> None:
        """Separate hard links from a file that the version does not hold as the source has it.

        Each keeps its own last content: they were names of that file in the source now, so what the file keeps need
        never have been theirs. A link without content of its own stays out, and a trouble names each.
        """
        for path in self._links:
            entry = self.entries.get(path)
            if entry is None or entry.kind is not EntryKind.HARD_LINK:
                continue
            target = self.entries.get(entry.target)
            is_file = target is not None and target.kind is EntryKind.FILE
            if is_file and self._record(entry.target).action is Action.TAKE:
                continue
            text = f"a hard link to {display(entry.target)}, which could not be taken"
            self._set_trouble(self._record(path), TroubleKind.TORN, text)
            kept = self._kept(path)
            if kept is None or not is_file or not self._was_link_to(path, entry.target):
                self._set_entry(self._record(path), kept)

    def _was_link_to(self, path: bytes, target: bytes) -> bool:
        """Return whether the last version has *path* as a link to *target*, so that their content is the same."""
        before = self.parent.entries.get(path)
        return before is not None and before.kind is EntryKind.HARD_LINK and before.target == target


def _entry_without_content(found: Found, room: Room) -> Entry:
    kind, target = EntryKind.DIRECTORY, b""
    if found.kind == "symlink":
        kind, target = EntryKind.SYMLINK, found.target
    elif found.link_to is not None:
        kind, target = EntryKind.HARD_LINK, found.link_to
    stat = found.stat
    return Entry(found.path, kind, stat.mode & 0o7777, stat.uid, stat.gid, stat.mtime_ns, target=target, room=room)


def _is_part(whole: LoadedDirectory, entry: Entry) -> bool:
    """Return whether a file of a directory that is loaded as one is refused with it."""
    is_part = entry.proof is not None or is_described_by(entry.path)
    return is_part and entry.kind is EntryKind.FILE and whole.holds(entry.path)


def _has_same_content(entry: Entry, other: Entry) -> bool:
    return (
        other.kind is entry.kind
        and entry.size_bytes == other.size_bytes
        and entry.holes == other.holes
        and [ref.name for ref in entry.chunks] == [ref.name for ref in other.chunks]
    )


def _has_same_chunks(entry: Entry, other: Entry | None) -> bool:
    """Return whether both have the very same stored bytes."""
    return entry is other or (other is not None and (entry.holes, entry.chunks) == (other.holes, other.chunks))


def is_same_but_times(entry: Entry, other: Entry) -> bool:
    """Return whether nothing but times differs: a touched file makes no new version."""
    plain = (entry.kind, entry.mode, entry.uid, entry.gid, entry.target, entry.digest, entry.room)
    others = (other.kind, other.mode, other.uid, other.gid, other.target, other.digest, other.room)
    return plain == others and _has_same_content(entry, other)
