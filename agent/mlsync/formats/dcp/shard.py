"""One ``.distcp`` file, checked against its metadata: every item is what the metadata says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mlsync.formats.dcp.container import item_zips
from mlsync.formats.dcp.metadata import DcpEntry, DcpMetadata
from mlsync.formats.facts import with_counts
from mlsync.formats.faults import MeaningBroken, NotChecked, RecordDamaged
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Layout, Storage, Tensor
from mlsync.formats.libraries.safetensors import read_safetensors_content, read_safetensors_layout
from mlsync.formats.pickles.counts import counts_in
from mlsync.formats.pickles.machine import PICKLE_BYTES_MAX
from mlsync.formats.pickles.nodes import Call, Pairs
from mlsync.formats.section import Section
from mlsync.formats.strides import TENSORS_BYTES_MAX, held_bytes
from mlsync.formats.torch.content import read_torch_object
from mlsync.formats.zips.directory import RECORDS_MAX
from mlsync.formats.zips.zip_layout import ZipLayout
from mlsync.values import Fact

_ZIP = b"PK\x03\x04"
# Of all records together, each of which is named by its owner
NAMES_CHARS_MAX = 24 << 20
_SHOWN_DIMENSIONS_MAX = 8
# Objects under these names say how far a training was
_PROGRESS = frozenset({"epoch", "step", "global_step", "global_steps", "iteration"})


class _Found:
    """What was found in a file so far."""

    def __init__(self) -> None:
        self.extents: list[Extent] = []
        self.storages: list[Storage] = []
        self.tensors: list[Tensor] = []
        self.pickle_bytes = 0
        self.names_chars = 0
        self.progress = Pairs()
        self.packed_count = 0
        self.aside_count = 0
        self.unchecked_count = 0
        self.is_big = False
        self._left_bytes = TENSORS_BYTES_MAX

    def add_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Note an item's tensors; there is a bound for those of all items together."""
        for tensor in tensors:
            self._left_bytes -= held_bytes(tensor)
            if self._left_bytes < 0:
                raise NotChecked("more tensors, or longer names of them, than are checked", record=tensor.name[:256])
            self.tensors.append(tensor)

    def note_progress(self, name: str, value: float) -> None:
        """Note how far the training was, if that is what an object of this name says."""
        root, _, key = name.rpartition(".")
        if key in _PROGRESS and "." not in root and not root.startswith("optim") and key not in self.progress[::2]:
            self.progress += [key, value]

    def add_records(self, label: str, start: int, layout: ZipLayout) -> None:
        """Note where an item's records lie, and what its pickle costs, for which there is a bound for all items."""
        for name, at, length, crc32, _ in layout.extents:
            self.extents.append(Extent(f"{label}/{name}", start + at, length, crc32))
            if name.endswith("/data.pkl"):
                self.pickle_bytes += max(length, layout.packed[name].plain_bytes if name in layout.packed else 0)
        self.names_chars += len(label) * len(layout.extents)
        is_large = self.pickle_bytes > PICKLE_BYTES_MAX or self.names_chars > NAMES_CHARS_MAX
        if len(self.extents) > RECORDS_MAX or is_large:
            raise NotChecked("more records, or larger pickles, than are checked", record=label[:256], offset=start)


def read_dcp_shard(source: ByteSource, metadata: DcpMetadata, name: str) -> tuple[Layout, Content]:
    """Return levels 1 and 2 of the file *name*: its items' records, and tensors by their names in the checkpoint.

    A tensor of which the file holds a part has the part's place behind its name. Bytes that no entry tells of are left
    alone; items behind a transformation are counted and not looked into.
    """
    entries = [entry for entry in metadata.entries if entry.item.relative_path == name]
    plain = [entry for entry in entries if not entry.is_packed]
    found = _Found()
    found.unchecked_count = len(entries) - len(plain)
    found.aside_count = sum(entry.chunk is not None for entry in entries if entry.is_packed)
    tail = _safetensors_tail(source, plain)
    for entry, window, layout in _zips(source, [entry for entry in plain if not (tail and entry.chunk)]):
        if layout is None:
            found.unchecked_count += 1
        else:
            _add_item(found, metadata, entry, window, layout)
    if tail:
        _add_tail(found, metadata, source, tail)
    facts: dict[str, Fact] = dict(metadata.facts)
    facts |= {key: value for key, value in counts_in(found.progress).items() if key in ("epoch", "step")}
    if found.unchecked_count:
        facts["unchecked_item_count"] = found.unchecked_count
    if found.is_big:
        facts["byteorder"] = "big"
    content = Content(
        tuple(found.storages), tuple(found.tensors), facts, found.packed_count, aside_count=found.aside_count
    )
    return Layout("dcp", source.size_bytes, tuple(found.extents)), with_counts(content)


def _zips(source: ByteSource, entries: Sequence[DcpEntry]) -> Iterator[tuple[DcpEntry, Section, ZipLayout | None]]:
    """Yield each entry with its zip, in file order; then those that are no zip.

    A tensor must be one. What an object's bytes are is the planner's affair (Megatron brings its own); zeros are none.
    """
    by_item = {entry.item: entry for entry in entries}
    if len(by_item) != len(entries):
        raise ContainerBroken("two names for one item")
    for item, window, layout in item_zips(source, by_item):
        yield by_item.pop(item), window, layout
    for item, entry in by_item.items():
        window = Section(source, item.offset, item.length)
        if entry.chunk is not None or not window.read_at(0, min(len(_ZIP), item.length)).strip(b"\0"):
            raise ContainerBroken("item is no torch zip", record=entry.name[:256], offset=item.offset)
        yield entry, window, None


