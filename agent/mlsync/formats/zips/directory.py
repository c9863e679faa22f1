"""The central directory of a zip file, whole and consistent with the end records that lead to it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from mlsync.formats.content_cache import key_of
from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken

# A checkpoint has a record for each tensor, and some seventy bytes of directory for each record
RECORDS_MAX = 200_000
DIRECTORY_BYTES_MAX = 24 << 20
# A name is kept as it stands and as text, which may take four times as much
NAMES_BYTES_MAX = 48 << 20
# A smaller directory is parsed again as fast as it is looked up
_LARGE_RECORDS = 1000
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END_SIGNATURE = b"PK\x05\x06"
_COMMENT_BYTES_MAX = 0xFFFF
_ZIP64_FIELD = 1
UTF8 = 0x800
_VERSION_MAX = 63  # of the format, which a record may ask for; Python's zipfile refuses any other
_DIRECTORY_ATTRIBUTE = 0x10  # of MS-DOS; torch's reader takes such a record for empty, whatever its name and length
STORED = 0
_U16 = 0xFFFF
_U32 = 0xFFFFFFFF


class ZipEntry(NamedTuple):
    """One record in the central directory; *stored_bytes* is its length in the file, *plain_bytes* its content's."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc32: int
    stored_bytes: int
    plain_bytes: int
    header_offset: int


@dataclass(frozen=True, slots=True)
class Directory:
    """The records in file order, the offset of the central directory, and the name of its first record."""

    entries: tuple[ZipEntry, ...]
    offset: int
    first_name: str = ""


@dataclass(frozen=True, slots=True)
class _End:
    """The central directory according to the end records; *at* is the offset of the first of them."""

    at: int
    offset: int
    length: int
    count: int


class _LastDirectory:
    """A cache of the last large directory: a backup parses the same bytes up to four times.

    The bytes are compared by digest, so the cached directory is what would be parsed again. Thread-safe.
    """

    def __init__(self) -> None:
        self._kept: tuple[bytes, _End, Directory] | None = None

    def find(self, end: _End, raw: bytes) -> Directory | None:
        """Return the directory parsed from *raw*, if that was the last one, at the same offset of a file."""
        kept = self._kept
        if end.count < _LARGE_RECORDS or kept is None:
            return None
        if kept[1] == end and kept[0] == key_of(raw):
            return kept[2]
        self._kept = None  # before another takes its place in memory
        return None

    def keep(self, end: _End, raw: bytes, directory: Directory) -> None:
        """Cache a large directory instead of the one before."""
        if end.count >= _LARGE_RECORDS:
            self._kept = key_of(raw), end, directory


_LAST = _LastDirectory()


def read_directory(source: ByteSource) -> Directory:
    """Return the central directory after a check that it is consistent; the records are not read."""
    end, raw = _read_end(source)
    directory = _LAST.find(end, raw)
    if directory is None:
        directory = _parse_directory(end, raw)
        _LAST.keep(end, raw, directory)
    return directory


def _parse_directory(end: _End, raw: bytes) -> Directory:
    entries = list(_parse_entries(raw, end))
    if len({entry.name for entry in entries}) != len(entries):
        raise _twice(end)
    first_name = entries[0].name if entries else ""
    entries.sort(key=attrgetter("header_offset"))
    return Directory(tuple(entries), end.offset, first_name)


def record_names(source: ByteSource) -> set[str]:
    """Return only the names in the central directory: cheap enough for zips that are no checkpoint."""
    end, raw = _read_end(source)
    directory = _LAST.find(end, raw)
    if directory is not None:
        return {entry.name for entry in directory.entries}
    names = {entry.name for entry in _parse_entries(raw, end)}
    if len(names) != end.count:
        raise _twice(end)
    return names


def _twice(end: _End) -> ContainerBroken:
    return ContainerBroken("two records have the same name", offset=end.offset)


