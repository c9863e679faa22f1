"""What a backup relies on is there: it looks before it commits, and stores again what is lost."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from flow_parts import World, keys_of, noise, small_checkpoint
from mlsync import errors
from mlsync.backup.backup import backup
from mlsync.backup.request import BackupOptions, Source
from mlsync.backup.storing.presence import refuse_lost
from mlsync.errors import ObjectDamaged
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.repository import names
from mlsync.repository.pack.pack import TRAILER_BYTES


def damage(world: World, key: str) -> None:
    body = bytearray(world.store._objects[key][0])
    body[200] ^= 1
    world.store._objects[key] = (bytes(body), 0.0)


@pytest.fixture(params=["deleted", "damaged", "cut short"])
def harm(request):
    """Do something to a pack."""

    def do(world: World, key: str) -> None:
        if request.param == "deleted":
            world.store.delete(key)
        elif request.param == "damaged":
            damage(world, key)
        else:
            world.store._objects[key] = (world.store._objects[key][0][:90], 0.0)

    return do


def test_a_log_that_grew_over_a_lost_pack_is_stored_again_as_a_whole(world, harm):
    """A changed file whose earlier pieces lie in a pack that is lost is restored whole from the next version.

    A bit that flipped since the pack came back is found by who reads all of it: a scrub, a check, or such a backup.
    """
    world.write("events.log", noise(400_000))
    world.backup()
    harm(world, keys_of(world.store, "packs/")[0])
    world.append("events.log", noise(100_000, 1))
    assert world.backup(read_back="all").version == 2
    assert world.restored(2) == world.tree()


@pytest.mark.parametrize("how", ["deleted", "cut short"])
def test_an_unchanged_file_in_a_pack_that_is_gone_is_stored_again(world, how):
    """A version never lists an unchanged file whose pack is gone or cut short: the file is read once more."""
    world.write("frozen.bin", noise(12_000))
    world.backup()
    (pack,) = keys_of(world.store, "packs/")
    if how == "deleted":
        world.store.delete(pack)
    else:
        world.store._objects[pack] = (world.store._objects[pack][0][:90], 0.0)
    world.write("new.bin", b"news")
    assert world.backup().version == 2
    assert world.restored(2) == world.tree()
    assert any(severity == "error" and pack in text for severity, text in world.monitor.notices)


def test_a_pack_that_ends_within_its_trailer_is_cut_short(world):
    """A pack that has its chunks and lacks a byte of what tells where its footer is counts as cut short."""
    world.write("frozen.bin", noise(12_000))
    world.backup()
    (entry,) = [entry for entry in world.manifest().entries if entry.path == b"frozen.bin"]
    (pack,) = keys_of(world.store, "packs/")
    end_bytes = max(ref.offset + ref.stored_bytes for ref in entry.chunks)
    body = world.store._objects[pack][0]
    for size_bytes, is_whole in ((end_bytes + TRAILER_BYTES - 1, False), (len(body), True)):
        world.store._objects[pack] = (body[:size_bytes], 0.0)
        with nullcontext() if is_whole else pytest.raises(ObjectDamaged, match="cut short"):
            refuse_lost(world.repository, entry.chunks, frozenset())


def test_many_packs_are_looked_for_by_one_listing(world):
    """A version that relies on many packs costs one listing to look at them, not a call for each."""
    for number in range(30):
        world.write(f"epoch{number}.bin", noise(300, number))
        world.backup()
    world.store.delete(keys_of(world.store, "packs/")[3])
    world.write("last.bin", b"x")
    world.counted.reset()
    assert world.backup().version == 31
    assert world.counted.calls.get("stat", 0) < 12
    assert world.restored() == world.tree()


def test_what_was_kept_in_a_lost_pack_is_given_up_and_named(world):
    """A torn checkpoint whose last good content is lost in the store does not stop the run's backups."""
    world.write("last.pt", small_checkpoint())
    world.backup()
    (pack,) = keys_of(world.store, "packs/")
    world.write("last.pt", small_checkpoint()[:-100])
    world.store.delete(pack)
    world.write("log.csv", b"1,2\n")
    assert world.backup().version == 2
    assert world.troubles()[b"last.pt"].kept == 0
    assert [entry.path for entry in world.manifest().entries] == [b"log.csv"]
    world.restore()


def test_a_pack_that_is_about_to_be_deleted_is_not_relied_on(world):
    """Content in a tombstoned pack is stored again, whichever run it came from."""
    world.write("a.bin", noise(12_000))
    world.backup()
    (pack,) = keys_of(world.store, "packs/")
    world.store.put(names.tombstone(names.parse_pack(pack)), b"x")
    world.write("b.bin", noise(12_000))
    world.backup()
    assert {ref.pack for entry in world.manifest().entries for ref in entry.chunks} & {names.parse_pack(pack)} == set()
    world.store.delete(pack)
    assert world.restored() == world.tree()


def test_another_runs_tombstoned_pack_is_not_relied_on_by_a_first_version(world):
    """The first version of a run looks for tombstones too: its chunks may be known from another run."""
    world.write("a.bin", noise(12_000))
    world.backup()
    (pack,) = keys_of(world.store, "packs/")
    world.store.put(names.tombstone(names.parse_pack(pack)), b"x")
    source = Source("second", bytes(world.directory))
    options = BackupOptions(required_level=2)
    backup(world.repository, world.state, source, lambda: Prover(ProofOptions(device="none")), options, world.monitor)
    manifest = world.repository.manifest(world.repository.stored("second", 1))
    assert names.parse_pack(pack) not in {ref.pack for entry in manifest.entries for ref in entry.chunks}


def test_what_was_stored_before_a_proof_was_not_to_be_had_is_not_stored_again(world):
    """A backup that waits for its proof stores the content once, however often it is tried."""
    world.write("last.pt", small_checkpoint())
    for _ in range(3):
        prover = Prover(ProofOptions(device="cpu", python="/nowhere/python"))
        with pytest.raises(errors.ProofUnavailable):
            world.backup(required_level=3, wait_for_proof=True, prover=prover)
    assert len(keys_of(world.store, "packs/")) == 1
    assert world.numbers() == []
    assert world.backup().new_bytes == 0


def test_a_chunk_whose_pack_only_the_state_remembers_is_asked_for_before_it_is_relied_on(world):
    """What a backup without a version left behind, and is gone by now, is stored again at once and without a notice."""
    world.write("last.pt", small_checkpoint())
    prover = Prover(ProofOptions(device="cpu", python="/nowhere/python"))
    with pytest.raises(errors.ProofUnavailable):
        world.backup(required_level=3, wait_for_proof=True, prover=prover)
    for key in keys_of(world.store, "packs/"):
        world.store.delete(key)
    assert world.backup().version == 1
    assert world.monitor.notices == []
    assert world.restored() == world.tree()
