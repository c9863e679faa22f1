"""Everything that can happen to the child is told apart from a broken checkpoint, and from each other."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from proof_python import PROOF_PYTHON, asked

from checkpoint_files import MemorySource, torch_bytes, weights_bytes
from doubles.verdict_status import status
from mlsync.errors import (
    DeviceFailed,
    DeviceMissing,
    ProofCrashed,
    ProofDisbelieved,
    ProofKilled,
    ProofOutOfMemory,
    ProofTimedOut,
    ProofUnavailable,
    PythonUnfit,
    TorchMissing,
)
from mlsync.proof import child as child_module
from mlsync.proof.child import PROGRAM, ProofChild, bare_environment
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.windows import SEGMENTS_MAX

pytestmark = pytest.mark.slow

FakePython = Callable[[str], str]


@pytest.fixture
def fake_python(tmp_path) -> FakePython:
    """An interpreter that runs a changed child: *patch* is run with the child's module as ``device``."""

    def make(patch: str) -> str:
        program = tmp_path / "patched.py"
        load = f"""
            import importlib.util, os, sys, time
            spec = importlib.util.spec_from_file_location("device", {str(PROGRAM)!r})
            device = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(device)
            sys.argv = [sys.argv[0], str(os.getppid())]
        """
        program.write_text(textwrap.dedent(load) + textwrap.dedent(patch) + "\ndevice.main()\n")
        return script(tmp_path / "python", f'exec "{PROOF_PYTHON}" -I "{program}"')

    return make


@pytest.fixture
def liar(tmp_path) -> FakePython:
    """An interpreter whose child is honest but for what the given code says of each window (see liar.py)."""

    def make(code: str) -> str:
        (tmp_path / "lie.py").write_text(textwrap.dedent(code))
        program = Path(__file__).with_name("liar.py")
        agent = Path(PROGRAM).parents[2]
        command = f'PYTHONPATH="{agent}" exec "{sys.executable}" -B "{program}" "{tmp_path}/lie.py" "$@"'
        return script(tmp_path / "python", command)

    return make


def script(path: Path, command: str) -> str:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def unavailable(python: str, device: str = "cpu", **options) -> ProofUnavailable:
    """The error of a proof that stopped at level 2 for want of a device."""
    source = MemorySource(weights_bytes())
    with Prover(ProofOptions(device=device, python=python, **options)) as prover:
        verdict = prover.prove(source, b"w.pt")
    assert (status(verdict), verdict.proof.level, verdict.proof.device) == ("unavailable", 2, "")
    assert source.streamed_bytes == len(source.data), "the checksums were still checked"
    assert verdict.unavailable is not None
    return verdict.unavailable


def test_a_python_without_numpy_or_torch(fake_python):
    """What the CPU needs and is not there, or a GPU that was asked for, is said as such, with what to do."""
    python = fake_python("""
        sys.modules |= {"numpy": None, "torch": None}
        device.GPUS.glob.glob = lambda pattern: [pattern]
    """)
    for name, kind, words in (("cpu", PythonUnfit, "has no numpy"), ("cuda", TorchMissing, "No torch")):
        error = unavailable(python, name)
        assert isinstance(error, kind)
        assert words in str(error)
        assert "proof.python" in str(error)


@pytest.mark.parametrize("is_gpu_here", [False, True])
def test_auto_does_without_torch(fake_python, is_gpu_here):
    """Without a GPU a proof does not look for torch; with one and no torch it is had on the CPU, and says so."""
    patch = f"""
        sys.modules["torch"] = None
        device.GPUS.glob.glob = lambda pattern: {is_gpu_here} * [pattern]
        real = device.SANDBOX.confine
        device.SANDBOX.confine = lambda *a: f"{{real(*a)}} {{sorted(m for m in sys.modules if m.startswith('torch'))}}"
    """
    with Prover(ProofOptions(device="auto", python=fake_python(patch))) as prover:
        info = prover.open()
        verdict = prover.prove(MemorySource(weights_bytes()), b"w.pt")
    assert (status(verdict), verdict.proof.level, verdict.proof.device) == ("proved", 4, "cpu")
    assert verdict.proof.torch.startswith("numpy ")
    assert info.unconfined.endswith("['torch']"), "but for the word that there is none"
    assert ("no torch that can use it: ModuleNotFoundError" if is_gpu_here else "no GPU is here") in info.note


