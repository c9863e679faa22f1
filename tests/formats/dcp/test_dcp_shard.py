from __future__ import annotations

import contextlib
import pickle
import struct
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from hypothesis import given, settings
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from byte_edits import edited, edits
from checkpoint_files import MemorySource, flipped, parts_of, rezipped, torch_bytes
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.dcp import metadata as dcp_metadata
from mlsync.formats.dcp import shard as dcp_shard
from mlsync.formats.dcp.container import Item
from mlsync.formats.dcp.metadata import DcpMetadata, check_against_files, read_dcp_metadata
from mlsync.formats.dcp.shard import read_dcp_shard
from mlsync.formats.faults import NotChecked, RecordDamaged
from mlsync.formats.layout import ContainerBroken, Content, Layout

pytestmark = pytest.mark.slow


def save(folder: Path, state: dict[str, Any], **options: Any) -> Path:
    """A checkpoint that torch writes from one rank."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about torch
        writer = FileSystemWriter(folder, sync_files=False, **options)
        distributed_checkpoint.save(state, storage_writer=writer, no_dist=True)
    return folder


def metadata_in(folder: Path) -> DcpMetadata:
    return read_dcp_metadata((folder / ".metadata").read_bytes())


def sizes_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def shards_in(folder: Path) -> dict[str, tuple[bytes, Layout, Content]]:
    """Every file's bytes, layout and content."""
    metadata = metadata_in(folder)
    found = {}
    for path in sorted(folder.glob("*.distcp")):
        data = path.read_bytes()
        found[path.name] = (data, *read_dcp_shard(MemorySource(data), metadata, path.name))
    return found


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of all files under the name that it was found by, made from its storage's bytes."""
    tensors = {}
    for data, _, content in shards_in(folder).values():
        storages = {storage.name: storage for storage in content.storages}
        for tensor in content.tensors:
            storage = storages[tensor.storage]
            part = bytearray(data[storage.offset : storage.offset + storage.length])
            dtype = getattr(torch, tensor.dtype)
            flat = torch.frombuffer(part, dtype=dtype) if part else torch.empty(0, dtype=dtype)
            tensors[tensor.name] = flat.as_strided(tensor.shape, tensor.stride, tensor.first)
    return tensors


