"""Check packs against what versions say of them: first by size and footer, then, where asked for, by reading all of it.

What versions say is compared with the pack's own footer before anything is believed to be damaged: a reference that is
false must not speak against a pack, nor against the versions that have the right one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

import xxhash

from mlsync.codec.digest import file_digester
from mlsync.errors import Damage, Error, FormatUnsupported, NotFound, ObjectArchived
from mlsync.monitor import Monitor, Task
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.pack import TRAILER_BYTES
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository
from mlsync.store.base import ARCHIVED_ADVICE, ObjectInfo
from mlsync.upkeep.faults import Faults
from mlsync.upkeep.references import NUMBER_BYTES, References, chunks_of, in_order

_OF_OBJECT: Final = (Damage, FormatUnsupported, ObjectArchived, NotFound)
_NOT_READ: Final = (FormatUnsupported, ObjectArchived)
_NAMED_MAX: Final = 8

_Tag = TypeVar("_Tag")


class PackCheck:
    """Goes through the packs of a repository, once; what is wrong goes to *faults*."""

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
        # Of packs whose footer was read: the chunks that no version names, or none as they are.
        self._others: dict[bytes, list[ChunkRef]] = {}
        self._false: set[ChunkRef] = set()
        self._closed: set[bytes] = set()
        self._done: set[ChunkRef] = set()
        self._damaged: dict[bytes, dict[ChunkRef, str]] = defaultdict(dict)

    def check(self, *, read_data: bool) -> None:
        """Compare sizes; footers where a size or two versions disagree, or all of them to *read_data*."""
        for pack in self._references.packs.keys() - self._packs.keys():
            self._faults.of_pack(pack, "the pack is missing")
        for pack, info in self._packs.items():
            # A listing may not know what was thawed since; who wants all of it read finds that out by trying.
            if info.is_archived and not read_data:
                self._not_read(pack, ObjectArchived("the store lists it as such", advice=ARCHIVED_ADVICE))
            elif read_data or self._is_doubtful(pack, info.size_bytes):
                self._compare(pack, info.size_bytes)
        if read_data:
            total_bytes = sum(info.size_bytes for info in self._packs.values())
            with self._repository.reader() as reader, self._monitor.task("reading packs", total_bytes) as task:
                self._read_contents(reader, task)
                self._read_rest(reader, task)
                self.read_bytes = reader.read_bytes
            self._note_damaged()

    # ------------------------------------------------------------ footers

    def _is_doubtful(self, pack: bytes, size_bytes: int) -> bool:
        return pack in self._references.disputed or bool(self._beyond(pack, size_bytes))

    def _said(self, pack: bytes) -> set[ChunkRef]:
        """Return all that versions say of a pack's chunks."""
        return {*self._references.packs.get(pack, {}).values(), *self._references.disputed.get(pack, ())}

    def _beyond(self, pack: bytes, size_bytes: int) -> list[ChunkRef]:
        limit_bytes = size_bytes - TRAILER_BYTES
        return [ref for ref in self._said(pack) if ref.offset + ref.stored_bytes > limit_bytes]

    def _compare(self, pack: bytes, size_bytes: int) -> None:
        """Compare what versions say of a pack with what it says itself."""
        said = self._said(pack)
        try:
            stored = self._repository.pack_refs(pack, size_bytes)
        except _NOT_READ as error:
            self._not_read(pack, error)
            return
        except _OF_OBJECT as error:
            needed_bytes = max((ref.offset + ref.stored_bytes for ref in said), default=0) + TRAILER_BYTES
            is_short = size_bytes < needed_bytes
            short = f"the pack is cut short: {size_bytes} bytes, its chunks alone need {needed_bytes}"
            self._faults.of_pack(pack, short if is_short else error.what)
            disputed = self._references.disputed.get(pack)
            if disputed:
                chunks = _chunk_list(disputed)
                self._faults.of_refs(pack, disputed, f"versions disagree about {chunks}, and the pack cannot tell")
            return
        false = {ref for ref in said if ref.ordinal >= len(stored) or stored[ref.ordinal] != ref}
        if false:
            self._faults.of_refs(pack, false, f"{_chunk_list(false)}: not as versions say")
            self._false |= false
        known = self._references.packs.get(pack, {})
        self._others[pack] = [ref for ref in stored if known.get(ref.ordinal) != ref]

    def _not_read(self, pack: bytes, error: Error) -> None:
        """Say once of a pack that it cannot be looked at."""
        if pack in self._closed:
            return
        self._closed.add(pack)
        what = "in cold storage" if isinstance(error, ObjectArchived) else "newer"
        advice = f" ({error.advice})" if error.advice is not None else ""
        self._faults.of_pack(pack, f"{what}, not checked: {error.what}{advice}", error)

    # ------------------------------------------------------------ data

    def _read_contents(self, reader: ChunkReader, task: Task) -> None:
        """Read what files are made of, each chunk once where that can be, and compare the files' digests."""
        contents = sorted(content for content in self._references.contents if self._can_be_read(content))
        digesters: dict[int, xxhash.xxh3_128] = {}
        left_bytes = [len(content) for content in contents]
        broken: set[int] = set()
        planned = ((self._references.ref(number), goers) for number, goers in in_order(contents))
        for ref, goers, plain in self._read(reader, planned):
            self._advance(task, ref)
            for index, count in goers:
                left_bytes[index] -= NUMBER_BYTES * count
                digester = digesters.setdefault(index, file_digester())
                if plain is None:
                    broken.add(index)  # its chunk is named
                else:
                    _feed(digester, plain, count)
                if left_bytes[index] == 0:
                    digest = digesters.pop(index).digest()
                    if index not in broken:
                        self._compare_digest(contents[index], digest)

    def _can_be_read(self, content: bytes) -> bool:
        if not self._others.keys() >= self._references.packs_of(content):
            return False
        return not self._false or not any(self._references.ref(n) in self._false for n in chunks_of(content))

    def _compare_digest(self, content: bytes, digest: bytes) -> None:
        for stated in self._references.contents[content] - {digest}:
            self._faults.of_content(content, stated)

    def _read_rest(self, reader: ChunkReader, task: Task) -> None:
        """Read what no file is made of: lists of files, and what no version needs."""
        for pack, info in self._packs.items():
            if pack not in self._others:
                task.advance(info.size_bytes)
                continue
            known = (ref for ref in self._references.packs.get(pack, {}).values() if ref not in self._false)
            chunks = sorted([*known, *self._others[pack]], key=lambda ref: ref.offset)
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
        """Yield what is *planned* with the chunks' bytes, or ``None`` for one that is damaged, which is noted."""
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
            except _OF_OBJECT:
                # Somewhere in what was asked for by now: one by one it shows where.
                while asked:
                    ref, tag = asked.popleft()
                    yield ref, tag, self._one(reader, ref)

    def _one(self, reader: ChunkReader, ref: ChunkRef) -> memoryview | None:
        try:
            return memoryview(reader.one(ref))
        except _NOT_READ as error:
            self._not_read(ref.pack, error)
        except _OF_OBJECT as error:
            self._damaged[ref.pack][ref] = error.what
        return None

    def _note_damaged(self) -> None:
        for pack, damaged in self._damaged.items():
            first = next(iter(damaged.values()))
            self._faults.of_refs(
                pack, damaged, first if len(damaged) == 1 else f"{_chunk_list(damaged)}, such as: {first}"
            )


def _feed(digester: xxhash.xxh3_128, plain: memoryview, count: int) -> None:
    for _ in range(count):
        digester.update(plain)


def _chunk_list(refs: Iterable[ChunkRef]) -> str:
    ordinals = sorted({ref.ordinal for ref in refs})
    if len(ordinals) == 1:
        return f"chunk {ordinals[0]}"
    shown = ", ".join(map(str, ordinals[:_NAMED_MAX]))
    more = len(ordinals) - _NAMED_MAX
    return f"chunks {shown}{f' and {more} more' if more > 0 else ''}"
