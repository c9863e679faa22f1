"""Check packs against the references of versions: first by size and footer, then, if asked for, by reading everything.

A check compares references with the pack's own footer before it reports damage: a wrong reference says nothing against
the pack, nor against the versions with the right one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

from mlsync.errors import OF_OBJECT, Error, FormatUnsupported, ObjectArchived
from mlsync.monitor import Monitor, Task
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.pack import TRAILER_BYTES
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository
from mlsync.store.base import ARCHIVED_ADVICE, ObjectInfo
from mlsync.upkeep.faults import Faults
from mlsync.upkeep.references import NUMBER_BYTES, ClaimDigests, References, chunks_of, in_order

_NOT_READ: Final = (FormatUnsupported, ObjectArchived)
_NAMED_MAX: Final = 8

_Tag = TypeVar("_Tag")


class PackCheck:
    """Checks the packs of a repository once, and adds what is wrong to *faults*."""

    def __init__(
        self,
        repository: Repository,
        monitor: Monitor,
        references: References,
        faults: Faults,
        packs: Mapping[bytes, ObjectInfo],
    ) -> None:
        self.read_bytes = 0
        self._repository = repository
        self._monitor = monitor
        self._references = references
        self._faults = faults
        self._packs = packs
        # For packs whose footer was read: the chunks that no version references correctly.
        self._others: dict[bytes, list[ChunkRef]] = {}
        self._false: set[ChunkRef] = set()
        self._reported: set[bytes] = set()
        self._done: set[ChunkRef] = set()
        self._damaged: dict[bytes, dict[ChunkRef, str]] = defaultdict(dict)
        # Where chunks of packs that are gone were moved to.
        self.places: dict[ChunkRef, ChunkRef] = {}

    def check(self, *, read_data: bool) -> None:
        """Compare sizes, and footers if a size or two versions disagree; with *read_data* all footers and all bytes."""
        for pack in self._references.packs.keys() - self._packs.keys():
            self._follow(pack)
        for pack, info in self._packs.items():
            # A listing may not show that an object was restored; with *read_data* trying shows it.
            if info.is_archived and not read_data:
                self._not_read(pack, ObjectArchived("the store lists it as archived", advice=ARCHIVED_ADVICE))
            elif read_data or self._is_doubtful(pack, info.size_bytes):
                self._compare(pack, info.size_bytes)
        if read_data:
            total_bytes = sum(info.size_bytes for info in self._packs.values())
            with self._repository.reader() as reader, self._monitor.task("reading packs", total_bytes) as task:
                self._read_contents(reader, task)
                self._read_rest(reader, task)
                self.read_bytes = reader.read_bytes
            self._note_damaged()

    # ------------------------------------------------------------ moved chunks

    def _follow(self, pack: bytes) -> None:
        """Note where the chunks of a pack that is gone were moved to, as references to the packs that have them now."""
        said, lost = self._references_to(pack), []
        for ref in said:
            place = self._repository.moves.last_place(ref, self._packs.__contains__)
            if place is None:
                lost.append(ref)
                continue
            self.places[ref] = place
            self._references.note(place)
        if len(lost) == len(said):
            self._faults.of_pack(pack, "the pack is missing")
            return
        self._others[pack] = []
        if lost:
            self._faults.of_refs(pack, lost, f"the pack is missing, and {_chunk_list(lost)}: not moved to another one")
            self._false.update(lost)

    # ------------------------------------------------------------ footers

    def _is_doubtful(self, pack: bytes, size_bytes: int) -> bool:
        return pack in self._references.disputed or bool(self._past_the_end(pack, size_bytes))

    def _references_to(self, pack: bytes) -> set[ChunkRef]:
        """Return all references of versions to a pack."""
        return {*self._references.packs.get(pack, {}).values(), *self._references.disputed.get(pack, ())}

    def _past_the_end(self, pack: bytes, size_bytes: int) -> list[ChunkRef]:
        limit_bytes = size_bytes - TRAILER_BYTES
        return [ref for ref in self._references_to(pack) if ref.offset + ref.stored_bytes > limit_bytes]

    def _compare(self, pack: bytes, size_bytes: int) -> None:
        """Compare the references to a pack with its footer."""
        said = self._references_to(pack)
        try:
            stored = self._repository.pack_refs(pack, size_bytes)
        except _NOT_READ as error:
            self._not_read(pack, error)
            return
        except OF_OBJECT as error:
            needed_bytes = max((ref.offset + ref.stored_bytes for ref in said), default=0) + TRAILER_BYTES
            is_short = size_bytes < needed_bytes
            short = f"the pack is cut short: {size_bytes} bytes, its chunks alone need {needed_bytes}"
            self._faults.of_pack(pack, short if is_short else error.what)
            disputed = self._references.disputed.get(pack)
            if disputed:
                chunks = _chunk_list(disputed)
                self._faults.of_refs(pack, disputed, f"versions disagree about {chunks}, and the pack cannot decide")
            return
        false = {ref for ref in said if ref.ordinal >= len(stored) or stored[ref.ordinal] != ref.as_listed}
        if false:
            self._faults.of_refs(pack, false, f"{_chunk_list(false)}: not as versions say")
            self._false |= false
        known = self._references.packs.get(pack, {})
        self._others[pack] = [ref for ref in stored if ref.ordinal not in known or known[ref.ordinal].as_listed != ref]

    def _not_read(self, pack: bytes, error: Error) -> None:
        """Report once that a pack cannot be checked."""
        if pack in self._reported:
            return
        self._reported.add(pack)
        what = "in cold storage" if isinstance(error, ObjectArchived) else "newer"
        advice = f" ({error.advice})" if error.advice is not None else ""
        self._faults.of_pack(pack, f"{what}, not checked: {error.what}{advice}", error)

    # ------------------------------------------------------------ data

    def _read_contents(self, reader: ChunkReader, task: Task) -> None:
        """Read the chunks of files, each once if possible, and compare the files' digests."""
        contents = sorted(content for content in self._references.contents if self._can_be_read(content))
        digesters: dict[int, ClaimDigests] = {}
        left_bytes = [len(content) for content in contents]
        broken: set[int] = set()
        found = ((self._references.ref(number), users) for number, users in in_order(contents))
        planned = ((self.places.get(ref, ref), users) for ref, users in found)
        for ref, users, plain in self._read(reader, planned):
            self._advance(task, ref)
            for index, count in users:
                left_bytes[index] -= NUMBER_BYTES * count
                digester = digesters.get(index)
                if digester is None:
                    digester = digesters[index] = ClaimDigests(self._references.contents[contents[index]])
                if plain is None:
                    broken.add(index)  # its chunk is reported
                else:
                    _feed(digester, plain, count)
                if left_bytes[index] == 0:
                    digests = digesters.pop(index)
                    for claim in () if index in broken else digests.wrong():
                        self._faults.of_content(contents[index], claim)

    def _can_be_read(self, content: bytes) -> bool:
        if not self._others.keys() >= self._references.packs_of(content):
            return False
        if not self._false and not self._references.has_differences:
            return True
        refs = map(self._references.ref, chunks_of(content))
        return all(ref not in self._false and self._has_base(ref) for ref in refs)

    def _has_base(self, ref: ChunkRef) -> bool:
        """Return whether what is said of the chunk's base is right, if it has one that counts."""
        base = ref.base
        if base is None or ref.pack not in self._packs:
            return True
        return base not in self._false and base.pack in self._others

    def _read_rest(self, reader: ChunkReader, task: Task) -> None:
        """Read the other chunks: lists of files, and chunks that no version needs."""
        for pack, info in self._packs.items():
            if pack not in self._others:
                task.advance(info.size_bytes)
                continue
            known = (ref for ref in self._references.packs.get(pack, {}).values() if ref not in self._false)
            # Of a difference whose base cannot be read, and is reported, the seal is opened.
            sound = (ref if self._has_base(ref) else ref.as_listed for ref in known)
            chunks = sorted([*sound, *self._others[pack]], key=lambda ref: ref.offset)
            rest = [ref for ref in chunks if ref not in self._done]
            for ref, _, _ in self._read(reader, ((ref, None) for ref in rest)):
                self._advance(task, ref)
            task.advance(info.size_bytes - sum(ref.stored_bytes for ref in chunks))

    def _advance(self, task: Task, ref: ChunkRef) -> None:
        if ref not in self._done:
            self._done.add(ref)
            task.advance(ref.stored_bytes)

    def _read(
        self, reader: ChunkReader, planned: Iterator[tuple[ChunkRef, _Tag]]
    ) -> Iterator[tuple[ChunkRef, _Tag, memoryview | None]]:
        """Yield *planned* with the chunks' bytes, or with ``None`` for a damaged chunk, which it notes."""
        asked: deque[tuple[ChunkRef, _Tag]] = deque()

        def refs() -> Iterator[ChunkRef]:
            for one in planned:
                asked.append(one)
                yield one[0]

        is_over = False
        while not is_over:
            try:
                for plain in reader.stream(refs()):
                    yield *asked.popleft(), plain
                is_over = True
            except OF_OBJECT:
                # One of the requested chunks is damaged; reading one by one shows which.
                while asked:
                    ref, tag = asked.popleft()
                    yield ref, tag, self._one(reader, ref)

    def _one(self, reader: ChunkReader, ref: ChunkRef) -> memoryview | None:
        # A base that is damaged says nothing against the differences from it.
        if ref.base is not None and ref.base.is_placed and self._one(reader, ref.base) is None:
            return None
        try:
            return memoryview(reader.one(ref))
        except _NOT_READ as error:
            self._not_read(ref.pack, error)
        except OF_OBJECT as error:
            self._damaged[ref.pack][ref] = error.what
        return None

    def _note_damaged(self) -> None:
        for pack, damaged in self._damaged.items():
            first = next(iter(damaged.values()))
            self._faults.of_refs(
                pack, damaged, first if len(damaged) == 1 else f"{_chunk_list(damaged)}, such as: {first}"
            )


def _feed(digester: ClaimDigests, plain: memoryview, count: int) -> None:
    for _ in range(count):
        digester.update(plain)


def _chunk_list(refs: Iterable[ChunkRef]) -> str:
    ordinals = sorted({ref.ordinal for ref in refs})
    if len(ordinals) == 1:
        return f"chunk {ordinals[0]}"
    shown = ", ".join(map(str, ordinals[:_NAMED_MAX]))
    more = len(ordinals) - _NAMED_MAX
    return f"chunks {shown}{f' and {more} more' if more > 0 else ''}"
