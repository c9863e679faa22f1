from __future__ import annotations

import contextlib
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byte_edits import edited, edits
from checkpoint_files import MemorySource, zeroed
from gguf_file import GgufTensor, gguf_bytes, gguf_tensors, plain, quantised, text
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken, Content, Layout
from mlsync.formats.libraries import gguf

KEYS = {
    "general.architecture": "llama",
    "general.name": "small one",
    "general.quantization_version": 2,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ["<unk>", "a", "bé"],
    "tokenizer.ggml.scores": [0.5, 1.5, 2.5],
    "nested": [[1, 2], [3]],
    "none": [],
}
TENSORS = gguf_tensors()
DATA = gguf_bytes(KEYS, TENSORS)


def layout_of(data: bytes) -> Layout:
    return read_layout(MemorySource(data), "gguf")


def content_of(data: bytes) -> Content:
    content = read_content(MemorySource(data), layout_of(data))
    assert content is not None
    return content


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pad_last", [True, False])
def test_every_tensor_is_found_with_its_bytes(version, order, pad_last):
    """Both versions, both byte orders, padded at the end or not: each tensor has its type, shape and bytes."""
    data = gguf_bytes(KEYS, TENSORS, version=version, order=order, pad_last=pad_last)
    content = content_of(data)
    found = {tensor.name: tensor for tensor in content.tensors}
    assert found.keys() == {tensor.name for tensor in TENSORS}
    for tensor, storage in zip(TENSORS, content.storages, strict=True):
        assert data[storage.offset : storage.offset + storage.length] == tensor.data
        assert found[tensor.name].shape == tensor.dims[::-1]
    assert content.facts.get("byteorder") == (None if order == "<" else "big")


def test_types_and_widths():
    """Plain numbers have torch's types and their widths; blocks have a name of ggml's and are bytes."""
    widths = [(storage.dtype, storage.item_bytes) for storage in content_of(DATA).storages]
    assert widths == [("q4_k", 1), ("float32", 4), ("float32", 4), ("float16", 2), ("bfloat16", 2)]
    assert content_of(DATA).tensors[3].stride == (7, 1)


def test_facts_of_a_model():
    """Architecture, name, what most bytes are quantised as, and how many tensors and parameters there are."""
    assert content_of(DATA).facts == {
        "framework": "gguf",
        "architecture": "llama",
        "name": "small one",
        "quantisation": "q4_k",
        "tensor_count": 5,
        "parameter_count": 3 * 512 + 33 + 35 + 3,
        "dtypes": "bfloat16,float16,float32,q4_k",
    }


def test_an_alignment_of_its_own_is_followed():
    """Tensors lie at multiples of what the file says."""
    data = gguf_bytes(KEYS | {"general.alignment": 128}, TENSORS)
    assert [extent.offset % 128 for extent in layout_of(data).extents] == [0] * 5
    assert content_of(data).tensors == content_of(DATA).tensors


@pytest.mark.parametrize("alignment", [0, 3, "32"])
def test_an_alignment_that_cannot_be_is_refused(alignment):
    """It is a power of two, and a number."""
    head = gguf_bytes({}, [])[:8] + struct.pack("<QQ", 0, 1) + text("general.alignment")
    value = struct.pack("<II", 4, alignment) if isinstance(alignment, int) else struct.pack("<I", 8) + text(alignment)
    with pytest.raises(ContainerBroken, match="no power of two"):
        layout_of(head + value)


def test_a_vocabulary_without_tensors_is_sound():
    """A file may have nothing but keys, and ends with them or with their padding."""
    for pad_last in (True, False):
        assert content_of(gguf_bytes(KEYS, [], pad_last=pad_last)).tensors == ()
    bare = gguf_bytes({"n": 1}, [])
    assert layout_of(bare.rstrip(b"\0") + bytes(3)).extents == ()


def test_no_other_length_passes():
    """A file that is cut anywhere, or goes on behind its last tensor's padding, is refused with the place."""
    data = gguf_bytes(KEYS, TENSORS, pad_last=False)
    for length in range(0, len(data), 7):
        with pytest.raises(ContainerBroken) as caught:
            layout_of(data[:length])
        assert not isinstance(caught.value, NotChecked)
        assert caught.value.offset <= length
    with pytest.raises(ContainerBroken, match="behind the last tensor"):
        layout_of(DATA + b"\0")


def test_a_hole_in_the_header_is_refused():
    """A page of zeros among the keys or the tensors' descriptions is nothing that parses."""
    begins = layout_of(DATA).extents[0].offset
    for at in range(24, begins - 64, 40):
        with pytest.raises(ContainerBroken):
            layout_of(zeroed(DATA, at, 64))


