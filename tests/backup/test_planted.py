"""Objects that whoever may create them put in the places of versions stop nobody, and are named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from doubles.faulty_store import FaultyStore
from flow_parts import RUN, World, small_checkpoint
from mlsync import errors
from mlsync.backup.parents.parent import Parent, find_parent
from mlsync.codec.digest import object_digest
from mlsync.repository import names, sealed_object
from mlsync.repository.manifest import Previous
from mlsync.source.state import Head
from mlsync.store.directory.store import DirectoryStore
from mlsync.versions.proof_status import proof_statuses
from mlsync.versions.select import find_run, find_version, version_before

pytestmark = pytest.mark.slow

LAST = names.VERSION_MAX
PLANTED = {"nothing": b"", "noise": b"x" * 500, "a newer format": b"mlsyncM\0\2\0" + b"x" * 500}


def plant(world: World, number: int, body: bytes = b"planted") -> str:
    """Put something in a version's place."""
    key = world.repository.version_key(RUN, number)
    world.store.put(key, body)
    return key


def plant_over(world: World, number: int) -> str:
    """Put something in the place of a version that was there, as who may delete can."""
    world.store.delete(world.repository.version_key(RUN, number))
    return plant(world, number)


def warnings(world: World) -> str:
    """What was told."""
    return "\n".join(text for severity, text in world.monitor.notices if severity == "warning")


def seal(world: World, number: int, like: int, **changed: Any) -> None:
    """Make a version of this number as who holds the key can: its manifest is another's but for that and *changed*."""
    stored = world.repository.stored(RUN, like)
    root = msgspec.structs.replace(stored.root, number=number, **changed)
    key = world.repository.version_key(RUN, number)
    body = sealed_object.seal(world.repository.keys, sealed_object.MANIFEST, key, msgspec.msgpack.encode(root))
    world.store.put(key, body)


