"""What of a version comes back from the store before it is committed."""

from __future__ import annotations

import os

import pytest
import torch

from flow_parts import RUN, World, noise
from flow_parts import checkpoint as torch_checkpoint
from flow_parts import uniform_checkpoint as checkpoint
from mlsync.errors import ObjectDamaged, Stopped
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.prove_later import LaterProver
from mlsync.repository import names
from mlsync.versions.proof_status import proof_statuses


@pytest.fixture
def world(tmp_path):
    """A run of one version, with a checkpoint and a log."""
    world = World(tmp_path)
    world.write("best.pt", checkpoint(1.0))
    world.write("log.bin", os.urandom(9000))
    world.backup()
    yield world
    world.close()


def stored_bytes(world, name):
    """How much of the store a file takes."""
    return sum(ref.stored_bytes for ref in world.entry(name).chunks)


def test_by_default_only_what_is_new_comes_back(world):
    """A version with one new file reads that file back and no other."""
    world.write("last.pt", checkpoint(2.0))
    result = world.backup()
    assert 0 < result.read_back_bytes < stored_bytes(world, b"log.bin")


class Interfering(Prover):
    """Does something to the source right before each proof."""

    def __init__(self, interfere):
        super().__init__(ProofOptions(device="none"))
        self._interfere = interfere

    def prove(self, source, path, metadata=None):
        """Do it, and prove."""
        self._interfere()
        return super().prove(source, path, metadata)


MIB = 1 << 20


PART = MIB // 4


def write_training(world, seed, part_bytes=PART):
    """A checkpoint of 23 parts, of which 3 are other numbers with each seed."""
    frozen = [torch.frombuffer(bytearray(noise(4 * part_bytes, 100 + n)), dtype=torch.int32) for n in range(5)]
    head = torch.frombuffer(bytearray(noise(3 * part_bytes, seed)), dtype=torch.int32)
    world.write("last.pt", torch_checkpoint(*frozen, head))


def assert_all_came_back(world, result):
    """The newest version's checkpoint was read from the store, all of it."""
    assert result.read_back_bytes > 23 * PART
    assert world.entry(b"last.pt").proof.level == 2


def test_of_a_changed_checkpoint_only_what_is_new_comes_back(world):
    """Of 23 MiB of which 3 changed, 3 are stored and 3 come back; the proof is of all of it."""
    write_training(world, 1, MIB)
    world.backup()
    write_training(world, 2, MIB)
    world.counted.reset()
    result = world.backup()
    assert 3 * MIB <= result.stored_bytes < 3.1 * MIB
    assert 3 * MIB <= result.read_back_bytes < 3.1 * MIB
    assert world.counted.read_bytes < 3.2 * MIB
    proof = world.entry(b"last.pt").proof
    assert (proof.level, proof.tensor_bytes) == (2, 23 * MIB)
    assert world.restored() == world.tree()


def test_of_a_log_that_grew_only_its_end_comes_back(world):
    """What a log had at the last version came back then, as the local state knows; without it all comes back."""
    world.write("events.log", noise(MIB, 1))
    world.backup()
    for seed in (2, 3):
        world.append("events.log", noise(10_000, seed))
        result = world.backup()
        assert result.read_back_bytes < MIB / 2
    world.lose_state()
    world.append("events.log", noise(10_000, 4))
    assert world.backup().read_back_bytes > MIB
    assert world.restored() == world.tree()


def test_without_the_local_state_the_proofs_of_the_last_version_say_what_came_back(world):
    """A machine that lost its state reads of a checkpoint what is new in it, and no more."""
    write_training(world, 1)
    world.backup()
    world.lose_state()
    write_training(world, 2)
    assert 3 * PART <= world.backup().read_back_bytes < 3.5 * PART


def test_what_was_never_read_back_comes_back_with_the_next_version(world):
    """A version that was to be proved later says nothing of its chunks: the next one reads them all."""
    write_training(world, 1)
    world.backup(read_back="none")
    write_training(world, 2)
    assert_all_came_back(world, world.backup())
    write_training(world, 3)
    assert world.backup().read_back_bytes < 3.5 * PART


