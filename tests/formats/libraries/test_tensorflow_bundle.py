"""Files that ``made/make_tensorflow.py`` wrote with TensorFlow: its checkpoints, old and new, and a SavedModel's."""

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
from mlsync.formats.faults import NotChecked
from mlsync.formats.groups.find import find_units
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.formats.libraries import tensorflow_bundle
from mlsync.formats.libraries.tensorflow_bundle import parse_index, read_shard
from mlsync.formats.sniff import identify
from mlsync.proof.inspection import inspect
from mlsync.proof.spans import ExtentChecksums

MADE = Path(__file__).parents[1] / "made" / "tensorflow"
FILES = {path.name: path.read_bytes() for path in sorted(MADE.iterdir())}
STEMS = ["ckpt-1", "model.ckpt-7", "variables"]
SHARD = ".data-00000-of-00001"


def faults_of(stem: str, data: bytes) -> list[str]:
    """What speaks against a shard beside its index, levels 1 and 2, its checksums among them."""
    inspection = inspect(MemorySource(data), (stem + SHARD).encode(), 2, FILES[stem + ".index"])
    checksums = ExtentChecksums(inspection.layout)
    checksums.feed(0, memoryview(data))
    found = [inspection.finding] if inspection.finding is not None else []
    return [finding.what for finding in [*found, *checksums.faults]]


def shard_content(stem: str) -> Content:
    return read_shard(MemorySource(FILES[stem + SHARD]), parse_index(FILES[stem + ".index"]), 0)[1]


@pytest.mark.parametrize("stem", STEMS)
def test_nothing_speaks_against_what_tensorflow_wrote(stem):
    """Index and shard are known, whole, and every sum is right."""
    source = MemorySource(FILES[stem + ".index"])
    assert identify(source, b"run/" + stem.encode() + b".index") == "tensorflow-index"
    assert read_content(source, read_layout(source, "tensorflow-index")) is not None
    assert identify(MemorySource(b""), b"run/" + stem.encode() + SHARD.encode()) == "tensorflow-shard"
    assert faults_of(stem, FILES[stem + SHARD]) == []


def test_tensors_are_found_with_their_bytes():
    """Each has its type, shape and bytes; texts are checked, and go to no device."""
    content, data = shard_content("ckpt-1"), FILES["ckpt-1" + SHARD]
    name = "model/w/.ATTRIBUTES/VARIABLE_VALUE"
    [storage] = [one for one in content.storages if one.name == name]
    wanted = np.random.default_rng(1).normal(size=(24, 16)).astype("f4").tobytes()
    assert data[storage.offset : storage.offset + storage.length] == wanted
    assert (storage.dtype, storage.item_bytes) == ("float32", 4)
    assert {one.dtype for one in content.storages} == {"float32", "float64", "bfloat16", "int64", "bool"}
    assert content.facts["step"] == 12
    assert content.aside_count == 0


def test_a_variable_in_slices_is_found():
    """TensorFlow 1 keeps a partitioned variable in slices, each with a sum of its own."""
    content = shard_content("model.ckpt-7")
    assert [tensor.shape for tensor in content.tensors if tensor.name.startswith("part/slice/")] == [(32, 8)] * 2
    assert content.facts["step"] == 7


@pytest.mark.parametrize("stem", STEMS)
def test_every_flipped_bit_of_a_shard_is_found(stem):
    """No bit of a shard is without a sum, those of texts among them."""
    data = bytearray(FILES[stem + SHARD])
    for at in range(0, len(data) * 8, 7):
        data[at // 8] ^= 1 << at % 8
        assert faults_of(stem, bytes(data)), at
        data[at // 8] ^= 1 << at % 8


@pytest.mark.parametrize("stem", STEMS)
def test_every_flipped_bit_of_an_index_is_found(stem):
    """Blocks have sums, and the footer is as writers fill it."""
    data = bytearray(FILES[stem + ".index"])
    for at in range(len(data) * 8):
        data[at // 8] ^= 1 << at % 8
        with pytest.raises(ContainerBroken):
            parse_index(bytes(data))
        data[at // 8] ^= 1 << at % 8


@pytest.mark.parametrize("stem", STEMS)
def test_a_file_that_is_cut_is_refused(stem):
    """At any length, index and shard."""
    index, shard = FILES[stem + ".index"], FILES[stem + SHARD]
    for length in range(len(index)):
        with pytest.raises(ContainerBroken) as caught:
            parse_index(index[:length])
        assert not isinstance(caught.value, NotChecked)
    for length in range(0, len(shard), 37):
        assert faults_of(stem, shard[:length])


def listing(**changes: object) -> tuple[dict[bytes, int], object]:
    files = {f"run/{name}".encode(): data for name, data in FILES.items()}
    return {path: len(data) for path, data in files.items()}, lambda path, _limit: files[path]


def test_index_and_shards_are_one_checkpoint_each():
    """Several lie side by side in one directory, and each is whole for itself."""
    units = find_units(*listing())
    assert [(unit.kind, unit.lacking, len(unit.members)) for unit in units] == [("tensorflow", None, 2)] * 3


@pytest.mark.parametrize(
    ("lost", "size", "lacking"),
    [
        ("ckpt-1.index", None, "'ckpt-1.index' is missing"),
        ("ckpt-1" + SHARD, 100, "has 100 bytes, 3126 are needed"),
        ("ckpt-1" + SHARD, 4000, "has 4000 bytes, 3126 are needed"),
    ],
)
def test_a_checkpoint_that_lacks_something_says_what(lost, size, lacking):
    """An index that is not there yet, and a shard that is not as long as the index says."""
    files, read = listing()
    path = b"run/" + lost.encode()
    if size is None:
        del files[path]
    else:
        files[path] = size
    said = [unit.lacking for unit in find_units(files, read) if unit.lacking is not None]
    assert len(said) == 1
    assert lacking in said[0]


@pytest.mark.parametrize("bound", ["INDEX_BYTES_MAX", "NAMES_BYTES_MAX"])
def test_an_index_beyond_the_bounds_is_not_called_broken(monkeypatch, bound):
    """One that is longer, or has more or longer names, than is looked at was not checked."""
    monkeypatch.setattr(tensorflow_bundle, bound, 200)
    with pytest.raises(NotChecked):
        read_layout(MemorySource(FILES["ckpt-1.index"]), "tensorflow-index")


@settings(max_examples=200, deadline=None)
@given(stem=st.sampled_from(STEMS), changes=edits, is_summed=st.booleans())
def test_a_changed_index_never_surprises(stem, changes, is_summed):
    """An index with bytes changed, its sums made right again or not: an answer, or ``ContainerBroken``."""
    data = edited(FILES[stem + ".index"], changes)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ContainerBroken):
        if is_summed:
            patch.setattr(tensorflow_bundle, "crc32c", lambda _data, _before=0: 0)
            patch.setattr(tensorflow_bundle, "unmasked", lambda _stored: 0)
        index = parse_index(data)
        reached = 0
        for extent in index.extents:
            assert extent.offset >= reached
            reached = extent.offset + extent.length
        assert reached <= len(data)
        for number in range(min(index.shard_count, 2)):
            read_shard(MemorySource(FILES[stem + SHARD]), index, number)
