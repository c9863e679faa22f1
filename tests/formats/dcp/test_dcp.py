from __future__ import annotations

import contextlib
import pickle
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat

from byte_edits import edited, edits
from checkpoint_files import MemorySource, flipped, network, parts_of, rezipped, torch_bytes, yolo_bytes
from mlsync.formats.dcp import container as dcp
from mlsync.formats.dcp.container import Item, read_dcp_structure, read_items
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Saved:
    """A checkpoint of one rank: what was saved, and the two files that it became."""

    state: dict[str, Any]
    metadata: bytes
    data: bytes

    def items(self) -> list[tuple[Item, str]]:
        """The items as torch itself reads them, with their names."""
        storage_data = pickle.loads(self.metadata).storage_data
        return [(Item(i.relative_path, i.offset, i.length), index.fqn) for index, i in storage_data.items()]


def save(folder: Path, state: dict[str, Any], **options: Any) -> Saved:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about torch
        writer = FileSystemWriter(folder, sync_files=False, **options)
        distributed_checkpoint.save(state, storage_writer=writer, no_dist=True)
    return Saved(state, (folder / ".metadata").read_bytes(), (folder / "__0_0.distcp").read_bytes())


def training_state() -> dict[str, Any]:
    """Weights, an optimizer's state, and values that are no tensors."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    extra = {"half": torch.randn(7).half(), "flags": torch.ones(5).bool(), "turned": torch.randn(30, 40).T}
    return {**state, **extra, "optimizer": optimizer.state_dict(), "epoch": 3, "notes": ["a", None, 0.5]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint that torch wrote."""
    return save(tmp_path_factory.mktemp("dcp") / "checkpoint", training_state())


def layout_of(source, items):
    return read_dcp_structure(source, items)[0]


def storages_of(source, items):
    return read_dcp_structure(source, items)[1]


# ---------------------------------------------------------------- what torch writes


def test_items_are_those_that_torch_reads(saved):
    """File, offset and length of every tensor and object are told, in the order of the file."""
    items = read_items(saved.metadata)
    assert items == tuple(sorted(item for item, _ in saved.items()))
    assert len(items) > 20


def test_every_tensor_lies_where_its_storage_says(saved):
    """The bytes of each storage are those of the tensor that was saved, and its elements have that tensor's width."""
    storages = {storage.name: storage for storage in storages_of(MemorySource(saved.data), read_items(saved.metadata))}
    tensors = {name: value for name, value in saved.state.items() if isinstance(value, torch.Tensor)}
    for item, name in saved.items():
        if name in tensors:
            storage = storages[f"{item.offset}/archive/data/0"]
            found = saved.data[storage.offset : storage.offset + storage.length]
            assert found == bytes(tensors[name].untyped_storage())
            assert (f"torch.{storage.dtype}", storage.item_bytes) == (str(tensors[name].dtype), tensors[name].itemsize)


def test_records_of_all_items_are_found_with_their_checksums(saved):
    """The layout has every record once, in the order of the file, and each has the CRC that stands in its zip."""
    layout = layout_of(MemorySource(saved.data), read_items(saved.metadata))
    assert (layout.container, layout.size_bytes) == ("dcp", len(saved.data))
    reached = 0
    for extent in layout.extents:
        assert extent.offset >= reached
        reached = extent.offset + extent.length
        assert zlib.crc32(saved.data[extent.offset : reached]) == extent.crc32
    assert reached <= len(saved.data)
    assert len({extent.name for extent in layout.extents}) == len(layout.extents)
    assert {extent.name.partition("/")[0] for extent in layout.extents} == {str(i.offset) for i, _ in saved.items()}


def test_storages_are_records(saved):
    """Each storage is one of the layout's extents, by name, place and length; they come in the order of the file."""
    source, items = MemorySource(saved.data), read_items(saved.metadata)
    places = [(extent.name, extent.offset, extent.length) for extent in layout_of(source, items).extents]
    storages = [(storage.name, storage.offset, storage.length) for storage in storages_of(source, items)]
    assert storages == [place for place in places if place in set(storages)]


