"""A version as a value: entries, the chunks that they are made of, how they were proved, what went wrong.

These are the structs that stand in stored objects as MessagePack arrays; the order of the fields is the format
(docs/format.md, "Manifest"). Only the encoded form counts; the classes are for reading it with types.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import msgspec
from msgspec.structs import force_setattr, replace

from mlsync.codec.compression import Coding
from mlsync.codec.digest import FILE_DIGEST_BYTES, OBJECT_DIGEST_BYTES
from mlsync.errors import Error, FormatUnsupported, ManifestDamaged
from mlsync.repository.canonical import decode_canonical, newer
from mlsync.repository.pack.pack import PACK_ID_BYTES, is_sound
from mlsync.repository.tokens import TOKEN_MAX, EntryKind, TroubleKind
from mlsync.values import Level, Proof, is_count, storable

PATH_BYTES_MAX: Final = 64 << 10
# What a file system keeps; larger numbers would only trip the calls that they are handed to.
MODE_MAX: Final = 0o7777
OWNER_MAX: Final = (1 << 32) - 2
TIME_NS_MAX: Final = (1 << 63) - 1
ORIGIN_BYTES: Final = 16

T = TypeVar("T")


class ChunkRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a chunk lies and how it is opened; all that a restore needs to know of it."""

    name: bytes
    pack: bytes
    ordinal: int
    offset: int
    stored_bytes: int
    plain_bytes: int
    coding: Coding


class PackedRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A chunk reference as it is stored: *pack* is an index into the table of packs beside it."""

    name: bytes
    pack: int
    ordinal: int
    offset: int
    stored_bytes: int
    plain_bytes: int
    coding: int
    base: Any = None  # anything in it is of a newer mlsync: refused as that, not as damage


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


class Trouble(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A file that is not in this version as the source held it: *kept* is the version whose content stands, or 0."""

    path: bytes
    kind: TroubleKind
    text: str
    kept: int = 0

    def __post_init__(self) -> None:
        """Make the text storable."""
        force_setattr(self, "text", storable(self.text))


