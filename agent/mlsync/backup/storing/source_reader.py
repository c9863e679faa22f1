"""Read back what is new, and take from the source what came back from the store before.

A changed checkpoint mostly shares chunks with an older version. They came back from the store when they were proved
there, and the source still has their plain bytes, so nothing is fetched a second time. What was stored and never read
back (by a backup that was cut off, or that was to prove later) comes from the store now.

A node that writes and cannot read has no key for the packs that it wrote in an earlier process. There the source is the
only place for their chunks. That the packs are still there is looked at before the commit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

from mlsync.backup.files_cache import FilesCache
from mlsync.backup.parents.parent import Parent
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.courtesy.pressure import PACE
from mlsync.errors import WriteOnly
from mlsync.repository import names
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import ChunkRef, Entry, with_bases
from mlsync.repository.pack_lookup import look_at_each
from mlsync.repository.reader import ChunkReader, ReadBase
from mlsync.repository.repository import Repository
from mlsync.source.root import Root
from mlsync.values import Level, Proof
from mlsync.versions.stored_file import parts_of

#: Returns where the source may have the chunk of a name: in which file, from which offset on.
PlaceOf: TypeAlias = Callable[[bytes], tuple[bytes, int] | None]
# Of one read; the kernel takes no more pieces than this.
_PIECES_MAX: Final = 1024


def came_back(entries: Iterable[Entry], parent: Parent, cache: FilesCache, repository: Repository) -> set[ChunkRef]:
    """Return which chunks of *entries* came back from the store, from where these say that they lie, and can again.

    The parent's proofs say it of checkpoints, and the files cache of other files. What the local state alone knows, as
    of an upload that was cut off, has never been read.
    """
    if not (parent.entries or cache.files):
        return set()
    wanted = {ref for entry in entries for ref in entry.chunks}
    found = {ref for entry in _read_back(parent, cache) for ref in entry.chunks if ref in wanted}
    if found and repository.store.may_freeze:
        # A store that has moved a pack to cold storage has to say so, or changed files would rely on it unnoticed.
        infos = look_at_each(repository, {ref.pack for ref in with_bases(found)})
        warm = {pack for pack, info in infos.items() if not info.is_archived}
        found = {ref for ref in found if all(one.pack in warm for one in with_bases([ref]))}
    return found


def _read_back(parent: Parent, cache: FilesCache) -> Iterator[Entry]:
    yield from (entry for entry in parent.entries.values() if entry.proof is not None and _is_of_bytes(entry.proof))
    yield from (one.entry for one in cache.files.values() if one.row.came_back and one.entry is not None)


def _is_of_bytes(proof: Proof) -> bool:
    """Return whether the bytes were read back for it; a proof that was put off has no level, and says why."""
    return not proof.is_broken and (proof.level > Level.BYTES or not proof.shortfall)


class PlacesIn:
    """Where the files of *entries* have chunks, by name: those of *wanted* alone, or all if that is ``None``.

    They are listed when the first is asked for.
    """

    def __init__(self, entries: Sequence[Entry], wanted: AbstractSet[ChunkRef] | None = None) -> None:
        self._entries = entries
        self._wanted = wanted

    def __call__(self, name: bytes) -> tuple[bytes, int] | None:
        """Return the path of a file and the offset in it."""
        return self._places.get(name)

    @cached_property
    def _places(self) -> dict[bytes, tuple[bytes, int]]:
        return dict(_places_in(self._entries, None if self._wanted is None else {ref.name for ref in self._wanted}))


class SourceReader(ChunkReader):
    """Reads from the source which chunks *came_back* and what this process cannot open, and the rest from the store.

    *place_of* says by name where the source may have a chunk. Every byte is compared with the chunk's name. Of what the
    source has no more, the store has what came back; for the rest ``WriteOnly`` names the pack. A difference that this
    process stored is read back with its base, which *read_base* has to have at hand unless this process opens that too.
    """

    def __init__(
        self,
        repository: Repository,
        came_back: AbstractSet[ChunkRef],
        place_of: PlaceOf,
        root: Root,
        read_base: ReadBase | None = None,
    ) -> None:
        nearer = _Source(repository, came_back, place_of, root).fill
        super().__init__(repository.store, repository.keys, read_base=read_base, nearer=nearer)


class _Place(NamedTuple):
    """Where the source has a chunk: in the file *path*, from *offset* on."""

    path: bytes
    offset: int
    ref: ChunkRef

    @property
    def end(self) -> int:
        return self.offset + self.ref.plain_bytes


class _Source:
    """The files of the source, as far as they have chunks; used by several threads."""

    def __init__(self, repository: Repository, came_back: AbstractSet[ChunkRef], place_of: PlaceOf, root: Root) -> None:
        self._repository = repository
        self._own_keys = repository.keys if isinstance(repository.keys, WriteOnlyKeys) else None
        self._came_back = came_back
        self._place_of = place_of
        self._root = root

    def fill(self, refs: Iterable[ChunkRef], memory_of: Callable[[ChunkRef], memoryview]) -> set[ChunkRef]:
        """Fill the memory of those of *refs* that the source has; return them."""
        if not self._came_back and self._own_keys is None:
            return set()
        wanted = [ref for ref in refs if ref in self._came_back or self._is_closed(ref)]
        places = [_Place(*place, ref) for ref in wanted if (place := self._place_of(ref.name)) is not None]
        places.sort(key=attrgetter("path", "offset"))
        filled: set[ChunkRef] = set()
        for path, of_file in groupby(places, key=attrgetter("path")):
            filled.update(self._fill_from(path, of_file, memory_of))
        for ref in wanted:
            if ref not in filled and self._is_closed(ref):
                what = "this node cannot open what it stored before, and the source has something else by now"
                raise WriteOnly(what, where=names.pack(ref.pack))
        return filled

    def _is_closed(self, ref: ChunkRef) -> bool:
        return self._own_keys is not None and self._own_keys.made("pack", ref.pack) is None

    def _fill_from(
        self, path: bytes, places: Iterable[_Place], memory_of: Callable[[ChunkRef], memoryview]
    ) -> list[ChunkRef]:
        """Fill the memory of chunks of one file, neighbours with one call; return those that the file has."""
        try:
            descriptor = self._root.open_file(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return []
        filled: list[ChunkRef] = []
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                for run in _neighbours(places):
                    memories = [memory_of(place.ref) for place in run]
                    if _is_read(descriptor, memories, run[0].offset):
                        pairs = zip(run, memories, strict=True)
                        filled += [one.ref for one, plain in pairs if self._repository.is_chunk(plain, one.ref.name)]
        except OSError:
            pass  # a disk that does not read: the store has what the source has not
        finally:
            os.close(descriptor)
        return filled


def _is_read(descriptor: int, memories: list[memoryview], offset: int) -> bool:
    """Fill *memories* from *offset* on; return whether the file was long enough."""
    size_bytes = sum(map(len, memories))
    with PACE.moving(size_bytes):
        done = os.preadv(descriptor, memories, offset)
    # The kernel may return before all is there: the rest goes piece by piece.
    start = 0
    for memory in memories:
        start += len(memory)
        missing = min(start - done, len(memory))
        while missing > 0:
            count = os.preadv(descriptor, [memory[len(memory) - missing :]], offset + start - missing)
            if count == 0:
                return False
            missing -= count
    return True


def _neighbours(places: Iterable[_Place]) -> Iterator[list[_Place]]:
    """Group sorted places of one file so that each group is one stretch of it."""
    run: list[_Place] = []
    for place in places:
        if run and (run[-1].end != place.offset or len(run) == _PIECES_MAX):
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _places_in(
    entries: Iterable[Entry], wanted: AbstractSet[bytes] | None
) -> Iterator[tuple[bytes, tuple[bytes, int]]]:
    """Yield the name of each chunk, or of each that is *wanted*, with a file that has it, and where in the file."""
    for entry in entries:
        if entry.kind is EntryKind.FILE and (wanted is None or any(ref.name in wanted for ref in entry.chunks)):
            for part in parts_of(entry):
                if part.ref is not None and (wanted is None or part.ref.name in wanted):
                    yield part.ref.name, (entry.path, part.offset)
