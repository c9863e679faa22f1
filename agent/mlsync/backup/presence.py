"""Whether the store has the packs that a version relies on: checked before a commit and right after it."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from mlsync.errors import NotFound, ObjectDamaged, ObjectMissing
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.pack import TRAILER_BYTES
from mlsync.repository.repository import Repository

# More packs than this are looked up by a listing, which costs one call per thousand objects instead of one for each.
STATS_MAX: Final = 8


def refuse_lost(repository: Repository, refs: Iterable[ChunkRef], tombstones: AbstractSet[bytes]) -> None:
    """Raise ``ObjectMissing`` or ``ObjectDamaged`` for a pack of *refs* that is gone, cut short or about to be deleted.

    A pack that a listing does not show is looked up by name before it counts as gone.
    """
    ends: dict[bytes, int] = {}
    for ref in refs:
        ends[ref.pack] = max(ends.get(ref.pack, 0), ref.offset + ref.stored_bytes)
    listed = dict(_sizes(repository)) if len(ends) > STATS_MAX else {}
    for pack_id, end_bytes in ends.items():
        where = names.pack(pack_id)
        size_bytes = listed.get(pack_id)
        if size_bytes is None:
            size_bytes = _size(repository, pack_id)
        if size_bytes is None:
            raise ObjectMissing("a pack that earlier versions or the local state knew is gone", where=where)
        if size_bytes < end_bytes + TRAILER_BYTES:
            raise ObjectDamaged("a pack that earlier versions or the local state knew is cut short", where=where)
        if pack_id in tombstones:
            raise ObjectMissing("a pack that earlier versions or the local state knew is to be deleted", where=where)


def _sizes(repository: Repository) -> Iterable[tuple[bytes, int]]:
    return ((pack_id, info.size_bytes) for pack_id, info in repository.packs())


def _size(repository: Repository, pack_id: bytes) -> int | None:
    try:
        return repository.store.stat(names.pack(pack_id)).size_bytes
    except NotFound:
        return None
