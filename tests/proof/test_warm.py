"""A child that waits on a GPU for the next version, on a GPU that is not there: see cuda_stand_in/stand_in.py."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from large_gpu import LargeGpu, tensors_file
from mlsync.errors import ObjectDamaged
from mlsync.proof.child import PROGRAM
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.warm import WarmEngine

DATA = tensors_file(1)


def has_ended(pid):
    """Whether a child has ended, within the time that a look takes at most."""
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def sandbox_of(pid):
    """What of a process's restrictions the kernel tells, but for its processor time, which each file sets anew."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    names = ("NoNewPrivs", "Seccomp", "CapEff", "CapPrm", "CapBnd", "Groups", "Uid")
    return [line for line in status if line.startswith(names)] + [one for one in limits if "cpu time" not in one]


class File:
    """A sound file, or one of which the store gives back half, and then damage."""

    size_bytes = len(DATA)

    def __init__(self, *, is_damaged=False):
        self._is_damaged = is_damaged

    def read_at(self, offset, length):
        """What parsers ask for."""
        return DATA[offset : offset + length]

    def stream(self, allocate=None):
        """Yield it in two halves, or one."""
        half = len(DATA) // 2 // 4 * 4
        yield memoryview(DATA)[:half]
        if self._is_damaged:
            raise ObjectDamaged("half of it is gone", where="the store")
        yield memoryview(DATA)[half:]


def prove(options, warm):
    """Prove a file as one version does; give the verdict, the child's id, its key, and what the parent kept of it."""
    with Prover(options, warm) as prover:
        verdict = prover.prove(File(), b"x.safetensors")
        engine = prover._engine
        return verdict, engine.pid, engine._seed, sandbox_of(engine.pid)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Three versions in a row by one child; then others take the GPU's memory, while it waits, and give it back."""
    gpu = LargeGpu(tmp_path_factory.mktemp("warm"))
    options = ProofOptions(device="cuda", python=str(gpu.python))
    warm = WarmEngine()
    warm.stay_s = 60.0
    told = {"versions": [], "resting": []}
    try:
        for _ in range(3):
            told["versions"].append(prove(options, warm))
            engine = warm._engine
            left_over = bytes(engine._child._memory).strip(b"\0")
            told["resting"].append((sandbox_of(engine.pid), left_over, engine._digest))
        told["others_options"] = warm.has(ProofOptions(device="cuda", python=str(gpu.python), threads=2))
        gpu.others_leave(4095)
        told["left"] = has_ended(warm._engine.pid), warm.has(options), warm.left_s
        gpu.others_leave(8000)
        told["next"] = prove(options, warm)
        with Prover(options, warm) as prover, pytest.raises(ObjectDamaged):
            prover.prove(File(is_damaged=True), b"x.safetensors")
        told["damaged"] = warm._engine
        yield told
    finally:
        warm.close()


def test_the_next_version_is_proved_by_the_same_child(story):
    """While versions come soon after each other, one child proves them all, each as well as the first."""
    verdicts, pids, *_ = zip(*story["versions"], strict=True)
    assert len(set(pids)) == 1
    assert [(one.unavailable, one.proof.level, one.proof.device) for one in verdicts] == [
        (None, 4, "cuda:0 Stand-in GPU")
    ] * 3


def test_each_version_has_a_key_of_its_own(story):
    """The digest of the device has another key for each version, and none while the child waits."""
    assert len({seed for _, _, seed, _ in story["versions"]}) == 3
    assert [digest for *_, digest in story["resting"]] == [None] * 3


def test_nothing_of_a_checkpoint_is_left_in_the_windows(story):
    """The memory that parent and child share has only zeros while the child waits."""
    assert [left for _, left, _ in story["resting"]] == [b""] * 3


def test_the_sandbox_stays_as_it_is(story):
    """Filter, rights, user and limits of a child that waited are those that it had for its first file."""
    first = story["versions"][0][3]
    assert any(line.split() == ["Seccomp:", "2"] for line in first)
    assert all(one == first for *_, one in story["versions"])
    assert all(one == first for one, *_ in story["resting"])


def test_other_options_take_no_child_that_waits(story):
    """A child serves only provers with the options that it was started with."""
    assert story["others_options"] is False


def test_it_leaves_when_little_memory_is_free(story):
    """A child that waits ends by itself when others need the GPU's memory; the next version starts another one."""
    assert story["left"] == (True, False, 0.0)
    verdict, pid, *_ = story["next"]
    assert (verdict.unavailable, verdict.proof.level) == (None, 4)
    assert pid != story["versions"][0][1]


def test_a_child_in_the_middle_of_a_file_does_not_wait(story):
    """A file that turns out to be damaged ends its child, also one that waited before."""
    assert story["damaged"] is None


# ---------------------------------------------------------------- the child's side, without torch

RESTS = """
import sys, time
sys.path.insert(0, sys.argv[1])
import device
class Prover:
    device = None
    def give_memory_back(self):
        return 7
    def is_roomy(self):
        self.looks = getattr(self, "looks", 0) + 1
        if self.looks > int(sys.argv[3]):
            raise RuntimeError("CUDA error: unspecified launch failure")
        return True
prover = Prover()
prover.device = prover
channel = device.Channel()
device._rest(channel, prover, float(sys.argv[2]))
channel.write({"next": channel.read()})
"""


def resting(stay_s, looks=1000):
    """A process that waits as the child does, on a device that fails after so many looks."""
    command = [sys.executable, "-I", "-B", "-c", RESTS, str(PROGRAM.parent), str(stay_s), str(looks)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/")


def test_it_ends_after_its_time_though_nobody_asks_it_to():
    """A parent that hangs keeps no child on the GPU."""
    with resting(0.2) as process:
        assert process.wait(20) == 0
        assert process.stdout.read()[4:] == b'{"rests": true, "taken_bytes": 7}'


def test_it_ends_when_its_device_fails():
    """A child that can no longer ask the device for its memory does not wait on it."""
    with resting(60, looks=1) as process:
        assert process.wait(20) == 0


def test_it_ends_with_its_parent():
    """A child that waits ends when the parent's end of the pipe is closed."""
    with resting(60) as process:
        process.stdout.read(4)
        process.stdin.close()
        assert process.wait(20) == 0


def test_what_it_is_sent_ends_its_wait():
    """The next version's message is read as if there had been no wait."""
    with resting(60) as process:
        answer = b'{"wake": 1}'
        process.stdin.write(len(answer).to_bytes(4, "big") + answer)
        process.stdin.flush()
        assert process.wait(20) == 0
        assert process.stdout.read().endswith(b'{"next": {"wake": 1}}')
