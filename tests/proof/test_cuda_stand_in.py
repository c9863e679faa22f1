"""What the child does on a GPU, on GPUs that are not there: see cuda_stand_in/stand_in.py for what that can show."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from proof_python import PROOF_PYTHON, asked

from checkpoint_files import MemorySource, torch_bytes, weights_bytes, yolo_bytes
from doubles.verdict_status import status
from mlsync.errors import (
    CommandUnavailable,
    DeviceFailed,
    DeviceMissing,
    ProofCrashed,
    ProofDisbelieved,
    ProofOutOfMemory,
)
from mlsync.proof.child import PROGRAM, bare_environment
from mlsync.proof.framework import Framework, Loaded, load, state_dict_command
from mlsync.proof.options import ProofOptions
from mlsync.proof.programs.cpu import COUNTED_AS
from mlsync.proof.prover import Prover
from seaweed import die_with_parent

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STAND_IN = HERE / "cuda_stand_in"
SCHEDULES = ("early", "late", "mixed")
ROOMY = {"total_mib": 8000, "free_mib": 6000}
WINDOW_NUMBERS = 4 << 20  # of float32, in a window of 16 MiB


class Stand:
    """A Python with GPUs as they are asked for; what the last child did on them is in its ledger."""

    def __init__(self, place, warm):
        self._place = place
        self._warm = warm
        self._ledger = place / "ledger"

    def python(self, *gpus, schedule="late", **settings):
        """The interpreter to name as proof.python."""
        self._ledger.write_bytes(bytes(24))
        settings |= {"gpus": gpus, "schedule": schedule, "ledger": str(self._ledger)}
        (self._place / "settings.json").write_text(json.dumps(settings))
        python = self._place / "python"
        asking = f'"{sys.executable}" -I -S -B "{STAND_IN}/asking.py" "{self._warm}"'
        command = f'exec {asking} "{self._place}/settings.json" "$@"'
        python.write_text(f"#!/bin/sh\n{command}\n")
        python.chmod(0o755)
        return str(python)

    @property
    def ledger(self):
        """Most bytes at a time, copies that nobody waited for, those of them that two others were before."""
        return struct.unpack("<3Q", self._ledger.read_bytes())


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """The socket of the process that all others are forked from: each would take seconds to import torch."""
    path = tmp_path_factory.mktemp("warm") / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        command = [PROOF_PYTHON, "-B", STAND_IN / "warm.py", str(listener.fileno())]
        environment = bare_environment(os.environ, "cuda")
        process = subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            pass_fds=[listener.fileno()],
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, no lock, no Python of others
        )
        yield path
        listener.shutdown(socket.SHUT_RDWR)
    assert process.wait(timeout=60) == 0


@pytest.fixture
def stand(tmp_path, warm):
    """A stand-in of a test's own."""
    return Stand(tmp_path, warm)


@pytest.fixture(scope="module", params=SCHEDULES)
def stand_and_prover(request, tmp_path_factory, warm):
    """A prover on one GPU, for each schedule."""
    stand = Stand(tmp_path_factory.mktemp("stand"), warm)
    options = ProofOptions(device="cuda", python=stand.python(ROOMY, schedule=request.param))
    with Prover(options) as prover:
        yield stand, prover


@pytest.fixture
def prover(stand_and_prover):
    """The prover of each schedule."""
    return stand_and_prover[1]


@pytest.fixture(scope="module")
def on_cpu():
    """A prover on the CPU, to hold the others to."""
    with Prover(ProofOptions(device="cpu")) as prover:
        yield prover


def proved(options, data, path=b"x.pt"):
    """The verdict of a child of its own."""
    with Prover(options) as prover:
        return prover.prove(MemorySource(data, 16 << 20), path)


# ---------------------------------------------------------------- what is proved


def test_the_device_is_named(prover):
    """The child takes the GPU and tells its name, without a note."""
    info = prover.open()
    assert (info.device, info.cuda, info.note) == ("cuda:0 Stand-in GPU", "0.0", "")


@pytest.mark.parametrize("data", [yolo_bytes(), weights_bytes()], ids=["yolo", "weights"])
def test_a_sound_checkpoint_is_proved_on_the_gpu(prover, data):
    """Real files are proved to level 4 on the GPU, one after the other by the same child."""
    verdict = prover.prove(MemorySource(data), b"last.pt")
    assert (verdict.unavailable, status(verdict), verdict.proof.level) == (None, "proved", 4)
    assert verdict.proof.device == "cuda:0 Stand-in GPU"


