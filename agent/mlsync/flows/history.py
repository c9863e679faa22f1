"""The version that a new one follows, and whether the store still shows the history that was seen before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlsync.errors import HistoryRolledBack
from mlsync.flows.recall import Recalled
from mlsync.flows.standing import with_proofs
from mlsync.repository.manifest import ChunkRef, Entry, Previous, Trouble
from mlsync.repository.repository import Repository, Stored
from mlsync.repository.segments import segment_refs
from mlsync.source.state import Head, State


@dataclass(slots=True)
class Base:
    """A run's last version: *number* 0 and no entries before the first one.

    *is_remembered* says that the local state is of this very version, so that its rows may stand for the entries.
    """

    number: int
    digest: bytes
    is_remembered: bool
    created_ns: int = 0
    body_packs: frozenset[bytes] = frozenset()
    entries: dict[bytes, Entry] = field(default_factory=dict)
    troubles: dict[bytes, Trouble] = field(default_factory=dict)

    @property
    def previous(self) -> Previous | None:
        """What the next manifest says of this one."""
        return Previous(self.number, self.digest) if self.number else None

    def packs(self) -> set[bytes]:
        """Return every pack that the version needs: for its files, and for the list of them."""
        return {ref.pack for ref in self.refs().values()} | self.body_packs

    def refs(self) -> dict[bytes, ChunkRef]:
        """Return every chunk of the version by name."""
        return {ref.name: ref for entry in self.entries.values() for ref in entry.chunks}


def find_base(repository: Repository, state: State, run: str) -> Base:
    """Return the run's last version without its entries: one listing, and none of its objects, if nothing moved."""
    head = state.head(run)
    if head is None:
        newest = repository.newest(run)
        return Base(0, b"", is_remembered=True) if newest is None else _unremembered(repository.stored(run, newest))
    # From the one before the head, so that the listing shows the head itself too.
    numbers = repository.numbers(run, after=head.number - 1)
    if head.number not in numbers:
        raise _rolled_back(run, head, repository.store.url)
    if numbers[-1] == head.number:
        return Base(head.number, head.digest, is_remembered=True)
    return _follow(repository, run, head, numbers)


def load_entries(base: Base, repository: Repository, run: str, recalled: Mapping[bytes, Recalled]) -> None:
    """Fill in what the last version holds: from the local state if it is of this version, else from the store.

    The manifest itself is read either way: what the next one will say of it must be true of what the store has now.
    """
    if not base.number:
        return
    stored = repository.stored(run, base.number)
    if stored.digest != base.digest:
        raise _rolled_back(run, Head(base.number, base.digest), repository.store.url)
    base.created_ns = stored.root.created_ns
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


def _follow(repository: Repository, run: str, head: Head, numbers: list[int]) -> Base:
    """Return the newest version after walking to it from the one that was seen last, link by link."""
    digest = head.digest
    number = head.number
    for newer in numbers[numbers.index(head.number) + 1 :]:
        stored = repository.stored(run, newer)
        if stored.root.previous != Previous(number, digest):
            raise _rolled_back(run, head, repository.store.url)
        number, digest = newer, stored.digest
    return Base(number, digest, is_remembered=False)


def _unremembered(stored: Stored) -> Base:
    return Base(stored.root.number, stored.digest, is_remembered=False)


def _rolled_back(run: str, head: Head, url: str) -> HistoryRolledBack:
    what = f"the store no longer shows version {head.number} of run {run!r} as it was seen before"
    advice = "find out who changed the store; to take its word, delete the local state"
    return HistoryRolledBack(what, where=url, advice=advice)
