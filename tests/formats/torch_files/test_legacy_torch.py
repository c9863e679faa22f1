from __future__ import annotations

import contextlib
import io
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings

from byte_edits import edited, edits
from checkpoint_files import MemorySource, network, torch_bytes, yolo_bytes
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken, Content, Layout
from mlsync.formats.sniff import identify
from mlsync.formats.torch import legacy as legacy_torch

MAGIC = 0x1950A86A20F9469CFC6C


def legacy_bytes(value, **options) -> bytes:
    """What ``torch.save`` writes of *value* in the layout that it had before 1.6."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes whose source it does not find
        return torch_bytes(value, _use_new_zipfile_serialization=False, **options)


def layout_of(data: bytes) -> Layout:
    return read_layout(MemorySource(data), "torch-legacy")


def content_of(data: bytes) -> Content:
    content = read_content(MemorySource(data), layout_of(data))
    assert content is not None
    return content


def pieces_of(data: bytes) -> tuple[list[bytes], bytes]:
    """The five pickles, found by Python's own reader, and what comes behind them."""

    class Reader(pickle.Unpickler):
        def persistent_load(self, _id):
            return None

        def find_class(self, _module, _name):
            return lambda *_args: None

    file, pickles = io.BytesIO(data), []
    for _ in range(5):
        begin = file.tell()
        Reader(file).load()
        pickles.append(data[begin : file.tell()])
    return pickles, data[file.tell() :]


def joined(pickles: list[bytes], rest: bytes) -> bytes:
    return b"".join(pickles) + rest


def state() -> dict:
    torch.manual_seed(3)
    return {"a": torch.randn(4, 5), "n": {"b": torch.arange(7)}, "half": torch.ones(3).half(), "epoch": 2}


STATE = state()
DATA = legacy_bytes(STATE)
PICKLES, STORAGES = pieces_of(DATA)


def test_every_tensor_is_found_with_its_bytes():
    """Name, type, shape, strides and bytes are those of what was saved."""
    content = content_of(DATA)
    storages = {storage.name: storage for storage in content.storages}
    saved = {"a": STATE["a"], "n.b": STATE["n"]["b"], "half": STATE["half"]}
    assert {tensor.name for tensor in content.tensors} == saved.keys()
    for tensor in content.tensors:
        value, storage = saved[tensor.name], storages[tensor.storage]
        assert (f"torch.{tensor.dtype}", tensor.shape, tensor.stride) == (str(value.dtype), value.shape, value.stride())
        assert DATA[storage.offset : storage.offset + storage.length] == bytes(value.untyped_storage())
        assert storage.item_bytes == value.itemsize


def test_the_facts_are_those_of_a_zip_of_the_same_object():
    """What a checkpoint is does not depend on the layout that it is saved in."""
    value = torch.load(io.BytesIO(yolo_bytes()), weights_only=False)
    source = MemorySource(yolo_bytes())
    zipped = read_content(source, read_layout(source, "torch-zip"))
    content = content_of(legacy_bytes(value))
    assert content.facts == zipped.facts
    assert [tensor[:1] + tensor[2:] for tensor in content.tensors] == [t[:1] + t[2:] for t in zipped.tensors]


def test_a_module_whose_classes_lie_outside_of_the_pickle():
    """Classes of modules are persistent ids there, with their source; the tensors are found all the same."""
    model = network()
    model.kept = torch.nn.ReLU  # a class that is not called
    names = {f"model.{name}" for name in model.state_dict()}
    assert {tensor.name for tensor in content_of(legacy_bytes({"model": model})).tensors} == names


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_torch_writes_is_known(protocol):
    """A file is known by its magic number and read, whatever protocol its pickles have."""
    data = legacy_bytes(STATE, pickle_protocol=protocol)
    assert identify(MemorySource(data), b"old") == "torch-legacy"
    assert len(content_of(data).tensors) == 3