def _read_end(source: ByteSource) -> tuple[_End, bytes]:
    """Return the end record, and the central directory's bytes, which end where that begins."""
    end = _find_end(source)
    # Impossible values are reported first: a damaged length usually exceeds the bounds too
    if end.offset + end.length != end.at or end.count * _CENTRAL.size > end.length:
        msg = "central directory does not end where the end record begins"
        raise ContainerBroken(msg, offset=end.offset)
    if end.count > RECORDS_MAX or end.length > DIRECTORY_BYTES_MAX:
        msg = f"zip directory of {end.count} records is larger than is checked"
        raise NotChecked(msg, offset=end.offset)
    return end, read_bounded(source, end.offset, end.length, "central directory")


def _find_end(source: ByteSource) -> _End:
    """Return the end record, which must end where the file ends, combined with the zip64 one if there is one."""
    size = source.size_bytes
    # Checkpoints have no comments, and 64 KiB before the end there may already be data.
    for wanted_bytes in (_END64_LOCATOR.size + _END.size, _END64_LOCATOR.size + _END.size + _COMMENT_BYTES_MAX):
        tail_bytes = min(size, wanted_bytes)
        tail = source.read_at(size - tail_bytes, tail_bytes) if tail_bytes else b""
        at = _end_in(tail)
        if at >= 0:
            break
    else:
        msg = "zip has no end record: cut short, still being written, or followed by other bytes"
        raise ContainerBroken(msg, offset=size)
    _, disk, directory_disk, count_here, count, length, offset, _ = _END.unpack_from(tail, at)
    begins = size - tail_bytes + at
    if _U16 in (count, count_here) or _U32 in (length, offset) or _has_locator(tail, at):
        end = _find_end64(source, begins)
        _refuse_other_end(end, (disk, directory_disk, count_here, count, length, offset), begins)
        return end
    _refuse_split(disk, directory_disk, count_here, count, begins)
    return _End(begins, offset, length, count)


def _end_in(tail: bytes) -> int:
    """Return where in the file's last bytes its end record begins, or -1.

    It is the last one, and its length must fit: all readers use that one, some without a check of its comment. A
    comment with another end record in it would be a different archive for different readers.
    """
    at = tail.rfind(_END_SIGNATURE, 0, max(len(tail) - _END.size + len(_END_SIGNATURE), 0))
    if at >= 0 and at + _END.size + _END.unpack_from(tail, at)[7] != len(tail):
        return -1
    return at


def _refuse_other_end(end: _End, told: tuple[int, ...], at: int) -> None:
    """Raise unless the short end record agrees with the zip64 one, as far as its fields are wide enough."""
    known = (0, 0, end.count, end.count, end.length, end.offset)
    for value, limit, wide in zip(told, (_U16, _U16, _U16, _U16, _U32, _U32), known, strict=True):
        if value not in (limit, wide):
            msg = "the two end records say different things of the directory"
            raise ContainerBroken(msg, offset=at)


def _has_locator(tail: bytes, at: int) -> bool:
    return tail[max(0, at - _END64_LOCATOR.size) : at][:4] == b"PK\x06\x07"


def _find_end64(source: ByteSource, end_at: int) -> _End:
    """Return the zip64 end record, which lies right before its locator, which lies right before the end record."""
    locator_at = end_at - _END64_LOCATOR.size
    locator = _END64_LOCATOR.unpack(read_bounded(source, locator_at, _END64_LOCATOR.size, "zip64 locator"))
    signature, _, at, disks = locator
    if signature != b"PK\x06\x07" or disks != 1:
        msg = "zip64 locator missing"
        raise ContainerBroken(msg, offset=locator_at)
    fields = _END64.unpack(read_bounded(source, at, _END64.size, "zip64 end record"))
    signature, record_bytes, _, _, disk, directory_disk, count_here, count, length, offset = fields
    if signature != b"PK\x06\x06" or at + 12 + record_bytes != locator_at:
        msg = "zip64 end record damaged"
        raise ContainerBroken(msg, offset=at)
    _refuse_split(disk, directory_disk, count_here, count, at)
    return _End(at, offset, length, count)


