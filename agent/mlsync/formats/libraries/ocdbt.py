"""OCDBT, tensorstore's key-value store, in which Orbax keeps checkpoints of JAX: its manifests and tree nodes.

Both begin with a magic number, their length, a version and a compression, and end with a CRC-32C of everything before.
Both name data files, of which some begin with a node, and others hold values of arrays, which are not checked.
"""

from __future__ import annotations

import re

from mlsync.formats.faults import NotChecked, RecordDamaged
from mlsync.formats.layout import ByteSource, ContainerBroken, Extent, Layout
from mlsync.formats.libraries.crc32c import crc32c

NODE_BYTES_MAX = 1 << 20
_PLAIN_BYTES_MAX = 8 << 20
_MANIFEST, _NODE = b"\x0c\xdb\x3a\x2a", b"\x0c\xdb\x20\xde"
_DATA_FILE = re.compile(rb"(.*/)?d/[0-9a-f]{32}", re.DOTALL)
_LENGTH_END = 12
_HEAD_BYTES = 14
_SUM_BYTES = 4
_FILES_MAX = 100_000
_NUMBER_BYTES_MAX = 10
_UUID_BYTES = 16
_CONFIG_NUMBERS = 3  # kind of manifest, bytes of inline values, bytes of a node
_LEVEL_BYTES = 4
_NOT_PACKED, _ZSTD = 0, 1
_MORE = 0x80


def begins_whole(head: bytes, size_bytes: int, path: bytes) -> bool:
    """Return whether a file is a whole manifest or node, or by its name one that was cut short."""
    if not is_ocdbt(head):
        return False
    length = int.from_bytes(head[4:_LENGTH_END], "little")
    return length == size_bytes or (length > size_bytes and _DATA_FILE.fullmatch(path) is not None)


def is_ocdbt(head: bytes) -> bool:
    """Return whether a manifest or a node begins so."""
    return head[:4] in (_MANIFEST, _NODE)


def read_ocdbt_layout(source: ByteSource) -> Layout:
    """Return level 1: the head tells the file's length; the sum of all its bytes is for who reads them."""
    size_bytes = source.size_bytes
    if size_bytes < _HEAD_BYTES + _SUM_BYTES:
        raise ContainerBroken("file ends inside of its head", offset=size_bytes)
    _check_head(source.read_at(0, _HEAD_BYTES), size_bytes)
    stored = int.from_bytes(source.read_at(size_bytes - _SUM_BYTES, _SUM_BYTES), "little")
    return Layout("ocdbt", size_bytes, (Extent("all", 0, size_bytes - _SUM_BYTES, crc32c=stored),))


def files_told_of(data: bytes) -> list[str]:
    """Return the data files that a manifest or a node names, as paths relative to the manifest's directory."""
    if len(data) < _HEAD_BYTES + _SUM_BYTES:
        raise ContainerBroken("file ends inside of its head", offset=len(data))
    _check_head(data[:_HEAD_BYTES], len(data))
    if crc32c(memoryview(data)[:-_SUM_BYTES]) != int.from_bytes(data[-_SUM_BYTES:], "little"):
        raise RecordDamaged("CRC-32C differs", offset=0)
    plain = _unpacked(data[_HEAD_BYTES:-_SUM_BYTES], data[_HEAD_BYTES - 1])
    return _table(plain, _config_end(plain) if data[:4] == _MANIFEST else 1)


def _check_head(head: bytes, size_bytes: int) -> None:
    if not is_ocdbt(head):
        raise ContainerBroken("no manifest and no node of OCDBT", offset=0)
    length = int.from_bytes(head[4:_LENGTH_END], "little")
    if length != size_bytes:
        raise ContainerBroken(f"file has {size_bytes} bytes, {length} are needed", offset=min(length, size_bytes))
    if head[_LENGTH_END] or head[_LENGTH_END + 1] > _ZSTD:
        raise NotChecked("a version of OCDBT that is not known here", offset=_LENGTH_END)


def _unpacked(body: bytes, kind: int) -> bytes:
    if kind == _NOT_PACKED:
        return body
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=_PLAIN_BYTES_MAX).stream_reader(body) as reader:
            plain = reader.read(_PLAIN_BYTES_MAX + 1)
    except zstandard.ZstdError as error:
        raise ContainerBroken("does not unpack", offset=_HEAD_BYTES) from error
    if len(plain) > _PLAIN_BYTES_MAX:
        raise NotChecked("node is larger than is checked", offset=_HEAD_BYTES)
    return bytes(plain)


def _config_end(plain: bytes) -> int:
    """Return where the list of files begins in a manifest."""
    at = _UUID_BYTES
    for place in range(_CONFIG_NUMBERS):
        value, at = _number(plain, at)
        if place == 0 and value:
            raise NotChecked("manifest in several files", offset=0)
    packing, at = _number(plain, at + 1)
    return at + (_LEVEL_BYTES if packing == _ZSTD else 0)


def _table(plain: bytes, at: int) -> list[str]:
    """Return the names of the files. Each is stored as the length shared with the one before, and the rest."""
    count, at = _number(plain, at)
    if count > _FILES_MAX:
        raise NotChecked(f"{count} data files are more than are checked", offset=0)
    numbers = []
    for _ in range(max(3 * count - 1, 0)):
        value, at = _number(plain, at)
        numbers.append(value)
    shared = [0, *numbers[: max(count - 1, 0)]]
    names: list[str] = []
    last = b""
    left_bytes = _PLAIN_BYTES_MAX
    for same, own in zip(shared, numbers[count - 1 :] if count else [], strict=False):
        if same > len(last) or at + own > len(plain):
            raise ContainerBroken("list of data files does not parse", offset=0)
        last = last[:same] + plain[at : at + own]
        at += own
        left_bytes -= len(last)
        if left_bytes < 0:
            raise NotChecked("data files of longer names than are checked", offset=0)
        names.append(last.decode("utf-8", "surrogateescape"))
    return names[:count]


def _number(plain: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, part in enumerate(plain[at : at + _NUMBER_BYTES_MAX]):
        value |= (part & 0x7F) << 7 * place
        if part < _MORE:
            return value, at + place + 1
    raise ContainerBroken("number without end", offset=0)
