"""A backup that is told to hurry while it proves: the version is made, and proved later."""

from __future__ import annotations

import os
import signal

import pytest

from flow_parts import RUN, World
from flow_parts import uniform_checkpoint as checkpoint
from mlsync.errors import Stopped
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.prove_later import LaterProver


@pytest.fixture
def world(tmp_path):
    """A run of three checkpoints, and no version."""
    world = World(tmp_path)
    for number in range(3):
        world.write(f"{number}.pt", checkpoint(float(number)))
    yield world
    world.close()


class Hurried(Prover):
    """Says when it begins to prove, which is when everybody is in a hurry."""

    def __init__(self, device):
        super().__init__(ProofOptions(device=device))
        self.proved = []

    def prove(self, file, path, metadata=None):
        """As ever."""
        self.proved.append(path)
        return super().prove(file, path, metadata)

    def is_at_it(self):
        """Whether it has begun."""
        return bool(self.proved)


def test_the_version_is_made_without_the_proofs_that_are_left(world):
    """Nothing of it is lost with the machine; a later proof brings it to its level."""
    prover = Hurried("none")
    result = world.backup(prover=prover, stop=prover.is_at_it, hurry=prover.is_at_it)
    assert (result.version, result.pending, prover.proved) == (1, ("0.pt", "1.pt", "2.pt"), [b"0.pt"])
    assert world.restored() == world.tree()
    assert world.state.pending(RUN) == [1]
    prover = Prover(ProofOptions(device="none"))
    with prover, LaterProver(world.repository, prover, world.monitor) as later:
        assert later.pending(world.repository.stored(RUN, 1)).lowest_level == 2


def test_a_version_that_must_wait_for_its_proof_is_not_made(world):
    """Whoever wants no version without a proof gets none; what was stored is used by the next backup."""
    prover = Hurried("none")
    with pytest.raises(Stopped):
        world.backup(prover=prover, stop=prover.is_at_it, hurry=prover.is_at_it, wait_for_proof=True)
    assert world.numbers() == []
    assert world.backup().new_bytes == 0


def test_nobody_waits_for_a_device_that_is_slow_to_start(world):
    """The import of torch may take longer than the machine has left."""
    started = []

    class Slow(Prover):
        def start(self):
            """Not before it is needed."""

        def _started(self):
            engine = super()._started()
            os.kill(engine.pid, signal.SIGSTOP)
            started.append(engine.pid)
            return engine

    prover = Slow(ProofOptions(device="cpu"))
    result = world.backup(prover=prover, stop=lambda: bool(started), hurry=lambda: bool(started), required_level=3)
    assert (result.version, len(result.pending)) == (1, 3)
