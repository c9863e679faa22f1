"""What a repair heals, of each kind of object that is deleted or damaged, and what it names as lost."""

from __future__ import annotations

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from flow_parts import PASSPHRASE, RUN, World, contents, keys_of, noise, outcome
from mlsync.errors import Damage, ObjectMissing, RebuildNeeded, RepositoryMissing, StoreDenied
from mlsync.repository import features, header, names
from mlsync.repository.history import fence
from mlsync.repository.history.fence import FENCE_BYTES, Fence
from mlsync.repository.later_proof import LaterProof
from mlsync.repository.repository import Repository
from mlsync.upkeep.repair import Affected, Heal, Repaired, carry_out, left, plan

# Of each kind of object: what heals it if it is deleted, and if a bit of it is flipped. None heals nothing; "unseen" is
# damage that nothing shows, since it leaves no trace.
MATRIX = {
    "header": (Heal.FROM_KEY, Heal.FROM_KEY),
    "key slot": (None, None),
    "pack": (None, None),
    "manifest": (Heal.FROM_COPY, Heal.FROM_COPY),
    "newest manifest": (Heal.FROM_COPY, Heal.FROM_COPY),
    "copy": (Heal.FROM_MANIFEST, Heal.FROM_MANIFEST),
    "later proof": ("unseen", None),
    "tombstone without a pack": (Heal.REMOVE, Heal.REMOVE),
    "feature": ("unseen", "unseen"),
}
CELLS = [(kind, harm, MATRIX[kind][at]) for kind in MATRIX for at, harm in enumerate(("deleted", "flipped"))]


@pytest.fixture
def world(tmp_path):
    """A run with three versions of two files, and one object of every other kind."""
    world = World(tmp_path)
    for number in (1, 2, 3):
        world.write("frozen.bin", noise(30_000, 99))
        world.write("last.bin", noise(20_000, number))
        world.backup()
    stored = world.repository.stored(RUN, 1)
    proof = LaterProof(RUN, 1, stored.digest, 1, "mlsync", "host", 0, "", 0, ())
    world.repository.add_later_proof(proof)
    yield world
    world.close()


def key_of(world, kind):
    """The object of a kind that is to be harmed; made where a sound repository has none."""
    if kind == "tombstone without a pack":
        return names.tombstone(b"gone" * 4)
    if kind == "feature":
        return features.feature_key(world.repository.keys, "later")
    version = world.repository.version_key(RUN, 3 if "newest" in kind else 2)
    if kind == "pack":
        return names.pack(world.entry(b"last.bin", 2).chunks[0].pack)
    keys = {
        "header": names.HEADER,
        "key slot": keys_of(world.store, names.KEY_SLOTS)[0],
        "manifest": version,
        "newest manifest": version,
        "copy": names.copy_of(version),
        "later proof": keys_of(world.store, names.LATER_PROOFS)[0],
    }
    return keys[kind]


