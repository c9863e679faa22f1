"""A version in the making: for each path the entry that stands for it, and what went wrong with the file.

A file that would not settle, cannot be read or was refused by the proof keeps the content of the last version; one that
no version had yet stays out. Either way it is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec

from mlsync.backup.archiver import Intake, Taken
from mlsync.backup.chunk_index import Known
from mlsync.backup.files_cache import Recalled
from mlsync.backup.parent import Base
from mlsync.backup.structure import Unsound
from mlsync.errors import ChangedWhileReading, SourceError
from mlsync.proof.verdict import Verdict
from mlsync.proving.judge import LOADED_IN, not_loaded, refusing_policy
from mlsync.proving.policy import NO_POLICY, Policy
from mlsync.repository.manifest import ChunkRef, Entry, Trouble, refs_of
from mlsync.repository.tokens import EntryKind, TroubleKind
from mlsync.repository.validation import TIME_NS_MAX
from mlsync.source.cached_file import CachedFile
from mlsync.source.paths import display
from mlsync.source.scan import FileStat, Found, Scan
from mlsync.values import Finding, Level, Proof, Severity
from mlsync.versions.incomplete import INCOMPLETE
from mlsync.versions.loaded_directories import LoadedDirectory, directory_above, is_described_by
from mlsync.versions.units import Entries

_ANOTHER_DIRECTORY: Final = "the directory that was loaded is another one by now"


class Change(Enum):
    """Whether a candidate differs from the last version."""

    NOTHING = "nothing"
    SOMETHING = "something"


class Candidate:
    """Gathers entries and troubles; the steps of a backup call its methods in the order in which they stand here."""

    def __init__(
        self,
        tree: Scan,
        rows: Mapping[bytes, CachedFile],
        recalled: Mapping[bytes, Recalled],
        base: Base,
        known: Known,
        policy: Policy = NO_POLICY,
    ) -> None:
        self.base = base
        self.known = known
        self._policy = policy
        self._tree = tree
        self._rows = rows
        self._recalled = recalled
        self._taken: dict[bytes, Taken] = {}
        self._unsound: dict[bytes, Unsound] = {}
        self._gone: set[bytes] = set()
        self._left_out: set[bytes] = set()
        # Files that are in no version yet: those that were so (with whether they are checkpoints), those that stay so.
        self._was_held: dict[bytes, bool] = {}
        self._held: dict[bytes, Entry] = {}
        self._again_ns: dict[bytes, int] = {}
        self._unit_notes: dict[bytes, str | None] = {}
        # Of directories: those of checkpoints of several files, and those that were loaded as one.
        self._unit_troubles: dict[bytes, Trouble] = {}
        self._unloaded: set[bytes] = set()
        self._refused_by: dict[bytes, str] = {}
        self._refused_in: dict[bytes, tuple[bytes, Trouble]] = {}
        self._entries: dict[bytes, Entry] = {}
        self._links: list[bytes] = []
        self._troubles: dict[bytes, Trouble] = {}

    def take(self, found: Found, intake: Intake) -> None:
        """Read a file, or note why it could not be taken."""
        try:
            taken = intake.take(found)
        except Unsound as unsound:
            self._unsound[found.path] = unsound
            self._trouble(found.path, unsound.kind, unsound.text)
        except ChangedWhileReading as error:
            self._trouble(found.path, TroubleKind.TORN, error.what)
        except SourceError as error:
            self._trouble(found.path, TroubleKind.UNREADABLE, error.what)
        except MemoryError:
            self._trouble(found.path, TroubleKind.UNREADABLE, "memory ran out while it was read")
        else:
            if taken is None:
                self._gone.add(found.path)
            else:
                self._taken[found.path] = taken

    def settle(self, fresh_packs: Iterable[bytes]) -> None:
        """Give every path its entry, now that all chunks have their place."""
        self.known.wrote(fresh_packs)
        for found in self._tree.found:
            entry = None if found.path in self._gone else self._entry_of(found)
            if entry is not None:
                self._entries[found.path] = entry
        for path, error in self._tree.problems:
            self._trouble(path, TroubleKind.UNREADABLE, error.what)
            self._keep_below(path)
        self._links = [path for path, entry in self._entries.items() if entry.kind is EntryKind.HARD_LINK]
        self._mend_links()

    @property
    def by_path(self) -> Mapping[bytes, Entry]:
        """What the version would hold."""
        return self._entries

    @property
    def trouble_by_path(self) -> Mapping[bytes, Trouble]:
        """What is not as the source has it."""
        return self._troubles

    def moved(self) -> set[bytes]:
        """Return the paths of files that are not as the last version has them, or that only it has."""
        old, new = self.base.entries, self._entries
        moved = {path for path, entry in new.items() if not _same_place(entry, old.get(path))}
        return moved | {path for path, entry in old.items() if entry.kind is EntryKind.FILE and path not in new}

    def moved_parts(self) -> set[bytes]:
        """Return those of them by which a directory that is loaded as one is another one."""
        old, new = self.base.entries, self._entries
        is_part = {path: (new.get(path) or old[path]).proof is not None for path in self.moved()}
        return self._unloaded | {path for path, has_proof in is_part.items() if has_proof or is_described_by(path)}

    def forget_loads(self) -> None:
        """Take level 5 from checkpoints of a directory that was loaded as one and is another one by now.

        Who loads it anew gives it back.
        """
        proofs = {path: entry.proof for path, entry in self._entries.items() if entry.proof is not None}
        loaded = {path: proof for path, proof in proofs.items() if LOADED_IN in proof.facts}
        moved = self.moved_parts() if loaded else set()
        is_another: dict[bytes | None, bool] = {None: True}
        for path, proof in loaded.items():
            directory = directory_above(path, proof.facts[LOADED_IN])
            if directory is not None and directory not in is_another:
                is_another[directory] = any(map(LoadedDirectory(directory).holds, moved))
            if is_another[directory]:
                left = msgspec.structs.replace(not_loaded(proof), shortfall=_ANOTHER_DIRECTORY)
                self._entries[path] = msgspec.structs.replace(self._entries[path], proof=left)
                self._unloaded.add(path)

    def is_in_trouble(self, whole: LoadedDirectory) -> bool:
        """Whether a file of a directory is not as the source has it, so that it would be a mixture that is loaded."""
        return any(whole.holds(path) for path in self._troubles)

    def parts_of(self, whole: LoadedDirectory) -> list[bytes]:
        """Return the files of a directory that is loaded as one by which it is what it is."""
        return [path for path in self._entries if self._is_part(whole, path, self._entries)]

    def last_parts_of(self, whole: LoadedDirectory) -> list[Entry]:
        """Return those of the last version."""
        base = self.base.entries
        return [entry for path, entry in base.items() if self._is_part(whole, path, base)]

    def stat_of(self, path: bytes) -> FileStat | None:
        """Return the file's stat when it was read, now or for the last version, if the source has it."""
        taken = self._taken.get(path)
        row = self._rows.get(path)
        return taken.stat if taken is not None else None if row is None else row.stat

    def hold_back(
        self, members: Sequence[bytes], instead: Iterable[Entry], directory: bytes, why: str, again_ns: int = 0
    ) -> None:
        """Leave files out that are nothing without each other, with *instead* in their place, and tell *why*.

        They are looked at again at *again_ns*, or when nobody has written to them for long.
        """
        for path in members:
            entry = self._entries.pop(path, None)
            if entry is not None and entry != self.base.entries.get(path):
                self._held[path] = entry
                self._again_ns[path] = again_ns
        is_kept = False
        for entry in instead:
            if self.known.is_lost(entry):
                continue
            self._entries[entry.path] = entry
            self._keep_way_to(entry.path)
            is_kept = True
        # As it was called before: else the same trouble is told once more.
        told = next((path for path in members if path in self.base.troubles), None)
        where = directory or told or next((path for path in members if path in self._held), members[-1])
        kept = self._kept_number(where if where in self.base.troubles else told or where) if is_kept else 0
        self._unit_troubles[where] = Trouble(where, TroubleKind.TORN, why, kept)
        self._mend_links()

    def note_unit(self, members: Iterable[bytes], why: str | None) -> None:
        """Have it said in the proof of each of these files, and of no other time, that they are not whole together."""
        for path in members:
            self._unit_notes[path] = why
            entry = self._entries.get(path)
            if entry is not None and entry.proof is not None:
                self._entries[path] = msgspec.structs.replace(entry, proof=self._noted(path, entry.proof))

    def _noted(self, path: bytes, proof: Proof) -> Proof:
        if path not in self._unit_notes:
            return proof
        findings = [finding for finding in proof.findings if not finding.what.startswith(INCOMPLETE)]
        why = self._unit_notes[path]
        if why is not None:
            findings.append(Finding(Level.CONTAINER, Severity.WARN, f"{INCOMPLETE}{why}"))
        return msgspec.structs.replace(proof, findings=findings)

    def unproved(self) -> list[tuple[Entry, bool]]:
        """Return the files whose content is new, or that are checkpoints without proof; each with whether it is one."""
        looked_at = {path: taken.is_checkpoint for path, taken in self._taken.items()} | self._was_held
        return [
            (entry, is_checkpoint)
            for path, is_checkpoint in looked_at.items()
            if (entry := self._entries.get(path)) is not None
            and (not _same_place(entry, self.base.entries.get(path)) or (is_checkpoint and entry.proof is None))
        ]

    def old(self, new: Iterable[tuple[Entry, bool]]) -> list[Entry]:
        """Return the files that are not among the *new* ones."""
        paths = {entry.path for entry, _ in new}
        return [entry for entry in self.entries() if entry.kind is EntryKind.FILE and entry.path not in paths]

    def judged(self, entry: Entry, judged: Verdict) -> None:
        """Take in a verdict: the proof goes into the entry, or the last good content takes its place."""
        if judged.refused is None:
            self._entries[entry.path] = msgspec.structs.replace(entry, proof=self._noted(entry.path, judged.proof))
            return
        self._trouble(entry.path, TroubleKind.BROKEN, judged.refused)
        self._refused_by[entry.path] = refusing_policy(judged.proof, self._policy)
        kept = self._kept(entry.path)
        if kept is None:
            del self._entries[entry.path]
        else:
            self._entries[entry.path] = kept
        self._mend_links()

    def refuse_whole(self, whole: LoadedDirectory, judged: Verdict) -> None:
        """Put the last version's content in the place of a directory that does not load as one, and tell why.

        That is of its checkpoints and of what describes them: what a training logs there is in the version as it is.
        """
        assert judged.refused is not None
        parts = self.parts_of(whole)
        kept = {entry.path: self._kept(entry.path) for entry in self.last_parts_of(whole)}
        where = whole.path or min(path for path in parts if self._entries[path].proof is not None)
        number = self._kept_number(where) if kept and None not in kept.values() else 0
        trouble = self._unit_troubles[where] = Trouble(where, TroubleKind.BROKEN, judged.refused, number)
        for path in parts:
            del self._entries[path]
            self._refused_by[path] = refusing_policy(judged.proof, self._policy)
            self._refused_in[path] = whole.path, trouble
        for path, entry in kept.items():
            if number and entry is not None:
                self._entries[path] = entry
                self._keep_way_to(path)
        self._mend_links()

    def entries(self) -> tuple[Entry, ...]:
        """Return the version's entries in path order."""
        return tuple(self._entries[path] for path in sorted(self._entries))

    def troubles(self) -> tuple[Trouble, ...]:
        """Return what is not as the source has it, in path order."""
        troubles = self._unit_troubles | self._troubles
        return tuple(troubles[path] for path in sorted(troubles))

    def change(self) -> Change:
        """Say whether this is worth a version: content, kind, owner or mode of anything, or a refusal not yet told."""
        old, new = self.base.entries, self._entries
        if self.known.lost and not self.known.lost.isdisjoint(self.base.packs()):
            # The last version cannot be restored; this one can.
            return Change.SOMETHING
        if not self.base.number and not any(entry.kind is EntryKind.FILE for entry in new.values()):
            return Change.NOTHING
        if old.keys() != new.keys() or any(not _same(entry, old[path]) for path, entry in new.items()):
            return Change.SOMETHING
        told = {(trouble.path, trouble.text) for trouble in self.base.troubles.values()}
        refused = [trouble for trouble in self.troubles() if trouble.kind is TroubleKind.BROKEN]
        return Change.SOMETHING if any((t.path, t.text) not in told for t in refused) else Change.NOTHING

    def newly_clamped(self) -> list[bytes]:
        """Return the paths whose times are the nearest that a version can hold, and were not in the last version."""
        before = self.base.entries
        clamped = [entry for entry in self._entries.values() if abs(entry.mtime_ns) == TIME_NS_MAX]
        return [one.path for one in clamped if (old := before.get(one.path)) is None or old.mtime_ns != one.mtime_ns]

    def refs(self) -> Iterable[ChunkRef]:
        """Return all chunks of the version."""
        return refs_of(self._entries.values())

    def rows(self) -> tuple[dict[bytes, CachedFile], list[bytes]]:
        """Return what the local state is to keep of each path that was looked at, and the paths to forget."""
        changed = {}
        for found in self._tree.found:
            row = self._row_of(found)
            if row is not None:
                changed[found.path] = row
        # What cannot be looked at keeps its row, as it keeps its entry.
        present = ({found.path for found in self._tree.found} - self._gone) | self._entries.keys()
        return changed, [path for path in self._rows if path not in present]

    # ------------------------------------------------------------ inside

    def _entry_of(self, found: Found) -> Entry | None:
        if found.kind == "directory":
            return _bare(found, EntryKind.DIRECTORY)
        if found.kind == "symlink":
            return _bare(found, EntryKind.SYMLINK, found.target)
        if found.link_to is not None:
            return _bare(found, EntryKind.HARD_LINK, found.link_to)
        return self._file_entry_of(found)

    def _file_entry_of(self, found: Found) -> Entry | None:
        taken = self._taken.get(found.path)
        if taken is not None:
            return self._unless_broken(self._with_proof(taken.entry()))
        if found.path in self._troubles:
            return self._kept(found.path)
        recalled = self._recalled[found.path]
        if recalled.is_held:
            self._was_held[found.path] = recalled.is_checkpoint
        elif recalled.trouble is not None and recalled.refused_in is not None:
            self._unit_troubles[recalled.trouble.path] = recalled.trouble
        elif recalled.trouble is not None:
            self._troubles[found.path] = recalled.trouble
        return None if recalled.entry is None else self._unless_broken(self._with_proof(recalled.entry))

    def _unless_broken(self, entry: Entry) -> Entry | None:
        """Leave out what was committed without a proof and turned out not to load since."""
        if entry.proof is None or not entry.proof.is_broken:
            return entry
        self._trouble(entry.path, TroubleKind.BROKEN, entry.proof.refusal)
        self._refused_by[entry.path] = refusing_policy(entry.proof, self._policy)
        self._left_out.add(entry.path)
        return None

    def _with_proof(self, entry: Entry) -> Entry:
        """Carry the proof over where the content is the one that was proved."""
        before = self.base.entries.get(entry.path)
        if before is None or before.proof is None or not _same_content(entry, before):
            return entry
        return msgspec.structs.replace(entry, proof=before.proof)

    def _kept(self, path: bytes) -> Entry | None:
        """Return the last version's content for *path*, as a file of its own."""
        before = self.base.entries.get(path)
        if before is not None and before.kind is EntryKind.HARD_LINK:
            before = self.base.entries.get(before.target)
        if before is None or before.kind is not EntryKind.FILE or self.known.is_lost(before):
            return None
        if before.proof is not None and before.proof.is_broken:
            return None
        return msgspec.structs.replace(before, path=path)

    @staticmethod
    def _is_part(whole: LoadedDirectory, path: bytes, entries: Entries) -> bool:
        """Whether a file of a directory that is loaded as one is refused with it."""
        entry = entries[path]
        is_part = entry.proof is not None or is_described_by(path)
        return is_part and entry.kind is EntryKind.FILE and whole.holds(path)

    def _keep_below(self, path: bytes) -> None:
        for kept_path, entry in self.base.entries.items():
            if kept_path != path and not kept_path.startswith(path + b"/"):
                continue
            if not self.known.is_lost(entry):
                self._entries.setdefault(kept_path, entry)
            elif kept_path not in self._entries:
                self._trouble(kept_path, TroubleKind.UNREADABLE, "cannot be read, and its content is lost in the store")

    def _keep_way_to(self, path: bytes) -> None:
        """Have the directories that a kept file lies in, as the last version has them, where the source has none."""
        while path := path.rpartition(b"/")[0]:
            if path not in self._entries:
                self._entries[path] = self.base.entries[path]

    def _mend_links(self) -> None:
        """Part hard links from a file that is not here as the source has it: each keeps its own last content.

        They were that file's other names when the source was looked at, so what it keeps need never have been theirs.
        One that had no content yet stays out, and each is named.
        """
        for path in self._links:
            entry = self._entries.get(path)
            if entry is None or entry.kind is not EntryKind.HARD_LINK:
                continue
            target = self._entries.get(entry.target)
            is_file = target is not None and target.kind is EntryKind.FILE
            if is_file and not self._is_older(entry.target):
                continue
            kept = self._kept(path)
            self._trouble(path, TroubleKind.TORN, f"a hard link to {display(entry.target)}, which could not be taken")
            if kept is None:
                del self._entries[path]
            elif not is_file or not self._was_link_to(path, entry.target):
                self._entries[path] = kept

    def _is_older(self, path: bytes) -> bool:
        """Whether what stands for a file is not what the source has there."""
        return path in self._troubles or path in self._held or path in self._refused_in

    def _was_link_to(self, path: bytes, target: bytes) -> bool:
        """Whether the last version has *path* as a link to *target*, whose content is then its own too."""
        before = self.base.entries.get(path)
        return before is not None and before.kind is EntryKind.HARD_LINK and before.target == target

    def _trouble(self, path: bytes, kind: TroubleKind, text: str) -> None:
        kept = 0 if self._kept(path) is None else self._kept_number(path)
        self._troubles[path] = Trouble(path, kind, text, kept)

    def _kept_number(self, path: bytes) -> int:
        """Return the version whose content stands where the last one's is kept: older, if there was trouble before."""
        before = self.base.troubles.get(path)
        return before.kept if before is not None and before.kept else self.base.number

    def _row_of(self, found: Found) -> CachedFile | None:
        trouble = self._troubles.get(found.path)
        held = self._held.get(found.path)
        if held is not None or found.kind == "directory":
            # Where it does not outlive the next look at the whole; of a file that stands it would.
            trouble = trouble or self._unit_troubles.get(found.path)
        refused_in, of_whole = self._refused_in.get(found.path, (None, None))
        refused_by = self._refused_by.get(found.path, "")
        trouble = of_whole or trouble
        recalled = Recalled(self._entries.get(found.path), trouble, refused_by=refused_by, refused_in=refused_in)
        taken = self._taken.get(found.path)
        if held is not None and (taken is not None or found.path in self._was_held):
            is_checkpoint = self._was_held[found.path] if taken is None else taken.is_checkpoint
            again_ns = self._again_ns.get(found.path, 0)
            recalled = Recalled(held, trouble, is_held=True, is_checkpoint=is_checkpoint, again_ns=again_ns)
            return self._remembered(found.path, recalled)
        if taken is not None:
            row = taken.remembered(recalled.encode())
            # Pieces belong to the content that was read; where another one stands, they say nothing.
            return row if trouble is None else CachedFile(row.stat, row.checked_ns, row.entry, ())
        unsound = self._unsound.get(found.path)
        if unsound is not None:
            return CachedFile(unsound.stat, unsound.checked_ns, recalled.encode(), ())
        if found.kind == "file" and found.link_to is None:
            is_let_in = found.path in self._was_held and held is None
            if found.path not in self._left_out and not is_let_in and refused_in is None:
                return None
            # What is left out stays so, and what is let in too, although nobody will have touched it by the next time.
            return self._remembered(found.path, recalled)
        return CachedFile(found.stat, _TRUSTED_NS, recalled.encode(), ())

    def _remembered(self, path: bytes, recalled: Recalled) -> CachedFile:
        """Return the row of a file whose bytes are those that were read, now or before."""
        taken = self._taken.get(path)
        if taken is not None:
            return taken.remembered(recalled.encode())
        row = self._rows[path]
        return CachedFile(row.stat, row.checked_ns, recalled.encode(), row.pieces)


# Of directories and links, which are never read.
_TRUSTED_NS = 0


def _bare(found: Found, kind: EntryKind, target: bytes = b"") -> Entry:
    stat = found.stat
    return Entry(found.path, kind, stat.mode & 0o7777, stat.uid, stat.gid, stat.mtime_ns, target=target)


def _same_content(entry: Entry, other: Entry | None) -> bool:
    if other is None or other.kind is not entry.kind:
        return False
    names = [ref.name for ref in entry.chunks]
    return (
        entry.size_bytes == other.size_bytes
        and entry.holes == other.holes
        and (names == [ref.name for ref in other.chunks])
    )


def _same_place(entry: Entry, other: Entry | None) -> bool:
    """Whether the very same stored bytes stand for both."""
    return other is not None and (entry.holes, entry.chunks) == (other.holes, other.chunks)


def _same(entry: Entry, other: Entry) -> bool:
    """Whether nothing but times differs: a touched file is no new version."""
    plain = (entry.kind, entry.mode, entry.uid, entry.gid, entry.target, entry.digest)
    return plain == (other.kind, other.mode, other.uid, other.gid, other.target, other.digest) and _same_content(
        entry, other
    )
