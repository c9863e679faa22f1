"""A checkpoint that ``made/make_orbax.py`` wrote with Orbax."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byte_edits import edited, edits
from checkpoint_files import MemorySource
from mlsync.formats.containers import read_layout
from mlsync.formats.groups.find import find_units, marked_around
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.libraries import ocdbt
from mlsync.formats.sniff import identify
from mlsync.proof.spans import ExtentChecksums

MADE = Path(__file__).parents[1] / "made" / "orbax"
FILES = {os.fsencode(path.relative_to(MADE)): path.read_bytes() for path in MADE.rglob("*") if path.is_file()}
OURS = {path: data for path, data in FILES.items() if ocdbt.is_ocdbt(data)}


def faults_of(data: bytes, path: bytes) -> list[object]:
    """What speaks against a manifest or a node."""
    container = identify(MemorySource(data), path)
    if container is None:
        return ["not known"]
    try:
        layout = read_layout(MemorySource(data), container)
    except ContainerBroken as fault:
        return [fault]
    checksums = ExtentChecksums(layout)
    checksums.feed(0, memoryview(data))
    return list(checksums.faults)


def units(**changed: bytes | None) -> list[tuple[str, str | None]]:
    files = {b"run/1/" + path: data for path, data in FILES.items()}
    for path, data in changed.items():
        files[path.encode()] = data
    files = {path: data for path, data in files.items() if data is not None}
    sizes = {path: len(data) for path, data in files.items()}
    return [(unit.kind, unit.lacking) for unit in find_units(sizes, lambda path, limit: files[path][: limit + 1])]


def test_manifests_and_nodes_are_known():
    """Two manifests and four nodes, each whole, with the sum that they say."""
    assert len(OURS) == 6
    assert {path: faults_of(data, path) for path, data in OURS.items()} == {path: [] for path in OURS}


def test_every_flipped_bit_is_found():
    """Or the file is not known any more, which its directory says where it is the manifest."""
    for path, data in OURS.items():
        for at in range(0, len(data) * 8, 5):
            damaged = bytearray(data)
            damaged[at // 8] ^= 1 << at % 8
            assert faults_of(bytes(damaged), path), (path, at)


def test_a_node_that_is_cut_is_told():
    """By its length, in a directory of data files; other data that begins so is nobody's node."""
    path, data = next((path, data) for path, data in OURS.items() if b"/d/" in path)
    assert identify(MemorySource(data[:-1]), path) == "ocdbt"
    assert faults_of(data[:-1], path)
    assert identify(MemorySource(data[:-1]), b"data") is None


def test_a_directory_of_orbax_is_whole():
    """All of it is one checkpoint."""
    assert units() == [("orbax", None)]


@pytest.mark.parametrize("lost", [path.decode() for path in FILES if b"/d/" in path])
def test_each_data_file_that_is_missing_is_named(lost):
    """Manifests tell of some, and nodes of the others."""
    assert units(**{f"run/1/{lost}": None}) == [("orbax", f"'run/1/{lost}' is missing")]


@pytest.mark.parametrize("lost", ["default/manifest.ocdbt"])
def test_a_missing_manifest_is_named(lost):
    """The item says that it has one."""
    assert units(**{f"run/1/{lost}": None}) == [("orbax", f"'run/1/{lost}' is missing")]


def test_a_manifest_that_is_cut_is_told():
    """By its length."""
    [(_, lacking)] = units(**{"run/1/default/manifest.ocdbt": FILES[b"default/manifest.ocdbt"][:60]})
    assert "file has 60 bytes, 114 are needed" in lacking


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(sorted(OURS)), changes=edits)
def test_a_changed_file_never_surprises(path, changes):
    """A file with bytes changed, its sum made right again: an answer, or ``ContainerBroken``."""
    data = edited(OURS[path], changes)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ContainerBroken):
        patch.setattr(ocdbt, "crc32c", lambda _data: int.from_bytes(data[-4:], "little"))
        assert all(isinstance(name, str) for name in ocdbt.files_told_of(data))


def test_a_file_deep_inside_belongs_to_the_directory_with_the_mark():
    """So that the whole is looked at anew where one data file changed or is gone."""
    deep = b"run/1/default/ocdbt.process_0/d"
    assert marked_around(deep, {b"run/1/_CHECKPOINT_METADATA": 1}) == b"run/1"
    assert marked_around(deep, {}) is None
