"""Which chunks of which packs versions need, in a bit for each: a repository has millions of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.history.move import STEPS_MAX
from mlsync.repository.manifest import ChunkRef, refs_of
from mlsync.repository.repository import Repository, StoredVersion


class LiveChunks:
    """The chunks that some versions need, where they lie now.

    *ordinals* has a bit for each needed chunk of a pack, *sizes* their sealed length, *epochs* that of the pack's key,
    and *steps* how many move records lead there at most.
    """

    def __init__(self, repository: Repository, moved: Collection[bytes]) -> None:
        """Follow the records of the *moved* packs, all those under whose ids there is an object."""
        self.ordinals: dict[bytes, int] = {}
        self.sizes: dict[bytes, int] = {}
        self.epochs: dict[bytes, int] = {}
        self.steps: dict[bytes, int] = {}
        self._repository = repository
        self._moved = moved

    def add_version(self, stored: StoredVersion) -> None:
        """Add every chunk of a version: of its files, and of its list of files. Raise what reading it raises."""
        self.add(segment_refs(stored.root, stored.key))
        self.add(refs_of(self._repository.entries(stored)))

    def add(self, refs: Iterable[ChunkRef]) -> None:
        """Add chunks. Of one that was moved, both places count: the old pack may be there still."""
        for ref in refs:
            self._add(ref, 0)
            place, steps = ref, 0
            while place.pack in self._moved and steps < STEPS_MAX:
                found = self._repository.moves.next_place(place)
                if found is None:
                    break
                place, steps = found, steps + 1
                self._add(place, steps)

    def _add(self, ref: ChunkRef, steps: int) -> None:
        bit = 1 << ref.ordinal
        known = self.ordinals.get(ref.pack, 0)
        if not known & bit:
            self.ordinals[ref.pack] = known | bit
            self.epochs[ref.pack] = ref.epoch
            self.sizes[ref.pack] = self.sizes.get(ref.pack, 0) + ref.stored_bytes
        if steps > self.steps.get(ref.pack, 0):
            self.steps[ref.pack] = steps
