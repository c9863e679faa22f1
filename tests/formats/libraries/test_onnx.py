"""ONNX files that torch and onnx wrote; ``made/make_onnx.py`` says which versions."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from byte_edits import edited, edits
from checkpoint_files import MemorySource, flipped
from doubles.verdict_status import status
from mlsync.formats.containers import read_content, read_layout, storages_of
from mlsync.formats.faults import NotChecked
from mlsync.formats.groups.find import find_units
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.formats.libraries import onnx_message
from mlsync.formats.libraries.onnx import read_external
from mlsync.formats.sniff import identify
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover

MADE = Path(__file__).parents[1] / "made"
MODEL, KINDS, OUTSIDE = ((MADE / f"{name}.onnx").read_bytes() for name in ("model", "kinds", "outside"))


def content_of(data: bytes) -> Content:
    source = MemorySource(data)
    content = read_content(source, read_layout(source, "onnx"))
    assert content is not None
    return content


def bytes_of(data: bytes, name: str) -> bytes:
    [storage] = [storage for storage in content_of(data).storages if storage.name == name]
    return data[storage.offset : storage.offset + storage.length]


def test_a_model_of_torch_is_read_to_its_weights():
    """All initializers with their shapes, where their bytes lie, and who wrote the file."""
    content = content_of(MODEL)
    assert {tensor.name: tensor.shape for tensor in content.tensors} == {
        "0.weight": (5, 8),
        "0.bias": (5,),
        "1.weight": (5,),
        "1.bias": (5,),
        "2.weight": (2, 5),
        "2.bias": (2,),
    }
    assert content.facts["producer"] == "pytorch"
    assert content.facts["parameter_count"] == 67
    assert all(storage.item_bytes == 4 for storage in content.storages)


def test_numbers_lie_where_the_storages_say():
    """Raw and typed ones, in initializers, constants of subgraphs and sparse tensors."""
    assert bytes_of(KINDS, "f4") == np.arange(6, dtype="<f4").tobytes()
    assert bytes_of(KINDS, "floats") == np.array([0.5, 1.5, 2.5], "<f4").tobytes()
    assert bytes_of(KINDS, "doubles") == np.array([0.5, 1.5], "<f8").tobytes()
    assert bytes_of(KINDS, "inner") == np.ones(4, "<f4").tobytes()
    assert bytes_of(KINDS, "sparse") == np.ones(2, "<f4").tobytes()


@pytest.mark.parametrize(("data", "level"), [(MODEL, 4), (KINDS, 2), (OUTSIDE, 2)])
def test_how_far_a_file_is_proved(data, level):
    """To its numbers, or to level 2 where some are packed or lie in another file."""
    with Prover(ProofOptions(device="cpu")) as prover:
        verdict = prover.prove(MemorySource(data), b"a.onnx")
    assert (status(verdict), verdict.proof.level) == ("proved", level)


@pytest.mark.parametrize("data", [MODEL, KINDS, OUTSIDE])
def test_a_file_cut_short_anywhere_is_refused(data):
    """At no length but its own is the file whole."""
    for size in range(len(data)):
        source = MemorySource(data[:size])
        with pytest.raises(ContainerBroken):
            read_layout(source, "onnx")


def test_a_shape_that_does_not_fit_its_bytes_is_refused():
    """A dimension of 5 that became 7, a length that became another."""
    at = MODEL.index(b"\x08\x05\x08\x08\x10\x01")
    with pytest.raises(ContainerBroken, match="needs 224 bytes, and has 160"):
        content_of(flipped(MODEL, at + 1, 1))
    at = KINDS.index(b"floats") - 2 - 12
    assert KINDS[at - 1] == 12
    with pytest.raises(ContainerBroken):
        content_of(flipped(KINDS, at - 1, 3))


def test_types_that_are_not_known_are_left_alone():
    """A type of a later version is no fault of the file; where the tensors lie is then not known."""
    data = MODEL.replace(b"\x08\x05\x08\x08\x10\x01", b"\x08\x05\x08\x08\x10\x63")
    source = MemorySource(data)
    with pytest.raises(NotChecked, match="99"):
        content_of(data)
    assert storages_of(source, read_layout(source, "onnx")) == ()


def test_more_parts_than_are_checked(monkeypatch):
    """Such a file is left alone."""
    monkeypatch.setattr(onnx_message, "PARTS_MAX", 100)
    with pytest.raises(NotChecked, match="100 parts"):
        content_of(MODEL)


def test_graphs_nested_without_end_are_refused():
    """A graph in an attribute of a node of a graph, and so on."""
    inner = b""
    for _ in range(300):
        for number in (6, 5, 1):
            size = len(inner)
            inner = bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7]) + inner
    head = b"\x08\x09\x3a" + bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7])
    with pytest.raises(ContainerBroken, match="nested"):
        content_of(head + inner + b"\x42\x00")


def test_a_model_is_known_by_name_or_writer():
    """By ``.onnx``, by torch's name at its beginning; a broken one is held to what its name promises."""
    assert identify(MemorySource(MODEL), b"no-suffix") == "onnx"
    assert identify(MemorySource(b"garbage"), b"best.onnx") == "onnx"
    assert identify(MemorySource(b"\x08\x09\x12\x07"), b"no-suffix") is None


def test_tensors_in_another_file_are_a_group_with_it():
    """The graph and its data are whole together, or lack what is missing or too short."""
    assert read_external(OUTSIDE) == {"outside.bin": 160}
    assert read_external(MODEL) == {}
    for size, lacking in ((160, None), (159, "'m/outside.bin' is too short"), (None, "'m/outside.bin' is missing")):
        files = {b"m/outside.onnx": len(OUTSIDE)} | ({b"m/outside.bin": size} if size is not None else {})
        [unit] = find_units(files, lambda _path, _limit: OUTSIDE)
        assert (unit.kind, unit.members, unit.lacking) == ("onnx", tuple(sorted(files)), lacking)


@settings(max_examples=150, deadline=None)
@given(changes=edits)
def test_a_changed_file_never_surprises(changes):
    """Bytes changed: an answer or ``ContainerBroken``."""
    for data in (MODEL, KINDS, OUTSIDE):
        with contextlib.suppress(ContainerBroken):
            content_of(edited(data, changes))


def test_what_onnx_does_not_parse_is_refused():
    """A field of no number, or bytes in the place of a message that they are not."""
    assert MODEL[22:26] == b"\x0a\x2f\x0a\x08"
    for number in (0, 5, 9, 10):
        damaged = MODEL[:24] + bytes([number << 3 | 2]) + MODEL[25:]
        with pytest.raises(ContainerBroken):
            content_of(damaged)
