"""All references of all versions, in little memory: a check of a long history keeps them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from struct import iter_unpack, pack
from typing import Final

from mlsync.codec.digest import FILE_DIGEST_BYTES, FileDigester, FileDigestKind
from mlsync.repository.manifest import ChunkRef, Entry

_ORDINAL_BITS: Final = 16
NUMBER_BYTES: Final = 8


class References:
    """Each referenced chunk once, and the contents of files with what entries claim of them.

    A content is the numbers of its chunks in order, 8 bytes each: equal files of many versions are one content. Files
    of the same chunks between other holes are one content too, and have a claim each.
    """

    def __init__(self) -> None:
        self.packs: dict[bytes, dict[int, ChunkRef]] = {}
        self.disputed: dict[bytes, set[ChunkRef]] = {}  # all references to a chunk on which versions disagree
        self.contents: dict[bytes, set[bytes]] = {}
        self.has_differences = False
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
        self.has_differences = self.has_differences or ref.base is not None
        # A base may have been moved between two versions; each names the place that it knew.
        if known == ref or known.as_listed == ref.as_listed:
            return True
        self.disputed.setdefault(ref.pack, set()).update((known, ref))
        return False

    def note_content(self, entry: Entry) -> None:
        """Add a file, whose chunks were noted."""
        self.contents.setdefault(self.content_of(entry.chunks), set()).add(claim_of(entry))

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


def claim_of(entry: Entry) -> bytes:
    """Return a file's digest, and after it the holes that are part of what was hashed."""
    holes = entry.holes if entry.digest[0] == FileDigestKind.WHOLE else ()
    return entry.digest + b"".join(pack(">2Q", *hole) for hole in holes)


class ClaimDigests:
    """The digests of a content under each of its *claims*: one, but for files with other holes between their data."""

    def __init__(self, claims: Iterable[bytes]) -> None:
        self._claims = tuple(claims)
        self._digesters = {
            _hashed(claim): FileDigester(claim[0], tuple(iter_unpack(">2Q", claim[FILE_DIGEST_BYTES:])))
            for claim in self._claims
        }

    def update(self, plain: memoryview) -> None:
        """Feed the next chunk."""
        for digester in self._digesters.values():
            digester.update(plain)

    def wrong(self) -> list[bytes]:
        """Return the claims that do not hold, after all chunks."""
        found = {hashed: digester.digest() for hashed, digester in self._digesters.items()}
        return [claim for claim in self._claims if claim[:FILE_DIGEST_BYTES] != found[_hashed(claim)]]


def _hashed(claim: bytes) -> tuple[int, bytes]:
    """Return what the bytes that are hashed depend on besides the data: kind and holes."""
    return claim[0], claim[FILE_DIGEST_BYTES:]


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