def test_extents_lie_side_by_side_up_to_the_end():
    """Between two storages there are the eight bytes of a length and nothing else."""
    extents = layout_of(DATA).extents
    reached = sum(map(len, PICKLES))
    for extent in extents:
        assert (extent.offset, extent.crc32) == (reached + 8, None)
        reached = extent.offset + extent.length
    assert reached == len(DATA)


def test_shared_and_empty_storages():
    """Views name one storage, and a storage without elements is one."""
    base = torch.arange(24.0)
    content = content_of(legacy_bytes({"base": base, "row": base.reshape(4, 6)[2], "none": torch.zeros(0, 3)}))
    assert sorted(storage.length for storage in content.storages) == [0, 96]
    assert {tensor.name: tensor.first for tensor in content.tensors} == {"base": 0, "row": 12, "none": 0}


def test_a_file_without_tensors():
    """A learning-rate schedule has pickles and nothing behind them."""
    content = content_of(legacy_bytes({"epoch": 3, "lr": 0.1}))
    assert (content.storages, content.facts["epoch"]) == ((), 3)


def test_large_pickles_are_read_to_their_end():
    """An object larger than the first read is found whole, and the tensors behind it are not read."""
    data = legacy_bytes({"notes": ["x" * 50 + str(n) for n in range(9000)], "a": torch.zeros(1 << 20)})
    source = MemorySource(data)
    layout = read_layout(source, "torch-legacy")
    assert [extent.length for extent in layout.extents] == [4 << 20]
    assert source.random_bytes < 2 << 20


def test_pickles_beyond_the_bound_are_not_called_broken(monkeypatch):
    """Pickles that do not end within the bound were not checked."""
    monkeypatch.setattr(legacy_torch, "PICKLE_BYTES_MAX", 100)
    with pytest.raises(NotChecked, match="larger than is checked"):
        layout_of(DATA)


def test_more_storages_than_are_checked(monkeypatch):
    """A file of more storages than the bound was not checked."""
    monkeypatch.setattr(legacy_torch, "STORAGES_MAX", 2)
    with pytest.raises(NotChecked, match="3 storages"):
        layout_of(DATA)


def test_no_other_length_passes():
    """A file that is cut anywhere, or has a byte too many, is refused at level 1 with the place."""
    for length in range(0, len(DATA), 3):
        with pytest.raises(ContainerBroken, match="file ends") as caught:
            layout_of(DATA[:length])
        assert caught.value.offset is not None
    with pytest.raises(ContainerBroken, match="1 bytes behind the last storage") as caught:
        layout_of(DATA + b"\0")
    assert caught.value.offset == len(DATA)


def with_count(place: int, change: int) -> bytes:
    """The file with another number of elements before its *place*-th storage."""
    at = layout_of(DATA).extents[place].offset - 8
    count = int.from_bytes(DATA[at : at + 8], "little", signed=True) + change
    return DATA[:at] + count.to_bytes(8, "little", signed=True) + DATA[at + 8 :]


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("change", [1, -1, 1 << 40, (1 << 63) - 1000, -1000])
def test_a_wrong_number_of_elements_is_refused(place, change):
    """A length that is not the storage's moves all that follows, which no longer ends with the file."""
    with pytest.raises(ContainerBroken) as caught:
        layout_of(with_count(place, change))
    assert caught.value.offset is not None


def test_a_length_that_fits_the_file_and_not_the_object_is_refused_at_level_2():
    """Bytes that went from one storage to the next fill the file, and do not fit what the object asks for."""
    data = legacy_bytes({"a": torch.ones(4), "b": torch.ones(4)})
    first, second = layout_of(data).extents
    changed = bytearray(data)
    changed[first.offset - 8 : first.offset] = (3).to_bytes(8, "little")
    changed[first.offset + 12 : first.offset + 20] = (5).to_bytes(8, "little")
    assert [extent.length for extent in layout_of(bytes(changed)).extents] == [12, 20]
    with pytest.raises(ContainerBroken, match="storage needs 16 bytes, its record has") as caught:
        content_of(bytes(changed))
    assert caught.value.record in (first.name, second.name)