def test_numpy_that_its_user_installed_for_himself_is_found(tmp_path, monkeypatch):
    """A numpy below ~/.local serves a Python that has none of its own, although the child knows no home."""
    site = tmp_path / "home/.local/lib" / f"python{asked('sysconfig.get_python_version()', 'sysconfig')}"
    site.mkdir(parents=True)
    (site / "site-packages").symlink_to(asked("os.path.dirname(numpy.__path__[0])", "numpy, os"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    python = script(tmp_path / "python", f'exec "{PROOF_PYTHON}" -S "$@"')
    with Prover(ProofOptions(device="cpu", python=python)) as prover:
        assert prover.prove(MemorySource(weights_bytes()), b"w.pt").proof.level == 4


def test_a_python_that_is_not_there(tmp_path):
    """An interpreter that does not exist is named."""
    error = unavailable(str(tmp_path / "nowhere"))
    assert isinstance(error, PythonUnfit)
    assert "No such file or directory: " in str(error)
    assert "nowhere (name one that has numpy as proof.python, or torch for a GPU)" in str(error)


UNFIT = {
    "another program": ("exit 0", "it ended with status 0"),
    "a Python of long ago": (
        "echo 'SyntaxError: future feature annotations is not defined' >&2; exit 1",
        "last words: SyntaxError: future feature annotations is not defined",
    ),
    "one whose library is gone": ("echo 'Fatal Python error: init_fs_encoding' >&2; exit 1", "init_fs_encoding"),
}


@pytest.mark.parametrize(("command", "words"), UNFIT.values(), ids=UNFIT.keys())
def test_what_does_not_run_the_program_is_no_python_for_it(tmp_path, command, words):
    """A program that ends before it answered anything is told apart from a proof that crashed, with its last words."""
    error = unavailable(script(tmp_path / "python", command))
    assert isinstance(error, PythonUnfit)
    assert words in str(error)
    assert "3.9 is the oldest" in str(error)


def test_a_python_that_is_too_old(fake_python):
    """A Python that understands the program and is older than 3.9 says itself which it is."""
    error = unavailable(fake_python("sys.version_info = (3, 8, 20); sys.version = '3.8.20 (default)'"))
    assert isinstance(error, PythonUnfit)
    assert "older than 3.9: it is 3.8.20" in str(error)


TORCHES = {
    "broken": ("raise ImportError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
    "without what it needs": ("import a_module_that_is_not_there", "a_module_that_is_not_there"),
    "old": ("__version__ = '1.13.1+cu117'", "version 1.13.1+cu117, and 2.1 is the oldest"),
}


@pytest.mark.parametrize(("content", "words"), TORCHES.values(), ids=TORCHES.keys())
def test_a_torch_that_does_not_work(tmp_path, fake_python, content, words):
    """A torch that is there and does not import, or is too old, is told apart from none at all."""
    (tmp_path / "torch.py").write_text(content)
    error = unavailable(fake_python(f"sys.path.insert(0, {str(tmp_path)!r})"), "cuda")
    assert isinstance(error, TorchMissing)
    assert "torch for the proof on a GPU does not work" in str(error)
    assert words in str(error)


def test_a_numpy_that_does_not_work(tmp_path, fake_python):
    """A numpy that is there and does not import, or is too old, is told apart from none at all."""
    python = fake_python(f"sys.path.insert(0, {str(tmp_path)!r})")
    for content, words in (
        ("raise ImportError('no libopenblas')", "no libopenblas"),
        ("__version__ = '1.16.0'", "1.20"),
    ):
        (tmp_path / "numpy.py").write_text(content)
        error = unavailable(python)
        assert isinstance(error, PythonUnfit)
        assert "numpy of the proof's Python does not work" in str(error)
        assert words in str(error)


def test_what_will_not_change_is_not_tried_twice(tmp_path):
    """After one look at a Python without numpy, other files do not start it again."""
    count = tmp_path / "count"
    python = script(tmp_path / "python", f'echo >> "{count}"\nexec "{PROOF_PYTHON}" -S "$@"')
    with Prover(ProofOptions(device="cpu", python=python)) as prover:
        for _ in range(3):
            assert status(prover.prove(MemorySource(weights_bytes()), b"w.pt")) == "unavailable"
    assert count.read_text() == "\n"


def test_cuda_asked_for_by_name_and_missing():
    """A device that was asked for and is not there is an error, not a proof on another."""
    with Prover(ProofOptions(device="cuda")) as prover:
        if has_cuda():
            pytest.skip("this machine has a GPU")
        with pytest.raises(DeviceMissing):
            prover.open()
        with pytest.raises(DeviceMissing):
            prover.prove(MemorySource(weights_bytes()), b"w.pt")


def test_auto_falls_back_to_the_cpu_and_says_so():
    """Without a GPU the proof is had on the CPU, with a note."""
    if has_cuda():
        pytest.skip("this machine has a GPU")
    with Prover(ProofOptions()) as prover:
        verdict = prover.prove(MemorySource(weights_bytes()), b"w.pt")
    assert (status(verdict), verdict.proof.level, verdict.proof.device) == ("proved", 4, "cpu")
    assert "proved on the CPU: no GPU is here" in [finding.what for finding in verdict.proof.findings]


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


class MeddlingSource(MemorySource):
    """Does something in the middle of being streamed."""

    def __init__(self, data: bytes, meddle: Callable[[], None]) -> None:
        super().__init__(data)
        self._meddle = meddle

    def stream(self, allocate: object = None) -> Iterator[memoryview]:
        """The blocks, with the deed before the second."""
        for place, block in enumerate(super().stream()):
            if place == 1:
                self._meddle()
            yield block


def test_a_child_that_is_killed_in_the_middle_is_replaced():
    """The file is proved as far as without a device, the next one with a new child."""
    with Prover(ProofOptions(device="cpu")) as prover:
        assert prover.open() is not None
        first = prover._engine.pid
        source = MeddlingSource(weights_bytes(), lambda: os.kill(first, signal.SIGKILL))
        verdict = prover.prove(source, b"w.pt")
        assert (status(verdict), verdict.proof.level) == ("unavailable", 2)
        assert isinstance(verdict.unavailable, ProofKilled)
        assert "signal 9 (Killed)" in str(verdict.unavailable)
        assert "ended from outside" in str(verdict.unavailable)
        assert status(prover.prove(MemorySource(weights_bytes()), b"w.pt")) == "proved"
        second = prover._engine.pid
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: not prover._engine.is_alive())
        assert status(prover.prove(MemorySource(weights_bytes()), b"w.pt")) == "proved", "died while idle"


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_child_that_hangs_is_ended(fake_python):
    """A child that stops taking bytes is given up after the time that it was given."""
    error = unavailable(fake_python("device.CPU.CpuProver.take = lambda *_: time.sleep(100)"), timeout_s=0.2)
    assert isinstance(error, ProofTimedOut)
    assert "raise proof.timeout" in str(error)


def test_a_child_that_never_gets_ready_is_ended(fake_python):
    """Starting has its own deadline."""
    error = unavailable(fake_python("device._open = lambda *_: time.sleep(100)"), start_timeout_s=0.5)
    assert isinstance(error, ProofTimedOut)
    assert "did not get ready" in str(error)


ENDS = {
    "reads where nothing is": ("import ctypes; ctypes.string_at(0)", ProofCrashed, "signal 11 (Segmentation fault)"),
    "gives up": ("os.abort()", ProofCrashed, "signal 6 (Aborted)"),
    "leaves": ("os.write(2, b'so long\\n'); os._exit(7)", ProofCrashed, "ended with status 7, last words: so long"),
    "used up its processor time": (
        "import signal; signal.raise_signal(signal.SIGXCPU)",
        ProofTimedOut,
        "processor time",
    ),
    "is told to end": ("import signal; signal.raise_signal(signal.SIGTERM)", ProofKilled, "signal 15 (Terminated)"),
    "hangs up": ("os.close(out); import time; time.sleep(100)", ProofCrashed, "closed its pipe"),
}


@pytest.mark.parametrize(("deed", "kind", "words"), ENDS.values(), ids=ENDS.keys())
def test_how_a_child_ends_is_told_apart(liar, monkeypatch, deed, kind, words):
    """A crash, an end of its own, time used up and an end from outside are errors of their own, with what was seen."""
    monkeypatch.setattr("mlsync.proof.child._EXIT_S", 0.5)
    error = unavailable(liar(deed))
    assert type(error) is kind
    assert words in str(error)


def test_a_process_that_does_not_die_of_being_killed_holds_nobody_up(monkeypatch):
    """A child that hangs in the kernel is left, and collected when it is dead; here a tracer holds it."""
    monkeypatch.setattr("mlsync.proof.child._REAP_S", 0.2)
    prover = Prover(ProofOptions(device="cpu"))
    prover.open()
    pid = prover._engine.pid
    code = f"""
        import ctypes, sys
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        print(libc.ptrace(0x4206, {pid}, None, None), flush=True)  # PTRACE_SEIZE
        sys.stdin.read()
    """
    pipe = subprocess.PIPE
    tracer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdin=pipe, stdout=pipe, text=True)
    with tracer:
        if tracer.stdout.readline() != "0\n":
            prover.close()
            pytest.skip("this machine lets no process trace another")
        prover.close()
        assert [process.pid for process in ProofChild._not_reaped] == [pid]
        tracer.stdin.close()
    with Prover(ProofOptions(device="cpu")) as other:
        wait_until(lambda: not is_running(pid))
        other.open()
        assert ProofChild._not_reaped == []
    assert not Path(f"/proc/{pid}").exists()


LIES = {
    "digest": """
        cpu = device.CPU.CpuProver
        real = cpu._digest_and_counts
        cpu._digest_and_counts = lambda *a: {**real(*a), 'digest': 1}
    """,
    "digest as a GPU's": """
        sys.modules["xxhash"] = None
        nh = device.part("nh")
        nh.Nh.digest = lambda *a: 1
        device.part = lambda name: nh
    """,
    "a digest of no name": """
        real = device.Channel.write
        device.Channel.write = lambda s, m: real(s, {**m, "digest": "md5"} if "ready" in m else m)
    """,
    "windows twice": """
        real = device.Channel.write
        device.Channel.write = lambda s, m: [real(s, m)] + ([real(s, m)] if "window" in m else [])
    """,
    "odd window": """
        real = device.Channel.write
        device.Channel.write = lambda s, m: real(s, {**m, "window_bytes": 48})
    """,
}
# The same, and more, of a child that has no torch to start.
QUICK_LIES = {
    "nothing": "say({})",
    "no counts": "say({**answer, 'counts': []})",
    "counts of no kind": "say({**answer, 'counts': ['x' for row in answer['counts']]})",
    "no JSON": "os.write(out, b'\\0\\0\\0\\3abc')",
    "no object": "say([])",
    "a huge answer": "os.write(out, b'\\xff\\xff\\xff\\xff')",
    "nesting without end": "os.write(out, b'\\0\\1\\0\\0' + b'[' * 65536)",
    "an answer to a later window": "say({**answer, 'window': 1})",
    "an answer too early": "say(answer); say({**answer, 'window': 1})",
    "answers without end": "while True: say(answer)",
    "more NaN than numbers": "say({**answer, 'counts': [row and [1 << 60, *row[1:]] for row in answer['counts']]})",
    "less than no NaN": "say({**answer, 'counts': [row and [-1, *row[1:]] for row in answer['counts']]})",
    "a row too few": "say({**answer, 'counts': [row and [row] for row in answer['counts']]})",
    "half a NaN": "say({**answer, 'counts': [row and [0.5, *row[1:]] for row in answer['counts']]})",
    "a lowest that is text": "say({**answer, 'counts': [row and [*row[:4], 'x', 1, 1] for row in answer['counts']]})",
    "an endless norm": "say({**answer, 'counts': [row and [*row[:6], float('inf')] for row in answer['counts']]})",
    "floats that were not counted": "say({**answer, 'counts': [None for row in answer['counts']]})",
    "whole numbers that were counted": "say({**answer, 'counts': [row or [0] * 7 for row in answer['counts']]})",
    "an end that was not asked for": "say({'ended': 0})",
}


@pytest.mark.parametrize("patch", LIES.values(), ids=LIES.keys())
def test_a_child_that_lies_is_not_believed(fake_python, patch):
    """Answers that an honest child would not give end the proof; the checkpoint is not blamed."""
    error = unavailable(fake_python(patch))
    assert isinstance(error, ProofDisbelieved)
    assert "gave" in str(error)


def test_a_python_without_xxhash_digests_as_a_gpu_does(fake_python):
    """Where the child cannot import xxhash both sides take NH, and a file of several windows is proved."""
    python = fake_python("sys.modules['xxhash'] = None")
    numbers = np.linspace(-1, 1, 5 << 17, dtype=np.float32)
    source = MemorySource(safetensors.numpy.save({"a": numbers, "b": numbers[:5]}))
    with Prover(ProofOptions(device="cpu", python=python)) as prover:
        assert status(prover.prove(source, b"w.safetensors")) == "proved"
        assert prover._engine._digest.__class__.__name__ == "Nh"


def test_numbers_that_the_child_does_not_know_leave_a_level_open(fake_python):
    """As with torch 2.1 and its two types of float8: all is digested, level 3 holds, and what is left says why."""
    python = fake_python("del device.CPU.COUNTED_AS['float8_e4m3fnuz']")
    known = torch.ones(99).to(torch.float8_e4m3fn)
    source = MemorySource(torch_bytes({"a": known, "b": torch.ones(99).to(torch.float8_e4m3fnuz)}))
    with Prover(ProofOptions(device="cpu", python=python)) as prover:
        verdict = prover.prove(source, b"w.pt")
        assert (status(verdict), verdict.proof.level) == ("proved", 3)
        assert verdict.proof.shortfall == "numbers of float8_e4m3fnuz were not counted: this torch has none"
        assert prover.prove(MemorySource(torch_bytes({"a": known})), b"w.pt").proof.level == 4


@pytest.mark.parametrize("lie", QUICK_LIES.values(), ids=QUICK_LIES.keys())
def test_no_answer_that_cannot_be_is_believed(liar, lie):
    """Noise, answers too early, too many or too large, and impossible counts end the proof as what they are."""
    error = unavailable(liar(lie))
    assert isinstance(error, ProofDisbelieved)
    assert "gave" in str(error)


@pytest.mark.parametrize("told", ["row and [1, *row[1:]]", "row and [row, row, row]", "row and [[9, *row[1:]], row]"])
def test_several_small_tensors_have_one_row_or_a_row_each(liar, told):
    """NaN in one row of two tensors, rows of three, and more NaN in one of the two than it has numbers."""
    source = MemorySource(torch_bytes({"a": torch.linspace(1, 2, 4), "b": torch.linspace(2, 3, 4)}))
    with Prover(
        ProofOptions("cpu", liar(f"say({{**answer, 'counts': [{told} for row in answer['counts']]}})"))
    ) as prover:
        assert isinstance(prover.prove(source, b"w.pt").unavailable, ProofDisbelieved)
    with Prover(
        ProofOptions("cpu", liar("say({**answer, 'counts': [[row, row] for row in answer['counts']]})"))
    ) as prover:
        assert status(prover.prove(source, b"w.pt")) == "proved"


def test_the_liar_is_believed_when_it_is_honest(liar):
    """Nothing but its lies makes the liar's answers incredible."""
    with Prover(ProofOptions(device="cpu", python=liar("say(answer)"))) as prover:
        assert status(prover.prove(MemorySource(weights_bytes()), b"w.pt")) == "proved"


def test_a_child_that_keeps_its_answers_is_waited_for_until_the_deadline(fake_python):
    """Windows lie in memory that both sides see: none is written to before what lay there was answered for."""
    patch = """
        real = device.Channel.write
        device.Channel.write = lambda s, m: None if "window" in m else real(s, m)
    """
    assert isinstance(unavailable(fake_python(patch), timeout_s=0.5), ProofTimedOut)


@pytest.mark.parametrize("deed", ["__import__('numpy').empty(1 << 33, 'u1')", "bytearray(1 << 33)"])
def test_memory_has_an_end_and_is_told_as_such(fake_python, deed):
    """A child that takes more of the machine's memory than it may is out of memory, by whichever way it asks for it."""
    error = unavailable(fake_python(f"def take(s, header):\n    {deed}\ndevice.CPU.CpuProver.take = take"))
    assert isinstance(error, ProofOutOfMemory)
    assert "of the machine's memory" in str(error)


# What torch raises, by the names of its errors in old and new releases.
RAISED = {
    "out of the GPU's memory": ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB", ProofOutOfMemory),
    "out of pinned memory": ("RuntimeError", "CUDA error: out of memory", ProofOutOfMemory),
    "a fault on the GPU": ("AcceleratorError", "an illegal memory access was encountered", DeviceFailed),
    "the same, in older words": ("RuntimeError", "CUDA error: device-side assert triggered", DeviceFailed),
    "anything else": ("RuntimeError", "shape '[2, 3]' is invalid for input of size 5", ProofCrashed),
}


@pytest.mark.parametrize(("name", "text", "kind"), RAISED.values(), ids=RAISED.keys())
def test_what_torch_raises_is_told_by_whose_fault_it_is(fake_python, name, text, kind):
    """Memory of the device, the device itself and what nobody expected are told apart, with torch's own words."""
    patch = f"""
        def find(*_):
            raise type({name!r}, (RuntimeError,), {{}})({text!r})
        device._find = find
    """
    error = unavailable(fake_python(patch))
    assert type(error) is kind
    assert f"{name}: {text}" in str(error)
    assert error.advice


def test_a_child_that_never_stops_talking_has_a_deadline(liar):
    """Time in which the parent takes in what nobody asked for counts like time in which it waits."""
    error = unavailable(liar("while True: os.write(2, b'noise' * 10_000)"), timeout_s=0.5)
    assert isinstance(error, ProofTimedOut)


def test_a_child_that_answers_and_does_not_listen_has_a_deadline(liar):
    """An answer that comes while the parent waits for room in the pipe does not keep it waiting for ever."""
    python = liar("import time; time.sleep(0.2); say(answer); time.sleep(100)")
    with Prover(ProofOptions(device="cpu", python=python, timeout_s=0.6)) as prover:
        assert isinstance(prover.prove(MemorySource(many_tensors()), b"m.safetensors").unavailable, ProofTimedOut)


def test_answers_are_not_collected_without_end(liar):
    """A child that floods the parent with answers is given up at the seventh."""
    # One write, which a pipe takes whole, so that the parent reads them all at once.
    python = liar("os.write(out, 7 * (b'\\0\\0\\0\\2' + b'{}'))")
    with Prover(ProofOptions(device="cpu", python=python, timeout_s=30)) as prover:
        error = prover.prove(MemorySource(many_tensors()), b"m.safetensors").unavailable
    assert isinstance(error, ProofDisbelieved)
    assert "more answers than it was asked for" in str(error)


def many_tensors() -> bytes:
    """A file whose second window is told of by a message that no pipe holds."""
    return safetensors.numpy.save({str(n): np.ones(1, "f4") for n in range(2 * SEGMENTS_MAX)})


def test_a_child_cannot_take_the_shared_memory_away(fake_python):
    """Memory that both sides see keeps its length: a shorter one would end the parent by a signal."""
    patch = """
        real = device.Windows.__init__
        def shorten(self, where):
            try:
                os.ftruncate(where["descriptor"], 0)
            except PermissionError:
                real(self, where)
        device.Windows.__init__ = shorten
    """
    with Prover(ProofOptions(device="cpu", python=fake_python(patch))) as prover:
        assert status(prover.prove(MemorySource(weights_bytes()), b"w.pt")) == "proved"


LEAVINGS = {
    "lies": "say({})",
    "crashes": "os.abort()",
    "fails": "say({'failed': 'error', 'text': 'of something'})",
    "hangs": "import time; time.sleep(100)",
}


@pytest.mark.parametrize("deed", LEAVINGS.values(), ids=LEAVINGS.keys())
def test_a_failure_leaves_nothing_behind(liar, deed):
    """Neither process, descriptor nor shared memory outlives a child that failed, although its error is kept."""
    python = liar(deed)
    with Prover(ProofOptions(device="cpu", python=python, timeout_s=0.3)) as prover:
        before = held()
        errors = [prover.prove(MemorySource(weights_bytes()), b"w.pt").unavailable for _ in range(2)]
        assert all(errors)
        assert came_since(before) == set()


def test_a_child_that_does_not_start_leaves_nothing_behind(tmp_path):
    """Neither descriptor nor shared memory outlives a Python that is not there."""
    before = held()
    with Prover(ProofOptions(device="cpu", python=str(tmp_path / "nowhere"))) as prover:
        errors = [prover.prove(MemorySource(weights_bytes()), b"w.pt").unavailable for _ in range(2)]
        assert all(errors)
        assert came_since(before) == set()


def came_since(before: set[str]) -> set[str]:
    """What this process has and had not: each by itself, since what an earlier test left may go meanwhile."""
    return held() - before


def held() -> set[str]:
    """The descriptors with what they lead to, the maps of shared memory and the children of this process."""
    gc.collect()
    maps = {line for line in Path("/proc/self/maps").read_text().splitlines() if "mlsync-proof" in line}
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    found = maps | {f"child {pid}" for pid in children}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            found.add(f"descriptor {number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def test_output_of_others_does_not_disturb(fake_python):
    """What a library prints on standard output or error goes past the answers."""
    patch = """
        real = device.CPU.CpuProver.take
        def take(*a):
            os.write(1, b"noise" * 50_000)
            os.write(2, b"noise" * 50_000)
            return real(*a)
        device.CPU.CpuProver.take = take
    """
    with Prover(ProofOptions(device="cpu", python=fake_python(patch))) as prover:
        assert status(prover.prove(MemorySource(weights_bytes()), b"w.pt")) == "proved"


def test_the_child_sees_no_secrets_and_can_do_little(monkeypatch):
    """Its environment holds no credentials; it leaves no core, grows no file, stands back, and gains no rights."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("MLSYNC_PASSPHRASE", "secret")
    with Prover(ProofOptions(device="cpu")) as prover:
        prover.open()
        place = Path(f"/proc/{prover._engine.pid}")
        names = {item.partition(b"=")[0] for item in (place / "environ").read_bytes().split(b"\0") if item}
        assert names <= {
            b"PATH",
            b"LD_LIBRARY_PATH",
            b"HOME",
            b"LC_ALL",
            b"CUDA_CACHE_DISABLE",
            b"CUDA_VISIBLE_DEVICES",
            b"OMP_NUM_THREADS",
            b"MKL_NUM_THREADS",
            b"OPENBLAS_NUM_THREADS",
            b"OMP_WAIT_POLICY",
            b"KMP_BLOCKTIME",
            b"GOMP_SPINCOUNT",
        }
        limits = {line[:26].strip(): line[26:].split()[:2] for line in (place / "limits").read_text().splitlines()}
        assert limits["Max core file size"] == ["0", "0"]
        assert limits["Max file size"] == ["0", "0"]
        assert limits["Max processes"] == ["0", "0"]
        assert int(limits["Max open files"][1]) <= 64
        assert limits["Max address space"][0] != "unlimited"
        assert "NoNewPrivs:\t1" in (place / "status").read_text()
        assert os.getpriority(os.PRIO_PROCESS, prover._engine.pid) >= 10


def test_time_in_line_for_the_processor_is_not_counted(fake_python, monkeypatch):
    """A child that stood behind others as long as its deadline is waited for that much longer, and no longer."""
    waits_s = iter([0.0, 0.3, 0.3])
    asked = []

    def waited_s(pid):
        asked.append(pid)
        return next(waits_s)

    monkeypatch.setattr(child_module, "waited_for_processor_s", waited_s)
    child = ProofChild(fake_python("time.sleep(60)"), "cpu")
    try:
        child.set_timeout(0.1)
        with pytest.raises(ProofTimedOut):
            child.wait_answer()
    finally:
        child.close()
    assert asked == [child.pid] * 3


def test_what_the_environment_keeps():
    """Only what finds libraries and GPUs is handed on."""
    given = {"PATH": "/bin", "AWS_PROFILE": "x", "CUDA_VISIBLE_DEVICES": "1", "PYTHONPATH": "/x", "LD_PRELOAD": "/x.so"}
    kept = bare_environment(given, "cuda")
    one_thread = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    no_spinning = {"OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT"}
    bare = {"PATH", "CUDA_VISIBLE_DEVICES", "HOME", "LC_ALL", "CUDA_CACHE_DISABLE"}
    assert kept.keys() == bare | one_thread | no_spinning
    assert bare_environment(given, "cpu")["CUDA_VISIBLE_DEVICES"] == ""


def test_the_child_ends_with_the_prover():
    """Closing leaves no process behind."""
    prover = Prover(ProofOptions(device="cpu"))
    prover.open()
    pid = prover._engine.pid
    prover.close()
    assert not Path(f"/proc/{pid}").exists()


def test_the_child_ends_with_a_parent_that_is_killed():
    """A parent that dies without a word takes its child along, even one that would not notice by itself."""
    code = """
        import time
        from mlsync.proof.options import ProofOptions
        from mlsync.proof.prover import Prover
        prover = Prover(ProofOptions(device="cpu"))
        prover.open()
        print(prover._engine.pid, flush=True)
        time.sleep(100)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=package_path()
    )
    try:
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_until(lambda: not is_running(pid))


def package_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def is_running(pid: int) -> bool:
    """Whether the process is there and not just waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