def test_a_checkpoint_of_two_ranks(two_ranks):
    """Each rank's file has its own items, and together they hold the sharded tensor."""
    folder = two_ranks / "checkpoint"
    items = read_items((folder / ".metadata").read_bytes())
    torch.manual_seed(5)
    for rank, half in enumerate(torch.randn(64, 16).chunk(2)):
        own = [item for item in items if item.relative_path == f"__{rank}_0.distcp"]
        data = (folder / f"__{rank}_0.distcp").read_bytes()
        storages = storages_of(MemorySource(data), own)
        kept = [data[storage.offset : storage.offset + storage.length] for storage in storages]
        assert bytes(half.clone().untyped_storage()) in kept


def test_a_file_in_the_format_of_safetensors_has_no_records(tmp_path):
    """Items that are no zips are passed over."""
    other = save(tmp_path, {"a": torch.ones(5)}, serialization_format=SerializationFormat.SAFETENSORS)
    source, items = MemorySource(other.data), read_items(other.metadata)
    assert items
    assert layout_of(source, items).extents == ()
    assert storages_of(source, items) == ()


# ---------------------------------------------------------------- metadata by hand


@dataclass
class _StorageInfo:
    """The fields that torch has had since its first version."""

    relative_path: object
    offset: object
    length: object


@dataclass
class _LaterInfo(_StorageInfo):
    """And one that came later."""

    transform_descriptors: object = None


@dataclass
class _Metadata:
    """What torch puts the entries into."""

    storage_data: object
    version: str = "1.0.0"


def metadata_of(*entries: object, protocol: int = 4) -> bytes:
    return pickle.dumps(_Metadata(dict(enumerate(entries))), protocol)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("entry", [_StorageInfo("a", 5, 7), _LaterInfo("a", 5, 7, ["zstd"])], ids=["first", "later"])
def test_entries_are_known_by_their_fields(entry, protocol):
    """Whatever class and protocol an entry is pickled with, its file, offset and length are told."""
    assert read_items(metadata_of(entry, protocol=protocol)) == (Item("a", 5, 7),)


def test_items_come_in_order_and_once():
    """Entries in any order, some of them twice, are told by file and offset, once each."""
    entries = [_StorageInfo("b", 0, 2), _StorageInfo("a", 9, 1), _StorageInfo("a", 0, 9), _StorageInfo("a", 9, 1)]
    assert read_items(metadata_of(*entries)) == (Item("a", 0, 9), Item("a", 9, 1), Item("b", 0, 2))


@pytest.mark.parametrize(
    "path",
    ["../a", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "a\0b", "\ud800", "a" * 256, b"a", None, 3, ["a"]],
)
def test_a_path_that_leads_elsewhere_is_refused(path):
    """An item lies in a file of the metadata's own directory, or the metadata are not believed."""
    with pytest.raises(ContainerBroken, match="not beside its metadata"):
        read_items(metadata_of(_StorageInfo("a", 0, 1), _StorageInfo(path, 0, 1)))


@pytest.mark.parametrize("count", [-1, 1 << 63, 1 << 300, 1.0, True, None, "1", (1,)])
def test_a_place_that_cannot_be_is_refused(count):
    """Offsets and lengths are whole numbers that a file can have."""
    for entry in (_StorageInfo("a", count, 1), _StorageInfo("a", 1, count)):
        with pytest.raises(ContainerBroken, match="without a place"):
            read_items(metadata_of(entry))


@pytest.mark.parametrize(
    "other",
    [
        pickle.dumps({"storage_data": {}}),
        pickle.dumps(_Metadata(None)),
        pickle.dumps(_Metadata([_StorageInfo("a", 0, 1)])),
        pickle.dumps(_Metadata({1: ("a", 0, 1)})),
        pickle.dumps(_Metadata({1: {"relative_path": "a", "offset": 0, "length": 1}})),
        parts_of(yolo_bytes())["archive/data.pkl"],
        b"{}",
        b"",
    ],
)
def test_other_files_of_that_name_are_refused(other):
    """A pickle that is not torch's metadata, and what is no pickle, raise ``ContainerBroken``."""
    with pytest.raises(ContainerBroken):
        read_items(other)


def test_metadata_that_are_cut_short_are_refused(saved):
    """Metadata that end anywhere before their end tell of nothing."""
    for end in range(0, len(saved.metadata), 61):
        with pytest.raises(ContainerBroken):
            read_items(saved.metadata[:end])