def dumped(value) -> bytes:
    return pickle.dumps(value, 2)


KEYS = pickle.loads(PICKLES[4])
BAD_OPENINGS = {
    "another number": (0, dumped(MAGIC + 1), "no magic number"),
    "another protocol": (1, dumped(1002), "protocol version"),
    "no machine": (2, dumped([1]), "about the machine"),
    "keys that are no list": (4, dumped(dict.fromkeys(KEYS)), "no list of storages"),
    "keys that are numbers": (4, dumped([1, 2, 3]), "no list of storages"),
    "a key twice": (4, dumped([*KEYS, KEYS[0]]), "listed twice"),
    "a key too few": (4, dumped(KEYS[1:]), "is not listed"),
    "a key too many": (4, dumped([*KEYS, "9"]), "belongs to nothing"),
    "another key": (4, dumped(["9", *KEYS[1:]]), "listed"),
}


@pytest.mark.parametrize(("place", "other", "reason"), BAD_OPENINGS.values(), ids=BAD_OPENINGS.keys())
def test_pickles_that_are_not_those_of_torch_are_refused(place, other, reason):
    """Each of the five pickles must be what torch puts there, and the keys those of the object."""
    changed = [*PICKLES[:place], other, *PICKLES[place + 1 :]]
    with pytest.raises(ContainerBroken, match=reason) as caught:
        layout_of(joined(changed, STORAGES))
    assert not isinstance(caught.value, NotChecked)
    assert caught.value.offset is not None


def by_hand(view: str, shape: str = "K\x02\x85", count: int = 4) -> bytes:
    """A file of one float tensor with the sixth part of its storage's id given as opcodes."""
    tensor = (
        "ctorch._utils\n_rebuild_tensor\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0kX\x03\0\0\0cpu"
        f"K{chr(count)}{view}tQK\x01{shape}K\x01\x85tR"
    )
    pickled = b"\x80\x02" + tensor.encode("latin-1") + b"."
    opening = [dumped(MAGIC), dumped(1001), dumped({}), pickled, dumped(["k"])]
    return joined(opening, count.to_bytes(8, "little") + bytes(4 * count))


def test_a_view_of_a_storage_is_placed_inside_of_it():
    """The first torch wrote views as storages of their own; such a tensor begins where its view does."""
    assert [tensor.first for tensor in content_of(by_hand("N")).tensors] == [1]
    assert [tensor.first for tensor in content_of(by_hand("(X\x01\0\0\0vK\x01K\x03t")).tensors] == [2]


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ("(X\x01\0\0\0vK\x02K\x02t", "reaches past its storage"),
        ("(X\x01\0\0\0vK\x02K\x03t", "outside of its storage"),
        ("K\x01", "outside of its storage"),
    ],
)
def test_a_view_that_does_not_fit_is_refused(view, reason):
    """A view lies inside its storage, and a tensor inside its view."""
    with pytest.raises(ContainerBroken, match=reason):
        content_of(by_hand(view))


def test_an_unknown_storage_type_is_not_called_broken():
    """Without the width of its elements a storage has no length, which says nothing against the file."""
    with pytest.raises(NotChecked, match="'FluffStorage' is not known"):
        layout_of(DATA.replace(b"FloatStorage", b"FluffStorage"))


@settings(max_examples=200, deadline=None)
@given(changes=edits)
def test_a_changed_file_never_surprises(changes):
    """A file with bytes changed: extents that fill it to its end, or ``ContainerBroken``."""
    data = edited(DATA, changes)
    with contextlib.suppress(ContainerBroken):
        layout = layout_of(data)
        assert not layout.extents or layout.extents[-1].offset + layout.extents[-1].length == len(data)
        content_of(data)
