from __future__ import annotations

import io
import json

import numpy as np
import pytest
import safetensors.torch
import torch

from checkpoint_files import MemorySource, parts_of, rezipped, torch_bytes, weights_bytes, yolo_bytes
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.formats.sniff import identify, is_checkpoint_name

TENSORS = {
    "b": torch.randn(3, 4),
    "a": torch.ones(5, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 2),
    "flags": torch.tensor([True, False, True]),
    "f8": torch.ones(3).to(torch.float8_e4m3fn),
}


def content_of(data: bytes, container: str) -> Content:
    source = MemorySource(data)
    content = read_content(source, read_layout(source, container))
    assert content is not None
    return content


def safetensors_file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def npz_bytes(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_safetensors_tensors_are_found_with_their_bytes():
    """Every tensor has its type, its shape and its bytes."""
    data = safetensors.torch.save(TENSORS, metadata={"format": "pt"})
    content = content_of(data, "safetensors")
    storages = {storage.name: storage for storage in content.storages}
    assert {tensor.name for tensor in content.tensors} == TENSORS.keys()
    for tensor in content.tensors:
        storage = storages[tensor.storage]
        assert f"torch.{tensor.dtype}" == str(TENSORS[tensor.name].dtype)
        assert tensor.shape == tuple(TENSORS[tensor.name].shape)
        assert data[storage.offset : storage.offset + storage.length] == bytes(TENSORS[tensor.name].untyped_storage())


def test_entries_as_the_library_writes_them_need_no_json_parser(monkeypatch):
    """Of ten thousand tensors whose names have no escapes none is given to the JSON parser, and all are read."""
    calls = []
    decode = json.JSONDecoder.decode
    monkeypatch.setattr(json.JSONDecoder, "decode", lambda self, text: calls.append(text) or decode(self, text))
    tensors = {f"layers.{place}.weight": torch.full((3,), float(place)) for place in range(10_000)}
    tensors["Schl\u00fcssel"], tensors["scalar"] = torch.ones(1, 2), torch.tensor(1.0)
    content = content_of(safetensors.torch.save(tensors), "safetensors")
    assert {tensor.name: tensor.shape for tensor in content.tensors} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert calls == []


@pytest.mark.parametrize(
    "entry",
    [
        b'{"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}',
        b'{"shape":[2],"data_offsets":[0,2],"dtype":"U8"}',
        b'{"dtype":"U\\u0038","shape":[2],"data_offsets":[0,2]}',
        b'{"dtype":"U8","shape":[1,2,1],"data_offsets":[0,2]}',
    ],
)
def test_entries_in_other_words_mean_the_same(entry):
    """Spaces, another order and escapes are JSON all the same."""
    content = content_of(safetensors_file(b'{"a":' + entry + b"}", b"12"), "safetensors")
    assert [tensor.dtype for tensor in content.tensors] == ["uint8"]


@pytest.mark.parametrize(
    "entry",
    [
        b'{"dtype":"U8","shape":[02],"data_offsets":[0,2]}',
        b'{"dtype":"U8","shape":[2,],"data_offsets":[0,2]}',
        b'{"dtype":"U8","shape":[,2],"data_offsets":[0,2]}',
        b'{"dtype":"U8","shape":[2],"data_offsets":[-0,2]}',
        b'{"dtype":"U8","shape":[2],"data_offsets":[00,2]}',
    ],
)
def test_numbers_that_are_no_json_are_refused_in_entries_as_the_library_writes_them(entry):
    """What looks like the library's own words, but for a number, is not taken for them."""
    with pytest.raises(ContainerBroken):
        content_of(safetensors_file(b'{"a":' + entry + b"}", b"12"), "safetensors")


def test_a_truncated_or_extended_safetensors_file_is_refused():
    """Tensors cover the file exactly, so no other length passes."""
    data = safetensors.torch.save(TENSORS)
    for length in range(0, len(data), 5):
        with pytest.raises(ContainerBroken):
            read_layout(MemorySource(data[:length]), "safetensors")
    with pytest.raises(ContainerBroken, match="header tells of"):
        read_layout(MemorySource(data + b"\0"), "safetensors")


def entry(begin: int, end: int, dtype: object = "U8", shape: object = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


BAD_HEADERS = {
    "gap": ({"a": entry(0, 1), "b": entry(2, 4)}, b"1234"),
    "overlap": ({"a": entry(0, 3), "b": entry(2, 4)}, b"1234"),
    "not covered": ({"a": entry(0, 3)}, b"1234"),
    "past the end": ({"a": entry(0, 9)}, b"1234"),
    "backwards": ({"a": entry(4, 0)}, b"1234"),
    "negative": ({"a": entry(-4, 0)}, b""),
    "float offsets": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0.0, 1.0]}}, b"1"),
    "no offsets": ({"a": {"dtype": "U8", "shape": [1]}}, b""),
    "entry is no object": ({"a": 3}, b""),
    "metadata is no text": ({"__metadata__": {"a": 3}}, b""),
    "twice": (b'{"a":{},"a":{}}', b""),
    "NaN": (b'{"a":NaN}', b""),
    "no JSON": (b'{"a":', b""),
    "no object": (b"[]", b""),
    "trailing text": (b"{} x", b""),
    "utf-16": ('{"a":1}'.encode("utf-16-le"), b""),
    "deep": (b'{"a":' + b"[" * 100_000, b""),
    "huge number": (b'{"a":' + b"9" * 10_000 + b"}", b""),
}


