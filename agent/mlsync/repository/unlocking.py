"""Find the master key: which key slots are tried with a secret, in which order, and how many.

Whoever may create objects can plant slots. ``keyslot.parse`` bounds the cost of each; this module bounds their sum: the
number of slots that are read, memory times passes, and requests to a key service, so that opening a repository never
takes long.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from mlsync.codec.keys import Keys
from mlsync.errors import (
    Error,
    FormatUnsupported,
    KeyServiceRefused,
    KeySlotDamaged,
    NotFound,
    ObjectDamaged,
    ObjectMissing,
    StoreBroken,
    StoreDenied,
)
from mlsync.repository import header, keyslot, names
from mlsync.repository.keyslot import Slot, Stretching, Unlock
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


def unlocked(store: Store, unlock: Unlock, found: header.RepositoryHeader, likely: str | None) -> tuple[str, bytes]:
    """Return the name of a key slot that opens, and the master key in it; raise an error if none opens.

    It is a slot with the header's own master key, if there is one.

    *likely* is the name of the slot that opened before: it is tried first, and mostly alone.
    """
    return _open_likely(store, unlock, found, likely) or _Search(store, unlock, found).run()


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


def _open_likely(
    store: Store, unlock: Unlock, found: header.RepositoryHeader, key: str | None
) -> tuple[str, bytes] | None:
    if key is None or not names.is_key_slot(key):
        return None
    # What KMS refuses for this slot may be another object's that took its place, so the others are tried as ever.
    with suppress(KeySlotDamaged, KeyServiceRefused, FormatUnsupported, StoreBroken, StoreDenied, NotFound):
        slot = read_slot(store, key)
        master = keyslot.unwrap(slot, unlock) if slot.repository == found.id else None
        return None if master is None or not _fits(master, found) else (key, master)
    return None


def _fits(master: bytes, found: header.RepositoryHeader) -> bool:
    """Return whether a master key is the header's; without a header, whose check is empty then, any may be."""
    return not found.check or found.is_of(Keys(master, found.repository_id))


@dataclass(slots=True)
class _Search:
    """Tries slot after slot. A damaged slot must not lock out those who hold another."""

    store: Store
    unlock: Unlock
    found: header.RepositoryHeader
    fault: Error | None = None
    # What the key service said; it counts before faults of slots, which somebody may have planted.
    refused: KeyServiceRefused | None = None
    left_out_count: int = 0
    slots: list[tuple[int, str, Slot]] = field(default_factory=list)

    def run(self) -> tuple[str, bytes]:
        keys, self.left_out_count = _oldest(self.store)
        if not keys:
            raise ObjectMissing("the repository has no key slot", where=self.store.url)
        for key in keys:
            self._read(key)
        opened: tuple[str, bytes] | None = None
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
            if master is not None and _fits(master, self.found):
                return key, master
            # Whoever may have a key service wrap a secret, and not unwrap one, can make slots that open.
            opened = opened or (None if master is None else (key, master))
        if opened is not None:
            return opened
        raise self._refusal()

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
            return keyslot.unwrap(slot, self.unlock)
        except KeySlotDamaged as error:
            self.fault = error
            return None
        except KeyServiceRefused as error:
            # It may be about this slot alone: a policy can tell slots apart by what is bound to their secrets.
            self.refused = self.refused or error
            return None

    def _refusal(self) -> Error:
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