def test_more_items_than_are_checked(monkeypatch):
    """A directory of more items than the bound is one that was not checked."""
    monkeypatch.setattr(dcp, "ITEMS_MAX", 2)
    with pytest.raises(NotChecked, match="3 items"):
        read_items(metadata_of(*(_StorageInfo("a", place, 1) for place in range(3))))


def test_entries_that_share_a_large_state_are_not_looked_at_field_by_field():
    """A hundred thousand entries with one state of a hundred thousand fields are refused at once."""

    def text(word: str) -> bytes:
        return b"X" + len(word).to_bytes(4, "little") + word.encode()

    fields = text("relative_path") + text("a") + text("offset") + b"K\x00" + text("length") + b"K\x01"
    state = b"}q\x00(" + fields + b"K\x01N" * 100_000 + b"u0"
    entries = b"cx\nInfo\nq\x010}(" + b"Nh\x01)\x81h\x00b" * 100_000 + b"uq\x020"
    data = b"\x80\x02" + state + entries + b"cx\nMetadata\n)\x81}" + text("storage_data") + b"h\x02sb."
    with pytest.raises(ContainerBroken, match="not beside its metadata"):
        read_items(data)


def test_metadata_are_parsed_once_for_all_files_of_their_directory(saved, monkeypatch):
    """Asking again with the same bytes reads no pickle."""
    first = read_items(saved.metadata)
    monkeypatch.setattr(dcp, "read_pickle", None)
    assert read_items(bytes(bytearray(saved.metadata))) == first


# ---------------------------------------------------------------- items that do not fit


def zips(*values: Any) -> tuple[bytes, list[Item]]:
    """A file of one torch zip for each value, and its items."""
    data, items = b"", []
    for value in values:
        part = value if isinstance(value, bytes) else torch_bytes(value)
        items.append(Item("a", len(data), len(part)))
        data += part
    return data, items


@pytest.mark.parametrize(
    "items",
    [
        [Item("a", 0, 9000)],
        [Item("a", 0, 10), Item("a", 9, 10)],
        [Item("a", 0, 10), Item("a", 0, 11)],
        [Item("a", -5, 10)],
        [Item("a", 20, -5)],
        [Item("a", 1 << 62, 5)],
        [Item("a", 0, (1 << 63) - 1)],
    ],
    ids=["too long", "overlap", "same start", "before", "negative", "behind", "huge"],
)
def test_items_that_do_not_fit_the_file_are_refused(items):
    """Items that leave the file or lie on one another raise ``ContainerBroken``."""
    source = MemorySource(bytes(100))
    with pytest.raises(ContainerBroken, match="overlaps another one, or leaves the file"):
        layout_of(source, items)


def test_the_order_of_the_items_is_nothing():
    """Items that are handed over in any order have the same layout and storages."""
    data, items = zips(torch.ones(3), torch.ones(4), torch.ones(5))
    source = MemorySource(data)
    assert layout_of(source, items[::-1]) == layout_of(source, items)
    assert storages_of(source, items[::-1]) == storages_of(source, items)


def test_what_no_item_tells_of_is_left_alone():
    """Bytes between the items, and items without bytes, change nothing."""
    data, items = zips(torch.ones(3), b"whatever", torch.ones(5))
    with_empty = [items[0], Item("a", items[2].offset, 0), items[2], Item("a", len(data), 0)]
    assert [storage.length for storage in storages_of(MemorySource(data), with_empty)] == [12, 20]


def test_an_item_that_is_no_zip_has_no_records():
    """A pickle, a compressed stream, or a few bytes are passed over, and what lies around them is found."""
    data, items = zips(torch.ones(3), pickle.dumps([1]), b"\x28\xb5\x2f\xfd1234", b"PK", torch.ones(5))
    layout = layout_of(MemorySource(data), items)
    zips_at = {str(items[0].offset), str(items[4].offset)}
    assert {extent.name.partition("/")[0] for extent in layout.extents} == zips_at


