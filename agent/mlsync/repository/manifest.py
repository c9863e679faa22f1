"""A version as values: its entries, the chunks that they consist of, their proofs, and the troubles of its backup.

Stored objects contain these structs as MessagePack arrays: the order of the fields is the format (docs/format.md,
"Manifest").
"""

from __future__ import annotations

from collections.abc import Iterable
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
    """Where a chunk is stored and how it is opened: all that a restore needs. *epoch*, *key_kind*: the pack's key."""

    name: bytes
    pack: bytes
    ordinal: int
    offset: int
    stored_bytes: int
    plain_bytes: int
    coding: Coding
    epoch: int = 0
    key_kind: int = KEY_DERIVED

    @property
    def place(self) -> PackPlace:
        """The pack, with how its key is had."""
        return PackPlace(self.epoch, self.pack, self.key_kind)


class PackedRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A chunk reference as it is stored: *pack* is an index into the table of packs beside it."""

    name: bytes
    pack: int
    ordinal: int
    offset: int
    stored_bytes: int
    plain_bytes: int
    coding: int
    base: Any = None  # any value is of a newer mlsync, and not damage


if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    Ref = TypeVarWithDefault("Ref", default=ChunkRef)
else:
    Ref = TypeVar("Ref")


class Entry(msgspec.Struct, Generic[Ref], frozen=True, array_like=True, forbid_unknown_fields=True):
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


def refs_of(entries: Iterable[Entry]) -> Iterable[ChunkRef]:
    """Yield the chunks of all entries."""
    return (ref for entry in entries for ref in entry.chunks)
