"""The format of torch before 1.6, which it still writes on request: five pickles in a row, then the storages.

The pickles are a magic number, a protocol version, the machine's type sizes, the object, and the keys of its storages.
Each storage is the number of its elements, as eight bytes, and the elements, always little-endian. There are no
checksums and no index: a storage's offset follows from the lengths of those before it, and the width of its elements
is only in the object's pickle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Layout
from mlsync.formats.pickles.machine import PICKLE_BYTES_MAX, PickleCutShort, Unpickled, unpickle
from mlsync.formats.pickles.nodes import Pairs
from mlsync.formats.torch.facts import torch_facts, torch_numbers
from mlsync.formats.torch.graph import tensors_in
from mlsync.formats.torch.tensors import StorageId, StorageTable, storage_id

STORAGES_MAX = 200_000
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_COUNT_BYTES = 8
_PREFIX = "data/"
# The pickles are read in steps, because nothing states their length: some are small, few are large
_FIRST_BYTES = 64 << 10
_STEP_FACTOR = 4
# A checkpoint has a thousand storages below one KiB
_GATHER_BYTES = 4096


class _Opening(NamedTuple):
    """All pickles of a file: the object, the keys of its storages in the order of the file, and where those begin."""

    object: Unpickled
    keys: list[str]
    end: int


def read_legacy_layout(source: ByteSource) -> Layout:
    """Return level 1: the pickles are torch's, and the storages that they name fill the rest of the file exactly."""
    opening = _read_opening(source)
    extents = tuple(_extents(source, opening))
    end = extents[-1].offset + extents[-1].length if extents else opening.end
    if end != source.size_bytes:
        raise ContainerBroken(f"{source.size_bytes - end} bytes behind the last storage", offset=end)
    return Layout("torch-legacy", source.size_bytes, extents)


def read_legacy_content(source: ByteSource, layout: Layout) -> Content:
    """Return level 2: every storage has as many elements as the object needs, every tensor is inside its storage."""
    opening = _read_opening(source)
    table = StorageTable(layout.extents, _PREFIX)
    root = opening.object.root
    found = tensors_in(root, table)
    table.add_all(opening.object.persistents)
    numbers = torch_numbers(root, table)
    return Content(
        table.storages(), tuple(found.tensors), torch_facts(root), numbers=numbers, aside_count=found.aside_count
    )


class _PickleStream:
    """Consecutive pickles from the start of a file."""

    def __init__(self, source: ByteSource) -> None:
        self.at = 0
        self._source = source
        self._data = b""

    def take(self) -> Unpickled:
        """Return the next pickle. At most a small multiple of its length is read."""
        while True:
            try:
                pickled = unpickle(self._data, self.at)
            except PickleCutShort:
                self._read_on()
            else:
                self.at = pickled.end
                return pickled

    def _read_on(self) -> None:
        known, size = len(self._data), self._source.size_bytes
        if known == size:
            raise ContainerBroken("file ends inside of its pickles", offset=size)
        if known == PICKLE_BYTES_MAX:
            raise NotChecked(f"pickles of more than {PICKLE_BYTES_MAX} bytes are larger than is checked")
        wanted = min(max(known * _STEP_FACTOR, _FIRST_BYTES), size, PICKLE_BYTES_MAX)
        self._data += read_bounded(self._source, known, wanted - known, "pickle")


def _read_opening(source: ByteSource) -> _Opening:
    stream = _PickleStream(source)
    if stream.take().root != _MAGIC:
        raise ContainerBroken("no magic number", offset=0)
    at = stream.at
    if stream.take().root != _PROTOCOL:
        raise ContainerBroken("protocol version that torch never had", offset=at)
    at = stream.at
    if not isinstance(stream.take().root, Pairs):
        raise ContainerBroken("nothing about the machine that wrote the file", offset=at)
    pickled = stream.take()
    at = stream.at
    return _Opening(pickled, _keys(stream.take().root, at), stream.at)


def _keys(root: object, at: int) -> list[str]:
    if type(root) is not list or not all(type(key) is str for key in root):
        raise ContainerBroken("no list of storages", offset=at)
    if len(root) > STORAGES_MAX:
        raise NotChecked(f"{len(root)} storages are more than are checked", offset=at)
    if len(set(root)) != len(root):
        raise ContainerBroken("a storage is listed twice", offset=at)
    return root


def _storage_ids(pickled: Unpickled) -> Iterator[StorageId]:
    """Yield every storage that the pickle mentions, also those without a tensor."""
    for persistent in pickled.persistents:
        storage = storage_id(persistent)
        if storage is not None:
            yield storage


def _extents(source: ByteSource, opening: _Opening) -> Iterator[Extent]:
    """Yield the storages in file order, each inside of the file."""
    widths: dict[str, int] = {}
    for storage in _storage_ids(opening.object):
        widths.setdefault(storage.key, storage.item_bytes)
    if widths.keys() != set(opening.keys):
        key = min(widths.keys() ^ set(opening.keys))
        what = "is not listed" if key in widths else "is listed and belongs to nothing"
        _refuse(f"storage {what}", key, opening.end)
    at = opening.end
    counts = _Counts(source)
    for key in opening.keys:
        if source.size_bytes - at < _COUNT_BYTES:
            _refuse("file ends before this storage", key, source.size_bytes)
        length = counts.at(at) * widths[key]
        at += _COUNT_BYTES
        if not 0 <= length <= source.size_bytes - at:
            _refuse(f"file ends inside of this storage of {length} bytes", key, at)
        yield Extent(_PREFIX + key, at, length)
        at += length


class _Counts:
    """Reads the lengths before the storages; those of adjacent small storages come with one read."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._begin = 0
        self._held = b""

    def at(self, offset: int) -> int:
        """Return the number at *offset*, which lies inside of the file."""
        if offset + _COUNT_BYTES > self._begin + len(self._held):
            self._begin = offset
            self._held = self._source.read_at(offset, min(_GATHER_BYTES, self._source.size_bytes - offset))
        place = offset - self._begin
        return int.from_bytes(self._held[place : place + _COUNT_BYTES], "little", signed=True)


def _refuse(reason: str, key: str, offset: int) -> NoReturn:
    raise ContainerBroken(reason, record=(_PREFIX + key)[:256], offset=offset)
