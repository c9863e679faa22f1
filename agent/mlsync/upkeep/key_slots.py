"""List, add and remove the key slots of a repository, so that its owners can never lock themselves out.

A new slot counts only once the repository opened with it, read back from the store. The slot that opened the repository
is never removed by itself: that it opens is the only proof that one of them does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mlsync.errors import (
    Error,
    FormatUnsupported,
    KeyProblem,
    KeySlotDamaged,
    KeySlotInUse,
    KeySlotKept,
    KeySlotMissing,
    KeySlotsFull,
    NotFound,
    StoreBroken,
    StoreError,
)
from mlsync.repository import names
from mlsync.repository.keys import keyslot
from mlsync.repository.keys.keyslot import Slot, Stretching, Unlock
from mlsync.repository.keys.recovery_key import RECOVERY_KEY_BYTES
from mlsync.repository.keys.unlocking import SLOTS_MAX
from mlsync.repository.repository import Repository

# As short as people type, and as long as it takes to be unique among as many slots as there can be.
_ID_CHARS_MIN: Final = 4


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A key slot as it is stored; *slot* is ``None`` if it cannot be read, and *trouble* says why, or what is odd.

    *modified_s* is when the store got it, by the store's clock. *is_used* says that it opened the repository just now.
    """

    key: str
    modified_s: float
    is_used: bool
    slot: Slot | None = None
    trouble: str = ""

    @property
    def id(self) -> str:
        """The slot's id in hexadecimal."""
        return _id(self.key)


