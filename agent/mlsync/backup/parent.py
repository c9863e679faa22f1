"""The version that a new one follows, and whether the store still shows the history that was seen before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlsync.backup.files_cache import Recalled
from mlsync.errors import FormatUnsupported, ManifestDamaged, VersionTaken
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef, Entry, Origin, Previous, Trouble
from mlsync.repository.readable import newest_readable, opened
from mlsync.repository.repository import ListedVersion, Repository, StoredVersion, is_no_version
from mlsync.repository.segments import segment_refs
from mlsync.repository.tokens import EntryKind
from mlsync.source.state import Head, State
from mlsync.versions.proof_status import with_proofs
from mlsync.versions.rollback import rolled_back


@dataclass(slots=True)
class Base:
    """A run's last version: *number* 0 and no entries before the first one.

    *origin*, *host* and *directory* say who made it, and *before* is the number of the version before it.
    *is_remembered* says that the local state is of this very version, so that its rows may stand for the entries.
    *taken* are numbers above it in whose places something stands that is no version. It *is_step_back* from a newer one
    that this machine saw, if that does not open any more.
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
    entries: dict[bytes, Entry] = field(default_factory=dict)
    troubles: dict[bytes, Trouble] = field(default_factory=dict)

    @property
    def previous(self) -> Previous | None:
        """What the next manifest says of this one."""
        return Previous(self.number, self.digest) if self.number else None

    def kind_of(self, path: bytes) -> str | None:
        """Return which container the version has at *path*: empty if nobody looked, none if it has no checkpoint."""
        entry = self.entries.get(path)
        if entry is not None and entry.kind is EntryKind.HARD_LINK:
            entry = self.entries.get(entry.target)
        return None if entry is None or entry.proof is None else entry.proof.container

    def next_number(self, run: str) -> int:
        """Return the number of the next version: the lowest that is free; ``VersionTaken`` where none is left."""
        number = self.number + 1
        while number in self.taken:
            number += 1
        if number > names.VERSION_MAX:
            what = f"run {run!r} has no number left: the highest that there is, {names.VERSION_MAX}, is taken"
            raise VersionTaken(what, advice='go on under another name: run = "..." under [[watch]]')
        return number

    def packs(self) -> set[bytes]:
        """Return every pack that the version needs: for its files, and for the list of them."""
        return {ref.pack for ref in self.refs().values()} | self.body_packs

    def refs(self) -> dict[bytes, ChunkRef]:
        """Return every chunk of the version by name."""
        return {ref.name: ref for entry in self.entries.values() for ref in entry.chunks}


def find_base(repository: Repository, state: State, run: str) -> Base:
    """Return the run's last version without its entries: one listing, and none of its objects, if nothing moved.

    It is the newest one that opens. What stands in the place of a newer one and does not is remembered, so that it is
    looked at once; ``report_skipped`` names it.
    """
    head, known = state.head(run), state.unreadable(run)
    if head is None:
        stored = newest_readable(repository, run, known=known)
        base = Base(0, b"", is_remembered=True) if stored is None else _unremembered(stored)
        listed = list(repository.listed(run, after=base.number)) if known or repository.skipped else []
    else:
        # From the one before the head, so that the listing shows the head itself too.
        listed = list(repository.listed(run, after=head.number - 1))
        if not listed or listed[0].number != head.number:
            raise rolled_back(run, head, repository.store.url)
        base = _follow(repository, run, head, listed[1:], known)
    above = [one for one in listed if one.number > base.number]
    base.taken = frozenset(number for number in (*known, *(one.number for one in above)) if number > base.number)
    unreadable = {one.number: one.stamp for one in above if known.get(one.number) != one.stamp}
    # Only what was looked at: another machine may have made a version meanwhile.
    unreadable = {n: stamp for n, stamp in unreadable.items() if repository.version_key(run, n) in repository.skipped}
    if unreadable:
        state.add_unreadable(run, unreadable)
    return base


def load_entries(base: Base, repository: Repository, run: str, recalled: Mapping[bytes, Recalled]) -> None:
    """Fill in what the last version holds: from the local state if it is of this version, else from the store.

    The manifest itself is read either way: what the next one will say of it must be true of what the store has now.
    """
    stored = _last_that_opens(base, repository, run) if base.number else None
    if stored is None:
        return
    root = stored.root
    base.created_ns, base.origin, base.host, base.directory = root.created_ns, root.origin, root.host, root.directory
    base.before = root.previous.number if root.previous else 0
    base.body_packs = frozenset(ref.pack for ref in segment_refs(stored.root, stored.key))
    entries = {path: one.entry for path, one in recalled.items() if one.entry is not None and not one.is_held}
    # Fewer than the version has: of some path the state keeps nothing, and it must not be lost with the next version.
    if base.is_remembered and len(entries) == sum(segment.entry_count for segment in stored.root.segments):
        base.entries = entries
        base.troubles = {one.trouble.path: one.trouble for one in recalled.values() if one.trouble is not None}
    else:
        base.entries = {entry.path: entry for entry in repository.entries(stored)}
        base.troubles = {trouble.path: trouble for trouble in stored.root.troubles}
    if any(entry.proof and entry.proof.level < stored.root.required_level for entry in base.entries.values()):
        # Somebody with a GPU may have proved since what the next version takes over.
        later = with_proofs(base.entries.values(), repository.later_proofs(stored))
        base.entries = {entry.path: entry for entry in later}


def _last_that_opens(base: Base, repository: Repository, run: str) -> StoredVersion | None:
    """Return the last version; where it does not open any more, *base* is the newest one that does."""
    try:
        stored = repository.stored(run, base.number)
    except (ManifestDamaged, FormatUnsupported) as error:
        if not is_no_version(error) or repository.has_bytes(run, base.number, base.digest):
            # As it was when it was seen: a newer mlsync made it, and this one does not know it.
            raise
        repository.skipped[repository.version_key(run, base.number)] = error
        base.taken |= {base.number}
        stored_before = newest_readable(repository, run, below=base.number)
        base.number, base.digest = (
            (0, b"") if stored_before is None else (stored_before.root.number, stored_before.digest)
        )
        base.is_remembered, base.is_step_back = False, True
        return stored_before
    if stored.digest != base.digest:
        raise rolled_back(run, Head(base.number, base.digest), repository.store.url)
    return stored


def _follow(repository: Repository, run: str, head: Head, newer: list[ListedVersion], known: Mapping[int, str]) -> Base:
    """Return the newest version that opens after walking to it from the one that was seen last, link by link."""
    number, digest = head.number, head.digest
    fresh = [one for one in newer if known.get(one.number) != one.stamp]
    closed = {one.number for one in newer} - {one.number for one in fresh}
    for one, stored in opened(repository, run, fresh):
        if stored is None:
            closed.add(one.number)
            continue
        # What does not open may be a version that was damaged since: who followed it cannot be held to its digest.
        previous = stored.root.previous
        follows_closed = previous is not None and previous.number > number and previous.number in closed
        if previous != Previous(number, digest) and not follows_closed:
            raise rolled_back(run, head, repository.store.url)
        number, digest = one.number, stored.digest
    return Base(number, digest, is_remembered=number == head.number)


def _unremembered(stored: StoredVersion) -> Base:
    return Base(stored.root.number, stored.digest, is_remembered=False)