class Previous(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The manifest before this one, by number and SHA-256 of its stored bytes."""

    number: int
    digest: bytes


class Summary(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a listing shows without reading the entries."""

    file_count: int
    size_bytes: int
    new_bytes: int
    stored_bytes: int
    checkpoint_count: int
    lowest_level: int
    device: str


class Origin(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who wrote a version: an id that a writer keeps for one run and directory, and a mark of its machine.

    *machine* is empty where the machine could not be told from others.
    """

    id: bytes
    machine: bytes = b""


class Top(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is kept of the watched directory itself, which is no entry of its own version."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int


class Segment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A stretch of entries in path order with the packs that they need: complete by itself."""

    packs: list[bytes]
    entries: list[Entry[PackedRef]]


class SegmentRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a segment stands: its bytes right here, or the chunks that they are cut into."""

    first_path: bytes
    entry_count: int
    inline: bytes | None
    chunks: list[PackedRef]


class ManifestRoot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sealed body of a manifest object: all of a version but its entries, which *packs* and *segments* lead to."""

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

    def __post_init__(self) -> None:
        """Make the notes storable."""
        force_setattr(self, "notes", tuple(map(storable, self.notes)))


class Manifest(msgspec.Struct, frozen=True):
    """A version, committed or candidate. A candidate's root has no packs and segments: the commit adds them."""

    root: ManifestRoot
    entries: tuple[Entry, ...]


class PackTable:
    """Turns pack ids into small numbers while encoding."""

    def __init__(self) -> None:
        self.packs: list[bytes] = []
        self._index: dict[bytes, int] = {}

    def refer(self, ref: ChunkRef) -> PackedRef:
        """Return *ref* with its pack as an index into ``packs``."""
        index = self._index.get(ref.pack)
        if index is None:
            index = self._index[ref.pack] = len(self.packs)
            self.packs.append(ref.pack)
        return PackedRef(ref.name, index, ref.ordinal, ref.offset, ref.stored_bytes, ref.plain_bytes, int(ref.coding))


def encode_entries(entries: list[Entry] | tuple[Entry, ...]) -> bytes:
    """Return the bytes of a segment: equal entries give equal bytes, whatever stands around them."""
    table = PackTable()
    packed = [replace(entry, chunks=tuple(map(table.refer, entry.chunks))) for entry in entries]
    return msgspec.msgpack.encode(Segment(table.packs, cast("list[Entry[PackedRef]]", packed)))


def decode_entries(body: bytes | memoryview, where: str) -> list[Entry]:
    """Return a segment's entries, each checked; or raise ``ManifestDamaged``."""
    segment = decode_as(body, Segment, where)
    check_pack_table(segment.packs, where)
    unpacked = [replace(packed, chunks=unpack_refs(packed.chunks, segment.packs, where)) for packed in segment.entries]
    entries = cast("list[Entry]", unpacked)
    for entry in entries:
        check_entry(entry, where)
    return entries


def decode_as(body: bytes | memoryview, kind: type[T], where: str) -> T:
    """Return *body* decoded as *kind*, in its one encoding; or raise ``ManifestDamaged`` or ``FormatUnsupported``."""
    try:
        return decode_canonical(bytes(body), kind, where)
    except ValueError as error:
        raise ManifestDamaged(f"the manifest does not parse: {error}", where=where) from None


def unpack_refs(packed: Sequence[PackedRef], packs: list[bytes], where: str) -> tuple[ChunkRef, ...]:
    """Return references with whole pack ids, each within the format's bounds."""
    refs = []
    for ref in packed:
        if ref.base is not None:
            raise newer_base(where)
        if not 0 <= ref.pack < len(packs):
            raise ManifestDamaged("a chunk names a pack that is not in the table", where=where)
        coding = coding_of(ref.coding, where, ManifestDamaged)
        if not is_sound(ref.name, ref.ordinal, ref.offset, ref.stored_bytes, ref.plain_bytes):
            raise ManifestDamaged("a chunk's numbers cannot be", where=where)
        refs.append(
            ChunkRef(ref.name, packs[ref.pack], ref.ordinal, ref.offset, ref.stored_bytes, ref.plain_bytes, coding)
        )
    return tuple(refs)


def newer_base(where: str) -> FormatUnsupported:
    """Return the error for a chunk that is stored as a difference to another one."""
    return newer("chunks stored as a difference are not known here", where)


def coding_of(number: int, where: str, damage: type[Error]) -> Coding:
    """Return the coding of that number; a higher one is a newer mlsync's, one that no chunk can have is *damage*."""
    try:
        return Coding(number)
    except ValueError:
        if 0 <= number <= TOKEN_MAX:
            raise newer(f"coding {number} is not known here", where) from None
        raise damage(f"there is no coding {number}", where=where) from None


def check_entry(entry: Entry, where: str) -> None:
    """Refuse what no writer of ours makes: a path out of the tree, lengths that do not add up."""
    if not is_safe_path(entry.path) or (entry.kind is EntryKind.HARD_LINK and not is_safe_path(entry.target)):
        raise ManifestDamaged(f"an entry's path leads out of the tree: {entry.path!r}", where=where)
    numbers_are_sound = _numbers_are_sound(entry.mode, entry.uid, entry.gid, entry.mtime_ns)
    if not numbers_are_sound or not is_count(entry.size_bytes):
        raise ManifestDamaged(f"an entry's numbers cannot be: {entry.path!r}", where=where)
    is_link = entry.kind in (EntryKind.SYMLINK, EntryKind.HARD_LINK)
    if is_link == (entry.target == b"") or b"\0" in entry.target:
        raise ManifestDamaged(f"an entry leads nowhere, or somewhere though it is no link: {entry.path!r}", where=where)
    if entry.proof is not None:
        check_proof(entry.proof, where)
    if entry.kind is EntryKind.FILE:
        _check_content(entry, where)
    elif entry.size_bytes or entry.digest or entry.chunks or entry.holes or entry.proof is not None:
        raise ManifestDamaged(f"an entry that is no file has content: {entry.path!r}", where=where)


def _numbers_are_sound(mode: int, uid: int, gid: int, mtime_ns: int) -> bool:
    owners_are_sound = 0 <= uid <= OWNER_MAX and 0 <= gid <= OWNER_MAX
    return 0 <= mode <= MODE_MAX and owners_are_sound and -TIME_NS_MAX <= mtime_ns <= TIME_NS_MAX


def _check_content(entry: Entry, where: str) -> None:
    end = hole_bytes = 0
    edges = set(accumulate((ref.plain_bytes for ref in entry.chunks), initial=0)) if entry.holes else set()
    for offset, length in entry.holes:
        if offset < end or length <= 0:
            raise ManifestDamaged(f"an entry's holes overlap: {entry.path!r}", where=where)
        if offset - hole_bytes not in edges:
            raise ManifestDamaged(f"a chunk reaches into a hole: {entry.path!r}", where=where)
        end, hole_bytes = offset + length, hole_bytes + length
    filled_bytes = sum(ref.plain_bytes for ref in entry.chunks) + hole_bytes
    if end > entry.size_bytes or filled_bytes != entry.size_bytes or len(entry.digest) != FILE_DIGEST_BYTES:
        raise ManifestDamaged(f"an entry's chunks do not add up to its size: {entry.path!r}", where=where)


def check_tree(entries: Sequence[Entry], where: str) -> None:
    """Refuse entries that make no tree: out of order, below what is no directory, hard links to what is no file."""
    before, directories, files = b"", {b""}, set()
    for entry in entries:
        if entry.path <= before:
            raise ManifestDamaged(f"entries out of order at {entry.path!r}", where=where)
        # A symbolic link must not be a step on the way to a file: it could lead anywhere.
        if entry.path.rpartition(b"/")[0] not in directories:
            raise ManifestDamaged(f"an entry whose directory is not in the version: {entry.path!r}", where=where)
        before = entry.path
        if entry.kind is EntryKind.DIRECTORY:
            directories.add(entry.path)
        elif entry.kind is EntryKind.FILE:
            files.add(entry.path)
    for entry in entries:
        if entry.kind is EntryKind.HARD_LINK and entry.target not in files:
            raise ManifestDamaged(f"a hard link to no file of the version: {entry.path!r}", where=where)


def is_safe_path(path: bytes) -> bool:
    """Whether *path* stays in the tree that it is relative to: the writer of a manifest may have been taken over."""
    if not 0 < len(path) <= PATH_BYTES_MAX or b"\0" in path:
        return False
    return all(part not in (b"", b".", b"..") for part in path.split(b"/"))


def is_sound_top(top: Top) -> bool:
    """Whether the numbers of the run's own directory are such as a version holds."""
    return _numbers_are_sound(top.mode, top.uid, top.gid, top.mtime_ns)


def check_previous(previous: Previous | None, number: int, where: str) -> None:
    """Refuse a link backwards that does not lead backwards."""
    if previous is not None and (not 0 < previous.number < number or len(previous.digest) != OBJECT_DIGEST_BYTES):
        raise ManifestDamaged("the link to the previous version cannot be", where=where)


def check_pack_table(packs: Sequence[bytes], where: str) -> None:
    """Refuse a table of packs that holds what is no id, or one twice."""
    if any(len(pack) != PACK_ID_BYTES for pack in packs) or len(set(packs)) != len(packs):
        raise ManifestDamaged("a table of packs holds what is no id, or one twice", where=where)


def check_proof(proof: Proof, where: str) -> None:
    """Refuse levels that there are not, and numbers that nothing can be counted to."""
    is_sound = (
        is_level(proof.level)
        and is_time(proof.proved_ns)
        and 0 <= proof.seconds < float("inf")
        and is_count(proof.tensor_count)
        and is_count(proof.tensor_bytes)
        and all(is_level(finding.level) for finding in proof.findings)
        and all(finding.offset is None or is_count(finding.offset) for finding in proof.findings)
    )
    if not is_sound:
        raise ManifestDamaged("a proof's numbers cannot be", where=where)


def is_level(number: int) -> bool:
    """Return whether there is a proof level of that number."""
    return 0 <= number <= Level.FRAMEWORK


def is_time(moment_ns: int) -> bool:
    """Whether *moment_ns* is a time that files, too, may have."""
    return -TIME_NS_MAX <= moment_ns <= TIME_NS_MAX


def refs_of(entries: Iterable[Entry]) -> Iterable[ChunkRef]:
    """Yield the chunks of all entries."""
    return (ref for entry in entries for ref in entry.chunks)