def of_all_types():
    """Over seven windows, tensors of every type that the child's torch counts, with numbers of every kind."""
    known = asked(f"[name for name in {[*COUNTED_AS]} if hasattr(torch, name)]", "torch")
    values = torch.linspace(-3, 3, 2 << 20)
    values[:5], values[-7:] = 0, float("nan")
    sound, large = torch.linspace(1, 2, 999), torch.tensor([65504.0, float("inf"), -1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about complex numbers of halves
        tensors = [
            one.to(getattr(torch, name)) for name in COUNTED_AS if repr(name) in known for one in (values, sound, large)
        ]
    return torch_bytes([*tensors, torch.full((WINDOW_NUMBERS,), 1e30), torch.arange(99)])


@pytest.fixture(scope="module")
def all_types(on_cpu):
    """Those, and what the CPU says of them."""
    data = of_all_types()
    return data, on_cpu.prove(MemorySource(data), b"x.pt")


def test_counts_are_those_of_the_cpu(prover, all_types):
    """Every type's numbers are counted as on the CPU, over windows enough to use each slot again."""
    data, expected = all_types
    verdict = prover.prove(MemorySource(data, 16 << 20), b"x.pt")
    assert (verdict.unavailable, status(verdict)) == (None, "proved")
    assert verdict.proof.facts["nan_count"] > 0
    assert (verdict.proof.facts, verdict.proof.findings) == (expected.proof.facts, expected.proof.findings)


def test_counts_that_need_scratch_memory_do_not_meet_the_windows_behind(stand):
    """Numbers at float16's limit, of another count in each tensor, are counted while other windows are under way."""
    tensors = [torch.linspace(1, 2, WINDOW_NUMBERS // 16, dtype=torch.float16) for _ in range(160)]
    for place, tensor in enumerate(tensors):
        tensor[:place] = 65504
    options = ProofOptions(device="cuda", python=stand.python(ROOMY, schedule="mixed"))
    assert proved(options, torch_bytes(tensors)).proof.facts["saturated_count"] == sum(range(160))


def test_the_norm_is_that_of_the_cpu(prover, on_cpu):
    """Numbers that are all finite have the same norm, to the digits that are recorded."""
    data = torch_bytes({"x": torch.linspace(-2, 3, 5 << 20), "y": torch.linspace(0, 1, 999).bfloat16()})
    expected = on_cpu.prove(MemorySource(data), b"x.pt").proof.facts["norm"]
    assert prover.prove(MemorySource(data), b"x.pt").proof.facts["norm"] == pytest.approx(expected, rel=1e-5)


def test_windows_are_under_way_three_at_a_time(stand):
    """While a window is answered for, the two behind it stay under way: the GPU has work when the next one comes."""
    data = torch_bytes({"x": torch.linspace(1, 2, 8 * WINDOW_NUMBERS)})
    assert status(proved(ProofOptions(device="cuda", python=stand.python(ROOMY)), data)) == "proved"
    _, copies, behind_two = stand.ledger
    assert (copies, behind_two) == (8, 6)


# ---------------------------------------------------------------- memory


def test_memory_on_the_gpu_is_bounded(stand_and_prover, all_types):
    """Types and windows of all kinds need less than half of the memory that the child may have by default."""
    stand, prover = stand_and_prover
    prover.prove(MemorySource(all_types[0], 16 << 20), b"x.pt")
    assert 200 << 20 < stand.ledger[0] <= 300 << 20


def test_the_bound_on_memory_is_enough_where_it_is_least(stand, all_types):
    """With the least that the configuration allows all types are proved; the stand-in would give no more than that."""
    options = ProofOptions(device="cuda", python=stand.python(ROOMY), memory_bytes=384 << 20)
    assert status(proved(options, all_types[0])) == "proved"


def test_the_bound_on_memory_is_set(stand):
    """A child that is allowed less than it needs is out of the device's memory, on a GPU that has plenty."""
    options = ProofOptions(device="cuda", python=stand.python(ROOMY), memory_bytes=128 << 20)
    assert isinstance(proved(options, weights_bytes()).unavailable, ProofOutOfMemory)
    assert stand.ledger[0] <= 128 << 20


# ---------------------------------------------------------------- which GPU


def test_a_full_gpu_is_not_a_broken_checkpoint(stand):
    """With no room on the GPU ``auto`` proves on the CPU and says so."""
    python = stand.python({"total_mib": 8000, "free_mib": 900})
    verdict = proved(ProofOptions(python=python), yolo_bytes(), b"last.pt")
    assert (status(verdict), verdict.proof.level, verdict.proof.device) == ("proved", 4, "cpu")
    note = "proved on the CPU: 1024 MiB are not free on any GPU, cuda:0 has 600 MiB"
    assert note in [finding.what for finding in verdict.proof.findings]


def test_a_gpu_that_is_full_once_it_is_opened_is_left(stand):
    """What the context itself takes may be what was missing: then the CPU proves, and that is the note."""
    libraries = compiled(stand._place)
    gpu = {"total_mib": 8000, "free_mib": 1100, "context_mib": 800}
    python = stand.python(gpu, libraries=str(libraries), environment={"FAKE_GPUS": "7:1100"})
    verdict = proved(ProofOptions(python=python), yolo_bytes(), b"last.pt")
    assert (status(verdict), verdict.proof.device) == ("proved", "cpu")
    note = "proved on the CPU: 512 MiB are not free on cuda:0 once it is opened"
    assert note in [finding.what for finding in verdict.proof.findings]


def test_a_gpu_is_taken_by_its_number(stand):
    """A GPU is used if it is asked for, roomiest or not; all that is done there is done on that one."""
    options = ProofOptions(device="cuda:1", python=stand.python(ROOMY, {**ROOMY, "free_mib": 4000}))
    assert proved(options, yolo_bytes(), b"last.pt").proof.device == "cuda:1 Stand-in GPU"


def test_a_gpu_that_is_not_there_is_an_error(stand):
    """One that was asked for by its number and is not there is missing; it is not made up for by another."""
    with Prover(ProofOptions(device="cuda:1", python=stand.python(ROOMY))) as prover, pytest.raises(DeviceMissing):
        prover.open()


def test_the_gpu_with_most_free_memory_is_taken(stand):
    """Where no library tells, torch is asked for each GPU, and the roomiest is taken."""
    python = stand.python({**ROOMY, "free_mib": 2000}, ROOMY)
    assert proved(ProofOptions(python=python), yolo_bytes(), b"last.pt").proof.device == "cuda:1 Stand-in GPU"


def test_the_gpu_that_the_drivers_libraries_call_roomiest_is_taken(stand):
    """Where they tell, they are believed, and no other GPU is opened: this first one cannot be."""
    libraries = compiled(stand._place)
    gpus = {**ROOMY, "opens": False}, {**ROOMY, "free_mib": 3000}
    python = stand.python(*gpus, libraries=str(libraries), environment={"FAKE_GPUS": "7:2000 3:3000"})
    verdict = proved(ProofOptions(python=python), yolo_bytes(), b"last.pt")
    assert verdict.proof.device == "cuda:1 Stand-in GPU"
    assert verdict.proof.findings == []


def test_a_gpu_that_does_not_open_is_left_for_the_next(stand):
    """A GPU that fails at once is not the end where another one will do."""
    libraries = compiled(stand._place)
    gpus = {**ROOMY, "opens": False}, ROOMY
    python = stand.python(*gpus, libraries=str(libraries), environment={"FAKE_GPUS": "7:6000 3:3000"})
    assert proved(ProofOptions(python=python), yolo_bytes(), b"last.pt").proof.device == "cuda:1 Stand-in GPU"


def test_gpus_of_which_none_opens_are_told_of(stand):
    """``auto`` proves on the CPU with the driver's words; ``cuda`` fails of the device, with the same."""
    python = stand.python({**ROOMY, "opens": False})
    verdict = proved(ProofOptions(python=python), yolo_bytes(), b"last.pt")
    assert (status(verdict), verdict.proof.device) == ("proved", "cpu")
    assert any("busy or unavailable" in finding.what for finding in verdict.proof.findings)
    error = proved(ProofOptions(device="cuda", python=python), yolo_bytes(), b"last.pt").unavailable
    assert isinstance(error, DeviceFailed)
    assert "busy or unavailable" in str(error)


def compiled(directory):
    """The driver's libraries, made here."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    for library in ("libcuda.so.1", "libnvidia-ml.so.1"):
        subprocess.run([compiler, "-shared", "-fPIC", "-o", directory / library, HERE / "fake_gpus.c"], check=True)
    return directory


# ---------------------------------------------------------------- what fails


ASSERTED = {"error": "AcceleratorError", "text": "CUDA error: device-side assert triggered"}
EXHAUSTED = {"error": "OutOfMemoryError", "text": "CUDA out of memory. Tried to allocate 16.00 MiB"}
FAULTS = {
    "no memory at the start": ({"at": "allocate", "nth": 2, **EXHAUSTED}, ProofOutOfMemory, "out of memory"),
    "no memory in the middle": ({"at": "allocate", "nth": 30, **EXHAUSTED}, ProofOutOfMemory, "out of memory"),
    "no pinned memory": (
        {"at": "pin", "error": "RuntimeError", "text": "CUDA error: out of memory"},
        ProofOutOfMemory,
        "CUDA error: out of memory",
    ),
    "a kernel that fails": ({"at": "kernel aminmax", **ASSERTED}, DeviceFailed, "device-side assert"),
    "a copy that fails": ({"at": "kernel upload", "nth": 4, **ASSERTED}, DeviceFailed, "device-side assert"),
    "a bit that turns over": ({"at": "damage", "nth": 4}, ProofDisbelieved, "another digest"),
}


@pytest.mark.parametrize(("fault", "kind", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_what_fails_on_the_gpu_is_told_apart(stand, fault, kind, words):
    """Memory that runs out, errors that show late, and bytes that arrive otherwise are errors of their own."""
    data = torch_bytes({"x": torch.linspace(1, 2, 5 * WINDOW_NUMBERS)})
    verdict = proved(ProofOptions(device="cuda", python=stand.python(ROOMY, faults=[fault])), data)
    assert (status(verdict), verdict.proof.level) == ("unavailable", 2)
    assert type(verdict.unavailable) is kind
    assert words in str(verdict.unavailable)


# ---------------------------------------------------------------- what the stand-in finds


# Mistakes in the child's own lines: what stood there, what stands there instead, and on which schedule it shows.
MISTAKES = {
    "no wait for the window": ("        slot.event.synchronize()\n", "", "late"),
    "an event that is marked too early": (
        "            self._launch(slot, header, used)\n            slot.event.record(self.stream)\n",
        "            slot.event.record(self.stream)\n            self._launch(slot, header, used)\n",
        "late",
    ),
    "one pinned buffer for all slots": (
        "        self.stream = torch",
        "        for s in self.slots:\n            s.host = self.slots[0].host\n        self.stream = torch",
        "late",
    ),
    "the window copied after it was asked for": (
        "        slot.host[:used].copy_(shared)\n",
        "        before = slot.host.clone()\n        slot.host[:used].copy_(shared)\n        slot.host.copy_(before)\n",
        "early",
    ),
    "scratch memory that two streams share": (
        "with self.torch.cuda.stream(self.stream):\n            slot",
        "self.stream = self.torch.cuda.Stream(0)\n        with self.torch.cuda.stream(self.stream):\n            slot",
        "mixed",
    ),
}


def change_program(stand, monkeypatch, old, new):
    """Have proofs run a copy of the child's program, changed, with what it takes from beside itself."""
    for folder in ("proof", "courtesy"):
        shutil.copytree(PROGRAM.parents[2] / folder, stand._place / folder)
    program = stand._place / "proof" / "programs" / PROGRAM.name
    program.write_text(PROGRAM.read_text().replace(old, new))
    monkeypatch.setattr("mlsync.proof.child.PROGRAM", program)


@pytest.mark.parametrize(("old", "new", "schedule"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_the_order_of_work_gives_another_digest(stand, monkeypatch, old, new, schedule):
    """The stand-in shows what it is there to show: a child with a mistake in its order is not believed."""
    assert PROGRAM.read_text().count(old) == 1
    change_program(stand, monkeypatch, old, new)
    data = torch_bytes({"x": torch.linspace(1, 2, 8 * WINDOW_NUMBERS)})
    verdict = proved(ProofOptions(device="cuda", python=stand.python(ROOMY, schedule=schedule)), data)
    assert type(verdict.unavailable) is ProofDisbelieved


def test_a_copy_that_is_not_waited_for_needs_pinned_memory(stand, monkeypatch):
    """CUDA would wait for such a copy and say nothing; the stand-in says it."""
    change_program(stand, monkeypatch, "pin_memory=True", "pin_memory=False")
    error = proved(ProofOptions(device="cuda", python=stand.python(ROOMY)), weights_bytes()).unavailable
    assert type(error) is ProofCrashed
    assert "not of pinned memory" in str(error)


# What becomes of each misuse, on every schedule or (early, late); of "mixed" where only that tells.
MISUSES = {
    "in_order": "right",
    "not_waited_for": ("right", "wrong"),
    "waited_for_too_early": ("right", "wrong"),
    "source_changed_too_early": ("right", "wrong"),
    "source_written_too_late": ("wrong", "right"),
    "freed_under_another_stream": ("right", "wrong"),
    "scratch_shared_by_streams": ("right", "right", "wrong"),
    "unpinned_source": "RuntimeError",
    "two_devices": "RuntimeError",
    "two_gpus": "RuntimeError",
    "out_elsewhere": "RuntimeError",
    "wrong_keyword": "TypeError",
    "no_such_gpu": "RuntimeError",
    "beyond_the_bound": "OutOfMemoryError",
    "within_the_bound": "right",
}


@pytest.mark.parametrize("place", range(3), ids=SCHEDULES)
def test_each_misuse_of_a_gpu_shows_on_a_schedule(stand, place):
    """What is right is right on all schedules; what is wrong is refused at once, or comes out wrong on one of them."""
    python = stand.python(ROOMY, ROOMY, schedule=SCHEDULES[place])
    done = subprocess.run([python, STAND_IN / "misuse.py"], capture_output=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    expected = {name: of if isinstance(of, str) else [*of, found[name]][place] for name, of in MISUSES.items()}
    assert found == expected


# ---------------------------------------------------------------- level 5


MODEL = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        self.shift = torch.zeros(1, 2)  # no parameter and no buffer: it stays where it is
    def forward(self, x):
        return self.layer(x)

class Forgetful(Model):
    def forward(self, x):
        return self.layer(x) + self.shift

def sound():
    return Model(), {"x": torch.zeros(1, 4)}

def forgetful():
    return Forgetful(), (torch.zeros(1, 4),)
"""

WATCHFUL = """

class Watchful(Model):
    def forward(self, x):
        assert str(x.device) == "cuda:1", x.device
        return super().forward(x)

def watchful():
    return Watchful(), {"x": torch.zeros(1, 4)}
"""


@pytest.mark.parametrize(("model", "refused"), [("sound", None), ("forgetful", "at least two devices, cuda:0 and cpu")])
def test_a_state_is_loaded_and_run_on_the_gpu(stand, tmp_path, model, refused):
    """The built-in command moves model and example to the GPU; a model that leaves something behind does not run."""
    (tmp_path / "models.py").write_text(MODEL)
    state = torch.nn.Module()
    state.layer = torch.nn.Linear(4, 2)
    (tmp_path / "a.pt").write_bytes(torch_bytes(state.state_dict()))
    command = state_dict_command(stand.python(ROOMY), "cuda", f"models:{model}")
    framework = Framework("state_dict", command, device="cuda", environment={"PYTHONPATH": str(tmp_path)})
    loaded = load(framework, tmp_path / "a.pt", tmp_path, lambda: None)
    if refused is None:
        assert loaded == Loaded()
    else:
        assert refused in loaded.refused


def test_a_state_is_loaded_on_the_gpu_of_that_number(stand, tmp_path):
    """With ``cuda:1`` model and example go to the second GPU; of a machine with one the load is unavailable."""
    (tmp_path / "models.py").write_text(MODEL + WATCHFUL)
    state = torch.nn.Module()
    state.layer = torch.nn.Linear(4, 2)
    (tmp_path / "a.pt").write_bytes(torch_bytes(state.state_dict()))
    for gpus in ([ROOMY, ROOMY], [ROOMY]):
        command = state_dict_command(stand.python(*gpus), "cuda:1", "models:watchful")
        framework = Framework("state_dict", command, device="cuda:1", environment={"PYTHONPATH": str(tmp_path)})
        if len(gpus) > 1:
            assert load(framework, tmp_path / "a.pt", tmp_path, lambda: None) == Loaded()
        else:
            with pytest.raises(CommandUnavailable, match="there is no cuda:1, torch sees 1 GPU"):
                load(framework, tmp_path / "a.pt", tmp_path, lambda: None)
