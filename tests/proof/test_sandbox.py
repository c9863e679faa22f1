"""What the child cannot do any more once its device is ready, tried by a program that is under the same bans."""

from __future__ import annotations

import ctypes
import errno
import json
import platform
import re
import struct
import subprocess
from pathlib import Path

import pytest
from proof_python import PROOF_PYTHON
from sandboxed import DEEDS

from checkpoint_files import MemorySource, yolo_bytes
from doubles.verdict_status import status
from mlsync.proof.options import ProofOptions
from mlsync.proof.programs import sandbox
from mlsync.proof.prover import Prover

ALLOWED = (
    "map memory",
    "limit itself",
    "lock a file",
    "set flags of a descriptor",
    "ask for a terminal",
    "name itself",
)
# A GPU's driver looks for libraries and devices, and speaks to these, as long as it runs.
ALLOWED_ON_A_GPU = (
    "look at a file",
    "look at a link",
    "look at a file past Landlock",
    "ask whether a file may be read",
    "follow a link",
    "look at a disk",
    "read a label",
    "go to a directory",
    "make a file of memory",
    "ask a device",
    "read a library",
    "read its own maps",
    "map code",
    "turn memory into code",
)
IMPORT = "import a module"
# What this list does not know, or lies behind a pointer, is answered as by a kernel that has not got it.
UNKNOWN = ("clone with a structure", "a call of tomorrow")
# Whether a thread may be had depends on the device and on whose process it is.
THREAD = "start a thread"
FORBIDDEN = [name for name in DEEDS if name not in (*ALLOWED, *UNKNOWN, THREAD, IMPORT)]
READING = ("read a key", "list a directory", "read the parent's environment")
HEADERS = {
    "x86_64": (0, Path(f"/usr/include/{platform.machine()}-linux-gnu/asm/unistd_64.h"), r"__NR_(\w+)\s+(\d+)"),
    "aarch64": (1, Path("/usr/include/asm-generic/unistd.h"), r"__NR(?:3264)?_(\w+)\s+(\d+)"),
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """What came of each deed under the bans of each kind, as far as this kernel knows them."""

    def attempt(kind):
        home = tmp_path_factory.mktemp(kind)
        (home / "weights.pt").write_bytes(b"theirs")
        (home / ".ssh").mkdir()
        (home / ".ssh/id_ed25519").write_bytes(b"secret")
        program = Path(__file__).with_name("sandboxed.py")
        done = subprocess.run(
            [PROOF_PYTHON, "-I", program, sandbox.__file__, kind, home],
            capture_output=True,
            text=True,
            check=True,
            env={"MLSYNC_PASSPHRASE": "secret"},
        )
        left = (home / "weights.pt").read_bytes() if (home / "weights.pt").exists() else b""
        return {**json.loads(done.stdout), "weights": left, "names": {path.name for path in home.iterdir()}}

    return {kind: attempt(kind) for kind in ("free", "cpu", "cuda")}


def need(tried, kind, what):
    if what in tried[kind]["lacking"]:
        pytest.skip(tried[kind]["lacking"])


@pytest.mark.parametrize(
    ("kind", "deed"),
    [("cpu", deed) for deed in FORBIDDEN] + [("cuda", deed) for deed in FORBIDDEN if deed not in ALLOWED_ON_A_GPU],
)
def test_what_an_attacker_needs_is_refused(tried, kind, deed):
    """Connections, processes, files of others, and the parent are out of reach; the CPU's child looks no path up."""
    need(tried, kind, "files can be read" if deed in READING else "not filtered")
    assert tried[kind]["came of it"][deed] in ("EPERM", "EACCES")


# Not every kernel or container lets anybody do these; and there is no program to become.
NOT_EVERYWHERE = (
    "io_uring",
    "use a key",
    "become a program",
    "hide memory",
    "change segments",
    "read the parent's locks",
    "take the places of others in a queue",
)


@pytest.mark.parametrize("deed", [name for name in FORBIDDEN if name not in NOT_EVERYWHERE])
def test_without_the_bans_each_of_these_can_be_done(tried, deed):
    """The program is no more helpless than any other before it is confined."""
    assert tried["free"]["came of it"][deed] == "done"


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_files_are_as_they_were(tried, kind):
    """After all attempts the directory holds what it held, byte for byte."""
    need(tried, kind, "not filtered")
    assert (tried[kind]["weights"], tried[kind]["names"]) == (b"theirs", {"weights.pt", ".ssh"})


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("deed", ALLOWED)
def test_what_libraries_go_on_to_do_is_allowed(tried, kind, deed):
    """Memory, its own descriptors and limits are there as before."""
    assert tried[kind]["came of it"][deed] == "done"


@pytest.mark.parametrize("deed", [*ALLOWED_ON_A_GPU, IMPORT])
def test_what_a_gpus_driver_goes_on_to_do_is_allowed(tried, deed):
    """With a GPU paths are looked up as before: which ones a driver needs is written down nowhere."""
    assert tried["cuda"]["came of it"][deed] == "done"


def test_on_the_cpu_a_module_that_comes_late_is_not_found(tried):
    """That is why all that a window may need is done once before the bans."""
    need(tried, "cpu", "not filtered")
    assert tried["cpu"]["came of it"][IMPORT] == "ImportError"


@pytest.mark.skipif(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) < 6, reason="Landlock is older")
def test_landlock_alone_keeps_signals_inside():
    """Where the kernel knows scopes, no signal reaches a process outside, whichever call sends it."""
    code = f"""
import ctypes, importlib.util, os, signal
spec = importlib.util.spec_from_file_location("sandbox", {sandbox.__file__!r})
sandbox = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sandbox)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
print(repr(sandbox._ban_files(libc, "/home", False)))
signal.signal(signal.SIGUSR1, lambda *_: print("heard itself"))
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getppid(), 0)
"""
    done = subprocess.run([PROOF_PYTHON, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "''\nheard itself\n"
    assert done.stderr.endswith("PermissionError: [Errno 1] Operation not permitted\n")


def test_a_gpus_driver_may_start_threads(tried):
    """With a GPU threads can be had, by way of the older call."""
    assert tried["cuda"]["came of it"][THREAD] == "done"


def test_on_the_cpu_no_thread_is_started_any_more(tried):
    """The call for one is refused, whoever asks."""
    need(tried, "cpu", "not filtered")
    assert tried["cpu"]["came of it"][THREAD] == "can't start new thread"


@pytest.mark.parametrize("deed", UNKNOWN)
def test_calls_that_cannot_be_looked_into_are_answered_as_by_an_older_kernel(tried, deed):
    """ENOSYS is what glibc knows how to go on from."""
    need(tried, "cuda", "not filtered")
    assert tried["cuda"]["came of it"][deed] == "ENOSYS"


def test_a_call_of_another_kind_of_processor_is_deadly():
    """The filter looks at the processor's kind first and kills for any other: numbers mean something else there."""
    steps = [*struct.iter_unpack("=HBBI", sandbox.program(0, 0xC000003E, is_cuda=False, pid=1))]
    assert steps[:3] == [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, 0x80000000)]


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_those_of_the_kernels_headers(machine):
    """Every call of the list has the number that the kernel's own headers give it, on both kinds of processors."""
    column, header, pattern = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"no {header}")
    known = {name: int(number) for name, number in re.findall(pattern, header.read_text())}
    known.setdefault("newfstatat", known.get("fstatat", -1))
    looked_at = ("clone3", "tgkill", "rt_tgsigqueueinfo", "prlimit64", "seccomp")
    looked_at += ("sched_setaffinity", "fcntl", "prctl", "mmap", "mprotect", "pkey_mprotect")
    calls = sandbox.REFUSED | sandbox.REFUSED_ON_THE_CPU
    calls |= {name: getattr(sandbox, f"_{name.upper()}") for name in looked_at}
    too_new = {"fchmodat2", "statmount", "listmount"} - known.keys()
    # The generic table names some that aarch64 leaves out (renameat); none of ours is another call there.
    wrong = {name for name, numbers in calls.items() if numbers[column] not in (known.get(name, -1), -1)}
    assert wrong == too_new


