"""Whether the store has the packs that a version relies on: checked before a commit and right after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Final

import msgspec

from mlsync.errors import Damage, FormatUnsupported, NotFound, ObjectArchived, ObjectDamaged, ObjectMissing
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.pack import TRAILER_BYTES
from mlsync.repository.pack_lookup import look_up
from mlsync.repository.repository import Repository

_KNOWN: Final = "a pack that earlier versions or the local state knew is"


def refuse_lost(repository: Repository, refs: Iterable[ChunkRef], tombstones: Container[bytes]) -> None:
    """Raise ``ObjectMissing`` or ``ObjectDamaged`` for a pack of *refs* that is gone, cut short or about to be deleted.

    *tombstones* were looked up before: a prune deletes a pack first, and then its tombstone.
    """
    _Packs(repository, tombstones).check(refs)


def new_places(
    repository: Repository,
    refs: Iterable[ChunkRef],
    tombstones: Container[bytes],
    is_old: Callable[[ChunkRef], bool] = lambda _ref: True,
) -> dict[ChunkRef, ChunkRef]:
    """Return where those of *refs* and of their bases lie now whose packs were moved.

    Raise the same errors for what was not. Those that are not *is_old* were written just now. Only a pack that is gone
    or about to be deleted is asked for: without any, this makes no call more.
    """
    packs, chunks = _Packs(repository, tombstones), list(refs)
    places = packs.places(filter(is_old, chunks))
    # A difference that was moved lies elsewhere without a base, which may be gone.
    bases = dict.fromkeys(ref.base for ref in chunks if ref.base is not None and ref not in places)
    return places | packs.places(filter(is_old, bases))


def placed(ref: ChunkRef, places: Mapping[ChunkRef, ChunkRef]) -> ChunkRef:
    """Return the reference to the same chunk with the new *places* of it and of its base."""
    if ref in places or ref.base is None:
        return places.get(ref, ref)
    return msgspec.structs.replace(ref, base=places.get(ref.base, ref.base))


def read_moved(repository: Repository, places: Mapping[ChunkRef, ChunkRef], advance: Callable[[int], None]) -> None:
    """Read chunks at their new *places*; raise ``ObjectMissing``, of the old pack, for one that is not there.

    The old packs will be deleted. Whoever has the master key can make a record that lies, and a version must not rely
    on what nobody has read.
    """
    with repository.reader() as reader:
        try:
            for plain in reader.stream(sorted(set(places.values()), key=lambda ref: (ref.pack, ref.offset))):
                advance(len(plain))
        except (Damage, ObjectArchived, FormatUnsupported) as error:
            at_fault = (old.pack for old, place in places.items() if names.pack(place.pack) == error.where)
            pack_id = next(at_fault, next(iter(places)).pack)
            what = f"{_KNOWN} moved, and not to where its record says: {error.what}"
            raise ObjectMissing(what, where=names.pack(pack_id)) from error


class _Packs:
    """The packs of the store, as far as a version needs them."""

    def __init__(self, repository: Repository, tombstones: Container[bytes]) -> None:
        self._repository = repository
        self._tombstones = tombstones
        self._sizes: dict[bytes, int | None] = {}

    def check(self, refs: Iterable[ChunkRef]) -> None:
        for pack_id, needed in self._by_pack(refs).items():
            error = self._fault(pack_id, needed)
            if error is not None:
                raise error

    def places(self, refs: Iterable[ChunkRef]) -> dict[ChunkRef, ChunkRef]:
        places: dict[ChunkRef, ChunkRef] = {}
        for pack_id, needed in self._by_pack(refs).items():
            error = self._fault(pack_id, needed)
            if error is None:
                continue
            for ref in needed:
                place = None if self._is_usable(pack_id) else self._repository.moves.last_place(ref, self._is_usable)
                if place is None or self._fault(place.pack, [place]) is not None:
                    raise error
                places[ref] = place
        return places

    def _by_pack(self, refs: Iterable[ChunkRef]) -> dict[bytes, list[ChunkRef]]:
        found: dict[bytes, list[ChunkRef]] = defaultdict(list)
        for ref in refs:
            found[ref.pack].append(ref)
        unknown = found.keys() - self._sizes.keys()
        infos = look_up(self._repository, unknown)
        self._sizes.update((one, infos[one].size_bytes if one in infos else None) for one in unknown)
        return found

    def _fault(self, pack_id: bytes, needed: list[ChunkRef]) -> ObjectMissing | ObjectDamaged | None:
        where, is_marked, size_bytes = names.pack(pack_id), pack_id in self._tombstones, self._size(pack_id)
        if size_bytes is None:
            return ObjectMissing(f"{_KNOWN} gone", where=where)
        if size_bytes < max(ref.offset + ref.stored_bytes for ref in needed) + TRAILER_BYTES:
            return ObjectDamaged(f"{_KNOWN} cut short", where=where)
        if is_marked:
            return ObjectMissing(f"{_KNOWN} to be deleted", where=where)
        return None

    def _is_usable(self, pack_id: bytes) -> bool:
        # In this order, as both may be asked of the store now.
        return pack_id not in self._tombstones and self._size(pack_id) is not None

    def _size(self, pack_id: bytes) -> int | None:
        if pack_id not in self._sizes:
            try:
                self._sizes[pack_id] = self._repository.store.stat(names.pack(pack_id)).size_bytes
            except NotFound:
                self._sizes[pack_id] = None
        return self._sizes[pack_id]
