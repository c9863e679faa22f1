"""A version as values: its entries, the chunks that they consist of, their proofs, and the troubles of its backup.

Stored objects contain these structs as MessagePack arrays: the order of the fields is the format (docs/format.md,
"Manifest").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec.structs import force_setattr

from mlsync.codec.compression import Coding
from mlsync.codec.digest import blake3_of
from mlsync.repository.encoding.room import Room
from mlsync.repository.encoding.tokens import KEY_DERIVED, EntryKind, TroubleKind
from mlsync.values import Proof, storable


class PackPlace(NamedTuple):
    """A pack as tables of packs name it: its id, and how its key is had."""

    epoch: int
    pack_id: bytes
    key_kind: int = KEY_DERIVED


class ChunkRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a chunk is stored and how it is opened: all that a restore needs. *epoch*, *key_kind*: the pack's key.

    *base* is another chunk, which is no difference itself, if this one is stored as a difference from it.
    """

    name: bytes
    pack: bytes
    ordinal: int
    offset: int
    stored_bytes: int
    plain_bytes: int
    coding: Coding
    epoch: int = 0
    key_kind: int = KEY_DERIVED
    base: ChunkRef | None = None

    @property
    def place(self) -> PackPlace:
        """The pack, with how its key is had."""
        return PackPlace(self.epoch, self.pack, self.key_kind)

    @property
    def base_name(self) -> bytes:
        """The name of the base, empty for what is no difference."""
        return b"" if self.base is None else self.base.name

    @property
    def is_placed(self) -> bool:
        """Whether it is known where the chunk lies; of a base that only a footer names, it is not."""
        return self.pack != b""

    @property
    def as_listed(self) -> ChunkRef:
        """What the footer of its pack says of the chunk: of a base, the name and no place."""
        if self.base is None:
            return self
        return msgspec.structs.replace(self, base=unplaced(self.base.name, self.plain_bytes))


def unplaced(name: bytes, plain_bytes: int) -> ChunkRef:
    """Return a base of which only the name is known, as footers have it: manifests say where it lies."""
    return ChunkRef(name, b"", 0, 0, 0, plain_bytes, Coding.RAW)


class PackedRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A chunk reference as it is stored: *pack* is an index into the table of packs beside it."""

    name: bytes
    pack: int
    ordinal: int
    offset: int
    stored_bytes: int
    plain_bytes: int
    coding: int
    base: Any = None  # a reference as this one; with a coding of a newer mlsync, anything


if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    Ref = TypeVarWithDefault("Ref", default=ChunkRef)
else:
    Ref = TypeVar("Ref")


class Entry(msgspec.Struct, Generic[Ref], frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A file, directory, symbolic link or hard link of the tree.

    *target* is a symbolic link's text or, for a hard link, the path of the entry that it is the same file as.
    *holes* are (offset, length) pairs; *chunks* fill the rest of *size_bytes*, in order. An entry in a stored segment
    is an ``Entry[PackedRef]``.
    """

    path: bytes
    kind: EntryKind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int = 0
    target: bytes = b""
    digest: bytes = b""
    holes: tuple[tuple[int, int], ...] = ()
    chunks: tuple[Ref, ...] = ()
    proof: Proof | None = None
    room: Room = None

    @property
    def blake3(self) -> bytes | None:
        """BLAKE3 of the whole file, as ``b3sum`` prints it; ``None`` if its holes are too long, or it is no file."""
        return blake3_of(self.digest)


class Trouble(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A file that this version does not hold as the source did: it has the content of version *kept*, or none if 0."""

    path: bytes
    kind: TroubleKind
    text: str
    kept: int = 0

    def __post_init__(self) -> None:
        """Make the text storable."""
        force_setattr(self, "text", storable(self.text))


class Previous(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The number of the manifest before this one, and SHA-256 of its stored bytes."""

    number: int
    digest: bytes


class Summary(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The facts that a list of versions shows, without the entries."""

    file_count: int
    size_bytes: int
    new_bytes: int
    stored_bytes: int
    checkpoint_count: int
    lowest_level: int
    device: str


class Origin(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The writer of a version: an id that it keeps for one run and directory, and a mark of its machine.

    *machine* is empty if the machine has no mark of its own.
    """

    id: bytes
    machine: bytes = b""


class Top(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The attributes of the watched directory itself, which is no entry of its version."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int


class Segment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A range of entries in path order, with the packs that they need: complete by itself."""

    packs: list[bytes]
    entries: list[Entry[PackedRef]]
    room: Room = None


class SegmentRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A segment: its bytes, or the chunks that hold them."""

    first_path: bytes
    entry_count: int
    inline: bytes | None
    chunks: list[PackedRef]


class ManifestRoot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sealed body of a manifest: a version without its entries, which are in the *segments*."""

    run: str
    number: int
    created_ns: int
    previous: Previous | None
    writer: str
    host: str
    directory: bytes
    required_level: int
    summary: Summary
    troubles: tuple[Trouble, ...]
    packs: list[bytes]
    segments: list[SegmentRef]
    origin: Origin
    top: Top | None
    notes: tuple[str, ...]
    room: Room = None

    def __post_init__(self) -> None:
        """Make the notes storable."""
        force_setattr(self, "notes", tuple(map(storable, self.notes)))


class Manifest(msgspec.Struct, frozen=True):
    """A version, committed or candidate. A candidate's root has no packs and segments: the commit adds them."""

    root: ManifestRoot
    entries: tuple[Entry, ...]


def refs_of(entries: Iterable[Entry]) -> Iterator[ChunkRef]:
    """Yield all chunks that are read for the entries: their own, and after each difference its base."""
    return with_bases(ref for entry in entries for ref in entry.chunks)


def with_bases(refs: Iterable[ChunkRef], is_there: Callable[[bytes], bool] = lambda _pack: True) -> Iterator[ChunkRef]:
    """Yield *refs*, and after each difference its base: whoever needs the one needs the other.

    A difference whose pack not *is_there* was moved, and needs none: the base may be gone for good.
    """
    for ref in refs:
        yield ref
        if ref.base is not None and is_there(ref.pack):
            yield ref.base
