"""Which of the packs that are needed lie in cold storage now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from mlsync.errors import NotFound, ObjectArchived, RepositoryMissing, StoreError
from mlsync.repository import names
from mlsync.repository.ahead import each
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.manifest import Entry, Manifest, refs_of
from mlsync.repository.pack_lookup import look_in_listing
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.store.base import ObjectInfo, Store

# More packs than this are looked up by a listing, as far as that pays.
_STATS_MAX: Final = 8
_AT_ONCE: Final = 8
# Its objects freeze one by one, and no listing says which.
_SILENT_CLASS: Final = "INTELLIGENT_TIERING"


@dataclass(frozen=True, slots=True)
class ColdPack:
    """A pack that cannot be read now; *is_thawing*: the store was asked for it already."""

    pack_id: bytes
    size_bytes: int
    storage_class: str
    is_thawing: bool

    @property
    def key(self) -> str:
        """Its name in the store."""
        return names.pack(self.pack_id)


def cold_packs(repository: Repository, packs: Iterable[bytes]) -> list[ColdPack]:
    """Return those of *packs* that cannot be read now, by name; of a pack that was moved, those to which it was.

    Each one that a listing calls archived is asked about by itself: some servers list what is thawed as archived. What
    a mirror can give at once, where the store has mirrors, is not counted: it is read there.
    """
    if not repository.store.may_freeze or not (needed := set(packs)):
        return []
    seen: set[bytes] = set()
    found: dict[bytes, ObjectInfo] = {}
    while needed:
        seen |= needed
        infos = dict(_infos(repository, needed))
        found.update(infos)
        moved = (repository.moves.of(pack_id) for pack_id in needed - infos.keys())
        needed = {new for one in moved if one is not None for new in one.packs} - seen
    archived = [
        ColdPack(pack_id, info.size_bytes, info.storage_class, info.is_thawing)
        for pack_id, info in sorted(found.items())
        if info.is_archived
    ]
    return _truly_cold(repository, _not_in_mirrors(repository, archived))


def _truly_cold(repository: Repository, packs: list[ColdPack]) -> list[ColdPack]:
    """Return the packs whose class the store does not read: for some servers the names of AWS's classes are labels.

    One byte of one pack tells, which costs a request for each class.
    """
    first = {pack.storage_class: pack for pack in reversed(packs) if not pack.is_thawing}
    labels = {name for name, pack in first.items() if _can_be_read(repository.store, pack)}
    return [pack for pack in packs if pack.storage_class not in labels]


def _can_be_read(store: Store, pack: ColdPack) -> bool:
    try:
        # The last one: a mirror whose pack is cut short must not answer for the store.
        store.read(pack.key, max(0, pack.size_bytes - 1), memoryview(bytearray(1)))
    except StoreError:
        return False
    return True


def _not_in_mirrors(repository: Repository, packs: list[ColdPack]) -> list[ColdPack]:
    """Return the packs that no mirror of the store can give now."""
    for mirror in repository.store.mirrors() if packs else ():
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mlsync-cold") as pool:
            packs = [
                pack for pack, has_it in zip(packs, pool.map(partial(_has, mirror), packs), strict=True) if not has_it
            ]
    return packs


def _has(mirror: Store, pack: ColdPack) -> bool:
    try:
        info = mirror.stat(pack.key)
    except (StoreError, RepositoryMissing):
        return False
    return info.size_bytes == pack.size_bytes and not info.is_archived


def packs_of(manifest: Manifest) -> set[bytes]:
    """Return the packs that the files of a version need."""
    return {ref.pack for ref in refs_of(manifest.entries)}


def packs_of_list(stored: StoredVersion) -> set[bytes]:
    """Return the packs in which a version's own list of files lies; most versions have it in the manifest."""
    return {ref.pack for ref in segment_refs(stored.root, stored.key)}


def refuse_cold(repository: Repository, manifest: Manifest, entries: Iterable[Entry] | None = None) -> None:
    """Raise ``ObjectArchived``, which names all cold packs of a version, before any of the others is read.

    With *entries* only what these need counts.
    """
    wanted = manifest.entries if entries is None else entries
    cold = cold_packs(repository, {ref.pack for ref in refs_of(wanted)})
    if cold:
        packs = "1 pack" if len(cold) == 1 else f"{len(cold)} packs"
        what = f"{packs} of version {manifest.root.number} of run {manifest.root.run!r} must be thawed first"
        raise ObjectArchived(what, where=", ".join(pack.key for pack in cold))


def named_packs(error: ObjectArchived) -> set[bytes]:
    """Return the packs that an error names."""
    parsed = map(names.parse_pack, (error.where or "").split(", "))
    return {pack_id for pack_id in parsed if pack_id is not None}


def _infos(repository: Repository, needed: set[bytes]) -> Iterator[tuple[bytes, ObjectInfo]]:
    """Yield what the store says of those of *needed* that it has."""
    doubtful = set(needed)
    if len(needed) > _STATS_MAX:
        for pack_id, info in look_in_listing(repository, needed).items():
            if not info.is_archived and info.storage_class != _SILENT_CLASS:
                doubtful.remove(pack_id)
                yield pack_id, info
    asking = sorted(doubtful)
    for pack_id, asked in zip(asking, each(partial(_stat, repository), asking), strict=True):
        if asked is not None:
            yield pack_id, asked


def _stat(repository: Repository, pack_id: bytes) -> ObjectInfo | None:
    try:
        return repository.store.stat(names.pack(pack_id))
    except NotFound:
        return None