STATE = {
    "model": {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3).bfloat16()},
    "optimizer": {"state": {0: {"exp_avg": torch.randn(3, 4), "step": torch.tensor(5.0)}}, "lr": 0.1},
    "turned": torch.randn(5, 4).T,
    "empty": torch.zeros(0, 4),
    "complex": torch.ones(3, dtype=torch.cfloat),
    "epoch": 3,
    "notes": ["a", None],
}
FLAT = {
    "model.weight": STATE["model"]["weight"],
    "model.bias": STATE["model"]["bias"],
    "optimizer.state.0.exp_avg": STATE["optimizer"]["state"][0]["exp_avg"],
    "optimizer.state.0.step": STATE["optimizer"]["state"][0]["step"],
    **{name: STATE[name] for name in ("turned", "empty", "complex")},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A checkpoint of one rank in two files."""
    return save(tmp_path_factory.mktemp("dcp") / "checkpoint", STATE, thread_count=2)


# ---------------------------------------------------------------- what torch writes


def test_every_tensor_is_found_under_its_name_with_its_numbers(saved):
    """The files of a checkpoint together hold each tensor once, under the name that the metadata give it."""
    found = tensors_in(saved)
    assert found.keys() == FLAT.keys()
    for name, tensor in FLAT.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_tensors_in_the_format_of_safetensors_are_found(tmp_path):
    """The other way that torch writes the same checkpoint is read to the same tensors and objects."""
    state = {name: value for name, value in STATE.items() if name not in ("turned", "complex")}
    folder = save(tmp_path / "s", state, serialization_format=SerializationFormat.SAFETENSORS, thread_count=2)
    check_against_files(metadata_in(folder), sizes_in(folder))
    found = tensors_in(folder)
    assert found.keys() == FLAT.keys() - {"turned", "complex"}
    assert all(torch.equal(found[name], FLAT[name]) for name in found)
    assert {content.facts.get("epoch") for _, _, content in shards_in(folder).values()} == {3, None}


def test_chunks_of_a_sharded_tensor_have_their_place_in_their_name(two_ranks):
    """Each rank's part is named by what it is a part of; put together they are the tensor."""
    found = tensors_in(two_ranks / "checkpoint")
    torch.manual_seed(5)
    whole = torch.randn(64, 16)
    assert torch.equal(torch.cat([found["sharded[0:32, 0:16]"], found["sharded[32:64, 0:16]"]]), whole)
    columns = [found["column[0:3, 0:3]"], found["column[0:3, 3:5]"]]
    assert torch.equal(torch.cat(columns, 1), torch.arange(15.0).reshape(3, 5))
    assert torch.equal(found["uneven"], torch.ones(1, 3))
    assert torch.equal(found["same"], torch.arange(6).half())


def test_a_model_under_fsdp2_is_understood(two_ranks):
    """Weights and moments of a model that is sharded layer by layer are found in both ranks' files."""
    folder = two_ranks / "fsdp"
    check_against_files(metadata_in(folder), sizes_in(folder))
    names = {name.partition("[")[0] for name in tensors_in(folder)}
    assert {"model.0.weight", "model.2.bias", "optim.state.0.weight.exp_avg"} <= names
    facts = metadata_in(folder).facts
    assert (facts["file_count"], facts["rank_count"], facts["has_optimizer"]) == (2, 2, True)
    assert facts["parameter_count"] == 7 * 9 + 9 + 9 * 3 + 3


def test_what_the_writer_for_hugging_face_leaves_is_plain_safetensors(two_ranks):
    """Each rank's file is whole by itself, with no metadata beside it."""
    files = sorted((two_ranks / "hf").glob("*.safetensors"))
    assert len(files) == 2
    for path in files:
        source = MemorySource(path.read_bytes())
        assert read_content(source, read_layout(source, "safetensors")).tensors


def test_facts_of_a_checkpoint_and_of_its_files(saved):
    """The metadata tell how much there is; how far the training was stands in the file that holds the epoch."""
    assert metadata_in(saved).facts == {
        "framework": "dcp",
        "file_count": 2,
        "rank_count": 1,
        "tensor_count": 7,
        "parameter_count": 12 + 3 + 20,
        "dtypes": "bfloat16,complex64,float32",
        "has_optimizer": True,
        "resumable": True,
    }
    facts = [content.facts for _, _, content in shards_in(saved).values()]
    assert {fact.get("epoch") for fact in facts} == {3, None}
    assert sum(fact["tensor_count"] for fact in facts) == 7


def test_a_step_inside_of_the_optimizer_is_not_that_of_the_training(tmp_path):
    """Only an object at the top, or one below it and not the optimizer's, says how far the training was."""
    state = {"optim": {"step": 1}, "trainer": {"global_step": 500}, "deep": {"er": {"step": 2}}, "iteration": "x"}
    (_, _, content), *_ = shards_in(save(tmp_path / "s", state)).values()
    assert content.facts["step"] == 500


def test_records_have_their_checksums_and_their_owners_names(saved):
    """Every record is told once, in the order of the file, with the CRC of its bytes."""
    for data, layout, content in shards_in(saved).values():
        reached = 0
        for extent in layout.extents:
            assert extent.offset >= reached
            reached = extent.offset + extent.length
            assert zlib.crc32(data[extent.offset : reached]) == extent.crc32
        assert {storage.name for storage in content.storages} <= {extent.name for extent in layout.extents}


# ---------------------------------------------------------------- metadata that do not hold together


def tensor(size: tuple[int, ...], *chunks: tuple[tuple[int, ...], tuple[int, ...]], dtype=torch.float32):
    """A tensor's metadata as torch has it; chunks by offsets and sizes."""
    parts = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in chunks]
    return TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(size), parts)


