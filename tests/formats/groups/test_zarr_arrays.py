"""Directories of zarr of both versions; ``made/make_zarr.py`` says what wrote them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from mlsync.formats.groups.find import find_units
from mlsync.formats.groups.tree import Unit
from mlsync.source.temporary_names import is_temporary

MADE = Path(__file__).parents[1] / "made" / "zarr"
FILES = {b"a/" + os.fsencode(path.relative_to(MADE)): path.read_bytes() for path in MADE.rglob("*") if path.is_file()}


def units_of(**changed: bytes | None) -> list[Unit]:
    """The units of the directories with some files changed, or none."""
    files = {**FILES, **{b"a/" + os.fsencode(path): data for path, data in changed.items()}}
    present = {path: data for path, data in files.items() if data is not None}
    sizes = {path: len(data) for path, data in present.items()}
    return find_units(sizes, lambda path, limit: present[path] if len(present[path]) <= limit else None)


def changed(path: str, old: str, new: str) -> dict[str, bytes]:
    text = FILES[b"a/" + path.encode()].decode()
    assert old in text
    return {path: text.replace(old, new, 1).encode()}


def test_whole_arrays_are_files_like_any_others():
    """Plain, packed, summed, sharded, named in each way, a scalar, texts; and where a chunk was never written."""
    assert len(FILES) == 40
    assert units_of() == []
    assert units_of(**{"v3/plain/c/0/0": None, "v2/plain/1.0": None}) == []


def test_a_chunk_of_another_length_is_told():
    """Exactly what shape and type need where nothing packs it; with its sum; of both versions."""
    for path in ("v2/plain/0.0", "v2/named/1/0", "v2/scalar/0", "v3/plain/c/1/0", "v3/named/0.0", "v3/scalar/c"):
        whole = FILES[b"a/" + path.encode()]
        for data in (b"", whole[:-1], whole + b"x"):
            [unit] = units_of(**{path: data})
            assert unit.kind == "zarr"
            assert f"has {len(data)} bytes, and needs {len(whole)}" in (unit.lacking or ""), path
    [unit] = units_of(**{"v3/summed/c/0": bytes(32)})
    assert "needs 36" in (unit.lacking or "")
    assert b"a/v3/summed/zarr.json" in unit.members


def test_a_packed_chunk_has_some_bytes_and_a_shard_its_index():
    """What packs it is not looked into; 4 places of 16 bytes and a sum are in each shard."""
    for path in ("v2/packed/0.0", "v3/packed/c/0/0", "v3/texts/c/0"):
        assert units_of(**{path: b"x"}) == []
        [unit] = units_of(**{path: b""})
        assert "at least" in (unit.lacking or "")
    assert units_of(**{"v3/sharded/c/0/0": bytes(68)}) == []
    [unit] = units_of(**{"v3/sharded/c/0/0": bytes(67)})
    assert "needs 68 at least" in (unit.lacking or "")


def test_a_description_that_does_not_parse_is_told():
    """It alone: what its chunks are, nobody can say then."""
    for path in ("v2/plain/.zarray", "v3/plain/zarr.json", "v3/zarr.json"):
        for data in (b"", FILES[b"a/" + path.encode()][:-9]):
            [unit] = units_of(**{path: data})
            assert unit.members == (b"a/" + path.encode(),)
            assert "does not parse" in (unit.lacking or "")


def test_what_is_not_known_speaks_against_nothing():
    """Types, codecs, filters, grids and names that are not known here, and other files among the chunks."""
    torn = {"v3/plain/c/0/0": b"x", "v2/plain/0.0": b"x"}
    changes = (
        (("float32", "decimal32"), ("<f4", "<Q4")),
        (('"bytes"', '"rot13"'), ('"compressor": null', '"c": 1')),
        (('"chunk_shape"', '"shapes"'), ('"chunks"', '"sizes"')),
    )
    for new, old in changes:
        change = changed("v3/plain/zarr.json", *new) | changed("v2/plain/.zarray", *old)
        assert units_of(**torn, **change) == []
    for data in (b"[]" + b" " * 70_000, b"{" + b" " * 70_000):
        change = {"v3/plain/zarr.json": data, "v2/plain/.zarray": data}
        assert units_of(**torn, **change) == []
    assert units_of(**{"v3/plain/c/9/9": b"", "v3/plain/c/a": b"", "v3/plain/note": b"", "v2/plain/0": b""}) == []


def test_an_orbax_checkpoint_lacks_what_an_array_in_it_lacks():
    """Arrays of zarr without a database are a part of it."""
    [unit] = units_of(_CHECKPOINT_METADATA=b"{}")
    assert (unit.kind, unit.lacking) == ("orbax", None)
    [unit] = units_of(**{"_CHECKPOINT_METADATA": b"{}", "v2/plain/0.0": b"x"})
    assert (unit.kind, len(unit.members)) == ("orbax", 41)
    assert "needs 64" in (unit.lacking or "")


def test_a_chunk_under_its_temporary_name_is_left_out():
    """As zarr writes it before the rename."""
    assert is_temporary(b"0.4429701acdd5e0865e149aa9d359fdf0.partial")


VALUES = (None, -1, 1 << 70, [], [[]], {}, "x", [0], [1 << 62] * 3, {"name": 1, "configuration": []}, [{"name": []}])


def test_a_changed_description_never_surprises():
    """Values of other kinds, sizes that cannot be, bytes that were turned over."""
    chance = random.Random(5)
    for path in ("v2/plain/.zarray", "v3/summed/zarr.json", "v3/sharded/zarr.json"):
        about = json.loads(FILES[b"a/" + path.encode()])
        for key in about:
            for value in (
                None,
                -1,
                1 << 70,
                [],
                [[]],
                {},
                "x",
                [0],
                [1 << 62] * 3,
                {"name": 1, "configuration": []},
                [{"name": []}],
            ):
                units_of(**{path: json.dumps({**about, key: value}).encode()})
        for _ in range(200):
            data = bytearray(FILES[b"a/" + path.encode()])
            data[chance.randrange(len(data))] = chance.randrange(256)
            units_of(**{path: bytes(data)})
