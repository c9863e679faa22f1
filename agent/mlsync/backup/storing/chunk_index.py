"""The chunk index: where chunks already lie, by the run's last version and by what the local state remembers."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from mlsync.backup.files_cache import decode_location
from mlsync.backup.storing.avoided import Avoided
from mlsync.repository.manifest import ChunkRef, with_bases
from mlsync.repository.repository import Repository
from mlsync.source.state import State


class ChunkIndex:
    """The writer asks it for each chunk. It asks the store for packs that only the local state knows.

    *tombstones* are packs that are about to be deleted. A new version relies on none of these, nor on *avoided* packs.
    """

    def __init__(
        self,
        parent: Mapping[bytes, ChunkRef],
        state: State,
        repository: Repository,
        avoided: Avoided,
        tombstones: Container[bytes],
    ) -> None:
        self._parent = parent
        self._parent_packs = {ref.pack for ref in with_bases(parent.values())}
        self._state = state
        self._repository = repository
        self._unfit = avoided.lost | avoided.cold
        self._tombstones = tombstones
        self._unmoved: set[bytes] = set()
        self._exists: dict[bytes, bool] = {}
        # What this backup stores itself is known to its writer.
        self._is_empty = not parent and not state.has_chunks()
        self._written: set[bytes] = set()

    def __call__(self, name: bytes) -> ChunkRef | None:
        """Return where the chunk *name* lies, unless a new version must not rely on its pack."""
        return self._unless_unfit(self._known(name))

    def all_of(self, names: Sequence[bytes]) -> dict[bytes, ChunkRef]:
        """Return the same for many chunks, with one question to the local state; what lies nowhere is left out."""
        if self._is_empty:
            return {}
        unknown = [name for name in names if name not in self._parent]
        locations = self._state.chunks(unknown)
        if len(unknown) == len(names) and not locations:
            return {}
        found = {}
        for name in names:
            ref = self._parent.get(name) or self._located(locations.get(name))
            if ref is not None and ref.name == name and self._unless_unfit(ref) is not None:
                found[name] = ref
        return found

    def usable(self, name: bytes) -> ChunkRef | None:
        """Return the same for what is not looked at again before the commit: no chunk that was moved elsewhere."""
        ref = self._known(name)
        return ref if ref is not None and self.may_use(ref) else None

    def _known(self, name: bytes) -> ChunkRef | None:
        ref = self._parent.get(name)
        if ref is None:
            ref = self._located(self._state.chunk(name))
        return ref if ref is not None and ref.name == name else None

    def may_use(self, ref: ChunkRef) -> bool:
        """Return whether a new version may rely on the pack of *ref*, as far as is known."""
        if ref.base is not None and not self.may_use(ref.base):
            return False
        # A pack of an epoch that is not known here could not be read back.
        if ref.pack in self._unfit or ref.epoch > self._repository.keys.epoch:
            return False
        return ref.pack not in self._tombstones

    def add_written(self, packs: Iterable[bytes]) -> None:
        """Note that this backup wrote these packs."""
        self._written.update(packs)

    def is_old(self, ref: ChunkRef) -> bool:
        """Return whether this backup did not write the chunk there."""
        return ref.pack not in self._written

    def _unless_unfit(self, ref: ChunkRef | None) -> ChunkRef | None:
        return ref if ref is not None and (self.may_use(ref) or self._is_moved(ref)) else None

    def _is_moved(self, ref: ChunkRef) -> bool:
        """Return whether a chunk of a pack that will be deleted was moved; before the commit it gets its new place.

        A pack without a record is asked for once.
        """
        if ref.pack in self._unfit or ref.pack in self._unmoved:
            return False
        place = self._repository.moves.last_place(ref, lambda pack: pack not in self._tombstones)
        if place is None:
            self._unmoved.add(ref.pack)
            return False
        # The pack of a difference may stay while that of its base goes.
        has_base = place.base is None or self.may_use(place.base) or self._is_moved(place.base)
        return place.pack not in self._unfit and has_base

    def _located(self, location: bytes | None) -> ChunkRef | None:
        """Return where a chunk lies by the local state, if the store has that pack; it asks for each pack once."""
        ref = decode_location(location) if location is not None else None
        return ref if ref is not None and all(map(self._has_pack, with_bases([ref]))) else None

    def _has_pack(self, ref: ChunkRef) -> bool:
        if ref.pack in self._parent_packs:
            return True
        if ref.pack not in self._exists:
            self._exists[ref.pack] = self._repository.has_pack(ref.pack)
        return self._exists[ref.pack]
