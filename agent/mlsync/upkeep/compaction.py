"""Compaction: move what is still needed of mostly dead packs into new packs, so that the old ones can be deleted.

First a plan, which says what it costs and writes nothing. Then pack by pack: the needed chunks are sealed anew, the new
pack is durable and was read back, the move record is in the store and was read back, and only then the old pack gets a
tombstone. Whoever dies in between leaves new packs that nobody names, or an old pack without a tombstone: the next
compaction finishes that. Nothing is deleted here; a pack goes after its grace, if ``releasable`` says so then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

import mlsync
from mlsync.errors import (
    OF_OBJECT,
    AlreadyExists,
    CompactionRefused,
    FormatUnsupported,
    ManifestDamaged,
    NotFound,
    ObjectDamaged,
    Stopped,
)
from mlsync.monitor import Monitor, Task
from mlsync.repository import names
from mlsync.repository.ahead import each
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.features import MOVES, set_feature
from mlsync.repository.history.move import STEPS_MAX, Moves
from mlsync.repository.history.tombstone import Tombstone, make_tombstone
from mlsync.repository.manifest import ChunkRef, with_bases
from mlsync.repository.pack.pack import HEADER_BYTES, TRAILER_BYTES
from mlsync.repository.pack.resealing import PACK_BYTES, Resealer
from mlsync.repository.repository import Repository, StoredVersion, is_no_version, listed_versions
from mlsync.upkeep.lists_ahead import with_entries
from mlsync.upkeep.live_chunks import LiveChunks

#: A pack is moved if less than this share of it is needed: it frees more than it writes.
SHARE: Final = 0.5
# About what a new pack takes beside its chunks, and for each in its footer: a pack of one small chunk is not dead.
_PACK_BYTES: Final = HEADER_BYTES + TRAILER_BYTES + 32
_CHUNK_BYTES: Final = 56


@dataclass(frozen=True, slots=True)
class PackUse:
    """A pack, the epoch of its key, and how much versions need; *ordinals* has a bit for each chunk that they do.

    Its differences take *added_bytes* more once they stand by themselves, and *base_bytes* are read for that.
    """

    pack_id: bytes
    size_bytes: int
    live_bytes: int
    ordinals: int
    epoch: int = 0
    added_bytes: int = 0
    base_bytes: int = 0

    @property
    def share(self) -> float:
        """How much of the pack is needed, up to 1 if nothing can be won."""
        overhead_bytes = _PACK_BYTES + _CHUNK_BYTES * self.ordinals.bit_count()
        return min(1.0, (self.written_bytes + overhead_bytes) / self.size_bytes)

    @property
    def written_bytes(self) -> int:
        """About how much of a new pack its chunks take."""
        return self.live_bytes + self.added_bytes

    @property
    def read_bytes(self) -> int:
        """About how much is read: what is moved, the bases of differences, and all once more from its new place."""
        return self.live_bytes + self.base_bytes + self.written_bytes


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """The *packs* to move, those first that free most for each byte; *unburied* ones are moved and lack a tombstone.

    *cold_count* would be worth it too, and lie in cold storage, from which nothing is read for that. *bases* says by
    name where the bases of differences lie; some *base_bytes* are needed by nobody once the packs are moved.
    """

    packs: tuple[PackUse, ...] = ()
    unburied: tuple[bytes, ...] = ()
    cold_count: int = 0
    bases: Mapping[bytes, ChunkRef] = field(default_factory=dict, repr=False)
    base_bytes: int = 0

    @property
    def read_bytes(self) -> int:
        """About how much is read from the store."""
        return sum(use.read_bytes for use in self.packs)

    @property
    def written_bytes(self) -> int:
        """About how much is written to the store."""
        return sum(use.written_bytes for use in self.packs)

    @property
    def freed_bytes(self) -> int:
        """About how much smaller the store is once the old packs are deleted, and bases that nobody needs any more."""
        return sum(use.size_bytes - use.written_bytes for use in self.packs) + self.base_bytes

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.packs or self.unburied)

    def within(self, limit_bytes: int) -> CompactionPlan:
        """Return the first packs that can be moved with so many bytes read and written."""
        packs: list[PackUse] = []
        for use in self.packs:
            limit_bytes -= use.read_bytes + use.written_bytes
            if limit_bytes < 0:
                break
            packs.append(use)
        return replace(self, packs=tuple(packs))


@dataclass(slots=True)
class Compacted:
    """What a compaction did: packs *moved*, those *left* as they are and why, new packs, and bytes."""

    moved: list[bytes] = field(default_factory=list)
    left: dict[bytes, str] = field(default_factory=dict)
    new_pack_count: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    freed_bytes: int = 0


def plan(
    repository: Repository,
    live: LiveChunks,
    sizes: Mapping[bytes, int],
    tombstones: Collection[bytes],
    moved: Collection[bytes],
    *,
    choose: Callable[[PackUse], bool] = lambda use: use.share < SHARE,
    flatten: bool = True,
) -> CompactionPlan:
    """Return what *choose* would have moved.

    *live* has every version that is kept, *sizes* every pack of the store, *tombstones* those that will be deleted, and
    *moved* those under whose ids is a move record. What nobody needs is not moved: it is deleted without. A pack that
    has a tombstone and was moved under an older key is moved again, whatever *choose* says. With *flatten*, packs with
    differences are moved too whose bases take more than the differences save.
    """
    chosen, unburied = [], []
    flattened, base_bytes = _flattened(live, sizes) if flatten else (set(), 0)
    # Of what is named and not needed, one chunk is moved, so that there is a record: a pack without one is missing.
    idle = dict.fromkeys(live.idle, 0)
    for pack_id, ordinals in (live.ordinals | idle).items():
        size_bytes = sizes.get(pack_id)
        # What an older key said of a move is said anew, for who kept it can have a pack wait for ever otherwise.
        is_doubted = pack_id in moved and repository.moves.may_be_forged(pack_id)
        is_buried = pack_id in tombstones
        if size_bytes is None or (is_buried and not is_doubted):
            continue
        if not is_doubted and pack_id in moved and repository.moves.of(pack_id) is not None:
            unburied.append(pack_id)
            continue
        live_bytes = min(live.sizes.get(pack_id, 0), size_bytes)
        epoch = live.epochs[pack_id] if ordinals else live.idle[pack_id]
        sums = live.added_sizes.get(pack_id, 0), live.base_sizes.get(pack_id, 0)
        use = PackUse(pack_id, size_bytes, live_bytes, ordinals, epoch, *sums)
        # One record more would be one that no reader follows.
        if live.steps.get(pack_id, 0) < STEPS_MAX and (is_buried or pack_id in flattened or choose(use)):
            chosen.append(use)
    chosen.sort(key=lambda use: (use.share, use.pack_id))
    return CompactionPlan(tuple(chosen), tuple(unburied), bases=live.bases, base_bytes=base_bytes)


def _flattened(live: LiveChunks, sizes: Mapping[bytes, int]) -> tuple[set[bytes], int]:
    """Return the packs with differences of which bases take more than they save, and how much these bases take.

    Such bases are in packs of which versions need little but bases: once these are needed by nobody, the packs go.
    """
    packs: set[bytes] = set()
    freed_bytes = 0
    for base_pack, flattening in live.flattenings.items():
        size_bytes = sizes.get(base_pack)
        if size_bytes is None or not flattening.users <= sizes.keys():
            continue
        own_bytes = live.own_sizes.get(base_pack, 0)
        base_bytes = live.sizes.get(base_pack, 0) - own_bytes
        if own_bytes < SHARE * size_bytes and base_bytes > flattening.added_bytes:
            packs |= flattening.users
            freed_bytes += base_bytes
    return packs, freed_bytes


def plan_all(
    repository: Repository, monitor: Monitor, *, choose: Callable[[PackUse], bool] = lambda use: use.share < SHARE
) -> CompactionPlan:
    """Look at every version of the repository, and return what *choose* would have moved; nothing is changed.

    A version whose manifest is damaged is looked at by its copy. Raise what keeps a list of files from being read: what
    it needs must not count as dead.
    """
    live, sizes, moved = look_at_all(repository, monitor)
    planned = plan(repository, live, sizes, repository.tombstones(), moved, choose=choose)
    if not planned.packs or not repository.store.may_freeze:
        return planned
    cold = {pack_id for pack_id, info in repository.packs() if info.is_archived}
    warm = tuple(use for use in planned.packs if use.pack_id not in cold)
    return replace(planned, packs=warm, cold_count=len(planned.packs) - len(warm))


def look_at_all(repository: Repository, monitor: Monitor) -> tuple[LiveChunks, dict[bytes, int], set[bytes]]:
    """Return what all versions need, the sizes of all packs, and those under whose ids is a move record.

    Raise what keeps a list of files from being read.
    """
    moved = set(repository.moves.listed())
    live = LiveChunks(repository, moved)
    listed = listed_versions(repository.store.list(names.VERSIONS))
    keys = [names.version(run_id, one.number) for run_id, one in listed if not one.is_fence]
    with monitor.task("looking at what versions need", len(keys), unit="versions") as task:
        opened = each(lambda key: _opened(repository, key), keys)
        for stored, entries in with_entries(repository, _that_are(opened, task)):
            live.add_version(stored, entries)
            task.advance(1)
    return live, {pack_id: info.size_bytes for pack_id, info in repository.packs()}, moved


def _that_are(found: Iterable[StoredVersion | None], task: Task) -> Iterator[StoredVersion]:
    """Yield those that are versions; the others are done with that."""
    for stored in found:
        if stored is None:
            task.advance(1)
        else:
            yield stored


def _opened(repository: Repository, key: str) -> StoredVersion | None:
    """Return a version, ``None`` for what is none: planted, or removed meanwhile."""
    try:
        return repository.open_version(key)
    except NotFound:
        return None
    except (ManifestDamaged, FormatUnsupported) as error:
        if not is_no_version(error):
            raise
    with suppress(*OF_OBJECT):
        return repository.open_body(key, names.copy_of(key))[0]
    return None


def refuse_above(planned: CompactionPlan, limit_bytes: int) -> None:
    """Raise ``CompactionRefused`` if a plan would read and write more than was allowed."""
    moved_bytes = planned.read_bytes + planned.written_bytes
    if moved_bytes > limit_bytes:
        raise CompactionRefused(f"{moved_bytes} bytes would be read and written, and {limit_bytes} are allowed")


def compact(
    repository: Repository,
    planned: CompactionPlan,
    monitor: Monitor,
    *,
    now_ns: int,
    stop: Callable[[], bool] = lambda: False,
    pack_bytes: int = PACK_BYTES,
) -> Compacted:
    """Carry out a plan: old packs have tombstones afterwards, and a prune deletes them after their grace.

    A pack that cannot be read is left as it is. Raise ``Stopped``, with all that was moved complete, or the store's
    error.
    """
    compaction = _Compaction(repository, planned.bases, burial(repository, now_ns), now_ns)
    for pack_id in planned.unburied:
        compaction.bury_moved(pack_id)
    if planned.packs:
        set_feature(repository.store, repository.keys, MOVES)
        with (
            Resealer(repository.store, repository.keys, pack_bytes=pack_bytes) as resealer,
            monitor.task("moving what is left of packs", planned.written_bytes) as task,
        ):
            for use in planned.packs:
                if stop():
                    break
                compaction.copy(use, resealer)
                task.advance(use.written_bytes)
            resealer.finish()
            compaction.record(resealer)
    if stop():
        raise Stopped("stopped while packs were moved")
    return compaction.result


def burial(repository: Repository, now_ns: int) -> Callable[[bytes], None]:
    """Return what gives a pack its tombstone; one that is there stays."""
    said = Tombstone(now_ns, f"mlsync {mlsync.__version__}")

    def bury(pack_id: bytes) -> None:
        key = names.tombstone(pack_id)
        with suppress(AlreadyExists):
            repository.store.put(key, make_tombstone(repository.keys, key, said))

    return bury


class _Compaction:
    def __init__(
        self, repository: Repository, bases: Mapping[bytes, ChunkRef], bury: Callable[[bytes], None], now_ns: int
    ) -> None:
        self.result = Compacted()
        self._bases = bases
        self._repository = repository
        self._bury = bury
        self._now_ns = now_ns
        # Copied packs, whose chunks may not all be durable yet.
        self._copied: list[tuple[PackUse, list[ChunkRef]]] = []
        self._sound: set[bytes] = set()

    def copy(self, use: PackUse, resealer: Resealer) -> None:
        """Copy what is needed of a pack, and record the packs of which all is durable."""
        try:
            stored = self._repository.pack_refs(use.pack_id, use.size_bytes)
            needed = [ref for ref in stored if use.ordinals >> ref.ordinal & 1]
            if len(needed) < use.ordinals.bit_count():
                raise ObjectDamaged("versions need chunks that the pack does not list")
            needed = needed or [min(stored, key=lambda ref: (ref.base is not None, ref.stored_bytes))]
            self._copied.append((use, resealer.copy([self._with_base(ref) for ref in needed])))
        except OF_OBJECT as error:
            self.result.left[use.pack_id] = error.what
        self.record(resealer)

    def _with_base(self, ref: ChunkRef) -> ChunkRef:
        """Return what a footer lists with the place of its base, as versions say it."""
        if ref.base is None:
            return ref
        base = self._bases.get(ref.base.name)
        if base is None:
            raise ObjectDamaged("versions do not say where the base of a difference lies")
        return msgspec.structs.replace(ref, base=base)

    def record(self, resealer: Resealer) -> None:
        """Store the move record of each pack whose chunks are all durable in new packs."""
        waiting, self._copied = self._copied, []
        for use, places in waiting:
            if all(place.pack in resealer.durable for place in places):
                self._record(use, places, resealer)
            else:
                self._copied.append((use, places))
        awaited = {place.pack for _, places in self._copied for place in places}
        for pack in resealer.durable.keys() - awaited:
            del resealer.durable[pack]
        result = self.result
        result.new_pack_count, result.written_bytes = resealer.pack_count, resealer.written_bytes
        result.read_bytes = resealer.read_bytes

    def _record(self, use: PackUse, places: list[ChunkRef], resealer: Resealer) -> None:
        try:
            self._read_back({place.pack for place in places}, resealer)
            writer = f"mlsync {mlsync.__version__}"
            found = self._repository.moves.add(use.pack_id, places, self._now_ns, writer)
            others = [found.find(place.name) for place in places]
            if None in others:
                raise ObjectDamaged("it was moved before, without what versions need of it now")
            if others != places:
                self._read([ref for ref in others if ref is not None], resealer)
        except OF_OBJECT as error:
            self.result.left[use.pack_id] = error.what
            return
        self._bury(use.pack_id)
        self.result.moved.append(use.pack_id)
        self.result.freed_bytes += use.size_bytes - use.written_bytes

    def _read_back(self, packs: set[bytes], resealer: Resealer) -> None:
        """Read new packs from the store, once: the old bytes are deleted because these are there."""
        for pack in packs - self._sound:
            self._read(resealer.durable[pack], resealer)
            self._sound.add(pack)

    def _read(self, refs: list[ChunkRef], resealer: Resealer) -> None:
        with self._repository.reader() as reader:
            for _ in reader.stream(refs):
                pass
            resealer.read_bytes += reader.read_bytes

    def bury_moved(self, pack_id: bytes) -> None:
        """Give a pack its tombstone whose record is there already."""
        self._bury(pack_id)
        self.result.moved.append(pack_id)


def releasable(
    repository: Repository,
    packs: Collection[bytes],
    versions: Iterable[StoredVersion],
    sizes: Mapping[bytes, int],
    monitor: Monitor,
) -> set[bytes]:
    """Return those of *packs* without which every chunk of the *versions* that are kept can be read all the same.

    Each chunk that lies in one of them must have been moved to a pack that is in *sizes* and is not one of *packs*
    itself, and it is read there: whoever has the master key, an agent on a node that was taken over too, can make a
    record that lies. Ask right before the packs are deleted: a version may have been made since they were moved.
    """
    search = _Release(repository, packs, sizes)
    for stored, entries in with_entries(repository, versions):
        search.add(segment_refs(stored.root, stored.key))
        search.add(ref for entry in entries for ref in entry.chunks)
    return search.free(monitor)


class _Release:
    """What versions need of some packs that are to be deleted."""

    def __init__(self, repository: Repository, packs: Collection[bytes], sizes: Mapping[bytes, int]) -> None:
        self._repository = repository
        # Read anew: what was seen of records before says nothing about the moment at which packs are deleted.
        self._moves = Moves(repository.store, repository.keys)
        self._doomed = frozenset(packs)
        self._sizes = sizes
        self._needed: dict[bytes, dict[bytes, ChunkRef]] = {pack: {} for pack in packs}
        self._held: set[bytes] = set()
        self._found: dict[bytes, bool] = {}

    def add(self, refs: Iterable[ChunkRef]) -> None:
        """Note which chunks versions need; one that has no other place holds its pack."""
        # A base is needed as long as the pack of its difference is there, whether that goes in this very prune or not.
        for ref in with_bases(refs, self._is_there):
            place = self._moves.last_place(ref, self._sizes.__contains__)
            if place is None or place.pack not in self._doomed or place.name in self._needed[place.pack]:
                continue
            new = self._moves.last_place(place, self._stays)
            if new is None:
                self._held.add(place.pack)
            else:
                self._needed[place.pack][place.name] = new

    def _is_there(self, pack: bytes) -> bool:
        """Return whether the store has the pack; a listing that lacks it is not believed."""
        if pack in self._sizes:
            return True
        if pack not in self._found:
            self._found[pack] = self._repository.has_pack(pack)
        return self._found[pack]

    def free(self, monitor: Monitor) -> set[bytes]:
        """Return the packs of which every needed chunk was read elsewhere."""
        waiting = {pack: chunks for pack, chunks in self._needed.items() if pack not in self._held}
        total_bytes = sum(ref.plain_bytes for chunks in waiting.values() for ref in chunks.values())
        free = set()
        with self._repository.reader() as reader, monitor.task("reading what was moved", total_bytes) as task:
            for pack, chunks in waiting.items():
                with suppress(*OF_OBJECT):
                    places = sorted(chunks.values(), key=lambda ref: (ref.pack, ref.offset))
                    for plain in reader.stream(places) if places else ():
                        task.advance(len(plain))
                    free.add(pack)
        return free

    def _stays(self, pack: bytes) -> bool:
        return pack in self._sizes and pack not in self._doomed
