"""Which base each changed tensor is offered: the same part of the same tensor, in the file that the new one continues.

A base is never a difference itself. So a tensor that the last version has as a difference is offered the base of that
one, until a sample says that the difference does not pay any more, or ``ROUNDS_MAX`` versions were made of one base.
Then the tensor is stored as a whole, and is the base of the next versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar

from mlsync.backup.bases.siblings import newest_of_each, pattern_of
from mlsync.backup.files_cache import CachedPath
from mlsync.backup.parents.parent import Parent
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.writer import Stored
from mlsync.source.cached_file import CachedPiece
from mlsync.source.chunker import Piece
from mlsync.source.scan import Found
from mlsync.versions.stored_file import parts_of

#: So many versions are made of one base. The longer, the more a difference grows, by half a bit for each doubling, and
#: the shorter, the more often a tensor is stored as a whole (decision 407).
ROUNDS_MAX: Final = 8
#: For so many versions no difference is tried after one that did not pay: to try costs reading a base.
PAUSE: Final = 7


class BaseContent(Protocol):
    """Where the plain bytes of bases are; *is_stored*: in the store itself."""

    @property
    def is_stored(self) -> bool:
        """Whether each read is one of the store."""

    def has(self, ref: ChunkRef) -> bool:
        """Return whether ``read`` is worth a try."""

    def read(self, ref: ChunkRef, into: memoryview) -> bool:
        """Fill *into* with the chunk; return ``False`` if it is not to be had, with *into* undefined."""

    def keep(self, ref: ChunkRef, plain: memoryview, instead_of: bytes) -> None:
        """Keep the bytes of a chunk that was stored, in place of those of the name *instead_of*, if that is of use."""

    def close(self) -> None:
        """Free what it holds; nobody uses it any more."""


#: Returns the content of bases. It is told the names of those that the last version has, and how many bytes the files
#: have whose tensors may be bases next.
OpenContent: TypeAlias = Callable[[AbstractSet[bytes], int], BaseContent]


class Past(NamedTuple):
    """What is known of a part of a tensor: its chunk in the last version, and the ``rounds`` of its piece."""

    ref: ChunkRef
    rounds: int


@dataclass(slots=True)
class Offer:
    """A base that a piece may be stored as a difference to; *is_read* says whether the writer has had its bytes."""

    ref: ChunkRef
    rounds: int
    content: BaseContent
    is_read: bool = False

    def read(self, into: memoryview) -> bool:
        """Fill *into* with the base, as ``Base.read``."""
        self.is_read = self.content.read(self.ref, into)
        return self.is_read


PairKey = TypeVar("PairKey")
#: What was offered for a piece; without an offer the ``rounds`` of its piece if it is stored as a whole.
Tried: TypeAlias = Offer | int


def rounds_after(tried: Tried, ref: ChunkRef) -> int:
    """Return the ``rounds`` of a piece for which *tried* was offered and that is stored as *ref* says."""
    if isinstance(tried, int):
        return tried if ref.base is None else max(tried, 1)
    if ref.base is None:
        return -PAUSE if tried.is_read else 0
    return tried.rounds + 1 if ref.base.name == tried.ref.name else 1


@dataclass(frozen=True, slots=True)
class FileBases:
    """The bases for the pieces of one file, of *size_bytes*; with *keeps* those of the next version are kept too.

    By tensor, and for files of whose tensors the local state knows nothing by place: by distance from the end of the
    file and length. What grows in a checkpoint from save to save lies before the tensors.
    """

    size_bytes: int = 0
    by_tensor: Mapping[int, Past] = field(default_factory=dict)
    by_place: Mapping[tuple[int, int], Past] = field(default_factory=dict)
    may_use: Callable[[ChunkRef], bool] = lambda _ref: False
    content: BaseContent | None = None
    keeps: bool = False

    def tried(self, piece: Piece) -> Tried:
        """Return what a changed piece is offered."""
        past = self._past(piece)
        if past is None:
            return 0
        if past.rounds < 0:
            return past.rounds + 1
        base = past.ref.base or past.ref
        if past.rounds >= ROUNDS_MAX or self.content is None or not self.may_use(base) or not self.content.has(base):
            return 0
        return Offer(base, past.rounds, self.content)

    def untried(self, piece: Piece) -> Tried:
        """Return the same for a piece that has not changed."""
        past = self._past(piece)
        return 0 if past is None else past.rounds

    def keeping(self, piece: Piece, tried: Tried) -> Stored | None:
        """Return what keeps the piece's bytes once it is stored, if the next version may be a difference to it."""
        content, past = self.content, self._past(piece)
        if content is None or not self.keeps or not piece.tensor:
            return None
        before = b"" if past is None else (past.ref.base or past.ref).name

        def keep(ref: ChunkRef, plain: memoryview) -> None:
            if ref.base is None and rounds_after(tried, ref) == 0:
                content.keep(ref, plain, before)

        return keep

    def _past(self, piece: Piece) -> Past | None:
        if not piece.tensor:
            return None
        known = self.by_tensor.get(piece.tensor) or self.by_place.get((self.size_bytes - piece.offset, piece.length))
        return known if known is not None and known.ref.plain_bytes == piece.length else None


