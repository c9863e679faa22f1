"""Look up some packs, or their tombstones, at a cost that follows how many they are and not how many there are.

A listing tells of a thousand objects in one request, but of all that the repository has; a look at one object tells of
no other. So a listing goes on only while it costs less than the looks that it saves. The ids of packs are random: how
far the first page comes among all ids tells how many pages there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from mlsync.errors import NotFound
from mlsync.repository import names
from mlsync.repository.listing import PAGE_COUNT
from mlsync.repository.repository import Repository
from mlsync.store.base import ObjectInfo

#: So many packs are looked up one by one, without a listing.
LOOKS_MAX: Final = 8
# S3 charges as much for a page of a listing as for so many looks.
_LOOKS_OF_A_PAGE: Final = 12
_AT_ONCE: Final = 8
_ID_BITS: Final = 128


def look_up(repository: Repository, needed: Collection[bytes]) -> dict[bytes, ObjectInfo]:
    """Return what the store says of those of *needed* that it has; none counts as gone without a look at its name."""
    found = look_in_listing(repository, needed) if len(needed) > LOOKS_MAX else {}
    looked = _look_at(repository, {pack_id: names.pack(pack_id) for pack_id in needed if pack_id not in found})
    return found | looked


def look_at_each(repository: Repository, needed: Collection[bytes]) -> dict[bytes, ObjectInfo]:
    """Return the same by a look at each: no listing says what some classes of storage archive by themselves."""
    return _look_at(repository, {pack_id: names.pack(pack_id) for pack_id in needed})


def look_in_listing(repository: Repository, needed: Collection[bytes]) -> dict[bytes, ObjectInfo]:
    """Return what a listing says of *needed*, as far as it pays to list; the others need a look each."""
    found: dict[bytes, ObjectInfo] = {}
    for pack_id, info in _Listing(repository.packs(), len(needed)):
        if pack_id in needed:
            found[pack_id] = info
            if len(found) == len(needed):
                break
    return found


class Tombstones:
    """Which packs will be deleted: a new version must not rely on them.

    All are listed if they are few. Of many only those of *needed* packs are looked up, at once; any other pack that is
    asked for later costs one look then, by its first asker.
    """

    def __init__(self, repository: Repository, needed: Collection[bytes]) -> None:
        """Look now."""
        self._repository = repository
        listing = _Listing(repository.listed_tombstones(), len(needed))
        self._marked = {pack_id for pack_id, _ in listing}
        self._last = listing.last
        later = {pack_id: names.tombstone(pack_id) for pack_id in needed if self._is_behind(pack_id)}
        self._looked = dict.fromkeys(later, False) | dict.fromkeys(_look_at(repository, later), True)

    def __contains__(self, pack_id: object) -> bool:
        """Return whether the pack has a tombstone."""
        if not isinstance(pack_id, bytes) or not self._is_behind(pack_id):
            return pack_id in self._marked
        if pack_id not in self._looked:
            self._looked[pack_id] = bool(_look_at(self._repository, {pack_id: names.tombstone(pack_id)}))
        return self._looked[pack_id]

    def _is_behind(self, pack_id: bytes) -> bool:
        """Return whether the listing ended before it could show the pack's tombstone."""
        return self._last is not None and pack_id > self._last


class _Listing:
    """Packs with what a listing says of them, as far as it pays to list for so many that are needed."""

    def __init__(self, listed: Iterator[tuple[bytes, ObjectInfo]], needed_count: int) -> None:
        self._listed = listed
        self._pages_max = max(1, needed_count // _LOOKS_OF_A_PAGE)
        #: The last one of a listing that did not pay any more; ``None`` if it came to its end.
        self.last: bytes | None = None

    def __iter__(self) -> Iterator[tuple[bytes, ObjectInfo]]:
        for count, (pack_id, info) in enumerate(self._listed, start=1):
            yield pack_id, info
            if count % PAGE_COUNT == 0 and not self._pays(count, pack_id):
                self.last = pack_id
                return

    def _pays(self, count: int, last: bytes) -> bool:
        """Return whether the whole listing is cheap enough, to judge by how far it came among all ids."""
        return (count << _ID_BITS) // (int.from_bytes(last, "big") + 1) <= self._pages_max * PAGE_COUNT


def _look_at(repository: Repository, keys: Mapping[bytes, str]) -> dict[bytes, ObjectInfo]:
    """Return what the store says of these objects, without those that it does not have; several at once."""

    def look(pack_id: bytes) -> ObjectInfo | None:
        try:
            return repository.store.stat(keys[pack_id])
        except NotFound:
            return None

    if not keys:
        return {}
    with ThreadPoolExecutor(min(_AT_ONCE, len(keys)), thread_name_prefix="mlsync-look") as pool:
        infos = list(pool.map(look, keys))
    return {pack_id: info for pack_id, info in zip(keys, infos, strict=True) if info is not None}
