"""Where chunks already lie: in the run's last version, or somewhere that the local state remembers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from mlsync.backup.avoided import Avoided
from mlsync.backup.files_cache import decode_location
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.repository import Repository
from mlsync.source.state import State


class Known:
    """Asked by the writer for each chunk; keeps apart what only the local state vouches for.

    *tombstones* are packs that are about to be deleted: none of these is relied on, and none of the *avoided*.
    """

    def __init__(
        self,
        base: Mapping[bytes, ChunkRef],
        state: State,
        repository: Repository,
        avoided: Avoided,
        tombstones: AbstractSet[bytes],
    ) -> None:
        self.lost: AbstractSet[bytes] = avoided.lost
        self._base = base
        self._base_packs = {ref.pack for ref in base.values()}
        self._state = state
        self._repository = repository
        self._avoid = avoided.lost | avoided.cold | tombstones
        self._is_there: dict[bytes, bool] = {}
        self._fresh: set[bytes] = set()

    def __call__(self, name: bytes) -> ChunkRef | None:
        """Return where the chunk *name* lies, unless its pack is not to be relied on."""
        ref = self._base.get(name)
        if ref is None:
            ref = self._remembered(name)
        if ref is None or ref.name != name or not self.may_use(ref):
            return None
        return ref

    def may_use(self, ref: ChunkRef) -> bool:
        """Whether a new version may rely on the pack of *ref*, as far as is known."""
        return ref.pack not in self._avoid

    def is_lost(self, entry: Entry) -> bool:
        """Whether some of the file cannot be had from the store any more."""
        return bool(self.lost) and any(ref.pack in self.lost for ref in entry.chunks)

    def wrote(self, packs: Iterable[bytes]) -> None:
        """Say that these packs were made by this backup."""
        self._fresh.update(packs)

    def old_refs(self, refs: Iterable[ChunkRef]) -> list[ChunkRef]:
        """Return those of *refs* that this backup did not write."""
        return [ref for ref in refs if ref.pack not in self._fresh]

    def foreign_refs(self, refs: Iterable[ChunkRef]) -> list[ChunkRef]:
        """Return those of *refs* that neither this backup wrote nor the last version keeps alive."""
        return [ref for ref in refs if ref.pack not in self._fresh and ref.pack not in self._base_packs]

    def _remembered(self, name: bytes) -> ChunkRef | None:
        """Return where the local state says that the chunk lies, if that pack is there: each is asked for once."""
        location = self._state.chunk(name)
        ref = decode_location(location) if location is not None else None
        if ref is None or ref.pack in self._base_packs:
            return ref
        if ref.pack not in self._is_there:
            self._is_there[ref.pack] = self._repository.has_pack(ref.pack)
        return ref if self._is_there[ref.pack] else None
