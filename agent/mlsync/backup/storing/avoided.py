"""Packs that a backup must not reuse, and how it stores their content again, at most once.

A store that accepts objects and does not return them must not be sent a checkpoint over and over. Before the first pack
is stored again, the store has to return a small pack that it just took. Content that was stored twice and could not be
read either time ends the backup. So no byte is sent more than twice, whatever the store answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

import msgspec

from mlsync.errors import Damage, ObjectArchived, ObjectDamaged, ObjectMissing, StoreBroken, StoreError, WriteOnly
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.manifest import Entry, refs_of
from mlsync.repository.repository import Repository

_TRIAL_BYTES: Final = 64
_ADVICE: Final = "look at the store, and at what stands between (a proxy, a gateway): no version was made"


class Avoided(msgspec.Struct):
    """The bad packs that one backup knows of.

    *lost* packs are gone or damaged. *cold* packs cannot be read now: changed files do not reuse them, and unchanged
    files stay in them. *needed* are cold packs whose unchanged files have to be stored again too, because they are
    proved together with a changed one. With *reuses_cold* changed files rely on cold packs all the same: these are
    *reused*, and what lies in them is not read back.
    """

    lost: set[bytes]
    cold: set[bytes] = msgspec.field(default_factory=set)
    needed: set[bytes] = msgspec.field(default_factory=set)
    reuses_cold: bool = False
    reused: set[bytes] = msgspec.field(default_factory=set)
    _written: set[bytes] = msgspec.field(default_factory=set)
    _written_again: set[bytes] = msgspec.field(default_factory=set)
    _writes_again: bool = False
    _is_tried: bool = False

    @property
    def unfit(self) -> set[bytes]:
        """The packs in which not even an unchanged file may stay."""
        return self.lost | self.needed

    def wrote(self, packs: Iterable[bytes]) -> None:
        """Note that this backup stored these packs."""
        fresh = set(packs)
        self._written |= fresh
        if self._writes_again:
            self._written_again |= fresh

    def is_lost(self, entry: Entry) -> bool:
        """Return whether the store cannot return some of the file any more."""
        return bool(self.lost) and any(ref.pack in self.lost for ref in refs_of([entry]))

    def is_cold(self, entry: Entry) -> bool:
        """Return whether the store cannot return some of the file now."""
        return bool(self.cold) and any(ref.pack in self.cold for ref in refs_of([entry]))

    def is_reused(self, entry: Entry) -> bool:
        """Return whether the file relies on packs that cannot be read now, as it may."""
        return bool(self.reused) and any(ref.pack in self.reused for ref in refs_of([entry]))

    def note_lost(self, error: ObjectMissing | ObjectDamaged, repository: Repository) -> bytes:
        """Note that the pack that *error* names is to be stored again, and return it; raise if that would not help."""
        pack_id = names.parse_pack(error.where or "")
        if pack_id is None or pack_id in self.lost:
            raise error
        if pack_id in self._written_again:
            what = f"what was stored twice could not be read back either time: {_words_of(error)}"
            raise StoreBroken(what, where=error.where, advice=_ADVICE) from error
        if not self._is_tried:
            refuse_forgetful(repository)
            self._is_tried = True
        self.lost.add(pack_id)
        self._writes_again = pack_id in self._written
        return pack_id

    def note_cold(self, error: ObjectArchived, repository: Repository, monitor: Monitor) -> None:
        """Note that what is needed of cold packs is to be stored again; raise if that would not help."""
        pack_id = names.parse_pack(error.where or "")
        if pack_id is None or pack_id in self.needed:
            raise error
        if pack_id in self._written:
            advice = "have the bucket keep new objects in a class that can be read; see docs/s3.md"
            raise ObjectArchived("what was just stored lies in cold storage", where=error.where, advice=advice)
        self._writes_again = False
        if self.reuses_cold:
            self._note_reused(pack_id, repository, monitor)
            return
        if pack_id in self.cold:
            self.needed.add(pack_id)
            return
        found = {pack for pack, info in repository.packs() if info.is_archived} | {pack_id}
        self.cold |= found
        packs = "1 pack lies" if len(found) == 1 else f"{len(found)} packs lie"
        text = f"{packs} in cold storage: what changed files need of it is stored anew, where it can be read"
        monitor.notice("warning", text)

    def look_for_reused(self, entries: Iterable[Entry], repository: Repository, monitor: Monitor) -> None:
        """Note which packs of *entries* are cold, before any is read, where a backup may rely on such packs.

        A store that does not list it shows it when it is read; what this backup stored is not asked about.
        """
        needed = {ref.pack for ref in refs_of(entries)} - self._written - self.reused - self.needed
        if not self.reuses_cold or not needed or not repository.store.may_freeze:
            return
        cold = {pack for pack, info in repository.packs() if info.is_archived and pack in needed}
        if cold:
            self.reused |= cold
            self._tell_reused(monitor)

    def _tell_reused(self, monitor: Monitor) -> None:
        packs = "1 pack lies" if len(self.reused) == 1 else f"{len(self.reused)} packs lie"
        text = f"{packs} in cold storage, and reuse_cold is set: what changed files need of it is not read back, and "
        text += "neither proved nor restored before it is thawed"
        monitor.notice("warning", text)

    def _note_reused(self, pack_id: bytes, repository: Repository, monitor: Monitor) -> None:
        """Note that cold packs are relied on; one that has to be read all the same has its content stored again."""
        if pack_id in self.reused:
            self.reused.discard(pack_id)
            self.cold.add(pack_id)
            self.needed.add(pack_id)
            return
        self.reused |= {pack for pack, info in repository.packs() if info.is_archived} | {pack_id}
        self._tell_reused(monitor)

    def note_closed(self, error: WriteOnly) -> None:
        """Note that a pack cannot be opened here, and that its content is needed; raise if that would not help."""
        pack_id = names.parse_pack(error.where or "")
        if pack_id is None or pack_id in self.needed:
            raise error
        self.cold.add(pack_id)
        self.needed.add(pack_id)


def refuse_forgetful(repository: Repository) -> None:
    """Raise ``StoreBroken`` if the store does not return a small pack that it just took."""
    writer = repository.writer(lambda _name: None, lanes=1)
    try:
        placed = writer.put(memoryview(os.urandom(_TRIAL_BYTES)))
        writer.finish()
    except BaseException:
        writer.abort()
        raise
    with repository.reader() as reader:
        try:
            reader.one(placed.ref)
        except Damage as error:
            what = f"the store does not give back what it took: {_words_of(error)}"
            raise StoreBroken(what, where=error.where, advice=_ADVICE) from error


def _words_of(error: Damage) -> str:
    """Return what the store said, if it said anything."""
    return error.__cause__.what if isinstance(error.__cause__, StoreError) else error.what
