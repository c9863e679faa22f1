"""What of a version comes back from the store before it is committed."""

from __future__ import annotations

import os
import random

import pytest
import torch

from flow_parts import RUN, World
from flow_parts import checkpoint as torch_checkpoint
from flow_parts import uniform_checkpoint as checkpoint
from mlsync.errors import ObjectDamaged
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


def test_a_changed_checkpoint_comes_back_whole_and_only_what_is_new_of_it_is_stored(world):
    """Of a checkpoint half of which is frozen, half is written and all is read: as it lies in the store."""
    frozen, head_bytes = torch.randn(1 << 19), 2 << 20
    for seed in (1, 2):
        head = torch.frombuffer(bytearray(random.Random(seed).randbytes(head_bytes)), dtype=torch.int32)
        world.write("last.pt", torch_checkpoint(frozen, head))
        result = world.backup()
    whole_bytes = stored_bytes(world, b"last.pt")
    assert head_bytes <= result.stored_bytes < head_bytes * 1.1
    assert whole_bytes <= result.read_back_bytes < whole_bytes * 1.1
    assert whole_bytes > head_bytes * 1.7


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