@dataclass
class _Info:
    """The fields of torch's own."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: list[str] | None = None


def whole(size: tuple[int, ...], **options: Any):
    return tensor(size, ((0,) * len(size), size), **options)


OBJECT = BytesStorageMetadata()


def pickled(described: dict[str, Any], stored: dict[Any, Any] | None = None) -> bytes:
    """Metadata; without *stored*, each chunk and object has a place of ten bytes in one file."""
    if stored is None:
        keys = []
        for name, value in described.items():
            chunks = getattr(value, "chunks", None)
            keys += [MetadataIndex(name)] if chunks is None else [MetadataIndex(name, c.offsets) for c in chunks]
        stored = {key: _Info("__0_0.distcp", place * 10, 10) for place, key in enumerate(keys)}
    return pickle.dumps(Metadata(described, storage_data=stored))


def test_metadata_by_hand_are_read():
    """A tensor of chunks, a scalar, an empty one and an object are told with their places."""
    described = {
        "a": tensor((4, 6), ((0, 0), (2, 6)), ((2, 0), (2, 2)), ((2, 2), (2, 4)), ((4, 0), (0, 6))),
        "scalar": whole(()),
        "empty": whole((0, 3)),
        "object": BytesStorageMetadata(),
    }
    metadata = read_dcp_metadata(pickled(described))
    assert [len(t.chunks) for t in metadata.tensors.values()] == [4, 1, 1]
    assert [entry.name for entry in metadata.entries] == ["a"] * 4 + ["scalar", "empty", "object"]
    assert metadata.entries[-1].item == Item("__0_0.distcp", 60, 10)


BAD_COVER = {
    "gap": tensor((4,), ((0,), (1,)), ((2,), (2,))),
    "short": tensor((4,), ((0,), (3,))),
    "none": tensor((4,)),
    "overlap": tensor((4,), ((0,), (2,)), ((1,), (2,))),
    "overlap in a plane": tensor((4, 4), ((0, 0), (2, 4)), ((1, 0), (1, 4)), ((2, 0), (1, 4))),
    "same twice": tensor((4,), ((0,), (2,)), ((0,), (2,))),
    "outside": tensor((4,), ((2,), (4,))),
    "too long": tensor((4,), ((0,), (5,))),
    "other dimensions": tensor((4,), ((0, 0), (4, 1))),
    "one crosses many": tensor(
        (4, 4),
        ((0, 0), (4, 1)),
        ((1, 0), (1, 4)),
        ((0, 1), (1, 3)),
        ((2, 1), (1, 3)),
        ((3, 1), (0, 3)),
        ((3, 1), (1, 2)),
    ),
}


def test_a_number_that_several_ranks_wrote_is_sound():
    """A tensor without dimensions may have any number of chunks but none."""
    assert read_dcp_metadata(pickled({"n": tensor((), ((), ()), ((), ()))})).facts["tensor_count"] == 1
    with pytest.raises(ContainerBroken, match="do not make up"):
        read_dcp_metadata(pickled({"n": tensor(())}))


@pytest.mark.parametrize("bad", BAD_COVER.values(), ids=BAD_COVER.keys())
def test_chunks_that_do_not_make_up_their_tensor_are_refused(bad):
    """Chunks lie inside of their tensor, on no element twice, and leave none out."""
    with pytest.raises(ContainerBroken, match=r"chunk.*record 'bad'") as caught:
        read_dcp_metadata(pickled({"good": whole((4,)), "bad": bad}))
    assert not isinstance(caught.value, NotChecked)


def grid(rows: int, columns: int):
    """A tensor in a grid of single elements."""
    return tensor((rows, columns), *(((r, c), (1, 1)) for r in range(rows) for c in range(columns)))


def test_a_grid_of_chunks_is_swept_along_its_longer_side(monkeypatch):
    """A thousand rows of four are compared within a few thousand steps, whichever side is the longer."""
    monkeypatch.setattr(dcp_metadata, "COMPARISONS_MAX", 30_000)
    assert read_dcp_metadata(pickled({"tall": grid(1000, 4), "wide": grid(4, 100)})).facts["tensor_count"] == 2
    with pytest.raises(NotChecked, match="compared with one another"):
        read_dcp_metadata(pickled({"square": grid(50, 50)}))


PLACE = _Info("__0_0.distcp", 0, 10)
BAD_PLACES = {
    "no place for a chunk": ({"a": whole((4,))}, {}, "chunk without a place"),
    "no place for an object": ({"a": OBJECT}, {}, "object without a place"),
    "another offset": ({"a": whole((4,))}, {MetadataIndex("a", (1,)): PLACE}, "chunk without a place"),
    "object for a tensor": ({"a": whole((4,))}, {MetadataIndex("a"): PLACE}, "chunk without a place"),
    "place of nothing": ({}, {MetadataIndex("b"): PLACE}, "not in the checkpoint"),
    "place of no name": ({}, {7: PLACE}, "belongs to no name"),
    "elsewhere": ({"a": OBJECT}, {MetadataIndex("a"): _Info("../a", 0, 1)}, "not beside its metadata"),
    "before the file": ({"a": OBJECT}, {MetadataIndex("a"): _Info("a", -1, 1)}, "without a place in its file"),
}


@pytest.mark.parametrize(("described", "stored", "reason"), BAD_PLACES.values(), ids=BAD_PLACES.keys())
def test_places_that_do_not_fit_are_refused(described, stored, reason):
    """Every chunk and object has a place, and every place a chunk or object."""
    with pytest.raises(ContainerBroken, match=reason):
        read_dcp_metadata(pickled(described, stored))


BAD_SHAPES = {
    "no shape": (replace(whole((4,)), size=None), "without a shape"),
    "negative": (replace(whole((4,)), size=(-4,)), "without a shape"),
    "many dimensions": (replace(whole((4,)), size=(1,) * 65), "without a shape"),
    "no chunks": (replace(whole((4,)), chunks={}), "without chunks"),
    "chunk of nothing": (replace(whole((4,)), chunks=[3]), "without a place in its tensor"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD_SHAPES.values(), ids=BAD_SHAPES.keys())
def test_tensors_that_are_none_are_refused(bad, reason):
    """Shapes and chunks are what torch puts there."""
    with pytest.raises(ContainerBroken, match=reason):
        read_dcp_metadata(pickled({"bad": bad}, {}))


def test_properties_that_are_not_known_are_not_called_broken():
    """A type that is told in another way than torch's so far was not checked."""
    with pytest.raises(NotChecked, match="type is told"):
        read_dcp_metadata(pickled({"a": replace(whole((4,)), properties=None)}))


