"""What a proof says of itself while it runs: what it waits for, and the file that it is at."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
from safetensors.numpy import save

from doubles.recording_monitor import RecordingMonitor
from mlsync.monitor import SilentTask
from mlsync.proof.engine import may_use_gpu
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.prove_later import LaterProver
from mlsync.proving.verify import verify


class Heard(RecordingMonitor):
    """Keeps what tasks say, behind their names."""

    def __init__(self):
        super().__init__()
        self.said = []

    @contextmanager
    def task(self, name, total, unit="B"):
        """Open a task that is listened to."""
        said = self.said

        class Task(SilentTask):
            def say(self, what):
                said.append((name, what))

        yield Task()


def written(world):
    """Write a checkpoint and a log, and listen."""
    world.write("last.safetensors", save({"weight": np.ones(5000, np.float32)}))
    world.write("log", b"1")
    world.monitor = Heard()


def on_cpu():
    """A prover whose process starts when it is needed."""
    return Prover(ProofOptions(device="cpu"))


def test_a_backup_says_what_it_reads_and_what_its_proof_waits_for(world):
    """Reading names each file; proving says that it starts, and then the file again."""
    written(world)
    world.backup(prover=on_cpu())
    said = world.monitor.said
    reading = [what for name, what in said if name == "yolo: reading"]
    assert reading == ["last.safetensors", "log", "waiting until all is stored"]
    proving = [what for name, what in said if name == "yolo: proving"]
    assert proving == [
        "reading back what is no checkpoint",
        "last.safetensors",
        "starting the proof",
        "last.safetensors",
    ]


def test_a_proof_without_a_device_waits_for_nothing(world):
    """Where no device is wanted there is no process to wait for."""
    written(world)
    world.backup()
    assert "starting the proof" not in {what for _, what in world.monitor.said}


def test_verify_and_a_later_proof_say_the_same(world):
    """They name what they wait for and the checkpoint that they are at; a later proof starts in a task of its own."""
    written(world)
    world.backup()
    world.monitor.said.clear()
    with on_cpu() as prover:
        verify(world.repository, world.manifest(), prover, world.monitor)
    assert ("yolo version 1: verifying", "starting the proof") in world.monitor.said
    assert world.monitor.said[-1] == ("yolo version 1: verifying", "last.safetensors")
    world.monitor.said.clear()
    with on_cpu() as prover, LaterProver(world.repository, prover, world.monitor, level=4) as later:
        later.pending(world.repository.stored("yolo", 1))
    assert ("yolo version 1: starting the proof", "starting the proof") in world.monitor.said
    assert world.monitor.said[-1] == ("yolo version 1: proving", "last.safetensors")


def test_who_waits_for_torch():
    """A device that is asked for by name takes torch, and the CPU none."""
    assert may_use_gpu("cuda:1")
    assert not may_use_gpu("cpu")