def test_a_later_proof_says_what_came_back(world):
    """What another process proved after the commit came back then."""
    write_training(world, 1)
    world.backup(read_back="none")
    with LaterProver(world.repository, Prover(ProofOptions(device="none")), world.monitor) as later:
        later.pending(world.repository.stored(RUN, 2))
    write_training(world, 2)
    assert world.backup().read_back_bytes < 3.5 * PART


def test_a_log_of_a_version_that_was_not_read_back_comes_back_whole(world):
    """The files cache says of a file that it came back only if it did."""
    world.write("events.log", noise(MIB, 1))
    world.backup(read_back="none")
    world.append("events.log", noise(10_000, 2))
    assert world.backup().read_back_bytes > MIB
    world.append("events.log", noise(10_000, 3))
    assert world.backup().read_back_bytes < MIB / 2


def test_what_a_backup_stored_that_was_cut_off_comes_back(world):
    """Its chunks are known and not sent again, and nobody has read them yet."""

    def stop():
        raise Stopped("the backup was asked to stop", where=RUN)

    write_training(world, 1)
    with pytest.raises(Stopped):
        world.backup(prover=Interfering(stop))
    result = world.backup()
    assert result.new_bytes == 0
    assert_all_came_back(world, result)


def test_a_touched_log_still_counts_as_read_back(world):
    """A log that was read again because of its times, and had not changed, loses nothing of what is known of it."""
    world.write("events.log", noise(MIB, 1))
    world.backup()
    os.utime(world.path("events.log"), ns=(1, 1_600_000_000_000_000_001))
    assert world.backup().version == 0
    world.append("events.log", noise(10_000, 2))
    assert world.backup().read_back_bytes < MIB / 2


@pytest.mark.parametrize("content", [b"", b"other"])
def test_a_source_that_changes_while_it_is_proved_is_no_error(world, content):
    """Where the source has other bytes by then, the store gives back what was stored of it."""
    write_training(world, 1)
    world.backup()
    write_training(world, 2)
    stored = world.tree()
    result = world.backup(prover=Interfering(lambda: world.write("last.pt", content)))
    assert_all_came_back(world, result)
    assert world.restored() == stored


def test_all_of_it_can_be_asked_back(world):
    """With ``all``, what no version changed comes back too."""
    world.write("last.pt", checkpoint(2.0))
    result = world.backup(read_back="all")
    assert result.read_back_bytes >= sum(stored_bytes(world, name) for name in (b"last.pt", b"log.bin"))


def test_all_of_it_finds_what_rotted_meanwhile(world):
    """With ``all``, a bit that flipped in an old pack is found, and what it held is stored again."""
    victim = world.entry(b"log.bin").chunks[0].pack
    body = bytearray(world.store.get(names.pack(victim), limit_bytes=1 << 20))
    body[100] ^= 1
    world.store.delete(names.pack(victim))
    world.store.put(names.pack(victim), bytes(body))
    world.write("last.pt", checkpoint(2.0))
    assert world.backup(read_back="all").version == 2
    assert world.restored(2) == world.tree()
    with pytest.raises(ObjectDamaged):
        world.restored(1)


def test_none_of_it_leaves_the_proof_to_later(world):
    """With ``none`` nothing comes back; a new checkpoint is pending, and one that is known already is not."""
    world.write("last.pt", checkpoint(2.0))
    world.write("copy.pt", checkpoint(1.0))
    result = world.backup(read_back="none")
    assert (result.read_back_bytes, result.pending) == (0, ("last.pt",))
    assert world.entry(b"last.pt").proof.level == 0
    assert world.entry(b"copy.pt").proof.level == 2
    assert world.state.pending(RUN) == [2]
    prover = Prover(ProofOptions(device="none"))
    with LaterProver(world.repository, prover, world.monitor) as later:
        later.pending(world.repository.stored(RUN, 2))
    assert [status.is_pending for status in proof_statuses(world.repository, RUN)] == [False, False]


def test_none_of_it_still_refuses_a_torn_checkpoint(world):
    """A checkpoint that is cut short where it lies is no checkpoint, read back or not."""
    world.write("last.pt", checkpoint(2.0)[:-200])
    result = world.backup(read_back="none")
    assert [trouble.path for trouble in result.troubles] == [b"last.pt"]