def _add_item(found: _Found, metadata: DcpMetadata, entry: DcpEntry, window: Section, layout: ZipLayout) -> None:
    label = _label(metadata, entry)
    start = entry.item.offset
    found.add_records(label, start, layout)
    try:
        root, content = read_torch_object(window, layout)
    except ContainerBroken as fault:
        record, offset = f"{label}/{fault.record or ''}", start + (fault.offset or 0)
        kind = type(fault) if isinstance(fault, (NotChecked, RecordDamaged)) else MeaningBroken
        raise kind(fault.reason, record=record, offset=offset) from None
    if entry.chunk is not None:
        _check_tensor(found, metadata, entry, root, content)
    elif isinstance(root, (int, float)):
        found.note_progress(entry.name, root)
    found.packed_count += content.packed_count
    found.aside_count += content.aside_count
    found.is_big |= content.facts.get("byteorder") == "big"
    found.storages += [
        storage._replace(name=f"{label}/{storage.name}", offset=start + storage.offset) for storage in content.storages
    ]
    found.add_tensors(
        tensor._replace(name=f"{label}.{tensor.name}".rstrip("."), storage=f"{label}/{tensor.storage}")
        for tensor in content.tensors
    )


def _check_tensor(found: _Found, metadata: DcpMetadata, entry: DcpEntry, root: object, content: Content) -> None:
    """The item is the tensor that the metadata describe, or one of a class that is made of other tensors.

    Of the latter (quantised weights, sparse ones) the metadata tell what they look like, and not what lies in the file.
    """
    if len(content.tensors) == 1 and not content.tensors[0].name:
        _check_described(metadata, entry, content.tensors[0])
    elif isinstance(root, Call) and content.tensors:
        found.unchecked_count += 1
    else:
        raise _other(f"item is no tensor and holds {len(content.tensors)}", entry)


def _check_described(metadata: DcpMetadata, entry: DcpEntry, tensor: Tensor) -> None:
    dtype = metadata.tensors[entry.name].dtype
    if tensor.dtype != dtype:
        raise _other(f"tensor of {tensor.dtype}, the metadata say {dtype[:64]}", entry)
    assert entry.chunk is not None
    if tensor.shape != entry.chunk.sizes:
        what = f"tensor of shape {list(tensor.shape[:8])}, the metadata say {list(entry.chunk.sizes[:8])}"
        raise _other(what, entry)


def _other(what: str, entry: DcpEntry) -> MeaningBroken:
    """Return the fault of an item that differs from what the metadata say."""
    return MeaningBroken(what, record=entry.name[:256], offset=entry.item.offset)


def _label(metadata: DcpMetadata, entry: DcpEntry) -> str:
    """Return the entry's name, with the slice of the tensor if it is only a part."""
    if entry.chunk is None or entry.chunk.sizes == metadata.tensors[entry.name].shape:
        return entry.name
    if len(entry.chunk.sizes) > _SHOWN_DIMENSIONS_MAX:
        return f"{entry.name}[at {entry.item.offset}]"
    parts = (f"{at}:{at + size}" for at, size in zip(*entry.chunk, strict=True))
    return f"{entry.name}[{', '.join(parts)}]"


# ---------------------------------------------------------------- tensors in the format of safetensors


def _safetensors_tail(source: ByteSource, entries: Sequence[DcpEntry]) -> list[DcpEntry]:
    """Return the entries whose tensors are one safetensors file behind the objects; empty if they are zips.

    Torch notes the same offset for each of them, that of the header, and lengths without it.
    """
    tensors = [entry for entry in entries if entry.chunk is not None]
    offsets = {entry.item.offset for entry in tensors}
    if len(offsets) != 1 or not 0 <= min(offsets) <= source.size_bytes - len(_ZIP):
        return []
    return tensors if source.read_at(min(offsets), len(_ZIP)) != _ZIP else []


def _add_tail(found: _Found, metadata: DcpMetadata, source: ByteSource, entries: Sequence[DcpEntry]) -> None:
    start = entries[0].item.offset
    window = Section(source, start, source.size_bytes - start)
    try:
        layout = read_safetensors_layout(window)
        content = read_safetensors_content(layout)
    except ContainerBroken as fault:
        raise type(fault)(fault.reason, record=fault.record, offset=start + (fault.offset or 0)) from None
    tensors = {tensor.name: tensor for tensor in content.tensors}
    if tensors.keys() != {entry.name for entry in entries} or len(tensors) != len(entries):
        raise MeaningBroken("other tensors than the metadata say", offset=start)
    labels = {entry.name: _label(metadata, entry) for entry in entries}
    for entry in entries:
        _check_described(metadata, entry, tensors[entry.name])
    found.extents += [Extent(labels[name], start + at, length, crc32) for name, at, length, crc32, _ in layout.extents]
    found.storages += [
        storage._replace(name=labels[storage.name], offset=start + storage.offset) for storage in content.storages
    ]
    found.add_tensors(
        tensor._replace(name=labels[tensor.name], storage=labels[tensor.name]) for tensor in content.tensors
    )