def _refuse_split(disk: int, directory_disk: int, count_here: int, count: int, at: int) -> None:
    if disk or directory_disk or count_here != count:
        msg = "zip is split over several files"
        raise ContainerBroken(msg, offset=at)


def _parse_entries(raw: bytes, end: _End) -> Iterator[ZipEntry]:
    """Yield the directory's entries; together they fill it exactly."""
    at = 0
    left_bytes = NAMES_BYTES_MAX
    for _ in range(end.count):
        if at + _CENTRAL.size > len(raw) or raw[at : at + 4] != b"PK\x01\x02":
            msg = "central directory entry damaged"
            raise ContainerBroken(msg, offset=end.offset + at)
        fields = _CENTRAL.unpack_from(raw, at)
        name_bytes, extra_bytes, comment_bytes = fields[10:13]
        names_at = at + _CENTRAL.size
        extra_at = names_at + name_bytes
        following = extra_at + extra_bytes + comment_bytes
        if following > len(raw):
            msg = "central directory entry cut short"
            raise ContainerBroken(msg, offset=end.offset + at)
        extra = raw[extra_at : extra_at + extra_bytes]
        entry = _entry(fields, raw[names_at:extra_at], extra, end.offset + at)
        left_bytes -= 2 * name_bytes if entry.name.isascii() else 5 * name_bytes
        if left_bytes < 0:
            msg = "zip directory of longer names than are checked"
            raise NotChecked(msg, offset=end.offset)
        yield entry
        at = following
    if at != len(raw):
        msg = "central directory holds more than its records"
        raise ContainerBroken(msg, offset=end.offset + at)


def _entry(fields: tuple[int, ...], raw_name: bytes, extra: bytes, at: int) -> ZipEntry:
    _, _, version, flags, method, _, _, crc32, stored_bytes, plain_bytes = fields[:10]
    disk, _, attributes, header_offset = fields[13:]
    name = raw_name.decode("utf-8", "replace") if flags & UTF8 else raw_name.decode("cp437")
    if _U32 in (plain_bytes, stored_bytes, header_offset):
        wide = _zip64_values(extra, (plain_bytes, stored_bytes, header_offset).count(_U32), name, at)
        plain_bytes = wide.pop(0) if plain_bytes == _U32 else plain_bytes
        stored_bytes = wide.pop(0) if stored_bytes == _U32 else stored_bytes
        header_offset = wide.pop(0) if header_offset == _U32 else header_offset
    if disk:
        msg = "zip is split over several files"
        raise ContainerBroken(msg, record=name, offset=at)
    if version & 0xFF > _VERSION_MAX:
        msg = f"record asks for a reader of version {version & 0xFF} of the format, which there is not"
        raise ContainerBroken(msg, record=name, offset=at)
    if plain_bytes and (attributes & _DIRECTORY_ATTRIBUTE or raw_name.endswith(b"/")):
        msg = "record is marked as a directory, and has bytes"
        raise ContainerBroken(msg, record=name, offset=at)
    if method == STORED and stored_bytes != plain_bytes:
        msg = "stored record has two different lengths"
        raise ContainerBroken(msg, record=name, offset=at)
    return ZipEntry(name, raw_name, flags, method, crc32, stored_bytes, plain_bytes, header_offset)


def _zip64_values(extra: bytes, count: int, name: str, at: int) -> list[int]:
    """Return the first *count* numbers of the zip64 extra field."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == _ZIP64_FIELD and length >= 8 * count and place + 4 + length <= len(extra):
            return list(struct.unpack_from(f"<{count}Q", extra, place + 4))
        place += 4 + length
    msg = "zip64 sizes missing"
    raise ContainerBroken(msg, record=name, offset=at)
