"""All references of all versions, in little memory: a check of a long history keeps them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from struct import pack
from typing import Final

from mlsync.repository.manifest import ChunkRef

_ORDINAL_BITS: Final = 16
NUMBER_BYTES: Final = 8


class References:
    """Each referenced chunk once, and the contents of files with their digests.

    A content is the numbers of its chunks in order, 8 bytes each: equal files of many versions are one content.
    """

    def __init__(self) -> None:
        self.packs: dict[bytes, dict[int, ChunkRef]] = {}
        self.disputed: dict[bytes, set[ChunkRef]] = {}  # all references to a chunk on which versions disagree
        self.contents: dict[bytes, set[bytes]] = {}
        self._numbers: dict[bytes, int] = {}
        self._ids: list[bytes] = []

    def note(self, ref: ChunkRef) -> bool:
        """Add a reference; return whether it agrees with earlier ones to the same chunk."""
        ordinals = self.packs.get(ref.pack)
        if ordinals is None:
            ordinals = self.packs[ref.pack] = {}
            self._numbers[ref.pack] = len(self._ids)
            self._ids.append(ref.pack)
        known = ordinals.setdefault(ref.ordinal, ref)
        if known == ref:
            return True
        self.disputed.setdefault(ref.pack, set()).update((known, ref))
        return False

    def note_content(self, chunks: Sequence[ChunkRef], digest: bytes) -> None:
        """Add a file of *chunks*, which were noted, with its digest."""
        self.contents.setdefault(self.content_of(chunks), set()).add(digest)

    def content_of(self, chunks: Sequence[ChunkRef]) -> bytes:
        """Return the content of *chunks*, which were noted."""
        numbers = self._numbers
        return pack(f">{len(chunks)}Q", *(numbers[ref.pack] << _ORDINAL_BITS | ref.ordinal for ref in chunks))

    def ref(self, number: int) -> ChunkRef:
        """Return the chunk of that number."""
        return self.packs[self._ids[number >> _ORDINAL_BITS]][number & (1 << _ORDINAL_BITS) - 1]

    def packs_of(self, content: bytes) -> set[bytes]:
        """Return the packs that contain a content."""
        return {self._ids[number >> _ORDINAL_BITS] for number in chunks_of(content)}


def chunks_of(content: bytes) -> Iterator[int]:
    """Yield the numbers of a content's chunks, in order."""
    for at in range(0, len(content), NUMBER_BYTES):
        yield int.from_bytes(content[at : at + NUMBER_BYTES])


def in_order(contents: Sequence[bytes]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield chunks in an order in which all *contents* can be assembled side by side.

    With each chunk come the contents that continue with it: their indices, and how often they repeat it. A chunk comes
    once if the contents have their common chunks in the same order, as versions of a file mostly do; else once for each
    order.
    """
    awaited = Counter(chunk for content in contents for chunk, _ in _runs(content, 0))
    offsets = [0] * len(contents)
    waiting: dict[int, list[tuple[int, int]]] = {}
    # Last in, first out, so that one file is read to its end before the next begins.
    ready: list[int] = []

    def arrive(index: int) -> None:
        for chunk, count in _runs(contents[index], offsets[index]):
            here = waiting.setdefault(chunk, [])
            here.append((index, count))
            if len(here) == awaited[chunk]:
                ready.append(chunk)
            return

    for index in reversed(range(len(contents))):
        arrive(index)
    while waiting:
        # If each chunk also comes later in another content, one of them has to be read twice.
        chunk = ready.pop() if ready else next(iter(waiting))
        here = waiting.pop(chunk)
        awaited[chunk] -= len(here)
        yield chunk, here
        for index, count in here:
            offsets[index] += count * NUMBER_BYTES
            arrive(index)


def _runs(content: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks of *content* from *at*, each with how often it repeats in a row."""
    while at < len(content):
        chunk = content[at : at + NUMBER_BYTES]
        end = at + NUMBER_BYTES
        while content[end : end + NUMBER_BYTES] == chunk:
            end += NUMBER_BYTES
        yield int.from_bytes(chunk), (end - at) // NUMBER_BYTES
        at = end
