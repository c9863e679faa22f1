"""Everything that can happen to the child is told apart from a broken checkpoint, and from each other."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint_files import MemorySource, weights_bytes
from mlsync.errors import (
    DeviceMissing,
    ProofCrashed,
    ProofOutOfMemory,
    ProofTimedOut,
    ProofUnavailable,
    TorchMissing,
)
from mlsync.proof.child import PROGRAM, bare_environment
from mlsync.proof.prove import ProofOptions, Prover

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
        return script(tmp_path / "python", f'exec "{sys.executable}" -I "{program}"')

    return make


def script(path: Path, command: str) -> str:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def unavailable(python: str, **options) -> ProofUnavailable:
    """The error of a proof that stopped at level 2 for want of a device."""
    source = MemorySource(weights_bytes())
    with Prover(ProofOptions(device="cpu", python=python, **options)) as prover:
        verdict = prover.prove(source, b"w.pt")
    assert (verdict.status, verdict.level, verdict.device) == ("unavailable", 2, "")
    assert source.streamed_bytes == len(source.data), "the checksums were still checked"
    assert verdict.error is not None
    return verdict.error


def test_a_python_without_torch(tmp_path):
    """No torch is said as such, with what to do."""
    error = unavailable(script(tmp_path / "python", f'exec "{sys.executable}" -S "$@"'))
    assert isinstance(error, TorchMissing)
    assert "proof.python" in str(error)


def test_torch_that_its_user_installed_for_himself_is_found(tmp_path, monkeypatch):
    """A torch below ~/.local serves a Python that has none of its own, although the child knows no home."""
    site = tmp_path / "home/.local/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site.mkdir(parents=True)
    (site / "site-packages").symlink_to(sysconfig.get_path("purelib"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    python = script(tmp_path / "python", f'exec "{sys.executable}" -S "$@"')
    with Prover(ProofOptions(device="cpu", python=python)) as prover:
        assert prover.prove(MemorySource(weights_bytes()), b"w.pt").level == 4


def test_a_python_that_is_not_there(tmp_path):
    """An interpreter that does not exist is named."""
    error = unavailable(str(tmp_path / "nowhere"))
    assert isinstance(error, TorchMissing)
    assert "nowhere" in str(error)


def test_what_will_not_change_is_not_tried_twice(tmp_path):
    """After one look at a Python without torch, other files do not start it again."""
    count = tmp_path / "count"
    python = script(tmp_path / "python", f'echo >> "{count}"\nexec "{sys.executable}" -S "$@"')
    with Prover(ProofOptions(device="cpu", python=python)) as prover:
        for _ in range(3):
            assert prover.prove(MemorySource(weights_bytes()), b"w.pt").status == "unavailable"
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
    assert (verdict.status, verdict.level, verdict.device) == ("proved", 4, "cpu")
    assert [finding.what for finding in verdict.findings] == ["proved on the CPU: torch sees no GPU"]


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


class MeddlingSource(MemorySource):
    """Does something in the middle of being streamed."""

    def __init__(self, data: bytes, meddle: Callable[[], None]) -> None:
        super().__init__(data)
        self._meddle = meddle

    def stream(self) -> Iterator[memoryview]:
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
        assert (verdict.status, verdict.level) == ("unavailable", 2)
        assert isinstance(verdict.error, ProofCrashed)
        assert "signal 9" in str(verdict.error)
        assert prover.prove(MemorySource(weights_bytes()), b"w.pt").status == "proved"
        second = prover._engine.pid
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: not prover._engine.is_alive())
        assert prover.prove(MemorySource(weights_bytes()), b"w.pt").status == "proved", "died while idle"


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_child_that_hangs_is_ended(fake_python):
    """A child that stops taking bytes is given up after the time that it was given."""
    error = unavailable(fake_python("device.Prover.take = lambda *_: time.sleep(100)"), timeout_s=0.2)
    assert isinstance(error, ProofTimedOut)


def test_a_child_that_never_gets_ready_is_ended(fake_python):
    """Starting has its own deadline."""
    error = unavailable(fake_python("device._open = lambda *_: time.sleep(100)"), start_timeout_s=0.5)
    assert isinstance(error, ProofTimedOut)


LIES = {
    "digest": "real = device.Prover._digest; device.Prover._digest = lambda *a: real(*a) + 1",
    "windows twice": """
        real = device.Channel.write
        device.Channel.write = lambda s, m: [real(s, m)] + ([real(s, m)] if "window" in m else [])
    """,
    "no counts": """
        real = device.Channel.write
        device.Channel.write = lambda s, m: real(s, {**m, "counts": []} if "window" in m else m)
    """,
    "odd counts": """
        real = device.Channel.write
        device.Channel.write = lambda s, m: real(s, {**m, "counts": ["x"] * len(m["counts"])} if "window" in m else m)
    """,
    "no JSON": "device.Channel.write = lambda s, m: os.write(s._out, b'\\0\\0\\0\\3abc')",
    "huge answer": "device.Channel.write = lambda s, m: os.write(s._out, b'\\xff\\xff\\xff\\xff')",
    "odd window": "device.CPU_WINDOW_BYTES = 48",
}


@pytest.mark.parametrize("patch", LIES.values(), ids=LIES.keys())
def test_a_child_that_lies_is_not_believed(fake_python, patch):
    """Answers that an honest child would not give end the proof; the checkpoint is not blamed."""
    error = unavailable(fake_python(patch))
    assert isinstance(error, ProofCrashed)
    assert "gave" in str(error)


def test_a_child_that_keeps_its_answers_is_waited_for_until_the_deadline(fake_python):
    """Windows lie in memory that both sides see: none is written to before what lay there was answered for."""
    patch = """
        real = device.Channel.write
        device.Channel.write = lambda s, m: None if "window" in m else real(s, m)
    """
    assert isinstance(unavailable(fake_python(patch), timeout_s=0.5), ProofTimedOut)


@pytest.mark.parametrize("raised", ["MemoryError()", "RuntimeError('CUDA out of memory. Tried to allocate')"])
def test_memory_that_runs_out_is_told_as_such(fake_python, raised):
    """Out of memory is neither a crash nor a broken checkpoint."""
    patch = f"""
        def take(*_):
            raise {raised}
        device.Prover.take = take
    """
    assert isinstance(unavailable(fake_python(patch)), ProofOutOfMemory)


def test_any_other_failure_is_told_with_its_words(fake_python):
    """An error of the device comes through with its text."""
    patch = """
        def take(*_):
            raise RuntimeError("CUDA error: device-side assert triggered")
        device.Prover.take = take
    """
    error = unavailable(fake_python(patch))
    assert isinstance(error, ProofCrashed)
    assert "device-side assert" in str(error)


def test_output_of_others_does_not_disturb(fake_python):
    """What a library prints on standard output or error goes past the answers."""
    patch = """
        real = device.Prover.take
        def take(*a):
            os.write(1, b"noise" * 50_000)
            os.write(2, b"noise" * 50_000)
            return real(*a)
        device.Prover.take = take
    """
    with Prover(ProofOptions(device="cpu", python=fake_python(patch))) as prover:
        assert prover.prove(MemorySource(weights_bytes()), b"w.pt").status == "proved"


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
        }
        limits = {line[:26].strip(): line[26:].split()[:2] for line in (place / "limits").read_text().splitlines()}
        assert limits["Max core file size"] == ["0", "0"]
        assert limits["Max file size"] == ["0", "0"]
        assert limits["Max address space"][0] != "unlimited"
        assert "NoNewPrivs:\t1" in (place / "status").read_text()
        assert os.getpriority(os.PRIO_PROCESS, prover._engine.pid) >= 10


def test_what_the_environment_keeps():
    """Only what finds libraries and GPUs is handed on."""
    given = {"PATH": "/bin", "AWS_PROFILE": "x", "CUDA_VISIBLE_DEVICES": "1", "PYTHONPATH": "/x", "LD_PRELOAD": "/x.so"}
    kept = bare_environment(given, "cuda")
    assert kept.keys() == {"PATH", "CUDA_VISIBLE_DEVICES", "HOME", "LC_ALL", "CUDA_CACHE_DISABLE", "OMP_NUM_THREADS"}
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
        from mlsync.proof.prove import ProofOptions, Prover
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