@pytest.mark.parametrize(("header", "data"), BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_safetensors_header_that_breaks_a_rule_is_refused(header, data):
    """What the format forbids is refused at level 1."""
    with pytest.raises(ContainerBroken):
        read_layout(MemorySource(safetensors_file(header, data)), "safetensors")


def test_a_header_longer_than_the_format_allows_is_not_read():
    """The length is judged before the bytes are asked for."""
    with pytest.raises(ContainerBroken, match="header of 100000001 bytes"):
        read_layout(MemorySource((100_000_001).to_bytes(8, "little") + b"{"), "safetensors")


@pytest.mark.parametrize(
    "bad",
    [
        entry(0, 4, "F32", [2]),
        entry(0, 4, "F32", [-1]),
        entry(0, 4, "F32", "1"),
        entry(0, 4, None),
        entry(0, 4, "U8", [1] * 70),
    ],
)
def test_a_shape_that_does_not_need_its_bytes_is_refused(bad):
    """Type and shape need exactly the tensor's bytes."""
    with pytest.raises(ContainerBroken):
        content_of(safetensors_file({"a": bad}, b"1234"), "safetensors")


def test_a_type_that_is_new_is_not_called_broken():
    """A tensor of a type from the future is there as bytes."""
    content = content_of(safetensors_file({"a": entry(0, 4, "F2_NEW", [16])}, b"1234"), "safetensors")
    assert [storage.dtype for storage in content.storages] == ["unknown:F2_NEW"]


def test_numpy_arrays_are_found_with_their_bytes():
    """Arrays of an npz file have their place, type, shape and order; those of objects are counted."""
    arrays = {"a": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.ones((2, 3), "f4")), "n": np.array(3)}
    data = npz_bytes(**arrays, text=np.array("x"), things=np.array([{}], dtype=object))
    content = content_of(data, "npz")
    found = {tensor.name: (tensor.dtype, tensor.shape, tensor.stride) for tensor in content.tensors}
    assert found == {
        "a": ("float64", (2, 3), (3, 1)),
        "f": ("float32", (2, 3), (1, 2)),
        "n": ("int64", (), ()),
        "text": ("text", (), ()),
    }
    assert (content.facts["unchecked_array_count"], content.aside_count) == (1, 1)
    storage = content.storages[0]
    assert data[storage.offset : storage.offset + storage.length] == arrays["a"].tobytes()