def described(*tensors: tuple[str, tuple[int, ...], int, int], tail: int = 4096) -> bytes:
    """A file whose tensors are told by hand: name, dims, type, offset."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 0)
    for name, dims, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    head += bytes(-len(head) % 32)
    return head + bytes(tail)


BAD_TENSORS = {
    "overlap": (described(("a", (64,), 0, 0), ("b", (64,), 0, 224)), "overlap"),
    "not aligned": (described(("a", (64,), 0, 16)), "not aligned"),
    "outside": (described(("a", (64,), 0, 1 << 20)), "outside of the file"),
    "too long": (described(("a", (2048,), 0, 0)), "outside of the file"),
    "far outside": (described(("a", (1,), 0, 1 << 62)), "outside of the file"),
    "huge": (described(("a", ((1 << 64) - 1,) * 8, 0, 0)), "outside of the file"),
    "twice": (described(("a", (1,), 0, 0), ("a", (1,), 0, 32)), "comes twice"),
    "gap": (described(("a", (1,), 0, 0), ("b", (1,), 0, 64)), "a gap before the tensor"),
    "no type": (described(("a", (64,), 1 << 20, 0)), "type 1048576, which there is not"),
    "half a block": (described(("a", (255, 256), 12, 0)), "no whole number of q4_k blocks"),
    "many dimensions": (described(("a", (1,) * 9, 0, 0)), "9 dimensions"),
    "long name": (described(("a" * 5000, (1,), 0, 0)), "tensor name of 5000 bytes"),
    "unknown type outside": (described(("a", (64,), 99, 1 << 40)), "outside of the file"),
    "unknown type over another": (described(("a", (64,), 99, 0), ("b", (4096,), 0, 0)), "outside of the file"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_tensors_that_break_a_rule_are_refused(data, reason):
    """Tensors are aligned, whole, named once, inside of the file, and on no byte twice."""
    with pytest.raises(ContainerBroken, match=reason) as caught:
        layout_of(data)
    assert not isinstance(caught.value, NotChecked)


def keys(*parts: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(parts)) + b"".join(parts)


NESTED = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 6 + struct.pack("<IQ", 4, 0)
BAD_KEYS = {
    "twice": (keys(text("a") + struct.pack("<IB", 0, 1), text("a") + struct.pack("<IB", 0, 1)), "comes twice"),
    "unknown type": (keys(text("a") + struct.pack("<I", 13)), "unknown type 13"),
    "long key": (keys(text("k" * 70000)), "key of 70000 bytes"),
    "endless string": (keys(text("a") + struct.pack("<IQ", 8, (1 << 64) - 1)), "ends inside of its header"),
    "endless array": (keys(text("a") + struct.pack("<IIQ", 9, 4, (1 << 64) - 1)), "ends inside of its header"),
    "endless strings": (keys(text("a") + struct.pack("<IIQ", 9, 8, (1 << 64) - 1)), "more than the file has room for"),
    "nested": (keys(text("a") + NESTED), "nested too deeply"),
    "more keys than there are": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63), "more than the file has room for"),
    "more tensors than there are": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 0), "more than the file has room for"),
    "a key that is no text": (keys(struct.pack("<Q", 1) + b"\xff" + struct.pack("<IB", 0, 0)), "key that is no text"),
    "a version that never was": (b"GGUF" + struct.pack("<IQQ", 3 << 8, 0, 0), "a version of GGUF that there never was"),
    "magic": (b"GGUG" + DATA[4:], "no GGUF"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_keys_that_break_a_rule_are_refused(data, reason):
    """Keys and values are of known types, no longer than the file, and each key comes once."""
    with pytest.raises(ContainerBroken, match=reason) as caught:
        layout_of(data)
    assert not isinstance(caught.value, NotChecked)


def test_an_unknown_tensor_type_is_not_called_broken():
    """A tensor of a type from the future has its place up to the next one, and the file is not judged further."""
    data = described(("a", (64,), 99, 0), ("b", (64,), 0, 512), tail=768)
    layout = layout_of(data)
    assert [(extent.name, extent.length) for extent in layout.extents] == [("a", 512), ("b", 256)]
    with pytest.raises(NotChecked, match="tensor type 99"):
        read_content(MemorySource(data), layout)


@pytest.mark.parametrize("version", [1, 4, 0])
def test_an_unknown_version_is_not_called_broken(version):
    """What another version's header looks like is not known here."""
    with pytest.raises(NotChecked, match="version"):
        layout_of(gguf_bytes(KEYS, TENSORS, version=version))


@pytest.mark.parametrize(("bound", "value"), [("HEADER_BYTES_MAX", 300), ("PARTS_MAX", 10)])
def test_a_header_beyond_the_bounds_is_not_called_broken(monkeypatch, bound, value):
    """A header that is longer, or of more parts, than is looked at was not checked."""
    monkeypatch.setattr(gguf, bound, value)
    with pytest.raises(NotChecked, match="larger than is checked"):
        layout_of(DATA)


def test_the_tensors_are_not_read():
    """Level 1 and 2 read the header and a slice's rest, however large the tensors are."""
    source = MemorySource(gguf_bytes(KEYS, [plain("a", torch.zeros(3 << 20)), quantised("b", 1, 1)]))
    read_content(source, read_layout(source, "gguf"))
    assert source.random_bytes < 2 << 20


def test_a_large_vocabulary_is_stepped_over():
    """Strings beyond the first slice of the header are passed, and what lies behind them is found."""
    words = [f"word{n:06}" * 3 for n in range(40_000)]
    data = gguf_bytes({"tokens": words, "general.name": "behind"}, [GgufTensor("a", (1,), 0, bytes(4))])
    assert len(data) > 1 << 20
    content = content_of(data)
    assert (content.facts["name"], content.storages[0].length) == ("behind", 4)


@settings(max_examples=300, deadline=None)
@given(changes=edits, keep=st.floats(0.3, 1.5))
def test_a_changed_file_never_surprises(changes, keep):
    """A file with bytes changed or cut off: extents inside of it and disjoint, or ``ContainerBroken``."""
    data = edited(DATA[: int(keep * len(DATA))], changes, within_bytes=900)
    with contextlib.suppress(ContainerBroken):
        layout, reached = layout_of(data), 0
        for extent in layout.extents:
            assert extent.offset >= reached
            reached = extent.offset + extent.length
        assert reached <= len(data)
        content_of(data)
