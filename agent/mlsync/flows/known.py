"""Where chunks already lie: in the run's last version, or somewhere that the local state remembers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlsync.flows.recall import decode_location
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.source.state import State


class Known:
    """Asked by the writer for each chunk; keeps apart what only the local state vouches for."""

    def __init__(self, base: Mapping[bytes, ChunkRef], state: State, avoid: set[bytes]) -> None:
        self._base = base
        self._base_packs = {ref.pack for ref in base.values()}
        self._state = state
        self._avoid = avoid
        self._fresh: set[bytes] = set()

    def __call__(self, name: bytes) -> ChunkRef | None:
        """Return where the chunk *name* lies, unless its pack is lost or about to be deleted."""
        ref = self._base.get(name)
        if ref is None:
            location = self._state.chunk(name)
            ref = decode_location(location) if location is not None else None
        if ref is None or ref.name != name or ref.pack in self._avoid:
            return None
        return ref

    def wrote(self, packs: Iterable[bytes]) -> None:
        """Say that these packs were made by this backup."""
        self._fresh.update(packs)

    def foreign_packs(self, refs: Iterable[ChunkRef]) -> set[bytes]:
        """Return the packs of *refs* that neither this backup wrote nor the last version keeps alive."""
        return {ref.pack for ref in refs} - self._base_packs - self._fresh


def refs_of(entries: Iterable[Entry]) -> Iterable[ChunkRef]:
    """Yield the chunks of all entries."""
    return (ref for entry in entries for ref in entry.chunks)
