"""What is deleted before the minimum storage duration of its class: its storage until then is charged all the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mlsync.errors import StoreError
from mlsync.repository import names
from mlsync.store.base import ObjectInfo, Store
from mlsync.store.prices import DAY_S, class_of, early_s

_NS: Final = 10**9


@dataclass(frozen=True, slots=True)
class EarlyPack:
    """A pack before its minimum: *left_s* until that is over, *usd* what deleting it now costs, if that is known."""

    size_bytes: int
    storage_class: str
    left_s: float
    usd: float | None


def early_packs(store: Store, packs: Mapping[bytes, ObjectInfo], now_ns: int) -> dict[bytes, EarlyPack]:
    """Return those of *packs* that have not lain in their class for its minimum.

    A class that a lifecycle rule moved an object to counts from that day on, as far as the bucket says its rules; one
    request, and none where no class has a minimum.
    """
    doubtful = {pack_id: info for pack_id, info in packs.items() if class_of(info.storage_class).minimum_days}
    if not doubtful:
        return {}
    moved_after = _moved_after(store)
    found: dict[bytes, EarlyPack] = {}
    for pack_id, info in doubtful.items():
        in_class_s = _in_class_s(info, moved_after, now_ns)
        left_s = early_s(info.storage_class, in_class_s)
        if left_s:
            prices = store.price_list
            usd = (
                None
                if prices is None
                else prices.early_usd(info.storage_class, size_bytes=info.size_bytes, age_s=in_class_s)
            )
            found[pack_id] = EarlyPack(info.size_bytes, info.storage_class, left_s, usd)
    return found


def _moved_after(store: Store) -> Mapping[str, int]:
    try:
        return store.days_to_class(names.PACKS)
    except StoreError:
        # Without the right to read the rules, an object counts from the day on which it was stored.
        return {}


def _in_class_s(info: ObjectInfo, moved_after: Mapping[str, int], now_ns: int) -> float:
    """Return for how long an object has been in its class, at most."""
    age_s = max(0.0, now_ns / _NS - info.modified_s)
    before_s = moved_after.get(info.storage_class, 0) * DAY_S
    return age_s - before_s if age_s >= before_s else age_s


@dataclass(frozen=True, slots=True)
class EarlyTotal:
    """All of some early packs: bytes, the longest time that is left, and what it costs, if that is known."""

    count: int
    size_bytes: int
    left_s: float
    usd: float | None
    classes: tuple[str, ...]


def total_of(packs: Iterable[EarlyPack]) -> EarlyTotal:
    """Return the sum of some packs."""
    packs = list(packs)
    prices = [pack.usd for pack in packs if pack.usd is not None]
    return EarlyTotal(
        len(packs),
        sum(pack.size_bytes for pack in packs),
        max((pack.left_s for pack in packs), default=0.0),
        sum(prices) if packs and len(prices) == len(packs) else None,
        tuple(sorted({pack.storage_class for pack in packs})),
    )
