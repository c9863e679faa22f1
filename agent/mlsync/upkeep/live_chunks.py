"""Which chunks of which packs versions need, in a bit for each: a repository has millions of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.history.move import STEPS_MAX
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.repository import Repository, StoredVersion


@dataclass(slots=True)
class Flattening:
    """What it takes that no difference needs the bases in a pack: *users* are the packs of these differences.

    Stored without their bases, the differences are *added_bytes* longer.
    """

    users: set[bytes] = field(default_factory=set)
    added_bytes: int = 0


class LiveChunks:
    """The chunks that some versions need, where they lie now.

    *ordinals* has a bit for each needed chunk of a pack, *sizes* their sealed length, *epochs* that of the pack's key,
    and *steps* how many move records lead there at most. *own_sizes* counts only chunks that versions need for
    themselves, and not only as bases of differences. *flattenings* are of packs with bases, and *bases* says by name
    where these lie. Of a pack with differences, *added_sizes* is how much longer they are without bases, and
    *base_sizes* how long their bases are. *idle* packs have nothing but bases of differences that were moved.
    """

    def __init__(self, repository: Repository, moved: Collection[bytes]) -> None:
        """Follow the records of the *moved* packs, all those under whose ids there is an object."""
        self.ordinals: dict[bytes, int] = {}
        self.sizes: dict[bytes, int] = {}
        self.epochs: dict[bytes, int] = {}
        self.steps: dict[bytes, int] = {}
        self.own_sizes: dict[bytes, int] = defaultdict(int)
        self.flattenings: dict[bytes, Flattening] = defaultdict(Flattening)
        self.bases: dict[bytes, ChunkRef] = {}
        self.added_sizes: dict[bytes, int] = defaultdict(int)
        self.base_sizes: dict[bytes, int] = defaultdict(int)
        self._own: dict[bytes, int] = {}
        self._named: dict[bytes, int] = {}
        self._repository = repository
        self._moved = moved
        self._is_there: dict[bytes, bool] = {}

    @property
    def idle(self) -> dict[bytes, int]:
        """Packs that versions name and of which they need nothing, with the epochs of their keys."""
        return {pack: epoch for pack, epoch in self._named.items() if pack not in self.ordinals}

    def add_version(self, stored: StoredVersion, entries: Iterable[Entry]) -> None:
        """Add every chunk of a version: of its list of files, and of its *entries*."""
        self.add(segment_refs(stored.root, stored.key))
        self.add(ref for entry in entries for ref in entry.chunks)

    def add(self, refs: Iterable[ChunkRef]) -> None:
        """Add chunks and their bases. Of one that was moved, both places count: the old pack may be there still."""
        for ref in refs:
            self._add_places(ref, is_own=True)
            if ref.base is None:
                continue
            if self._needs_base(ref):
                self._add_places(ref.base, is_own=False)
            else:
                self._named[ref.base.pack] = ref.base.epoch

    def _needs_base(self, ref: ChunkRef) -> bool:
        """Return whether the difference is read with its base: always, unless its pack was moved and is gone."""
        if ref.pack not in self._moved:
            return True
        if ref.pack not in self._is_there:
            # Not by a listing, which may lack it: whoever finds the pack reads the base.
            self._is_there[ref.pack] = self._repository.has_pack(ref.pack)
        return self._is_there[ref.pack] or self._repository.moves.next_place(ref) is None

    def _add_places(self, ref: ChunkRef, *, is_own: bool) -> None:
        self._add(ref, 0, is_own=is_own)
        place, steps = ref, 0
        while place.pack in self._moved and steps < STEPS_MAX:
            found = self._repository.moves.next_place(place)
            if found is None:
                break
            place, steps = found, steps + 1
            self._add(place, steps, is_own=is_own)

    def _add(self, ref: ChunkRef, steps: int, *, is_own: bool) -> None:
        bit = 1 << ref.ordinal
        known = self.ordinals.get(ref.pack, 0)
        if not known & bit:
            self.ordinals[ref.pack] = known | bit
            self.epochs[ref.pack] = ref.epoch
            self.sizes[ref.pack] = self.sizes.get(ref.pack, 0) + ref.stored_bytes
            if ref.base is not None:
                self._add_difference(ref, ref.base)
        if is_own and not self._own.get(ref.pack, 0) & bit:
            self._own[ref.pack] = self._own.get(ref.pack, 0) | bit
            self.own_sizes[ref.pack] += ref.stored_bytes
        if steps > self.steps.get(ref.pack, 0):
            self.steps[ref.pack] = steps

    def _add_difference(self, ref: ChunkRef, base: ChunkRef) -> None:
        self.bases.setdefault(base.name, base)
        added_bytes = max(0, base.stored_bytes - ref.stored_bytes)
        self.added_sizes[ref.pack] += added_bytes
        self.base_sizes[ref.pack] += base.stored_bytes
        flattening = self.flattenings[base.pack]
        flattening.users.add(ref.pack)
        flattening.added_bytes += added_bytes
