"""The parent: the version that a new one follows, and whether the store still shows the history as it was seen."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from mlsync.backup.files_cache import CachedPath
from mlsync.errors import FormatUnsupported, ManifestDamaged, VersionTaken
from mlsync.repository import names
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.history.seen_decision import SeenDecision, seen_decision
from mlsync.repository.manifest import ChunkRef, Entry, Origin, Previous, Trouble, refs_of
from mlsync.repository.proof_links import SeenProofs, seen_proofs
from mlsync.repository.readable import newest_readable, opened
from mlsync.repository.repository import ListedVersion, Repository, StoredVersion, is_no_version
from mlsync.source.state import Head, State
from mlsync.versions.rollback import is_removed, rolled_back


class Parent(msgspec.Struct, frozen=True):
    """A run's last version: *number* 0 and no entries before the first one.

    *is_remembered* says that the local state is of this very version, so the files cache may stand for its entries.
    *taken* are higher numbers at which the store has an object that is no version, and no number up to *reserved* is
    free either: versions had them. The parent *is_step_back* if this machine saw a newer version that does not open any
    more. It *is_closed* if somebody else made it and this node opens no version. ``load_parent`` fills in the rest:
    *origin*, *host* and *directory* say who made the version, and *before* is the number of the version before it.
    """

    number: int
    digest: bytes
    is_remembered: bool
    taken: frozenset[int] = frozenset()
    is_step_back: bool = False
    created_ns: int = 0
    origin: Origin | None = None
    host: str = ""
    directory: bytes = b""
    before: int = 0
    body_packs: frozenset[bytes] = frozenset()
    entries: Mapping[bytes, Entry] = msgspec.field(default_factory=dict)
    troubles: Mapping[bytes, Trouble] = msgspec.field(default_factory=dict)
    seen_proofs: Mapping[int, SeenProofs] = msgspec.field(default_factory=dict)
    seen_decision: SeenDecision | None = None
    reserved: int = 0
    is_closed: bool = False

    @property
    def previous(self) -> Previous | None:
        """What the next manifest says of this version."""
        return Previous(self.number, self.digest) if self.number else None

    def file(self, path: bytes) -> Entry | None:
        """Return the entry of the file at *path*, of a hard link that of the file that it is a name of."""
        entry = self.entries.get(path)
        if entry is not None and entry.kind is EntryKind.HARD_LINK:
            entry = self.entries.get(entry.target)
        return entry

    def container_of(self, path: bytes) -> str | None:
        """Return the container of the checkpoint at *path*: empty if it is unknown, ``None`` if there is none."""
        entry = self.file(path)
        return None if entry is None or entry.proof is None else entry.proof.container

    def next_number(self, run: str) -> int:
        """Return the lowest free number for the next version; raise ``VersionTaken`` if there is none."""
        number = max(self.number, self.reserved) + 1
        while number in self.taken:
            number += 1
        if number > names.VERSION_MAX:
            what = f"run {run!r} has no number left: the highest that there is, {names.VERSION_MAX}, is taken"
            raise VersionTaken(what, advice='go on under another name: run = "..." under [[watch]]')
        return number

    def without(self, number: int) -> Parent:
        """Return the same version; *number*, above it, turned out to be taken."""
        return replace(self, taken=self.taken | {number})

    def packs(self) -> set[bytes]:
        """Return every pack that the version needs, for its files and for the list of them."""
        return {ref.pack for ref in refs_of(self.entries.values())} | self.body_packs

    def refs(self) -> dict[bytes, ChunkRef]:
        """Return every chunk of the version by name."""
        return {ref.name: ref for entry in self.entries.values() for ref in entry.chunks}


def find_parent(repository: Repository, state: State, run: str) -> Parent:
    """Return the run's last version without its entries. If nothing is new, that takes one listing and no object.

    It is the newest version that opens. The local state notes a newer object that does not open, so that it is read
    once; ``report_skipped`` names it.
    """
    head, known = state.head(run), state.unreadable(run)
    listed: list[ListedVersion] = []
    removed: Head | None = None
    if head is not None:
        # From the version before the head, so that the listing shows the head too.
        listed = list(repository.listed(run, after=head.number - 1))
        if not listed or listed[0].number != head.number or listed[0].is_fence:
            from mlsync.repository.history import fences  # late: the head is there nearly always

            is_fenced = bool(listed) and fences.counts(repository, repository.version_key(run, head.number))
            if not is_fenced and not is_removed(repository, run, head.number):
                raise rolled_back(run, head, repository.store.url)
            removed, head = head, None
    if head is None:
        stored = newest_readable(repository, run, known=known)
        parent = Parent(0, b"", is_remembered=True)
        if stored is not None:
            parent = Parent(stored.root.number, stored.digest, is_remembered=False)
        if removed is not None and parent.number < removed.number:
            # The newest version is never removed.
            raise rolled_back(run, removed, repository.store.url)
        # Fences above it are not reported, and their numbers are taken.
        listed = list(repository.listed(run, after=parent.number))
    else:
        parent = _follow(repository, run, head, listed[1:], known)
    above = [one for one in listed if one.number > parent.number]
    # Only what was read: another machine may have made a version meanwhile.
    unreadable = {
        one.number: one.stamp
        for one in above
        if known.get(one.number) != one.stamp and repository.version_key(run, one.number) in repository.skipped
    }
    if unreadable:
        state.add_unreadable(run, unreadable)
    taken = (number for number in (*known, *(one.number for one in above)) if number > parent.number)
    return replace(parent, taken=frozenset(taken))


def load_parent(parent: Parent, repository: Repository, run: str, files: Mapping[bytes, CachedPath]) -> Parent:
    """Return *parent* with its entries, from the files cache if that is of this version, else from the store.

    The manifest itself is read either way: what the next one says of it must be true of the store's object now. If it
    does not open any more, the result is the newest version before it that does.
    """
    if not parent.number:
        return parent
    parent, stored = _open_or_step_back(parent, repository, run)
    if stored is None:
        return parent
    root = stored.root
    entries: Mapping[bytes, Entry] = {
        path: one.entry for path, one in files.items() if one.entry is not None and not one.row.is_held
    }
    # Fewer than the version has: the cache lacks some path, which the next version must not lose.
    if parent.is_remembered and len(entries) == sum(segment.entry_count for segment in root.segments):
        troubles = [one.row.trouble for one in files.values() if one.row.trouble is not None]
    else:
        entries = {entry.path: entry for entry in repository.entries(stored)}
        troubles = list(root.troubles)
    if any(entry.proof and entry.proof.level < root.required_level for entry in entries.values()):
        # Another machine, with a GPU, may have proved since what the next version takes over.
        from mlsync.versions.proof_status import with_proofs  # late, as above

        later = with_proofs(entries.values(), repository.later_proofs(stored).proofs)
        entries = {entry.path: entry for entry in later}
    return replace(
        parent,
        created_ns=root.created_ns,
        origin=root.origin,
        host=root.host,
        directory=root.directory,
        before=root.previous.number if root.previous else 0,
        body_packs=frozenset(ref.pack for ref in segment_refs(root, stored.key)),
        entries=entries,
        troubles={trouble.path: trouble for trouble in troubles},
        seen_proofs=seen_proofs(root.room),
        seen_decision=seen_decision(root.room),
    )


def _open_or_step_back(parent: Parent, repository: Repository, run: str) -> tuple[Parent, StoredVersion | None]:
    """Return the parent with its manifest; if that does not open, the newest version before it that does."""
    try:
        stored = repository.stored(run, parent.number)
    except (ManifestDamaged, FormatUnsupported) as error:
        if not is_no_version(error) or repository.has_bytes(run, parent.number, parent.digest):
            # The same bytes as when it was seen: a newer mlsync made it, and this one cannot read it.
            raise
        repository.skipped[repository.version_key(run, parent.number)] = error
        before = newest_readable(repository, run, below=parent.number)
        number, digest = (0, b"") if before is None else (before.root.number, before.digest)
        taken = parent.taken | {parent.number}
        return Parent(number, digest, is_remembered=False, taken=taken, is_step_back=True), before
    if stored.digest != parent.digest:
        raise rolled_back(run, Head(parent.number, parent.digest), repository.store.url)
    return parent, stored


def _follow(
    repository: Repository, run: str, head: Head, newer: list[ListedVersion], known: Mapping[int, str]
) -> Parent:
    """Return the newest version that opens, after a walk to it from the head, link by link."""
    number, digest = head.number, head.digest
    fresh = [one for one in newer if known.get(one.number) != one.stamp and not one.is_fence]
    closed = {one.number for one in newer} - {one.number for one in fresh}
    for one, stored in opened(repository, run, fresh):
        if stored is None:
            closed.add(one.number)
            continue
        # What does not open may be a version that was damaged since: one that follows it cannot be held to its digest.
        previous = stored.root.previous
        follows_closed = previous is not None and previous.number > number and previous.number in closed
        is_next = previous == Previous(number, digest) or follows_closed
        if not is_next and not (previous is not None and _follows_removed(repository, run, number, previous)):
            raise rolled_back(run, head, repository.store.url)
        number, digest = one.number, stored.digest
    return Parent(number, digest, is_remembered=number == head.number)


def _follows_removed(repository: Repository, run: str, number: int, previous: Previous) -> bool:
    """Return whether a version follows one after *number* that is gone because that was decided."""
    return previous.number > number and is_removed(repository, run, previous.number)