def test_a_numpy_header_that_lies_is_refused():
    """A shape that does not fill its member is refused, as is a member that is no array."""
    parts = parts_of(npz_bytes(a=np.arange(6.0)))
    with pytest.raises(ContainerBroken, match=r"does not fill.*a\.npy"):
        content_of(rezipped({"a.npy": parts["a.npy"].replace(b"(6,)", b"(7,)")}), "npz")
    with pytest.raises(ContainerBroken, match="no numpy array"):
        content_of(rezipped({"a.npy": b"x" * 100}), "npz")
    with pytest.raises(ContainerBroken, match="runs past"):
        content_of(rezipped({"a.npy": b"\x93NUMPY\x01\x00\xff\xff" + b" " * 100}), "npz")


LEGACY = torch_bytes({"a": torch.ones(3)}, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("data", "path", "container"),
    [
        (yolo_bytes(), b"weights/last.pt", "torch-zip"),
        (yolo_bytes(), b"no-suffix", "torch-zip"),
        (yolo_bytes()[:-100], b"no-suffix", "torch-zip"),
        (weights_bytes(), b"odd.safetensors", "torch-zip"),
        (safetensors.torch.save(TENSORS), b"model.safetensors", "safetensors"),
        (safetensors.torch.save(TENSORS), b".tmpAbC", "safetensors"),
        (safetensors.torch.save(TENSORS), b"last.pt", "safetensors"),
        (npz_bytes(a=np.ones(3)), b"x", "npz"),
        (npz_bytes(a=np.ones(3))[:-9], b"x", "npz"),
        (LEGACY, b"old", "torch-legacy"),
        (b"GGUF\x03\0\0\0", b"llama", "gguf"),
        (b"\x80\x04N.", b"scheduler.pt", "pickle"),
        (b"\x80\x04N.", b"table.pkl", "pickle"),
        (b"\x80\x04N.", b"table", None),
        (b"", b"last.pt", "torch-zip"),
        (bytes(5000), b"last.PT", "torch-zip"),
        (bytes(16) + b"x" * 500, b"last.pt", "torch-zip"),
        (b"garbage", b"epoch=1-step=2.ckpt", None),
        (b"", b"epoch=1-step=2.ckpt", "torch-zip"),
        (b"garbage" + b"PK\x05\x06" + bytes(18), b"last.pt", "torch-zip"),
        (b"garbage", b"x.safetensors", "safetensors"),
        (b"garbage", b"x.npz", "npz"),
        (b"", b"llama.Q4_K_M.gguf", "gguf"),
        (b"garbage", b"pytorch_model-00001-of-00002.bin", None),
        (b"garbage", b"firmware.bin", None),
        (b"epoch,loss\n", b"results.csv", None),
        (b"", b"empty", None),
        (rezipped({"a.txt": b"x"}), b"archive.zip", None),
        (rezipped({"a.txt": b"x"})[:-5], b"archive.zip", None),
        (rezipped({"a.txt": b"x"}), b"last.pt", "zip"),
        (yolo_bytes() + yolo_bytes(), b"__0_0.distcp", "dcp"),
        (b"\x80\x04\x95aaaaaaaa\x8c%torch.distributed.checkpoint.metadata", b"step-3/.metadata", "dcp-metadata"),
        (b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata", b".metadata", "dcp-metadata"),
        (b"\x80\x04N.", b".metadata", None),
        (b"x", b"\xff\n.pt", None),
    ],
)
def test_a_file_is_what_its_content_says_or_its_name_promises(data, path, container):
    """Content decides; where it is silent, a checkpoint's name is a promise that the file is held to."""
    assert identify(MemorySource(data), path) == container


def test_checkpoint_names():
    """Names alone tell whether a file is taken for a checkpoint."""
    assert is_checkpoint_name(b"runs/a/last.pt")
    assert is_checkpoint_name(b"pytorch_model.bin")
    assert not is_checkpoint_name(b"last.pt/results.csv")
    assert not is_checkpoint_name(b"data.bin")


@pytest.mark.parametrize("container", ["dcp"])
def test_what_is_known_by_sight_only_has_no_extents(container):
    """Nothing is said of such a file that was not looked at."""
    source = MemorySource(LEGACY)
    layout = read_layout(source, container)
    assert (layout.container, layout.extents) == (container, ())
    assert read_content(source, layout) is None
