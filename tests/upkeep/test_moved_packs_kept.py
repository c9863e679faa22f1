"""What must stay for the sake of moved chunks: the packs that records lead to, and records that versions need."""

from __future__ import annotations

import msgspec
import pytest

from compacting import compacted, delete_buried, drop, versions_of
from flow_parts import World, noise
from mlsync.repository.history.move import Moves
from mlsync.repository.manifest import refs_of
from mlsync.upkeep.moved_packs import led_to, spent


@pytest.fixture
def world(tmp_path):
    """A version whose pack was moved three times; only the last pack is there. *trail* are the packs in order."""
    world = World(tmp_path)
    world.write("file", noise(20_000))
    world.backup()
    world.trail = [world.entry(b"file").chunks[0].pack]
    for _ in range(3):
        compacted(world.repository, choose=lambda _: True)
        world.trail.append(next(iter(world.repository.moves.of(world.trail[-1]).packs)))
        delete_buried(world.repository)
    yield world
    world.close()


def named(world):
    """The packs that versions name."""
    versions = versions_of(world.repository)
    return {ref.pack for stored in versions for ref in refs_of(world.repository.entries(stored))}


def test_all_packs_of_a_chain_are_led_to(world):
    """From the pack that a version names, records lead to each later one."""
    moved = set(world.repository.moves.listed())
    assert moved == set(world.trail[:-1])
    assert led_to(world.repository, named(world), moved) == set(world.trail[1:])
    assert led_to(world.repository, [b"x" * 16], moved) == set()


def test_a_circle_of_records_ends(world):
    """Records that lead in a circle, which only a key holder can forge, are walked through once."""
    moves = Moves(world.store, world.repository.keys)
    refs = world.entry(b"file").chunks
    one, other = bytes(16), bytes([1]) * 16
    for old, new in ((one, other), (other, one)):
        moves.add(old, [msgspec.structs.replace(ref, pack=new) for ref in refs], 0, "")
    assert led_to(world.repository, [one], {one, other}) == {one, other}


def test_records_stay_while_a_version_needs_them(world):
    """No record of the chain is spent before the version is gone; then all are."""
    moved = set(world.repository.moves.listed())
    there = {pack for pack, _ in world.repository.packs()}
    needed = named(world) | led_to(world.repository, named(world), moved)
    assert spent(moved, needed, there) == set()
    world.write("file", b"other")
    world.backup()
    drop(world, 1)
    needed = named(world) | led_to(world.repository, named(world), moved)
    there = {pack for pack, _ in world.repository.packs()}
    assert spent(moved, needed, there) == moved


def test_the_record_of_a_pack_that_is_there_stays(world):
    """It says where to look once the pack is gone."""
    there = {world.trail[0]}
    assert spent(set(world.trail[:-1]), set(), there) == set(world.trail[1:-1])
