"""Where the records of a zip file are, by its directory and the local headers; nothing is inflated.

Python's ``zipfile`` is not used: it works around damage (data before or after the archive, a shifted directory),
which this check must report.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Extent, Layout, Packed
from mlsync.formats.zips.directory import STORED, UTF8, Directory, ZipEntry, read_directory

_Item = TypeVar("_Item")


#: Of ``marshal``: equal values have equal bytes; later versions note which of them are one object.
MARSHAL_VERSION = 2

_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1
# Encrypted, patched, strongly encrypted, masked local header: no reader of checkpoints takes such a record
_UNREADABLE = _ENCRYPTED | 0x20 | 0x40 | 0x2000
_DEFLATED = 8
# Local headers that are closer than this are read together: a checkpoint has a thousand records below one KiB.
_GATHER_BYTES = 64 << 10
_HEADER_GUESS_BYTES = 512


@dataclass(frozen=True, slots=True)
class ZipLayout(Layout):
    """A zip's layout; the records in *packed* are deflated, all others are stored.

    *first_name* is the record that the directory names first: torch looks for all others beside it.
    """

    first_name: str = ""


def read_zip_layout(source: ByteSource, container: str) -> ZipLayout:
    """Return level 1: every record is where the directory says, none overlap, all are before the directory."""
    directory = read_directory(source)
    extents: list[Extent] = []
    packed: dict[str, Packed] = {}
    unreadable: ZipEntry | None = None
    free_from = 0
    for entry, offset in _data_offsets(source, directory):
        if entry.header_offset < free_from:
            msg = "records overlap"
            raise ContainerBroken(msg, record=entry.name, offset=entry.header_offset)
        free_from = offset + entry.stored_bytes
        if free_from > directory.offset:
            msg = "record runs into the central directory"
            raise ContainerBroken(msg, record=entry.name, offset=offset)
        if _is_unreadable(entry):
            unreadable = unreadable or entry
        elif entry.method != STORED:
            packed[entry.name] = Packed(entry.plain_bytes, _checksum(entry))
        # The CRC of a packed record says nothing of the bytes that are in the file
        checksum = _checksum(entry) if entry.method == STORED else None
        extents.append(Extent(entry.name, offset, entry.stored_bytes, checksum))
    if unreadable is not None:  # reported only now: damage anywhere else comes first
        msg = "zip record is encrypted, or compressed in a way that is not checked"
        raise NotChecked(msg, record=unreadable.name, offset=unreadable.header_offset)
    return ZipLayout(container, source.size_bytes, tuple(extents), directory.first_name, packed=packed)


def as_bytes(layout: ZipLayout) -> bytes:
    """Return everything in a layout that its content depends on, as bytes: different layouts have different bytes."""
    places = [(extent.name, extent.offset, extent.length) for extent in layout.extents]
    packed = sorted((name, record.plain_bytes) for name, record in layout.packed.items())
    return marshal.dumps((places, packed, layout.first_name), MARSHAL_VERSION)


def _is_unreadable(entry: ZipEntry) -> bool:
    return bool(entry.flags & _UNREADABLE) or entry.method not in (STORED, _DEFLATED)


def first_record_name(source: ByteSource) -> str | None:
    """Return the name in the local header at offset 0, for files whose directory is not there (yet)."""
    head = source.read_at(0, min(source.size_bytes, _HEADER_GUESS_BYTES))
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        return None
    name_bytes = _LOCAL.unpack_from(head)[9]
    return head[_LOCAL.size : _LOCAL.size + name_bytes].decode("utf-8", "replace")


def _checksum(entry: ZipEntry) -> int | None:
    """Return the CRC of the uncompressed record; 0 means "not computed"."""
    return None if entry.crc32 == 0 and entry.plain_bytes > 0 else entry.crc32


def _data_offsets(source: ByteSource, directory: Directory) -> Iterator[tuple[ZipEntry, int]]:
    """Yield each entry with the offset of its first byte, which only its local header tells."""
    for group in gathered(directory.entries, attrgetter("header_offset")):
        first, last = group[0].header_offset, group[-1]
        # Only to the end of the last name: data follows, and a repository would fetch megabytes of it.
        length = min(last.header_offset + _LOCAL.size + len(last.raw_name), directory.offset) - first
        window = read_bounded(source, first, max(length, 0), "local header")
        for entry in group:
            begins = entry.header_offset - first
            yield entry, _data_offset(source, entry, window[begins : begins + _HEADER_GUESS_BYTES])


def gathered(items: Iterable[_Item], offset_of: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    """Yield groups of neighbours (in file order) whose headers fit in one read."""
    group: list[_Item] = []
    for item in items:
        if group and offset_of(item) - offset_of(group[0]) > _GATHER_BYTES:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _data_offset(source: ByteSource, entry: ZipEntry, head: bytes) -> int:
    at = entry.header_offset
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        msg = "local header missing"
        raise ContainerBroken(msg, record=entry.name, offset=at)
    _, _, flags, method, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL.unpack_from(head)
    name_end = _LOCAL.size + name_bytes
    if name_end > len(head):
        head = read_bounded(source, at, name_end, "local header")
    compared = _UNREADABLE if entry.raw_name.isascii() else _UNREADABLE | UTF8
    is_other = method != entry.method or (flags ^ entry.flags) & compared
    if head[_LOCAL.size : name_end] != entry.raw_name or is_other:
        msg = "local header and central directory differ"
        raise ContainerBroken(msg, record=entry.name, offset=at)
    return int(at + name_end + extra_bytes)
