"""Check, repair and scrub of a repository whose packs were moved."""

from __future__ import annotations

import pytest

from compacting import compacted, delete_buried
from flow_parts import RUN, World, noise
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore
from mlsync.upkeep.check import check
from mlsync.upkeep.repair import Repaired, left
from mlsync.upkeep.scrub import scrub

SIZE = 20_000
MODES = pytest.mark.parametrize("read_data", [False, True], ids=["quick", "read data"])


@pytest.fixture
def world(tmp_path):
    """Two versions whose packs were moved and deleted; *new* are the packs that have all now."""
    world = World(tmp_path)
    for number in range(4):
        world.write(f"file{number}", noise(SIZE, number))
    world.backup()
    world.write("file0", noise(SIZE, 10))
    world.backup()
    world.old = packs(world)
    compacted(world.repository, choose=lambda _: True)
    world.new = packs(world) - world.old
    assert delete_buried(world.repository) == world.old
    yield world
    world.close()


def packs(world):
    """The packs of the store."""
    return {pack for pack, _ in world.repository.packs()}


def reread(world):
    """The repository as a new process sees it."""
    world.repository = Repository(world.store, world.repository.keys)
    return world


@MODES
def test_moved_packs_are_no_problem(world, read_data):
    """What is gone and was moved is not missing, and what it was moved to is in use."""
    result = reread(world).check(read_data=read_data)
    assert (result.problems, result.oddities, result.unchecked, result.unused_packs) == ([], [], [], 0)
    assert result.chunk_count == len({ref.name for n in (1, 2) for e in world.manifest(n).entries for ref in e.chunks})


def test_a_new_pack_is_in_use_while_the_old_one_is_there(tmp_path):
    """Between a move and the deletion neither of the two packs counts as left by a backup that did not end."""
    world = World(tmp_path)
    world.write("file", noise(SIZE))
    world.backup()
    compacted(world.repository, choose=lambda _: True)
    assert world.check().unused_packs == 0
    world.close()


def test_each_moved_chunk_is_read_once(world):
    """A check of all data reads what was moved where it lies, and once."""
    counted = CountingStore(world.store)
    result = check(Repository(counted, world.repository.keys), world.monitor, read_data=True)
    assert result.problems == []
    assert result.read_bytes < 1.02 * 5 * SIZE


@MODES
def test_a_new_pack_that_is_gone_is_named_with_what_it_affects(world, read_data):
    """Versions name the old pack; the new one is missed, with every version that needs it."""
    for pack in world.new:
        world.store.delete(names.pack(pack))
    problems = reread(world).check(read_data=read_data).problems
    assert {problem.key for problem in problems} == {names.pack(pack) for pack in world.old}
    assert {problem.text for problem in problems} == {"the pack is missing"}
    assert {version for problem in problems for version in problem.versions} == {(RUN, 1), (RUN, 2)}


def test_damage_in_a_new_pack_affects_versions_that_name_the_old_one(world):
    """A flipped bit in a new pack is found, with the versions whose manifests know nothing of that pack."""
    ref = world.entry(b"file0", 1).chunks[0]
    place = world.repository.moves.last_place(ref, packs(world).__contains__)
    key = names.pack(place.pack)
    body = bytearray(world.store.get(key, limit_bytes=1 << 20))
    body[place.offset + 7] ^= 1
    world.store.delete(key)
    world.store.put(key, bytes(body))
    (problem,) = reread(world).check().problems
    assert (problem.key, problem.versions) == (key, ((RUN, 1),))
    found = left(reread(world).repository, world.monitor, Repaired(), read_data=True)
    assert {(one.path, one.versions) for one in found.affected} >= {(b"file0", (1,))}


@MODES
def test_a_chunk_that_the_record_lacks_is_missed_alone(tmp_path, read_data):
    """Of a pack that is gone, only versions that need what was not moved are affected."""
    world = World(tmp_path)
    world.write("a", noise(SIZE, 1))
    world.write("b", noise(SIZE, 2))
    world.backup()
    (pack,) = packs(world)
    keep = world.entry(b"a").chunks
    new = [_moved_alone(world, ref) for ref in keep]
    world.repository.moves.add(pack, new, 0, "")
    world.store.delete(names.pack(pack))
    (problem,) = reread(world).check(read_data=read_data).problems
    assert (problem.key, problem.versions) == (names.pack(pack), ((RUN, 1),))
    assert "not moved to another one" in problem.text
    world.close()


def _moved_alone(world, ref):
    with world.repository.reader() as reader:
        content = reader.one(ref)
    writer = world.repository.writer(lambda _: None)
    placed = writer.put(memoryview(content))
    writer.finish()
    return placed.ref


def test_what_lies_under_a_records_name_and_is_none_is_odd(world):
    """Whoever may create objects can put anything there: it is named, and is no problem."""
    world.store.put("moves/" + "0" * 32, b"planted")
    world.store.put("moves/other", b"planted")
    result = reread(world).check()
    assert result.problems == []
    assert [(one.key, one.text.partition(":")[0]) for one in result.oddities] == [
        ("moves/" + "0" * 32, "no move record"),
        ("moves/other", "not an object of mlsync"),
    ]


def test_a_pack_that_is_pruned_during_a_scrub_is_no_damage(tmp_path):
    """A pack with a tombstone that is gone when its turn comes was deleted on purpose; without one it is missed."""
    world = World(tmp_path)
    for number in range(4):
        world.write(f"file{number}", noise(SIZE, number))
        world.backup()
    compacted(world.repository, choose=lambda _: True)
    one, other, *_ = sorted(world.repository.tombstones())
    world.store.delete(names.tombstone(other))

    class Pruned(CountingStore):
        def list(self, prefix, *, after=""):
            found = list(super().list(prefix, after=after))
            if prefix == names.PACKS:
                self._store.delete(names.pack(one))
                self._store.delete(names.pack(other))
            return iter(found)

    repository = Repository(Pruned(world.store), world.repository.keys)
    result = scrub(repository, world.monitor, since_ns=0, now_ns=10**15, period_s=1000.0)
    assert set(result.damaged) == {other}
    world.close()
