"""NeMo's ``.nemo``: a tar with a model's settings, files that it needs, and its weights as ``torch.save`` wrote them.

Every header of the archive is read, and nothing is extracted. Weights are checked in place, by their own format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from mlsync.formats.archives.inner_files import Look, read_members
from mlsync.formats.archives.model_zips import has_weights_name
from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Layout, Packed
from mlsync.formats.section import Section
from mlsync.formats.zips.zip_layout import read_zip_layout

MEMBERS_MAX = 20_000
NAMES_BYTES_MAX = 16 << 20
#: Of the zips inside of the archive together.
RECORDS_MAX = 50_000
_BLOCK: Final = 512
_SETTINGS_BYTES_MAX: Final = 64 << 10
# tar fills its last record, of 10 KiB unless told otherwise, with zeros
_END_BYTES_MAX: Final = 1 << 20
_SUM: Final = slice(148, 156)
_MAGIC: Final = slice(257, 262)
_FILES: Final = b"0\x007"
_WITHOUT_BYTES: Final = b"123456"
_LONG_NAME, _LONG_TARGET, _SETTINGS, _SETTINGS_OF_ALL = b"L", b"K", b"x", b"g"
_GZIP, _ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OCTAL: Final = re.compile(rb" *([0-7]*)[ \x00]*")


@dataclass(frozen=True, slots=True)
class NemoLayout(Layout):
    """The archive's files are *members*; of those that are zips, the extents are their records."""

    members: tuple[Extent, ...] = ()


