"""The second copy of each manifest: when it is made, what it holds, and who makes it if its writer died."""

from __future__ import annotations

import os

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from flow_parts import RUN, World, keys_of, noise
from mlsync.cli.check import _print
from mlsync.errors import ManifestDamaged, NotFound
from mlsync.repository import names
from mlsync.repository.repository import Repository


@pytest.fixture
def world(tmp_path):
    """A run with one version."""
    world = World(tmp_path)
    world.write("a.bin", noise(5_000, 1))
    world.backup()
    yield world
    world.close()


def forget(store, key):
    """Lose one object."""
    store.delete(key)


def body(world, key):
    """The bytes of an object."""
    return world.store.get(key, limit_bytes=1 << 20)


def flip(world, key, at=-1):
    """Change one bit of an object."""
    changed = bytearray(body(world, key))
    changed[at] ^= 1
    world.store.delete(key)
    world.store.put(key, bytes(changed))


def test_a_copy_has_the_manifests_bytes_and_opens_under_its_name(world):
    """The copy of a version is the same bytes, and opens as the manifest that it is a copy of."""
    key = world.repository.version_key(RUN, 1)
    assert keys_of(world.store, names.COPIES) == [names.copy_of(key)]
    assert body(world, names.copy_of(key)) == body(world, key)
    stored, _ = world.repository.open_body(key, names.copy_of(key))
    assert stored == world.repository.stored(RUN, 1)


def test_a_copy_is_of_its_number_alone(world):
    """A copy that was moved to another number does not open."""
    key = world.repository.version_key(RUN, 1)
    other = world.repository.version_key(RUN, 2)
    world.store.put(names.copy_of(other), body(world, names.copy_of(key)))
    with pytest.raises(ManifestDamaged):
        world.repository.open_body(other, names.copy_of(other))


def test_the_copy_comes_after_the_manifest(world):
    """The last call of a commit creates the copy; no call before the manifest does."""
    store = FaultyStore(world.store)
    world.use(store)
    world.write("a.bin", noise(5_000, 2))
    world.backup()
    puts = [key.partition("/")[0] for method, key in store.calls if method == "put"]
    assert puts[-2:] == ["versions", "copies"]
    assert puts.count("copies") == 1


@pytest.mark.parametrize("after", ["an unchanged directory", "a change", "a lost state"])
def test_the_next_backup_makes_the_copy_that_a_crash_left_out(world, after):
    """A backup that died right after its commit left no copy: the next one of the run makes it, whatever changed."""
    world.write("a.bin", noise(5_000, 2))
    key = world.repository.version_key(RUN, 2)
    place = names.copy_of(key)
    count = _calls_of_a_backup(world, key)
    world.use(FaultyStore(world.store, Fault("die-before", count)))
    with pytest.raises(ProcessDied):
        world.backup()
    world.use(world.store)
    assert keys_of(world.store, key) == [key]
    assert keys_of(world.store, place) == []
    assert world.check().uncopied == [(RUN, 2)]
    if after == "a change":
        world.write("a.bin", noise(5_000, 3))
    if after == "a lost state":
        world.lose_state()
    world.backup()
    assert body(world, place) == body(world, key)
    assert world.check().uncopied == []


def _calls_of_a_backup(world, key):
    """Which call of the store creates the copy of the version *key*: what another world does for the same change."""
    other = World(world.base / "rehearsal")
    other.write("a.bin", noise(5_000, 1))
    other.backup()
    other.write("a.bin", noise(5_000, 2))
    store = FaultyStore(other.store)
    other.use(store)
    other.backup()
    other.close()
    return store.calls.index(("put", names.copy_of(other.repository.version_key(RUN, 2)))) + 1


def test_a_version_is_made_although_its_copy_fails(world):
    """An error of the store after the commit is a warning that names the repair, and the version stands."""
    world.write("a.bin", noise(5_000, 2))
    count = _calls_of_a_backup(world, "")
    world.use(FaultyStore(world.store, Fault("before", count)))
    assert world.backup().version == 2
    world.use(world.store)
    (warning,) = [text for severity, text in world.monitor.notices if severity == "warning"]
    assert "version 2 is made" in warning
    assert "mlsync repair" in warning
    assert world.check().uncopied == [(RUN, 2)]
    assert world.check().problems == []


def test_a_copy_that_another_machine_made_first_is_no_news(world):
    """A repair that saw the manifest before its writer stored the copy did the writer's work: no warning."""

    class Hasty(FaultyStore):
        def call(self, method, key, work):
            if method == "put" and key.startswith(names.COPIES) and not keys_of(world.store, key):
                Repository(world.store, world.repository.keys).add_copy(key.replace(names.COPIES, names.VERSIONS))
            return super().call(method, key, work)

    world.use(Hasty(world.store))
    world.write("a.bin", noise(5_000, 2))
    assert world.backup().version == 2
    assert [text for severity, text in world.monitor.notices if severity == "warning"] == []
    assert world.check().problems == []


def test_a_taken_key_of_a_copy_spoils_no_commit(world):
    """What somebody put under the name of the next copy stays there, and check says that it is none."""
    key = world.repository.version_key(RUN, 2)
    world.store.put(names.copy_of(key), b"planted")
    assert [odd.key for odd in world.check().oddities] == [names.copy_of(key)]
    world.write("a.bin", noise(5_000, 2))
    assert world.backup().version == 2
    assert [problem.key for problem in world.check().problems] == [names.copy_of(key)]


def test_check_finds_a_lost_newest_version_by_its_copy(world):
    """The manifest that nothing follows is missed too, since its copy is there."""
    key = world.repository.version_key(RUN, 1)
    forget(world.store, key)
    (problem,) = world.check(read_data=False).problems
    assert (problem.key, problem.versions) == (key, ((RUN, 1),))
    assert "mlsync repair brings it back" in problem.text


def test_check_says_that_a_damaged_manifest_has_a_sound_copy(world):
    """A manifest that does not open is named once, with what can be done."""
    key = world.repository.version_key(RUN, 1)
    flip(world, key)
    (problem,) = world.check().problems
    assert problem.key == key
    assert "mlsync repair brings it back" in problem.text
    flip(world, names.copy_of(key))
    (problem,) = world.check().problems
    assert "repair" not in problem.text


def test_check_reads_copies_if_it_reads_all(world):
    """A flipped bit in a copy is found with --read-data, another length at once; neither affects a version."""
    place = names.copy_of(world.repository.version_key(RUN, 1))
    flip(world, place)
    assert world.check(read_data=False).problems == []
    (problem,) = world.check().problems
    assert (problem.key, problem.versions) == (place, ())
    world.store.delete(place)
    world.store.put(place, b"short")
    assert [problem.key for problem in world.check(read_data=False).problems] == [place]


def test_check_counts_versions_without_a_copy(world, capsys):
    """A version without a copy is no problem: the last line counts them, and names the repair."""
    forget(world.store, names.copy_of(world.repository.version_key(RUN, 1)))
    result = world.check()
    assert (result.problems, result.uncopied) == ([], [(RUN, 1)])
    _print(result, quiet=False)
    assert "1 manifest without a second copy" in " ".join(capsys.readouterr().out.split())


def test_adding_a_copy_twice_changes_nothing(world):
    """A copy is added where it is missing, and left alone where it is not."""
    key = world.repository.version_key(RUN, 1)
    forget(world.store, names.copy_of(key))
    assert world.repository.add_copy(key)
    assert not world.repository.add_copy(key)
    with pytest.raises(NotFound):
        world.repository.add_copy(world.repository.version_key(RUN, 2))
    assert os.path.basename(names.copy_of(key)) == "0000000001"