def test_the_real_child_is_confined_in_all_threads():
    """After a proof the child has the filter in each thread, no capability, and says that nothing is lacking."""
    with Prover(ProofOptions(device="cpu")) as prover:
        info = prover.open()
        assert status(prover.prove(MemorySource(yolo_bytes()), b"last.pt")) == "proved"
        if info.unconfined:
            pytest.skip(info.unconfined)
        for task in Path(f"/proc/{prover._engine.pid}/task").iterdir():
            of_task = dict(line.split(":\t") for line in (task / "status").read_text().splitlines() if ":\t" in line)
            assert (of_task["Seccomp"], of_task["NoNewPrivs"]) == ("2", "1")
            assert int(of_task["CapEff"], 16) == int(of_task["CapPrm"], 16) == 0


def test_threads_that_were_there_before_are_filtered_too():
    """A thread that a library started early gets the filter with the others."""
    code = f"""
import importlib.util, socket, threading
spec = importlib.util.spec_from_file_location("sandbox", {sandbox.__file__!r})
sandbox = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sandbox)
confined = threading.Event()
def late():
    confined.wait()
    try:
        socket.socket()
    except PermissionError:
        print("refused")
thread = threading.Thread(target=late)
thread.start()
lacking = sandbox.confine(True, "/home")
confined.set()
thread.join()
print(lacking)
"""
    done = subprocess.run([PROOF_PYTHON, "-I", "-c", code], capture_output=True, text=True, check=True)
    if "not filtered" in done.stdout:
        pytest.skip(done.stdout)
    assert done.stdout.startswith("refused")


def test_a_kernel_that_refuses_the_bans_is_told_of(tmp_path):
    """Where neither Landlock nor seccomp can be had the proof is made, and a note says what was lacking."""
    outer = Path(__file__).with_name("without_sandbox.py")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{PROOF_PYTHON}" -I "{outer}" "{sandbox.__file__}" "$@"\n')
    python.chmod(0o755)
    with Prover(ProofOptions(device="cpu", python=str(python))) as prover:
        info = prover.open()
        verdict = prover.prove(MemorySource(yolo_bytes()), b"last.pt")
    assert "no Landlock" in info.unconfined
    assert "capset is refused" in info.unconfined
    assert "seccomp is refused" in info.unconfined
    assert status(verdict) == "proved"
    assert [finding.what for finding in verdict.proof.findings if "sandbox" in finding.what]


def test_errors_of_the_two_kinds_are_what_the_filter_answers():
    """The answers in the program are EPERM and ENOSYS, by the kernel's encoding."""
    answers = {
        step[3]
        for step in struct.iter_unpack("=HBBI", sandbox.program(1, 0xC00000B7, is_cuda=True, pid=7))
        if step[0] == 6
    }
    assert answers == {0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS}
    assert ctypes.sizeof(sandbox._Filter) == 16