@dataclass(frozen=True, slots=True)
class SlotAdded:
    """A key slot that somebody else added while a change ran; *modified_s* is when the store got it, by its clock."""

    id: str
    modified_s: float


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change did: it added slot *new_id*, and slot *old_id* is gone.

    *was_gone* says that somebody else had removed the old slot before. *others* are the slots that somebody else added
    since the change began; they may open the repository too.
    """

    new_id: str
    old_id: str
    was_gone: bool
    others: tuple[SlotAdded, ...]


def new_recovery_key() -> keyslot.RecoveryKey:
    """Return a new random recovery key."""
    return keyslot.RecoveryKey(os.urandom(RECOVERY_KEY_BYTES))


def list_slots(repository: Repository) -> list[SlotStatus]:
    """Return all key slots, the oldest first."""
    listed = sorted(_listed(repository), key=lambda one: (one[1], one[0]))
    return [_status(repository, key, modified_s) for key, modified_s in listed]


def add_slot(repository: Repository, unlock: Unlock, stretching: Stretching | None = None) -> str:
    """Add a key slot for *unlock* and return its id; the repository has opened with it, as on a fresh machine."""
    if sum(1 for _ in _listed(repository)) >= SLOTS_MAX:
        what = f"the repository has {SLOTS_MAX} key slots; readers do not try more"
        raise KeySlotsFull(what, where=repository.store.url, advice="remove one with: mlsync key remove ID")
    _refuse_second(repository, unlock)
    salt, slot_id = os.urandom(keyslot.SALT_BYTES), os.urandom(names.SLOT_ID_BYTES)
    key = names.key_slot(slot_id)
    if repository.is_retired:
        repository.refuse_retired()
    keys, cost = repository.keys, stretching or Stretching()
    slot = keyslot.make(unlock, keys.masters[-1], keys.repository_id, salt, cost, epoch=keys.epoch)
    repository.store.put(key, slot)
    try:
        opened = Repository.open(repository.store, unlock)
        if (opened.slot, opened.keys) != (key, repository.keys):
            raise KeySlotDamaged("the new key slot does not open the repository", where=_where(repository, key))
    except Error:
        # Nothing relies on it yet.
        with suppress(StoreError):
            repository.store.delete(key)
        raise
    return slot_id.hex()


def remove_slot(repository: Repository, wanted: str) -> str:
    """Remove the key slot whose id begins with *wanted* and return its id, unless it opened the repository."""
    key = _find(repository, wanted)
    if key == repository.slot:
        what = "this key slot opened the repository for this command, so it stays"
        advice = "to replace it: mlsync key change; to remove it, open the repository with another passphrase or key"
        raise KeySlotInUse(what, where=_where(repository, key), advice=advice)
    _remove(repository, key)
    return _id(key)


def slots_now(repository: Repository) -> frozenset[str]:
    """Return the names of the key slots as a change begins, for ``change_slot``."""
    return frozenset(key for key, _ in _listed(repository))


def change_slot(repository: Repository, unlock: Unlock, before: frozenset[str]) -> Changed:
    """Replace the slot that opened the repository by one for *unlock*.

    The new one has opened the repository before the old one is removed. Raise ``KeySlotKept`` if only the removal
    fails: then both open it. Of two changes that start from one slot at the same time, at least one names the slot of
    the other, which was not there *before*, or finds the old slot gone.
    """
    old = repository.slot
    new_id = add_slot(repository, unlock)
    try:
        # Asked between adding and removing: whoever listed before this slot was added has removed the old one by now,
        # or will list again.
        was_gone = old not in slots_now(repository)
        left = _remove(repository, old)
    except (StoreError, KeySlotKept) as error:
        what = f"the new key slot {new_id[:8]} opens the repository, and so does the old one: {error.what}"
        advice = f"remove it with credentials that may delete: mlsync key remove {_id(old)[:8]}"
        raise KeySlotKept(what, where=_where(repository, old), advice=advice) from error
    others = [SlotAdded(_id(key), at) for key, at in left if key not in before and _id(key) != new_id]
    return Changed(new_id, _id(old), was_gone, tuple(sorted(others, key=lambda one: (one.modified_s, one.id))))


def _listed(repository: Repository) -> Iterator[tuple[str, float]]:
    for info in repository.store.list(names.KEY_SLOTS):
        if names.is_key_slot(info.key):
            yield info.key, info.modified_s


def _status(repository: Repository, key: str, modified_s: float) -> SlotStatus:
    is_used = key == repository.slot
    try:
        slot = repository.read_slot(key)
    except (KeyProblem, FormatUnsupported, NotFound, StoreBroken) as error:
        if isinstance(error, StoreBroken) and not error.is_of_object:
            raise
        return SlotStatus(key, modified_s, is_used, trouble=error.what)
    trouble = ""
    if slot.repository != repository.repository_id.hex():
        trouble = "of another repository; it opens nothing here"
    elif slot.epoch < repository.keys.epoch:
        trouble = "of a retired key; to remove it: mlsync key remove"
    elif slot.epoch > repository.keys.epoch:
        trouble = "of a newer key than the one that opened the repository"
    return SlotStatus(key, modified_s, is_used, slot, trouble)


def _find(repository: Repository, wanted: str) -> str:
    found = [key for key, _ in _listed(repository) if _id(key).startswith(wanted.lower())]
    if len(found) == 1 and len(wanted) >= _ID_CHARS_MIN:
        return found[0]
    if len(wanted) < _ID_CHARS_MIN:
        what = f"{wanted!r} is too short for a key slot's id; give at least {_ID_CHARS_MIN} characters"
    else:
        what = f"{len(found)} key slots begin with {wanted!r}" if found else f"there is no key slot {wanted!r}"
    raise KeySlotMissing(what, where=repository.store.url, advice="see: mlsync key list")


def _refuse_second(repository: Repository, unlock: Unlock) -> None:
    """Raise ``KeySlotInUse`` if *unlock* opens the repository already: a second slot would only outlive the first."""
    try:
        slot = Repository.open(repository.store, unlock).slot
    except KeyProblem:
        return
    what = f"this {keyslot.noun(keyslot.kind_of(unlock))} opens key slot {_id(slot)[:8]} already; nothing was added"
    raise KeySlotInUse(what, where=_where(repository, slot))


def _remove(repository: Repository, key: str) -> list[tuple[str, float]]:
    """Remove a slot and return the names and times of those that are left."""
    repository.store.delete(key)
    left = list(_listed(repository))
    if any(listed == key for listed, _ in left):
        what = "the store still has the key slot after it was removed"
        raise KeySlotKept(what, where=_where(repository, key), advice="see docs/keys.md")
    return left


def _id(key: str) -> str:
    return key.rpartition("/")[2]


def _where(repository: Repository, key: str) -> str:
    return f"{repository.store.url} {key}"