@pytest.mark.parametrize("bound", ["ITEMS_MAX", "PICKLE_BYTES_MAX"])
def test_metadata_beyond_the_bounds_are_not_called_broken(monkeypatch, bound):
    """More chunks, or more bytes, than the bound were not checked."""
    monkeypatch.setattr(dcp_metadata, bound, 3)
    data = pickled({"a": grid(2, 2)})
    with pytest.raises(NotChecked):
        read_content(MemorySource(data), Layout("dcp-metadata", len(data), ()))


def test_more_objects_than_are_checked(monkeypatch):
    """Objects and places count as chunks do."""
    monkeypatch.setattr(dcp_metadata, "ITEMS_MAX", 3)
    with pytest.raises(NotChecked, match="more than 3 items"):
        read_dcp_metadata(pickled({str(n): OBJECT for n in range(4)}))


def test_a_name_that_no_parameter_has_is_not_called_broken():
    """Every record of a file bears its owner's name, which is therefore bounded."""
    with pytest.raises(NotChecked, match="name of 5000 characters"):
        read_dcp_metadata(pickled({"a" * 5000: OBJECT}))


def test_tensors_that_share_a_list_of_chunks_have_each_of_them(monkeypatch):
    """Chunks are counted before they are looked at, for every tensor that has them, whoever else has the same list."""
    monkeypatch.setattr(dcp_metadata, "ITEMS_MAX", 3)
    shared = tensor((4,), ((0,), (2,)), ((2,), (2,)))
    with pytest.raises(NotChecked, match="more than 3 chunks"):
        read_dcp_metadata(pickled({"a": shared, "b": shared}, {}))