def test_a_damaged_zip_is_named_with_its_place():
    """An item that begins like a zip and is none takes the whole layout with it; record and offset are the file's."""
    data, items = zips(torch.ones(3), torch.ones(4))
    at = data.index(b"PK\x03\x04", items[1].offset + 1)
    source = MemorySource(flipped(data, at))
    with pytest.raises(ContainerBroken, match="local header missing") as caught:
        layout_of(source, items)
    assert caught.value.record is not None
    assert caught.value.record.startswith(f"{items[1].offset}/archive/")
    assert caught.value.offset == at


def test_metadata_of_another_save_are_found_out():
    """Items one of which is a zip that ends elsewhere do not fit."""
    data, items = zips(torch.ones(3), torch.ones(4))
    moved = [items[0]._replace(length=items[0].length - 64), items[1]]
    with pytest.raises(ContainerBroken, match="no end record"):
        layout_of(MemorySource(data), moved)


def test_an_item_without_meaning_takes_nothing_from_the_others():
    """A zip whose pickle is damaged, missing or of an unknown type has no storages; those around it have theirs."""
    plain = torch_bytes(torch.ones(4))
    unknown = parts_of(plain)
    unknown["archive/data.pkl"] = unknown["archive/data.pkl"].replace(b"FloatStorage", b"FluffStorage")
    missing = {name: part for name, part in parts_of(plain).items() if name != "archive/data.pkl"}
    data, items = zips(torch.ones(3), flipped(plain, 100), rezipped(unknown), rezipped(missing), torch.ones(5).half())
    storages = storages_of(MemorySource(data), items)
    assert [(storage.length, storage.item_bytes) for storage in storages] == [(12, 4), (10, 2)]


def test_pickles_are_read_up_to_a_bound_for_all_items(monkeypatch):
    """Items behind the one whose pickle is beyond the bound have no storages, and nothing is raised."""
    data, items = zips(torch.ones(3), list(range(5000)), torch.ones(5))
    monkeypatch.setattr(dcp, "PICKLES_BYTES_MAX", 4000)
    assert [storage.length for storage in storages_of(MemorySource(data), items)] == [12]


def test_more_records_than_are_checked(monkeypatch):
    """A file of more records than the bound is one that was not checked."""
    monkeypatch.setattr(dcp, "RECORDS_MAX", 9)
    data, items = zips(torch.ones(3), torch.ones(5))
    with pytest.raises(NotChecked, match="more than 9 records"):
        layout_of(MemorySource(data), items)


# ---------------------------------------------------------------- any bytes

SMALL_METADATA = metadata_of(_StorageInfo("a", 0, 5), _LaterInfo("b", 5, 1 << 40, ["zstd"]))
SMALL_FILE, SMALL_ITEMS = zips(torch.ones(3), [1, 2], torch.ones(4).half())


@settings(max_examples=200, deadline=None)
@given(changes=edits, keep=st.floats(0.3, 1.5))
def test_changed_metadata_never_surprise(changes, keep):
    """Metadata changed or cut off: items that are sound by themselves, or ``ContainerBroken``."""
    with contextlib.suppress(ContainerBroken):
        for item in read_items(edited(SMALL_METADATA, changes)[: int(keep * len(SMALL_METADATA))]):
            assert item.relative_path not in ("", ".", "..")
            assert "/" not in item.relative_path
            assert item.relative_path.encode()
            assert 0 <= item.offset < 1 << 63
            assert 0 <= item.length < 1 << 63


@settings(max_examples=200, deadline=None)
@given(changes=edits)
def test_a_changed_file_never_surprises(changes):
    """A file changed under its items: a layout that lies inside the file, in order, or ``ContainerBroken``."""
    source = MemorySource(edited(SMALL_FILE, changes))
    with contextlib.suppress(ContainerBroken):
        reached = 0
        for extent in layout_of(source, SMALL_ITEMS).extents:
            assert extent.offset >= reached
            reached = extent.offset + extent.length
        assert reached <= source.size_bytes


places = st.builds(Item, st.just("a"), st.integers(-3, 8000), st.integers(-3, 4000))


@settings(max_examples=200, deadline=None)
@given(items=st.lists(places | st.sampled_from(SMALL_ITEMS), max_size=4))
def test_any_items_never_surprise(items):
    """Items that were made up: a layout, or ``ContainerBroken``; no read outside of the file."""
    source = MemorySource(SMALL_FILE)
    with contextlib.suppress(ContainerBroken):
        layout_of(source, items)
