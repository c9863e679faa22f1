"""Chunks of long files are opened where they are written from, whatever else happens to the files around them."""

from __future__ import annotations

import pytest

from flow_parts import contents, noise, tree_of
from mlsync import errors
from mlsync.target.staging import Staging


@pytest.fixture
def copied(monkeypatch):
    """The lengths of the views whose bytes were copied before they were written."""
    lengths = []
    filled_slab = Staging._filled_slab

    def noted(self, view, offset):
        slab = filled_slab(self, view, offset)
        if slab is None:
            lengths.append(len(view))
        return slab

    monkeypatch.setattr(Staging, "_filled_slab", noted)
    return lengths


def test_no_byte_of_a_long_file_is_copied(world, copied):
    """Of two long files and a short one, the short one's bytes alone are copied on their way."""
    world.write("one.bin", noise(20 << 20))
    world.write("short.bin", noise(5_000, 1))
    world.write("two.bin", noise(9 << 20, 2))
    world.backup()
    world.restore()
    assert tree_of(world.base / "out") == world.tree()
    assert sum(copied) == 5_000


def test_what_repeats_in_a_file_is_written_at_each_of_its_places(world):
    """Chunks that come again within a read and later, between others: every byte is where it belongs."""
    piece, other = noise(1 << 20), noise(3 << 20, 1)
    world.write("repeats.bin", b"head" + piece * 5 + other + piece * 3 + other + bytes(4 << 20) + piece)
    world.backup()
    world.restore()
    assert tree_of(world.base / "out") == world.tree()


def test_a_damaged_file_between_long_ones_harms_none_of_them(world):
    """A pack is damaged in the middle of a stream: the files before and behind it are whole."""
    for number, name in enumerate(("a.bin", "b.bin", "c.bin")):
        world.write(name, noise(11 << 20, number))
    world.backup()
    expected = contents(world.tree())
    ref = world.entry(b"b.bin").chunks[-2]
    key = f"packs/{ref.pack.hex()[:2]}/{ref.pack.hex()}"
    body = bytearray(world.store._objects[key][0])
    body[ref.offset + 5] ^= 1
    world.store._objects[key] = (bytes(body), 0.0)
    with pytest.raises(errors.ObjectDamaged):
        world.restore()
    del expected[b"b.bin"]
    assert contents(tree_of(world.base / "out")) == expected