@pytest.mark.parametrize("body", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize("is_lost", [False, True], ids=["known", "fresh"])
@pytest.mark.parametrize("numbers", [[LAST], [3], [3, 4, 6, LAST], list(range(LAST - 1100, LAST + 1))], ids=len)
def test_a_run_goes_on_whatever_is_planted(world, body, is_lost, numbers):
    """Backups make the next free number after the newest that opens, and every word for a version means one of ours."""
    for epoch in (1, 2):
        world.write("last.pt", small_checkpoint(epoch))
        world.backup()
    for number in numbers:
        plant(world, number, body)
    if is_lost:
        world.lose_state()
    made = [1, 2]
    for epoch in (3, 4, 5):
        world.write("last.pt", small_checkpoint(epoch))
        result = world.backup()
        assert result.previous == made[-1]
        made.append(result.version)
        assert made[-1] == next(n for n in range(made[-2] + 1, LAST) if n not in numbers)
        assert world.repository.stored(RUN, made[-1]).root.previous.number == made[-2]
    assert find_version(world.repository, RUN, "latest").root.number == made[-1]
    assert find_version(world.repository, RUN, "2999-01-01").root.number == made[-1]
    assert version_before(world.repository, RUN, made[-1]).root.number == made[-2]
    assert [status.root.number for status in proof_statuses(world.repository, RUN)] == made
    assert find_run(world.repository, None) == RUN
    assert world.restored(made[-1]) == world.tree()
    problems = {problem.key for problem in world.check().problems}
    assert problems <= {world.repository.version_key(RUN, number) for number in numbers}


def test_what_is_planted_is_named_and_looked_at_once(world):
    """A thousand planted objects cost a look each, once; passes after that cost what they always cost."""
    world.write("last.pt", small_checkpoint(1))
    world.backup()
    keys = [plant(world, LAST - number) for number in range(1000)]
    world.backup()
    assert keys[-1] in warnings(world)
    assert "992 more objects" in warnings(world)
    world.monitor.notices.clear()
    world.counted.reset()
    assert world.backup().version == 0
    assert world.counted.calls == {"list": 1}
    world.write("log.csv", b"1\n")
    store = FaultyStore(world.store)
    world.use(store)
    assert world.backup().version == 2
    assert [key for method, key in store.calls if method == "get" and key in keys] == []
    assert warnings(world) == ""
    world.lose_state()
    world.write("log.csv", b"2\n")
    assert world.backup().version == 3


def test_another_object_in_the_same_place_is_looked_at_again(world):
    """A manifest that was damaged and put right is the newest version again."""
    world.write("a.bin", b"1")
    world.backup()
    world.save_state("first")
    world.write("a.bin", b"2")
    world.backup()
    key = world.repository.version_key(RUN, 2)
    body = world.store._objects.pop(key)
    plant(world, 2)
    world.load_state("first")
    assert (world.backup().version, world.backup().version) == (3, 0)
    world.store._objects[key] = body
    assert find_version(world.repository, RUN, "2").root.number == 2


def test_a_link_to_a_damaged_version_is_no_other_history(world):
    """Versions that another machine made after one that is damaged by now are followed; the damaged one is named."""
    world.write("a.bin", b"1")
    world.backup()
    world.save_state("first")
    for content in (b"2", b"3"):
        world.write("a.bin", content)
        world.backup()
    key = plant_over(world, 2)
    world.load_state("first")
    world.write("a.bin", b"4")
    assert world.backup().version == 4
    assert key in warnings(world)


def test_a_last_version_that_is_damaged_does_not_stop_the_run(world):
    """What this machine saw last does not open any more: it goes on from the one before, and says so."""
    for content in (b"1", b"2"):
        world.write("a.bin", content)
        world.backup()
    key = plant_over(world, 2)
    world.write("a.bin", b"3")
    assert world.backup().version == 3
    assert world.repository.stored(RUN, 3).root.previous.number == 1
    assert key in warnings(world)
    assert world.restored(3) == world.tree()
    world.write("a.bin", b"4")
    assert world.backup().version == 4


def test_a_run_whose_only_version_is_damaged_begins_anew(world):
    """Where nothing opens any more, the next version follows none and leaves the damaged one its number."""
    world.write("a.bin", b"1")
    world.backup()
    key = plant_over(world, 1)
    world.write("a.bin", b"2")
    assert world.backup().version == 2
    assert world.repository.stored(RUN, 2).root.previous is None
    assert key in warnings(world)
    assert world.restored(2) == world.tree()


def test_a_last_version_of_a_newer_format_ends_the_backup(world, monkeypatch):
    """A last version that authenticates and has a newer format is not damaged, so no backup steps back from it."""
    for content in (b"1", b"2"):
        world.write("a.bin", content)
        world.backup()
    with monkeypatch.context() as patch:
        patch.setattr(sealed_object, "encode", lambda plain: (9, bytes(plain)))
        world.store.delete(world.repository.version_key(RUN, 2))
        seal(world, 2, like=1)
    world.write("a.bin", b"3")
    with pytest.raises(errors.FormatUnsupported, match="coding 9"):
        world.backup()
    assert world.numbers() == [1, 2]


def test_a_version_that_a_newer_mlsync_made_here_ends_the_backup(world):
    """A version with the bytes that this machine saw last is not planted, although this mlsync cannot open it."""
    world.write("a.bin", b"1")
    world.backup()
    body = PLANTED["a newer format"]
    plant(world, 2, body)
    world.state.set_head(RUN, Head(2, object_digest(body)))
    world.write("a.bin", b"2")
    with pytest.raises(errors.FormatUnsupported, match="format 2"):
        world.backup()
    assert world.numbers() == [1, 2]


@pytest.mark.parametrize(
    "previous",
    [None, Previous(1, bytes(32)), Previous(2, bytes(32)), Previous(3, bytes(32))],
    ids=["first", "before", "another", "missing"],
)
def test_a_newer_version_that_does_not_lead_to_the_one_seen_is_found_out(world, previous):
    """A newer version must follow the version seen last, or a later one that is there and does not open."""
    for content in (b"1", b"2"):
        world.write("a.bin", content)
        world.backup()
    seal(world, 4, like=2, previous=previous)
    world.write("a.bin", b"3")
    with pytest.raises(errors.HistoryRolledBack):
        world.backup()
    assert world.numbers() == [1, 2, 4]


def test_a_newer_version_that_follows_one_before_a_damaged_one_is_found_out(world):
    """A damaged version excuses only the versions that follow it, not a later fork from before it."""
    world.write("a.bin", b"1")
    world.backup()
    plant(world, 2)
    seal(world, 3, like=1, previous=Previous(2, bytes(32)))
    seal(world, 4, like=1, previous=Previous(2, bytes(32)))
    world.write("a.bin", b"2")
    with pytest.raises(errors.HistoryRolledBack):
        world.backup()


def test_what_was_seen_last_is_not_forgotten_for_an_older_version(world):
    """Where nothing changed, a machine that saw version 2 still knows of it: its loss would be noticed."""
    for content in (b"1", b"2"):
        world.write("a.bin", content)
        world.backup()
    seen = world.state.head(RUN)
    plant_over(world, 2)
    world.write("a.bin", b"1")
    assert world.backup().version == 0
    assert world.state.head(RUN) == seen
    world.store.delete(world.repository.version_key(RUN, 2))
    with pytest.raises(errors.HistoryRolledBack):
        world.backup()


def test_a_last_version_that_is_gone_is_still_another_history(world):
    """Garbage above it does not hide that the version that was seen last is not there."""
    for content in (b"1", b"2"):
        world.write("a.bin", content)
        world.backup()
    world.store.delete(world.repository.version_key(RUN, 2))
    plant(world, 3)
    world.write("a.bin", b"3")
    with pytest.raises(errors.HistoryRolledBack):
        world.backup()


def test_there_is_no_number_above_the_highest(world):
    """Who holds the key can take the highest number; the run ends there with a word, and no key gets a digit more."""
    world.write("a.bin", b"1")
    world.backup()
    seal(world, LAST, like=1)
    world.lose_state()
    world.write("a.bin", b"2")
    with pytest.raises(errors.VersionTaken, match="no number left"):
        world.backup()
    assert world.numbers() == [1, LAST]
    assert find_version(world.repository, RUN, "latest").root.number == LAST


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_bytes(b"")], ids=["dir", "file"])
def test_what_takes_the_number_in_the_last_moment_costs_one_pass(directory_world, make):
    """A directory in the place is not even listed: the pass that meets it ends with 17, and the next one goes on."""
    world = directory_world
    world.write("a.bin", b"1")
    world.backup()
    place = world.base / "repo" / world.repository.version_key(RUN, 2)
    put = DirectoryStore.put

    class Raced(DirectoryStore):
        def put(self, key, body):
            if key.startswith(names.VERSIONS) and not place.exists():
                make(place)
            return put(self, key, body)

    world.use(Raced(world.base / "repo"))
    world.write("a.bin", b"2")
    with pytest.raises(errors.VersionTaken, match="no version was put in the place of version 2"):
        world.backup()
    assert world.backup().version == 3
    assert world.restored(3) == world.tree()


def test_a_run_of_which_nothing_opens_is_not_called_empty(world):
    """Where every manifest is damaged the reason is said, and not that nothing was ever backed up."""
    plant(world, 1)
    with pytest.raises(errors.ManifestDamaged):
        find_run(world.repository, None)


def test_the_highest_number_is_a_versions_too():
    """A run goes on up to the highest number, and is refused behind it."""
    assert Parent(LAST - 1, b"", is_remembered=True).next_number(RUN) == LAST
    with pytest.raises(errors.VersionTaken):
        Parent(LAST, b"", is_remembered=True).next_number(RUN)


def test_a_version_that_the_state_does_not_name_is_read_from_the_store(world):
    """Without a head in the local state, the rows of its files cache never stand for a version's entries."""
    world.write("a.bin", b"1")
    world.backup()
    assert find_parent(world.repository, world.state, RUN).is_remembered
    world.lose_state()
    parent = find_parent(world.repository, world.state, RUN)
    assert (parent.number, parent.is_remembered) == (1, False)