def harm(world, key, how):
    """Delete an object, or flip a bit in it; a tombstone and a feature are empty, and are what is planted instead."""
    if key.startswith(names.TOMBSTONES):
        world.store.put(key, b"" if how == "deleted" else b"x")
        return
    body = bytearray() if key.startswith(names.FEATURES) else bytearray(world.store.get(key, limit_bytes=1 << 20))
    world.store.delete(key)
    if how == "flipped" and not key.startswith(names.FEATURES):
        # A slot is JSON: its middle is the sealed key, which only its passphrase can test.
        body[5 if key.startswith(names.KEY_SLOTS) else len(body) // 2] ^= 1
        world.store.put(key, bytes(body))


def opened(world):
    """The repository as a repair opens it, and what is wrong with its header."""
    try:
        return Repository.open(world.store, PASSPHRASE), None
    except (RepositoryMissing, Damage) as error:
        if not isinstance(error, RepositoryMissing) and names.HEADER not in (error.where or ""):
            raise
        return Repository.without_header(world.store, PASSPHRASE), error


def repair(world, *, rebuild=False, read_data=True):
    """Plan and carry out a repair; return the steps and what came of them."""
    repository, fault = opened(world)
    steps = plan(repository, world.monitor, header_fault=fault, rebuild=rebuild)
    return steps, carry_out(repository, steps, world.monitor, read_data=read_data)


@pytest.mark.parametrize(("kind", "how", "heal"), CELLS)
def test_the_damage_matrix(world, kind, how, heal):
    """What the table says of a kind is healed that way, to the same bytes; all else is named, or leaves no trace."""
    key = key_of(world, kind)
    before = {info.key: world.store.get(info.key, limit_bytes=1 << 20) for info in world.store.list("")}
    harm(world, key, how)
    if kind == "key slot":
        # Of the only slot: nobody opens the repository with it, so this one is open already.
        steps = plan(world.repository, world.monitor, header_fault=None, rebuild=False)
        assert steps == []
        assert [problem.key for problem in world.check().problems] == [names.KEY_SLOTS if how == "deleted" else key]
        return
    steps, repaired = repair(world)
    assert [(step.key, step.heal) for step in steps] == ([(key, heal)] if isinstance(heal, Heal) else [])
    assert repaired.failed == []
    assert [problem.key for problem in repaired.left] == ([key] if heal is None else [])
    if isinstance(heal, Heal):
        after = {info.key: world.store.get(info.key, limit_bytes=1 << 20) for info in world.store.list("")}
        assert after == before
    world.reopen()
    for number in (1, 2, 3):
        restored, error = outcome(lambda number=number: world.restored(number))
        is_lost = kind == "pack" and number == 2
        assert (error is not None) == is_lost
        assert is_lost or contents(restored)[b"frozen.bin"] == noise(30_000, 99)


def test_a_plan_changes_nothing(world):
    """To plan a repair, and to look at what it would leave, writes nothing."""
    harm(world, key_of(world, "manifest"), "flipped")
    world.counted.reset()
    assert len(plan(world.repository, world.monitor, header_fault=None, rebuild=False)) == 1
    result = left(world.repository, world.monitor, Repaired(), read_data=False)
    assert [problem.key for problem in result.left] == [key_of(world, "manifest")]
    assert world.counted.written_bytes == 0
    assert {"put", "delete"}.isdisjoint(world.counted.calls)


def test_a_second_repair_has_nothing_to_do(world):
    """What was healed stays healed."""
    harm(world, key_of(world, "manifest"), "deleted")
    harm(world, names.HEADER, "deleted")
    assert len(repair(world)[1].done) == 2
    assert repair(world)[0] == []


@pytest.mark.parametrize("prefix", [names.VERSIONS, names.COPIES])
def test_one_of_both_kinds_may_be_lost_whole(world, prefix):
    """All manifests come back from copies, if that is asked for, and all copies from manifests; bit for bit."""
    before = {key: world.store.get(key, limit_bytes=1 << 20) for key in keys_of(world.store)}
    for key in keys_of(world.store, prefix):
        world.store.delete(key)
    if prefix == names.VERSIONS:
        with pytest.raises(RebuildNeeded, match="3 copies"):
            repair(world)
        assert keys_of(world.store, prefix) == []
    assert len(repair(world, rebuild=True)[1].done) == 3
    assert {key: world.store.get(key, limit_bytes=1 << 20) for key in keys_of(world.store)} == before


def test_lost_content_is_named_per_file_and_version(world):
    """A lost pack names the files that need it in each version; a restore brings the others, and says which not."""
    pack = names.pack(world.entry(b"frozen.bin", 1).chunks[0].pack)
    assert pack == names.pack(world.entry(b"last.bin", 1).chunks[0].pack)
    world.store.delete(pack)
    _, repaired = repair(world)
    assert repaired.affected == [Affected(RUN, b"frozen.bin", (1, 2, 3)), Affected(RUN, b"last.bin", (1,))]
    with pytest.raises(ObjectMissing, match=r"frozen\.bin"):
        world.restore(2)
    assert (world.base / "out" / "last.bin").read_bytes() == noise(20_000, 2)
    assert not (world.base / "out" / "frozen.bin").exists()


def test_two_sound_manifests_that_differ_are_left_alone(world):
    """If a store gave up its promise and both open, neither is overwritten, and check goes on to name the copy."""
    other = World(world.base / "other", world.store, is_there=True)
    key = world.repository.version_key(RUN, 3)
    sealed = world.store.get(key, limit_bytes=1 << 20)
    world.store.delete(key)
    world.store.delete(names.copy_of(key))
    world.state.close()
    other.write("last.bin", b"another third version")
    world.lose_state()
    world.write("last.bin", noise(20_000, 55))
    assert world.backup().version == 3
    world.store.delete(names.copy_of(key))
    world.store.put(names.copy_of(key), sealed)
    steps, repaired = repair(world)
    assert steps == []
    assert [problem.key for problem in repaired.left] == [names.copy_of(key)]
    other.close()


def test_a_copy_that_is_damaged_too_heals_nothing(world):
    """With both damaged nothing is written, and the version is named."""
    key = key_of(world, "manifest")
    harm(world, key, "flipped")
    harm(world, names.copy_of(key), "flipped")
    steps, repaired = repair(world)
    assert steps == []
    assert key in {problem.key for problem in repaired.left}


def test_a_repair_may_die_at_any_call(world):
    """Whichever call is the last, the next repair heals what is left: what a step removes is stored elsewhere."""
    key = key_of(world, "manifest")
    sound = world.store.get(key, limit_bytes=1 << 20)
    harm(world, key, "flipped")
    broken = world.store.get(key, limit_bytes=1 << 20)
    nth = 0
    while True:
        nth += 1
        world.store.delete(key)
        world.store.put(key, broken)
        repository = Repository(FaultyStore(world.store, Fault("die-after", nth)), world.repository.keys)
        try:
            steps = plan(repository, world.monitor, header_fault=None, rebuild=False)
            carry_out(repository, steps, world.monitor, read_data=False)
        except ProcessDied:
            repair(world, read_data=False)
            assert world.store.get(key, limit_bytes=1 << 20) == sound
        else:
            break
    assert nth > 15


def test_a_step_that_is_denied_does_not_end_the_repair(world):
    """Without the right to delete, what is damaged stays, is named, and what is only missing is healed."""
    damaged, missing = key_of(world, "manifest"), names.copy_of(world.repository.version_key(RUN, 3))
    harm(world, damaged, "flipped")
    harm(world, missing, "deleted")
    store = FaultyStore(
        world.store, Fault("before", method="delete", lasts=True, error=StoreDenied("no"), is_transient=False)
    )
    repository = Repository(store, world.repository.keys)
    steps = plan(repository, world.monitor, header_fault=None, rebuild=False)
    repaired = carry_out(repository, steps, world.monitor, read_data=False)
    assert [step.key for step in repaired.done] == [missing]
    assert [step.key for step, _ in repaired.failed] == [damaged]


def test_a_header_is_made_anew_for_the_repository_whose_objects_are_there(world):
    """The header comes back with the same bytes, though a slot of another repository opens with the same passphrase."""
    before = world.store.get(names.HEADER, limit_bytes=header.HEADER_BYTES_MAX)
    for number in range(3):
        other = World(world.base / f"other{number}")
        (slot,) = keys_of(other.store, names.KEY_SLOTS)
        world.store.put(slot, other.store.get(slot, limit_bytes=4096))
        other.close()
    harm(world, names.HEADER, "deleted")
    assert len(repair(world)[1].done) == 1
    assert world.store.get(names.HEADER, limit_bytes=header.HEADER_BYTES_MAX) == before


def test_an_empty_place_is_no_repository_to_repair(world):
    """Without a key slot there is nothing that says which repository it was."""
    for key in (names.HEADER, *keys_of(world.store, names.KEY_SLOTS)):
        world.store.delete(key)
    with pytest.raises(RepositoryMissing):
        Repository.without_header(world.store, PASSPHRASE)


def test_a_fence_is_not_healed_into_a_version(world):
    """A copy whose manifest gave way to a fence stays a copy, and nothing of the removed version is a problem."""
    key = world.repository.version_key(RUN, 2)
    world.store.replace(key, fence.make(world.repository.keys, key, Fence(1)))
    assert [problem.text for problem in world.check(read_data=True).problems] == []
    steps, repaired = repair(world)
    assert (steps, repaired.left, world.numbers()) == ([], [], [1, 3])


def test_other_bytes_of_a_fences_length_are_healed(world):
    """What has the length of a fence and does not open is damage, and the copy takes its place."""
    key = world.repository.version_key(RUN, 2)
    world.store.replace(key, bytes(FENCE_BYTES))
    assert [problem.key for problem in world.check().problems] == [key]
    steps, repaired = repair(world)
    assert ([(step.key, step.heal) for step in steps], repaired.left) == ([(key, Heal.FROM_COPY)], [])


def test_a_fence_that_came_after_the_plan_stays(world):
    """A version that a prune removed while a person thought about the plan is not brought back."""
    key = world.repository.version_key(RUN, 2)
    world.store.delete(key)
    steps = plan(world.repository, world.monitor, header_fault=None, rebuild=False)
    assert [step.key for step in steps] == [key]
    world.store.put(key, fence.make(world.repository.keys, key, Fence(1)))
    assert carry_out(world.repository, steps, world.monitor, read_data=False).failed == []
    assert world.numbers() == [1, 3]


def test_the_tombstone_of_a_pack_that_came_back_stays(world):
    """Between plan and step a pack may come: its tombstone must not go before it."""
    pack_id = b"gone" * 4
    world.store.put(names.tombstone(pack_id), b"")
    steps = plan(world.repository, world.monitor, header_fault=None, rebuild=False)
    world.store.put(names.pack(pack_id), b"")
    carry_out(world.repository, steps, world.monitor, read_data=False)
    assert keys_of(world.store, names.TOMBSTONES) == [names.tombstone(pack_id)]