NO_BASES: Final = FileBases()


class Bases:
    """The bases for the files of one backup, by the last version's entries and what the local state knows of them.

    Only content that was proved as far as *required_level*, or was a base before, serves. *may_use* says whether a new
    version may rely on a chunk's pack. *open_content* is called for the first file that has tensors.
    """

    def __init__(
        self,
        parent: Parent,
        files: Mapping[bytes, CachedPath],
        found: Sequence[Found],
        required_level: int,
        may_use: Callable[[ChunkRef], bool],
        open_content: OpenContent | None,
    ) -> None:
        self._parent = parent
        self._files = files
        self._found = found
        self._required_level = required_level
        self._may_use = may_use
        self._open_content = open_content
        self._begun: _Begun | None = None

    def of(self, path: bytes, size_bytes: int) -> FileBases:
        """Return the bases for a file with tensors."""
        if self._open_content is None:
            return NO_BASES
        begun = self._begun = self._begun or self._begin(self._open_content)
        by_tensor: dict[int, Past] = {}
        by_place: dict[tuple[int, int], Past] = {}
        entry = self._continued(path, begun)
        if entry is not None:
            cached = self._files.get(entry.path)
            if cached is not None and _is_of(cached, entry):
                pairs = zip(cached.file.pieces, entry.chunks, strict=True)
                by_tensor = {piece.tensor: Past(ref, piece.rounds) for piece, ref in self._fit(entry, pairs)}
            else:
                by_place = {(left, ref.plain_bytes): Past(ref, 0) for left, ref in self._fit(entry, _from_end(entry))}
        return FileBases(size_bytes, by_tensor, by_place, self._may_use, begun.content, path in begun.newest)

    def read(self, ref: ChunkRef, into: memoryview) -> bool:
        """Fill *into* with a base that this machine keeps, for whoever proves; several threads may call it at once."""
        content = None if self._begun is None else self._begun.content
        return content is not None and not content.is_stored and content.read(ref, into)

    def close(self) -> None:
        """Close what was opened for it, once no thread stores any more."""
        if self._begun is not None:
            self._begun.content.close()

    def _begin(self, open_content: OpenContent) -> _Begun:
        """Open the content, now that it is known what the next version may ask for."""
        files = [one for one in self._found if one.kind == "file" and one.link_to is None]
        newest = frozenset(newest_of_each((one.path, one.stat.mtime_ns) for one in files).values())
        proved = (one for one in self._parent.entries.values() if one.kind is EntryKind.FILE and one.proof is not None)
        before = newest_of_each((one.path, one.mtime_ns) for one in proved)
        refs = (ref for path in before.values() for ref in self._parent.entries[path].chunks)
        names = {(ref.base or ref).name for ref in refs}
        content = open_content(names, sum(one.stat.size_bytes for one in files if one.path in newest))
        return _Begun(content, newest, before)

    def _continued(self, path: bytes, begun: _Begun) -> Entry | None:
        """Return the file of the last version that the one at *path* continues: itself, or its newest sibling."""
        entry = self._parent.file(path)
        if entry is None:
            sibling = begun.before.get(pattern_of(path))
            entry = None if sibling is None else self._parent.file(sibling)
        return entry if entry is not None and entry.kind is EntryKind.FILE else None

    def _fit(self, entry: Entry, pairs: Iterable[tuple[PairKey, ChunkRef]]) -> Iterator[tuple[PairKey, ChunkRef]]:
        """Yield those pairs whose chunk may serve."""
        is_proved = entry.proof is not None and entry.proof.level >= self._required_level and not entry.proof.is_broken
        return ((key, ref) for key, ref in pairs if is_proved or ref.base is not None)


class _Begun(NamedTuple):
    content: BaseContent
    newest: frozenset[bytes]
    before: Mapping[bytes, bytes]


def _from_end(entry: Entry) -> Iterator[tuple[int, ChunkRef]]:
    """Yield each chunk with the distance of its first byte from the end of the file."""
    return ((entry.size_bytes - part.offset, part.ref) for part in parts_of(entry) if part.ref is not None)


def _is_of(cached: CachedPath, entry: Entry) -> bool:
    """Return whether the cached pieces are those of the entry, and some are of tensors."""
    pieces: Sequence[CachedPiece] = cached.file.pieces
    return (
        cached.entry is not None
        and len(pieces) == len(entry.chunks)
        and [ref.name for ref in cached.entry.chunks] == [ref.name for ref in entry.chunks]
        and any(piece.tensor for piece in pieces)
    )