def test_a_name_that_is_no_text_is_refused():
    """Tensors and objects are named by text."""
    with pytest.raises(ContainerBroken, match="name is no text"):
        read_dcp_metadata(pickled({3: OBJECT}, {}))


def test_metadata_are_a_container_of_their_own(saved):
    """The file by itself is whole from its first byte to its last, and its content is what it says."""
    data = (saved / ".metadata").read_bytes()
    source = MemorySource(data)
    content = read_content(source, read_layout(source, "dcp-metadata"))
    assert (content.storages, content.facts) == ((), dict(metadata_in(saved).facts))
    for broken in (data[:-1], data[: len(data) // 2], data + b"\0", b""):
        with pytest.raises(ContainerBroken):
            read_layout(MemorySource(broken), "dcp-metadata")


def test_files_that_are_missing_or_too_short_are_named(saved):
    """All files are there and long enough, or the first that is not is named with who needs it."""
    metadata, sizes = metadata_in(saved), sizes_in(saved)
    check_against_files(metadata, sizes)
    for name in ("__0_0.distcp", "__0_1.distcp"):
        with pytest.raises(ContainerBroken, match=f"file '{name}' is missing"):
            check_against_files(metadata, {key: size for key, size in sizes.items() if key != name})
        last = max(entry.item.offset + entry.item.length for entry in metadata.entries if entry.item[0] == name)
        with pytest.raises(ContainerBroken, match=rf"'{name}' has {last - 1} bytes, {last} are needed"):
            check_against_files(metadata, sizes | {name: last - 1})


# ---------------------------------------------------------------- shards that are not what the metadata say


@dataclass
class Shard:
    """A file of items made by hand, and the metadata that tell of them."""

    data: bytes = b""
    described: dict[str, Any] = field(default_factory=dict)
    stored: dict[Any, Any] = field(default_factory=dict)

    def add(self, name: str, part: bytes, about: Any = OBJECT, **options: Any) -> Shard:
        """Append an item."""
        index = MetadataIndex(name, about.chunks[0].offsets) if hasattr(about, "chunks") else MetadataIndex(name)
        self.described[name] = about
        self.stored[index] = _Info("s", len(self.data), len(part), **options)
        self.data += part
        return self

    def read(self) -> Content:
        """What the file holds."""
        metadata = read_dcp_metadata(pickled(self.described, self.stored))
        return read_dcp_shard(MemorySource(self.data), metadata, "s")[1]


ONES = torch_bytes(torch.ones(3))
BAD_ITEMS = {
    "another type": (torch_bytes(torch.ones(3).half()), "tensor of float16, the metadata say float32"),
    "another shape": (torch_bytes(torch.ones(4)), r"shape \[4\], the metadata say \[3\]"),
    "two tensors": (torch_bytes([torch.ones(3), torch.ones(3)]), "no tensor and holds 2"),
    "no tensor": (torch_bytes(3), "no tensor and holds 0"),
    "no zip": (pickle.dumps(3), "item is no torch zip"),
    "no pickle": (rezipped({"archive/version": b"3"}), "no data.pkl"),
    "missing storage": (rezipped({k: v for k, v in parts_of(ONES).items() if k != "archive/data/0"}), "no record"),
}


@pytest.mark.parametrize(("part", "reason"), BAD_ITEMS.values(), ids=BAD_ITEMS.keys())
def test_an_item_that_is_not_what_the_metadata_say_is_refused(part, reason):
    """Each item is a torch zip of the one tensor, with the type and the sizes that were promised."""
    shard = Shard().add("good", ONES, whole((3,))).add("bad", part, whole((3,)))
    with pytest.raises(ContainerBroken, match=reason) as caught:
        shard.read()
    assert not isinstance(caught.value, NotChecked)


def test_the_same_items_are_sound_by_other_metadata():
    """What is refused above is refused for the metadata's sake."""
    shard = Shard().add("half", torch_bytes(torch.ones(3).half()), whole((3,), dtype=torch.half)).add("n", ONES)
    assert [tensor.name for tensor in shard.read().tensors] == ["half", "n"]


def test_a_chunk_of_many_dimensions_is_named_by_its_place():
    """Offsets and sizes of more dimensions than anybody uses are not written into every name."""
    about = tensor((2, *(1,) * 9), *(((at, *(0,) * 9), (1,) * 10) for at in (0, 1)))
    part = torch_bytes(torch.ones((1,) * 10))
    shard = Shard().add("a", part, about)
    shard.stored[MetadataIndex("a", about.chunks[1].offsets)] = _Info("s", len(part), len(part))
    shard.data += part
    assert [tensor.name for tensor in shard.read().tensors] == ["a[at 0]", f"a[at {len(part)}]"]


def test_an_object_may_be_what_its_planner_made_of_it():
    """Bytes of an object that are no torch zip are counted and left alone; zeros and nothing are no object."""
    content = Shard().add("own", pickle.dumps(3)).add("a", ONES, whole((3,))).read()
    assert ([tensor.name for tensor in content.tensors], content.facts["unchecked_item_count"]) == (["a"], 1)
    for none in (bytes(100), b""):
        with pytest.raises(ContainerBroken, match=r"no torch zip.*'bad'.*offset 0"):
            Shard().add("bad", none).read()


def test_two_names_for_one_item_are_refused():
    """An item belongs to one chunk or object."""
    shard = Shard().add("a", ONES)
    shard.described["b"] = OBJECT
    shard.stored[MetadataIndex("b")] = shard.stored[MetadataIndex("a")]
    with pytest.raises(ContainerBroken, match="two names"):
        shard.read()


def test_items_behind_a_transformation_are_counted_and_left_alone():
    """What was compressed on its way is bytes; the items around it are read."""
    shard = Shard().add("a", ONES, whole((3,))).add("z", b"\x28\xb5\x2f\xfd", transform_descriptors=["zstd"])
    content = shard.read()
    assert [tensor.name for tensor in content.tensors] == ["a"]
    assert content.facts["unchecked_item_count"] == 1


def test_a_tensor_made_of_others_is_counted_and_its_parts_are_found():
    """What a tensor of a class of its own lies in the file as is not told by its type and shape."""
    content = Shard().add("s", torch_bytes(torch.eye(3).to_sparse()), whole((3, 3))).read()
    assert len(content.tensors) == 2
    assert content.facts["unchecked_item_count"] == 1


def test_tensors_inside_of_an_object_are_found():
    """An object may hold tensors of its own, which are named below it."""
    content = Shard().add("rng", torch_bytes({"cpu": torch.arange(5)})).read()
    assert [tensor.name for tensor in content.tensors] == ["rng.cpu"]


def test_damage_in_an_items_pickle_is_named_with_its_owner():
    """The pickle's checksum is looked at before a word of it is believed; the offset is that of the file."""
    shard = Shard().add("first", ONES, whole((3,))).add("second", ONES, whole((3,)))
    at = shard.data.index(b"_rebuild_tensor", len(ONES))
    shard.data = flipped(shard.data, at)
    with pytest.raises(RecordDamaged) as caught:
        shard.read()
    assert caught.value.record == "second/archive/data.pkl"
    assert len(ONES) < caught.value.offset <= at


def test_an_item_of_the_other_byte_order_is_noted():
    """One such item is enough to digest the file's numbers as bytes only."""
    big = rezipped(parts_of(ONES) | {"archive/byteorder": b"big"})
    assert Shard().add("a", big, whole((3,))).add("b", ONES, whole((3,))).read().facts["byteorder"] == "big"


def test_compressed_items_are_counted():
    """An item that somebody zipped anew is read, and its bytes are none to send."""
    packed = rezipped(parts_of(ONES), zipfile.ZIP_DEFLATED)
    content = Shard().add("a", packed, whole((3,))).add("b", ONES, whole((3,))).read()
    assert (content.packed_count, len(content.storages)) == (1, 1)


@pytest.mark.parametrize("bound", ["RECORDS_MAX", "PICKLE_BYTES_MAX", "NAMES_CHARS_MAX"])
def test_a_file_beyond_the_bounds_is_not_called_broken(monkeypatch, bound):
    """More records, or larger pickles, than the bound were not checked."""
    monkeypatch.setattr(dcp_shard, bound, 7)
    with pytest.raises(NotChecked, match="than are checked"):
        Shard().add("a", ONES, whole((3,))).add("b", ONES, whole((3,))).read()


def test_no_shorter_file_passes(saved):
    """A file that ends before the last item does is refused."""
    metadata = metadata_in(saved)
    data = (saved / "__0_0.distcp").read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(ContainerBroken):
            read_dcp_shard(MemorySource(data[:length]), metadata, "__0_0.distcp")


@pytest.fixture(scope="module")
def as_safetensors(tmp_path_factory) -> Path:
    """A small checkpoint whose tensors are in the other format."""
    folder = tmp_path_factory.mktemp("dcp") / "s"
    state = {"a": torch.ones(3), "b": torch.arange(4), "epoch": 1}
    return save(folder, state, serialization_format=SerializationFormat.SAFETENSORS)


def test_a_tail_of_other_tensors_is_refused(as_safetensors):
    """Names, types and shapes in the header are those of the metadata; the file ends with the tensors."""
    metadata = metadata_in(as_safetensors)
    data = (as_safetensors / "__0_0.distcp").read_bytes()
    changes = {
        "other tensors": data.replace(b'"b":{"dtype"', b'"c":{"dtype"'),
        "tensor of float32|shape and type": data.replace(b'"I64","shape":[4]', b'"F32","shape":[8]'),
        "header tells of": data + b"\0",
    }
    for reason, changed in changes.items():
        assert changed != data
        with pytest.raises(ContainerBroken, match=reason):
            read_dcp_shard(MemorySource(changed), metadata, "__0_0.distcp")


# ---------------------------------------------------------------- any bytes

SMALL = Shard().add("a", ONES, whole((3,))).add("epoch", torch_bytes(1)).add("b", ONES, tensor((3,), ((0,), (3,))))
SMALL_METADATA = pickled(SMALL.described, SMALL.stored)


@settings(max_examples=200, deadline=None)
@given(changes=edits, other=edits)
def test_a_changed_shard_or_changed_metadata_never_surprise(changes, other):
    """Either of them changed: an answer that lies inside the file, or ``ContainerBroken``."""
    sound = read_dcp_metadata(SMALL_METADATA)
    with contextlib.suppress(ContainerBroken):
        layout, _ = read_dcp_shard(MemorySource(edited(SMALL.data, changes)), sound, "s")
        assert all(extent.offset + extent.length <= len(SMALL.data) for extent in layout.extents)
    with contextlib.suppress(ContainerBroken):
        strange = read_dcp_metadata(edited(SMALL_METADATA, other))
        check_against_files(strange, {"s": len(SMALL.data)})
        read_dcp_shard(MemorySource(SMALL.data), strange, "s")


def test_each_byte_of_the_metadata_may_be_lost():
    """Each byte replaced by one of a few: an answer or ``ContainerBroken``."""
    for at in range(len(SMALL_METADATA)):
        for new in (0x00, 0x2E, 0x52, 0x62, 0xFF):
            with contextlib.suppress(ContainerBroken):
                changed = SMALL_METADATA[:at] + struct.pack("B", new) + SMALL_METADATA[at + 1 :]
                read_dcp_shard(MemorySource(SMALL.data), read_dcp_metadata(changed), "s")
