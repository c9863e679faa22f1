"""Find the master key: which key slots are tried with a secret, in which order, and how many.

Whoever may create objects can plant slots. ``keyslot.parse`` bounds the cost of each; this module bounds their sum: the
number of slots that are read, memory times passes, and requests to a key service, so that opening a repository never
takes long.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mlsync.codec.keys import Keys
from mlsync.errors import (
    Error,
    FormatUnsupported,
    KeyServiceRefused,
    KeySlotDamaged,
    ManifestDamaged,
    NotFound,
    ObjectDamaged,
    ObjectMissing,
    StoreBroken,
    StoreDenied,
)
from mlsync.repository import header, names
from mlsync.repository.keys import epochs, keyslot
from mlsync.repository.keys.keyslot import Slot, Stretching, Unlock
from mlsync.repository.keys.remembered import Remembered
from mlsync.repository.read_twice import read_twice
from mlsync.store.base import Store

# The oldest by the store's clock: slots that are planted later do not displace those in use.
SLOTS_MAX: Final = 64
_IS_ID: Final = re.compile(r"[0-9a-f]{32}")
# The cost of that many slots of ours.
COST_SUM_MAX: Final = SLOTS_MAX * keyslot.cost(Stretching())
# A repository has one slot for each key of a key service, and few that an interrupted command left. Each request costs
# money and is in the service's log.
SERVICE_REQUESTS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class _OpenedSlot:
    """The name of a key slot that opened, and the master key in it, which is that of *epoch*."""

    key: str
    epoch: int
    master: bytes = field(repr=False)


class Unlocked(msgspec.Struct, frozen=True):
    """The name of a key slot that opened, all keys that it gives, and whether the newest of these is retired."""

    slot: str
    keys: Keys
    is_retired: bool


def unlocked(
    store: Store,
    unlock: Unlock,
    found: header.RepositoryHeader,
    likely: str | None,
    remembered: Remembered | None = None,
) -> Unlocked:
    """Return what a key slot gives that opens.

    Raise an error if none opens. A passphrase that is *remembered* need not be stretched. *likely* is the name of the
    slot that opened before: it is tried first, and mostly alone. A rotation of the key that did not end leaves slots of
    two epochs for one secret: the newer one gives nothing before the rotation was made, and the older one a retired key
    afterwards. Whoever may have a key service wrap a secret, and not unwrap one, can make slots that open: one whose
    keys are not the header's is taken only if there is no other.
    """
    retired: Unlocked | None = None
    unfit: Unlocked | None = None
    fault: Error | None = None
    for slot in _opened(_Search(store, unlock, found, remembered), likely):
        try:
            keys = epochs.keys_of(store, found.repository_id, slot.epoch, slot.master)
        except (ManifestDamaged, FormatUnsupported, ObjectMissing) as error:
            fault = error
            continue
        # Without a header its check is empty, and any keys may be the right ones.
        if found.check and not found.is_of(keys):
            unfit = unfit or Unlocked(slot.key, keys, is_retired=False)
            continue
        if not epochs.is_retired(store, keys):
            return Unlocked(slot.key, keys, is_retired=False)
        retired = retired or Unlocked(slot.key, keys, is_retired=True)
    opened = retired or unfit
    if opened is None:
        assert fault is not None, "a slot that opened gives keys, or an error"
        raise fault
    return opened


def _opened(search: _Search, likely: str | None) -> Iterator[_OpenedSlot]:
    """Yield each slot that opens, as far as the caller asks; raise an error if there is none."""
    first = _open_likely(search, likely)
    if first is not None:
        yield first
    yield from (slot for slot in search.run() if first is None or slot.key != first.key)
    if first is None and not search.opened_count:
        raise search.refusal()


def read_slot(store: Store, key: str) -> Slot:
    """Return a key slot without opening it, or raise ``KeySlotDamaged`` or ``FormatUnsupported``."""
    return read_twice(lambda: keyslot.parse(store.get(key, limit_bytes=keyslot.SLOT_BYTES_MAX), _where(store, key)))


def slot_ids(store: Store) -> list[str]:
    """Return the ids of the repositories of the oldest key slots, the most frequent first."""
    counts: Counter[str] = Counter()
    for key in _oldest(store)[0]:
        with suppress(KeySlotDamaged, FormatUnsupported, StoreBroken, StoreDenied, NotFound):
            counts[read_slot(store, key).repository] += 1
    return [repository_id for repository_id, _ in counts.most_common() if _IS_ID.fullmatch(repository_id)]


def _open_likely(search: _Search, key: str | None) -> _OpenedSlot | None:
    if key is None or not names.is_key_slot(key):
        return None
    # What KMS refuses for this slot may be another object's that took its place, so the others are tried as ever.
    with suppress(KeySlotDamaged, KeyServiceRefused, FormatUnsupported, StoreBroken, StoreDenied, NotFound):
        slot = read_slot(search.store, key)
        master = keyslot.unwrap(slot, search.unlock, search.remembered) if slot.repository == search.found.id else None
        return None if master is None else _OpenedSlot(key, slot.epoch, master)
    return None


class _Search(msgspec.Struct):
    """Tries slot after slot. A damaged slot must not lock out those who hold another."""

    store: Store
    unlock: Unlock
    found: header.RepositoryHeader
    remembered: Remembered | None = None
    fault: Error | None = None
    # What the key service said; it counts before faults of slots, which somebody may have planted.
    refused: KeyServiceRefused | None = None
    left_out_count: int = 0
    opened_count: int = 0
    slots: list[tuple[int, str, Slot]] = msgspec.field(default_factory=list)

    def run(self) -> Iterator[_OpenedSlot]:
        keys, self.left_out_count = _oldest(self.store)
        if not keys:
            raise ObjectMissing("the repository has no key slot", where=self.store.url)
        for key in keys:
            self._read(key)
        # The order is stable: of slots with the same cost, the oldest comes first.
        spent = requests = 0
        for position, (cost, key, slot) in enumerate(sorted(self.slots, key=lambda one: one[0])):
            requests += keyslot.asks_a_service(slot, self.unlock)
            # One is always tried, so that a slot that costs more than any of ours does not lock its owner out.
            if (position and spent + cost > COST_SUM_MAX) or requests > SERVICE_REQUESTS_MAX:
                self.left_out_count += 1
                continue
            spent += cost
            master = self._open(slot)
            if master is not None:
                self.opened_count += 1
                yield _OpenedSlot(key, slot.epoch, master)

    def _read(self, key: str) -> None:
        try:
            slot = read_slot(self.store, key)
        except (KeySlotDamaged, FormatUnsupported) as error:
            self.fault = error
        except StoreDenied as error:
            # In a directory it may be of this slot alone: a member of the group closed it, or planted it closed.
            self.fault = error
        except (StoreBroken, NotFound) as error:
            # An error of the store itself says nothing about the slot.
            is_slot = isinstance(error, NotFound) or error.is_of_object
            what = f"the key slot cannot be read: {error.what}"
            self.fault = KeySlotDamaged(what, where=_where(self.store, key)) if is_slot else error
        else:
            # An interrupted init may have left a slot of a repository that never came to exist.
            if slot.repository == self.found.id:
                self.slots.append((keyslot.cost_of(slot, self.unlock), key, slot))

    def _open(self, slot: Slot) -> bytes | None:
        try:
            return keyslot.unwrap(slot, self.unlock, self.remembered)
        except KeySlotDamaged as error:
            self.fault = error
            return None
        except KeyServiceRefused as error:
            # It may be about this slot alone: a policy can tell slots apart by what is bound to their secrets.
            self.refused = self.refused or error
            return None

    def refusal(self) -> Error:
        """Return the error for the case that no slot opened."""
        if self.refused is not None:
            return self.refused
        if self.fault is None and not self.slots:
            what = "no key slot is of this repository: the header is damaged, or is another repository's"
            return ObjectDamaged(what, where=_where(self.store, names.HEADER))
        if self.left_out_count:
            return _left_out(self.left_out_count, self.unlock, self.store)
        return self.fault or keyslot.wrong_unlock(self.unlock, self.store.url)


def _oldest(store: Store) -> tuple[list[str], int]:
    """Return the names of the slots to read, and how many there are beside these."""
    count = 0

    def age(key: str, modified_s: float) -> tuple[float, str]:
        nonlocal count
        count += 1
        return modified_s, key

    listed = (age(info.key, info.modified_s) for info in store.list(names.KEY_SLOTS) if names.is_key_slot(info.key))
    oldest = heapq.nsmallest(SLOTS_MAX, listed)
    return [key for _, key in oldest], count - len(oldest)


def _left_out(count: int, unlock: Unlock, store: Store) -> Error:
    """Return the error for the case that some slots were not tried."""
    error = keyslot.wrong_unlock(unlock, store.url)
    slots = "1 key slot was" if count == 1 else f"{count} key slots were"
    error.what += f", of those that were tried: {slots} left out, since all of them would cost too much"
    secret = keyslot.noun(keyslot.kind_of(unlock))
    error.advice = f"if the {secret} is right, somebody planted slots: remove those that nobody made from keys/"
    return error


def _where(store: Store, key: str) -> str:
    return f"{store.url} {key}"