class _Head(NamedTuple):
    """One head of the archive: what it is of, where that begins and how long it is."""

    kind: bytes
    name: bytes
    at: int
    length: int

    @property
    def end(self) -> int:
        """Where the next head lies."""
        return self.at + -(-self.length // _BLOCK) * _BLOCK


def read_nemo_layout(source: ByteSource) -> NemoLayout:
    """Return level 1: every head has its sum, every member lies inside of the file, and zeros mark the end."""
    beginning = source.read_at(0, min(len(_ZSTANDARD), source.size_bytes))
    if beginning.startswith((_GZIP, _ZSTANDARD)):
        raise NotChecked("the archive is compressed as a whole, as older versions of NeMo did")
    members = tuple(_members(source))
    extents: list[Extent] = []
    packed: dict[str, Packed] = {}
    for member in members:
        extents += _records(source, member, packed, RECORDS_MAX - len(extents))
    return NemoLayout("nemo", source.size_bytes, tuple(extents), packed=packed, members=members)


def read_nemo_content(source: ByteSource, layout: NemoLayout, look: Look) -> Content | None:
    """Return level 2: each file of weights in it is what its own format asks for; ``None`` where there are none."""
    return read_members(source, "nemo", layout.members, look)


def _records(source: ByteSource, member: Extent, packed: dict[str, Packed], left: int) -> Iterator[Extent]:
    """Yield the records of a member that is a zip, with their checksums, or else the member itself."""
    window = Section(source, member.offset, member.length)
    if not has_weights_name(member.name) or member.length < 4 or window.read_at(0, 4) != b"PK\x03\x04":  # noqa: PLR2004
        yield member
        return
    try:
        layout = read_zip_layout(window, "zip")
    except NotChecked:
        yield member
        return
    except ContainerBroken as fault:
        record = member.name if fault.record is None else f"{member.name}/{fault.record}"
        raise ContainerBroken(fault.reason, record=record, offset=member.offset + (fault.offset or 0)) from None
    if len(layout.extents) > left:
        raise NotChecked(f"more than {RECORDS_MAX} records are more than are checked")
    for extent in layout.extents:
        name = f"{member.name}/{extent.name}"
        if extent.name in layout.packed:
            packed[name] = layout.packed[extent.name]
        yield extent._replace(name=name, offset=member.offset + extent.offset)


def _members(source: ByteSource) -> Iterator[Extent]:
    """Yield the archive's files, in order, up to its end."""
    at, names_bytes = 0, 0
    name: bytes | None = None
    length: int | None = None
    for _ in range(MEMBERS_MAX):
        head = _head(source, at, length)
        if head is None:
            return
        at = head.end
        if head.kind == _SETTINGS:
            name, length = _from_settings(_short(source, head))
        elif head.kind == _LONG_NAME:
            name = _short(source, head).rstrip(b"\0")
        elif head.kind not in (_LONG_TARGET, _SETTINGS_OF_ALL):
            if head.kind in _FILES:
                shown = (name or head.name).decode("utf-8", "replace")
                names_bytes += len(shown)
                if names_bytes > NAMES_BYTES_MAX:
                    raise NotChecked("longer names than are checked")
                yield Extent(shown, head.at, head.length)
            name = length = None
    raise NotChecked(f"more than {MEMBERS_MAX} members are more than are checked")


def _head(source: ByteSource, at: int, length: int | None) -> _Head | None:
    """Return the header at *at*, with *length* from a pax header if there was one; ``None`` at the archive's end."""
    if at + _BLOCK > source.size_bytes:
        raise ContainerBroken("archive is cut short: its end is not marked", offset=min(at, source.size_bytes))
    raw = read_bounded(source, at, _BLOCK, "head")
    if not raw.strip(b"\0"):
        _check_end(source, at)
        return None
    if raw[_MAGIC] != b"ustar" or not _has_sum(raw):
        raise ContainerBroken("head of a member is damaged", offset=at)
    kind = raw[156:157]
    if kind in _WITHOUT_BYTES:
        return _Head(kind, b"", at + _BLOCK, 0)
    if kind not in _FILES and kind not in (_LONG_NAME, _LONG_TARGET, _SETTINGS, _SETTINGS_OF_ALL):
        raise NotChecked(f"member of kind {kind!r} is not looked into")
    told = length if length is not None and kind in _FILES else _number(raw[124:136], at)
    if told > source.size_bytes - at - _BLOCK:
        raise ContainerBroken("member ends behind the end of the file", offset=at)
    prefix, name = raw[345:500].rstrip(b"\0"), raw[:100].partition(b"\0")[0]
    is_posix = raw[257:263] == b"ustar\0"
    return _Head(kind, prefix + b"/" + name if prefix and is_posix else name, at + _BLOCK, told)


def _check_end(source: ByteSource, at: int) -> None:
    left = source.size_bytes - at
    if left < 2 * _BLOCK:
        raise ContainerBroken("archive is cut short inside of the mark of its end", offset=at)
    if left > _END_BYTES_MAX or read_bounded(source, at, left, "end").strip(b"\0"):
        raise ContainerBroken("there is something behind the end of the archive", offset=at)


def _has_sum(raw: bytes) -> bool:
    """Return whether the header's checksum is right; it is computed with blanks in its own place."""
    match = _OCTAL.fullmatch(raw[_SUM])
    return match is not None and int(match[1] or b"0", 8) == sum(raw[: _SUM.start] + b" " * 8 + raw[_SUM.stop :])


def _number(field: bytes, at: int) -> int:
    """Return a number as tar writes it: octal digits, or bytes behind a mark."""
    if field[0] == 0x80:  # noqa: PLR2004 - the mark
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise ContainerBroken("length of a member is no number", offset=at)
    return int(match[1] or b"0", 8)


def _short(source: ByteSource, head: _Head) -> bytes:
    if head.length > _SETTINGS_BYTES_MAX:
        raise NotChecked("name or settings of a member are longer than is checked")
    return read_bounded(source, head.at, head.length, "settings")


def _from_settings(raw: bytes) -> tuple[bytes | None, int | None]:
    """Return the name and the length of the next member, as far as the pax header has them."""
    told: dict[bytes, bytes] = {}
    at = 0
    while at < len(raw):
        digits, blank, _ = raw[at : at + 10].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        key, equals, value = raw[at + len(digits) + 1 : at + length].partition(b"=")
        if not equals or raw[at + length - 1 : at + length] != b"\n":
            raise ContainerBroken("settings of a member are damaged")
        told[key] = value[:-1]
        at += length
    if any(key.startswith(b"GNU.sparse") for key in told):
        raise NotChecked("members with holes are not looked into")
    size = told.get(b"size")
    if size is not None and not (size.isdigit() and len(size) <= 19):  # noqa: PLR2004 - of 64 bits
        raise ContainerBroken("length of a member is no number")
    return told.get(b"path"), None if size is None else int(size)
