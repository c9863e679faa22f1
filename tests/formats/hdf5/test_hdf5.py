"""HDF5 files that Keras and h5py wrote; ``made/make_hdf5.py`` says which versions."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from byte_edits import edited, edits
from checkpoint_files import MemorySource, flipped
from doubles.verdict_status import status
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.hdf5.blocks import lookup3
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.formats.sniff import identify
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.spans import ExtentChecksums

MADE = Path(__file__).parents[1] / "made"
NAMES = ("kinds", "latest", "newer", "filters", "model", "small.weights")
FILES = {name: (MADE / f"{name}.h5").read_bytes() for name in NAMES}

HOW_FAR = [
    ("filters", "hdf5", 2),
    ("kinds", "hdf5", 2),
    ("latest", "hdf5", 2),
    ("newer", "hdf5", 2),
    ("model", "keras", 4),
    ("small.weights", "keras", 4),
]


def content_of(data: bytes) -> Content:
    source = MemorySource(data)
    content = read_content(source, read_layout(source, "hdf5"))
    assert content is not None
    return content


def bytes_of(name: str, dataset: str) -> bytes:
    [storage] = [storage for storage in content_of(FILES[name]).storages if storage.name == dataset]
    return FILES[name][storage.offset : storage.offset + storage.length]


@pytest.mark.parametrize("name", ["kinds", "latest"])
def test_datasets_lie_where_the_storages_say(name):
    """Plain ones of several types, in files of the oldest form and of the newest; one of two names under the first."""
    assert bytes_of(name, "again") == np.arange(40, dtype="<f4").tobytes()
    assert bytes_of(name, "a/b/half") == np.arange(7, dtype="<f2").tobytes()
    assert bytes_of(name, "a/b/scalar") == np.float64(2.5).tobytes()


def test_chunks_are_parts_of_their_dataset():
    """Each is a tensor as far as it lies in the dataset, on bytes that go beyond it."""
    tensors = {tensor.name: tensor for tensor in content_of(FILES["kinds"]).tensors}
    assert [tensors[f"chunks[{place}]"].shape for place in ("0,0", "0,16", "16,0", "16,16")] == [
        (16, 16),
        (16, 4),
        (14, 16),
        (14, 4),
    ]
    assert tensors["chunks[16,16]"].stride == (16, 1)


def test_a_chunk_that_is_only_summed_up_is_there_as_it_is():
    """Its numbers end four bytes before the chunk does; so it is where lzf or zlib were left out for a chunk."""
    tensors = {tensor.name: tensor for tensor in content_of(FILES["filters"]).tensors}
    assert set(tensors) == {"summed[0]", "summed[160]", "lzf[0]", "odd[0]", "skipped[0]"}
    assert bytes_of("filters", "summed[0]") == np.arange(160, dtype="<f4").tobytes()
    assert bytes_of("filters", "odd[0]") == bytes(range(7))
    assert bytes_of("filters", "skipped[0]") == np.array([1, 2], "<f4").tobytes()


def test_a_bit_of_a_chunk_that_went_through_filters_is_found():
    """By zlib's own sum or by Fletcher's; not where nothing but the order of its bytes was changed, nor by lzf."""
    source = MemorySource(FILES["filters"])
    chunks = {extent.name: extent for extent in read_layout(source, "hdf5").extents}
    for name in ("deflated[0]", "all[0]", "all[160]", "summed[160]", "odd[0]"):
        where = chunks[name].offset
        for at in (where, where + chunks[name].length // 2, where + chunks[name].length - 1):
            assert damaged_records(flipped(FILES["filters"], at)) == [name]
    for name in ("moved[0]", "scaled[0]"):
        assert damaged_records(flipped(FILES["filters"], chunks[name].offset + 40)) == []


def damaged_records(data: bytes) -> list[str | None]:
    checksums = ExtentChecksums(read_layout(MemorySource(data), "hdf5"))
    for at in range(0, len(data), 999):  # in blocks that end anywhere
        checksums.feed(at, memoryview(data)[at : at + 999])
    return [finding.record for finding in checksums.faults]


def test_a_chunk_that_lacks_the_bytes_of_its_shape_is_refused():
    """One of which nothing but the order of its bytes was changed has a length that is known: one byte of it less."""
    data = FILES["filters"]
    source = MemorySource(data)
    [extent] = [extent for extent in read_layout(source, "hdf5").extents if extent.name == "moved[160]"]
    at = data.index(extent.offset.to_bytes(8, "little"))  # behind size, filters and place
    with pytest.raises(ContainerBroken, match="chunk needs 640 bytes, and has 512"):
        read_layout(MemorySource(flipped(data, at - 24, 7)), "hdf5")


def test_a_tree_of_names_of_several_nodes_is_read_whole():
    """All twelve datasets of a group are there."""
    found = {tensor.name for tensor in content_of(FILES["kinds"]).tensors}
    assert {f"many/w{number:03}" for number in range(12)} <= found


def test_how_far_a_file_is_proved():
    """Keras' files to their numbers, those with compressed chunks and compounds to level 2."""
    with Prover(ProofOptions(device="cpu")) as prover:
        for name, framework, level in HOW_FAR:
            verdict = prover.prove(MemorySource(FILES[name]), b"x")
            assert (status(verdict), verdict.proof.level, verdict.proof.facts["framework"]) == (
                "proved",
                level,
                framework,
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_anywhere_is_refused(name):
    """By the superblock's end: half a file is none."""
    data = FILES[name]
    for size in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises(ContainerBroken):
            read_layout(MemorySource(data[:size]), "hdf5")


def test_a_block_of_the_newer_form_is_held_against_its_checksum():
    """A bit of the superblock, and one of the root's header."""
    assert lookup3(FILES["latest"][:44]) == int.from_bytes(FILES["latest"][44:48], "little")
    for at in (20, 60):
        with pytest.raises(ContainerBroken, match=r"checksum|cut short"):
            read_layout(MemorySource(flipped(FILES["latest"], at)), "hdf5")


def test_a_dataset_that_does_not_fit_its_shape_is_refused():
    """A dimension of 8 that became 9, alone or with the largest that it may become."""
    data = FILES["kinds"]
    at = data.index(np.array([5, 8, 5, 8], "<u8").tobytes())
    with pytest.raises(ContainerBroken, match="impossible shape"):
        read_layout(MemorySource(flipped(data, at + 8)), "hdf5")
    with pytest.raises(ContainerBroken, match=r"needs 180 bytes, and has 160.*again"):
        read_layout(MemorySource(flipped(flipped(data, at + 8), at + 24)), "hdf5")


def test_the_newest_form_holds_what_the_oldest_does():
    """Groups of many names and the newer indexes of chunks: the same tensors, and as many left aside."""
    old, new = content_of(FILES["kinds"]), content_of(FILES["latest"])
    assert {(tensor.name, tensor.shape) for tensor in old.tensors} == {
        (tensor.name, tensor.shape) for tensor in new.tensors
    }
    assert (old.packed_count, old.aside_count) == (new.packed_count, new.aside_count) == (1, 2)


def test_all_names_of_a_large_group_are_found():
    """77 of them in two levels of a tree and many blocks of a heap; seven are datasets of their own."""
    tensors = [tensor.name for tensor in content_of(FILES["newer"]).tensors]
    own = sorted(name for name in tensors if name.startswith("g/"))
    values = sorted(int(np.frombuffer(bytes_of("newer", name), "<i4")[0]) for name in own)
    assert values == list(range(0, 77, 11))


def test_chunks_of_each_newer_index_lie_where_they_should():
    """A list, one of several pages of which some were never written, one chunk, chunks in a row; packed; one aside."""
    content = content_of(FILES["newer"])
    assert bytes_of("newer", "listed[2]") == np.array([2, 3], "<f4").tobytes()
    paged = {s.name: bytes_of("newer", s.name) for s in content.storages if s.name.startswith("paged[")}
    assert paged == {f"paged[{at}]": b"\7" if at < 6 else b"\x09" for at in (*range(6), 1098, 1099)}
    assert bytes_of("newer", "single[0,0]") == np.arange(12, dtype="<f4").tobytes()
    assert bytes_of("newer", "row[0,3]")[:4] == np.float32(3).tobytes()
    assert bytes_of("newer", "row[2,0]")[:12] == np.arange(8, 11, dtype="<f4").tobytes()
    assert (content.packed_count, content.aside_count) == (2, 1)


def test_each_block_of_the_newer_form_has_a_checksum():
    """A bit in each heap, tree and list of chunks: refused."""
    data = FILES["newer"]
    for mark in (b"FRHP", b"FHIB", b"FHDB", b"BTHD", b"BTIN", b"BTLF", b"FAHD", b"FADB"):
        at = data.index(mark)
        for bit in (0, 5 * 8, 20 * 8 + 1):
            with pytest.raises(ContainerBroken):
                read_layout(MemorySource(flipped(data, at + bit // 8, bit % 8)), "hdf5")


def test_layers_alone_are_not_those_of_keras():
    """Anndata has them as well, and says so in its root."""
    content = content_of((MADE / "small.h5ad").read_bytes())
    assert content.facts["framework"] == "anndata"
    assert [tensor.name for tensor in content.tensors] == ["X", "layers/counts"]


def test_a_file_behind_other_bytes_is_found():
    """A block of the user's own before the file is allowed; its length is a power of two."""
    data = bytearray(FILES["model"])
    assert len(content_of(b"#" * 512 + bytes(data)).tensors) == 6  # put before it later
    data[24:32] = (512).to_bytes(8, "little")  # where the file begins
    data[40:48] = (512 + len(data)).to_bytes(8, "little")  # where it ends, from the very beginning
    assert len(content_of(b"#" * 512 + bytes(data)).tensors) == 6
    with pytest.raises(ContainerBroken, match="cut short"):
        content_of(b"#" * 512 + bytes(data[:-1]))


def test_a_file_is_known_by_content_or_name():
    """By its signature, whatever it is called; a broken one is held to what its name promises."""
    assert identify(MemorySource(FILES["model"]), b"x") == "hdf5"
    assert identify(MemorySource(b"garbage"), b"best.weights.h5") == "hdf5"


@settings(max_examples=80, deadline=None)
@given(changes=edits)
def test_a_changed_file_never_surprises(changes):
    """Bytes changed: an answer or ``ContainerBroken``."""
    for name in ("kinds", "latest", "newer", "filters"):
        with contextlib.suppress(ContainerBroken):
            content_of(edited(FILES[name], changes))


SMALL = (MADE / "small.h5").read_bytes()
OLDEST = {
    "a version in the superblock": (9, 1),
    "another version in it": (12, 1),
    "flags of the file": (21, 1),
    "an address that no file of its time has": (32, 1),
    "nodes without room": (16, 4),
    "a driver's address": (48, 1),
    "the end before a block's end": (40, 0x20),
    "a list of free places": (696, 8),
    "a heap's version": (684, 1),
    "a key of the tree of names": (160, 8),
    "a neighbour of a node": (153, 1),
    "what is kept beside a name": (1528, 4),
    "a message's flags": (820, 0x20),
    "a length that is not even": (832, 1),
    "a float's exponent": (6229, 0x20),
    "how a float is normalised": (6801, 0x10),
    "a whole number's place": (7083, 0x20),
    "a value to fill with": (6252, 0x10),
    "a size above the largest": (7053, 2),
}


def test_what_hdf5_does_not_open_is_refused():
    """Damage to the oldest form, which has no checksum, in places that the library looks at."""
    assert content_of(SMALL) is not None
    passed = []
    for what, (at, bit) in OLDEST.items():
        damaged = bytearray(SMALL)
        damaged[at] ^= bit
        with contextlib.suppress(ContainerBroken):
            content_of(bytes(damaged))
            passed.append(what)
    assert passed == []
