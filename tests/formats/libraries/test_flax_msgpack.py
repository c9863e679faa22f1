"""Files that ``made/make_flax.py`` wrote with flax."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byte_edits import edited, edits
from checkpoint_files import MemorySource
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import MeaningBroken, NotChecked
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.formats.libraries import flax_msgpack
from mlsync.formats.sniff import identify

MADE = Path(__file__).parents[1] / "made"
FILES = {name: (MADE / f"{name}.msgpack").read_bytes() for name in ("state", "values", "chunked")}


def content_of(data: bytes) -> Content:
    source = MemorySource(data)
    content = read_content(source, read_layout(source, "flax-msgpack"))
    assert content is not None
    return content


@pytest.mark.parametrize("path", [b"run/flax_model.msgpack", b"run/checkpoint_300"])
def test_real_files_are_known(path):
    """By the names that flax and Hugging Face give, and by how they begin."""
    for data in FILES.values():
        assert identify(MemorySource(data), path) == "flax-msgpack"
    assert identify(MemorySource(b"\x93\1\2\3"), b"list.msgpack") is None


def test_arrays_are_found_with_their_bytes():
    """Each has its name in the tree, its type, shape and bytes."""
    content, data = content_of(FILES["values"]), FILES["values"]
    found = {one.name: data[one.offset : one.offset + one.length] for one in content.storages}
    assert found["rows"] == np.arange(600, dtype="i4").tobytes()
    assert found["list.2.inner"] == np.ones(5, "f8").tobytes()
    assert [tensor.shape for tensor in content.tensors if tensor.name == "rows"] == [(20, 30)]
    assert content.facts["epoch"] == 3


def test_a_state_of_a_training():
    """Weights in two types, the optimizer's moments, and the step."""
    content = content_of(FILES["state"])
    names = {tensor.name: (tensor.dtype, tensor.shape) for tensor in content.tensors}
    assert names["params.Dense_0.kernel"] == ("bfloat16", (32, 4)) or names["params.Dense_0.kernel"][1] == (24, 32)
    assert {dtype for dtype, _ in names.values()} == {"float32", "bfloat16", "int32"}
    assert (content.facts["framework"], content.facts["step"]) == ("flax", 300)


def test_an_array_in_chunks_is_found():
    """Flax splits what is larger than 1 GiB: each part is an array."""
    content, data = content_of(FILES["chunked"]), FILES["chunked"]
    parts = [data[one.offset : one.offset + one.length] for one in content.storages]
    assert b"".join(parts) == np.arange(900, dtype="f4").tobytes()


@pytest.mark.parametrize("name", FILES)
def test_no_other_length_passes(name):
    """A file that is cut anywhere, or goes on, is refused."""
    data = FILES[name]
    for length in {*range(1, len(data), 13), len(data) - 1}:
        with pytest.raises(ContainerBroken) as caught:
            read_layout(MemorySource(data[:length]), "flax-msgpack")
        assert not isinstance(caught.value, NotChecked)
    with pytest.raises(ContainerBroken, match="behind the map"):
        read_layout(MemorySource(data + b"\0"), "flax-msgpack")


def test_an_array_that_lacks_bytes_is_refused():
    """A shape of other than its bytes is a fault of the meaning."""
    data = FILES["values"].replace(b"\x92\x14\x1e", b"\x92\x14\x1d")
    with pytest.raises(MeaningBroken, match="needs 2320 bytes, there are 2400"):
        content_of(data)


def test_other_programs_streams_are_not_called_broken():
    """Maps in a row, without arrays of flax, are somebody's data."""
    with pytest.raises(NotChecked, match="not a checkpoint of flax"):
        read_layout(MemorySource(b"\x81\xa1a\x01" * 3), "flax-msgpack")


def test_large_arrays_are_not_read():
    """Of each array the head is read, and a little behind it."""
    block = (4 << 20).to_bytes(4, "big")
    inner = b"\x93\x91\xce" + block + b"\xa5uint8\xc6" + block + bytes(4 << 20)
    array = b"\xc9" + len(inner).to_bytes(4, "big") + b"\1" + inner
    source = MemorySource(b"\x83\xa1a" + array + b"\xa1b" + array + b"\xa1c" + array)
    assert len(read_layout(source, "flax-msgpack").extents) == 3
    assert source.random_bytes < 1 << 20


def test_a_map_beyond_the_bounds_is_not_called_broken(monkeypatch):
    """A map of more parts than are looked at was not checked."""
    monkeypatch.setattr(flax_msgpack, "PARTS_MAX", 10)
    with pytest.raises(NotChecked, match="than are checked"):
        read_layout(MemorySource(FILES["state"]), "flax-msgpack")
    with pytest.raises(NotChecked, match="than are checked"):
        read_layout(MemorySource(b"\x81\xa1a" * 200 + b"\1"), "flax-msgpack")


@settings(max_examples=250, deadline=None)
@given(name=st.sampled_from(sorted(FILES)), changes=edits)
def test_a_changed_file_never_surprises(name, changes):
    """A file with bytes changed: extents inside of it and disjoint, or ``ContainerBroken``."""
    data = edited(FILES[name], changes)
    with contextlib.suppress(ContainerBroken):
        layout, reached = read_layout(MemorySource(data), "flax-msgpack"), 0
        for extent in layout.extents:
            assert extent.offset >= reached
            reached = extent.offset + extent.length
        assert reached <= len(data)
        read_content(MemorySource(data), layout)


def test_what_flax_does_not_take_is_refused():
    """Names that are no UTF-8, keys that are numbers, extensions of no number, a map in the place of a shape."""
    good = (MADE / "small.msgpack").read_bytes()
    changes = {b"bias": b"b\xe9as", b"\xa4step": b"\x01\xa3tep", b"\x17\x01\x93\x91": b"\x17\x81\x93\x91"}
    changes |= {b"\x93\x91\x05": b"\x93\x81\x05"}
    for old, new in changes.items():
        assert good.count(old) == 1
        with pytest.raises(ContainerBroken):
            read_layout(MemorySource(good.replace(old, new)), "flax-msgpack")
    with pytest.raises(NotChecked, match="float36 is not known"):
        content_of(good.replace(b"float32", b"float36"))
