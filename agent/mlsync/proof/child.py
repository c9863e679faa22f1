"""The proof's child process, as its parent sees it: started without secrets, never trusted, killed at a deadline."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from mlsync.courtesy.priority import waited_for_processor_s
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
from mlsync.proof.user import User

PROGRAM = Path(__file__).with_name("programs") / "device.py"
# Twice what the counts of a window with the most segments take. It bounds the memory that parsing takes.
_ANSWER_BYTES_MAX = 1 << 20
_STDERR_BYTES_KEPT = 2000
# Windows in shared memory: one more than a GPU works on at a time, so that the parent never waits for an answer that
# comes only after the next window. No window is longer than the stride.
WINDOW_COUNT = 4
WINDOW_STRIDE_BYTES = 16 << 20
_READ_BYTES = 64 << 10
_LENGTH_BYTES = 4
_POLL_S_MAX = 3600.0
# As long as somebody may want to end the wait.
_TICK_S = 0.5
# A correct child never has more answers waiting than it was sent windows.
_ANSWERS_MAX = WINDOW_COUNT + 2
# A process that hangs in a driver does not end when it is killed.
_REAP_S = 10.0
_EXIT_S = 5.0
_OWN_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS})
_TRY_AGAIN = "run mlsync verify; if it comes back, report it"
_NEW_PYTHON = "name one that has numpy as proof.python, or torch for a GPU"
_KEPT_VARIABLES = frozenset({"PATH", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"})
_KEPT_PREFIXES = ("CUDA_",)
# One thread for what libraries compute, and none that spins while it has nothing to do: on the trainer's processors.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "GOMP_SPINCOUNT": "0",
}


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What the child proves on; *note* says why ``auto`` did not take a GPU.

    *unconfined* names the parts of the sandbox that this kernel does not support, *as_root* why the child runs as root;
    both are empty otherwise.
    """

    device: str
    torch: str
    window_bytes: int
    cuda: str = ""
    driver: str = ""
    note: str = ""
    unconfined: str = ""
    as_root: str = ""


def bare_environment(environment: Mapping[str, str], device: str) -> dict[str, str]:
    """Return the variables that the child may see: where libraries and GPUs are, and no credentials."""
    kept = {
        name: value for name, value in environment.items() if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    kept |= {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "CUDA_CACHE_DISABLE": "1", **_ONE_THREAD}
    if device == "cpu":
        kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept


class ProofChild:
    """One child process; every failure of it is a ``ProofUnavailable``."""

    # Killed processes that the kernel has not ended yet; reaped before another one is started.
    _not_reaped: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, python: str, device: str, user: User | None = None) -> None:
        self.python = python
        #: Called now and then while an answer is waited for; what it raises ends the wait.
        self.on_tick: Callable[[], None] | None = None
        self._timeout_s = float("inf")
        self._waited_s = 0.0
        self._is_ready = False
        self._stderr_is_open = True
        self._answers: deque[dict[str, Any]] = deque()
        self._received = bytearray()
        self._stderr = bytearray()
        self._not_reaped[:] = [process for process in self._not_reaped if process.poll() is None]
        self._memory_fd = _shared_memory(WINDOW_COUNT * WINDOW_STRIDE_BYTES)
        try:
            self._process = self._start(device, user)
            self._shared = mmap.mmap(self._memory_fd, WINDOW_COUNT * WINDOW_STRIDE_BYTES)
            self._memory = memoryview(self._shared)
        except BaseException:
            os.close(self._memory_fd)
            raise
        self._pipes = [stream for stream in (self._process.stdin, self._process.stdout, self._process.stderr) if stream]
        self._in, self._out, self._err = (stream.fileno() for stream in self._pipes)
        for number in (self._in, self._out, self._err):
            os.set_blocking(number, False)

    def _start(self, device: str, user: User | None) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(  # noqa: S603 - the interpreter is the user's own choice
                [self.python, "-I", "-B", str(PROGRAM), str(os.getpid())],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=bare_environment(os.environ, device),
                cwd="/",
                bufsize=0,
                start_new_session=True,
                pass_fds=[self._memory_fd],
                **({} if user is None else user.as_started),
            )
        except OSError as error:
            msg = f"The proof's Python does not start: {error.strerror}"
            raise PythonUnfit(msg, where=self.python, advice=_NEW_PYTHON) from None

    def window(self, index: int) -> memoryview:
        """Return the *index*-th window of the shared memory."""
        return self._memory[index * WINDOW_STRIDE_BYTES : (index + 1) * WINDOW_STRIDE_BYTES]

    def forget_windows(self) -> None:
        """Give the windows' memory back to the machine; who reads them next, here or in the child, finds zeros."""
        try:
            self._shared.madvise(mmap.MADV_REMOVE)
        except OSError:  # a kernel that cannot
            self._memory[:] = bytes(len(self._memory))

    @property
    def memory(self) -> dict[str, int]:
        """Where the child finds the windows."""
        return {"descriptor": self._memory_fd, "count": WINDOW_COUNT, "stride_bytes": WINDOW_STRIDE_BYTES}

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def mark_ready(self) -> None:
        """Note that the child has its device: from now on its end is a crash, not a failed start."""
        self._is_ready = True

    def set_timeout(self, seconds: float) -> None:
        """Wait for the child for *seconds* in all from now on; time that the caller spends elsewhere does not count."""
        self._timeout_s = seconds
        self._waited_s = waited_for_processor_s(self._process.pid)

    def _kept_waiting_s(self) -> float:
        """Return how long the child waited for a processor since the last call: no sign of a hang."""
        before_s, self._waited_s = self._waited_s, waited_for_processor_s(self._process.pid)
        return max(0.0, self._waited_s - before_s)

    def send(self, message: dict[str, Any]) -> None:
        """Write a message, and read the answers that come meanwhile."""
        text = json.dumps(message).encode()
        self._write(memoryview(len(text).to_bytes(_LENGTH_BYTES, "big") + text))

    def take_answer(self) -> dict[str, Any] | None:
        """Return the oldest answer, or ``None`` if there is none yet."""
        return self._answers.popleft() if self._answers else None

    def wait_answer(self) -> dict[str, Any]:
        """Wait for the next answer."""
        while not self._answers:
            self._poll(None)
        return self._answers.popleft()

    def kill(self) -> None:
        """End the process; from any thread, also while another one waits for an answer."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process; it is reaped now, or later if it hangs in the kernel."""
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
            self._memory_fd = -1
        for stream in self._pipes:
            with contextlib.suppress(OSError):
                stream.close()
        self._process.kill()
        try:
            self._process.wait(timeout=_REAP_S)
        except subprocess.TimeoutExpired:
            self._not_reaped.append(self._process)

    def _write(self, left: memoryview) -> None:
        while left:
            # Try first: polling a pipe that has space would cost a system call per piece
            try:
                left = left[os.write(self._in, left) :]
            except BlockingIOError:
                self._poll(self._in)
            except OSError:
                self._read_to_the_end()

    def _read_to_the_end(self) -> NoReturn:
        """Read what the child wrote before it closed its pipe, which may say why."""
        while True:
            self._poll(None)

    def _poll(self, writable: int | None) -> None:
        """Wait for an answer, or for space in the pipe if *writable*, and read what came."""
        poller = select.poll()
        poller.register(self._out, select.POLLIN)
        if self._stderr_is_open:
            poller.register(self._err, select.POLLIN)
        if writable is not None:
            poller.register(writable, select.POLLOUT)
        began = time.monotonic()
        limit_s = _POLL_S_MAX if self.on_tick is None else _TICK_S
        ready = dict(poller.poll(min(max(self._timeout_s, 0), limit_s) * 1000))
        if self.on_tick is not None:
            self.on_tick()
        if self._err in ready:
            self._take_stderr()
        if self._out in ready:
            self._take_out()
        # Reading counts too: a child that never stops writing would have no deadline.
        self._timeout_s -= time.monotonic() - began
        if self._timeout_s <= 0:
            self._timeout_s += self._kept_waiting_s()
        if self._timeout_s <= 0 and (writable is not None or not self._answers):
            self._overdue()

    def _take_stderr(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._err, _READ_BYTES)
            self._stderr_is_open = bool(data)
            self._stderr += data
            del self._stderr[:-_STDERR_BYTES_KEPT]

    def _take_out(self) -> None:
        try:
            data = os.read(self._out, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._died()
        self._received += data
        while len(self._received) >= _LENGTH_BYTES:
            length = int.from_bytes(self._received[:_LENGTH_BYTES], "big")
            if length > _ANSWER_BYTES_MAX:
                self.protocol_error(f"an answer of {length} bytes")
            if len(self._received) < _LENGTH_BYTES + length:
                return
            self._parse(bytes(self._received[_LENGTH_BYTES : _LENGTH_BYTES + length]))
            del self._received[: _LENGTH_BYTES + length]
            if len(self._answers) > _ANSWERS_MAX:
                self.protocol_error("more answers than it was asked for")

    def _parse(self, text: bytes) -> None:
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self.protocol_error("an answer that does not parse")
        if "failed" in answer:
            raise _failure(str(answer["failed"]), str(answer.get("text", "")), self.python)
        self._answers.append(answer)

    def protocol_error(self, what: str) -> NoReturn:
        """Raise that the child sent *what*, which a correct child would not."""
        msg = f"The proof's process gave {what}"
        raise ProofDisbelieved(msg, where=self.python, advice="test memory and device, or prove on another one")

    def _overdue(self) -> NoReturn:
        what = "did not end in its time" if self._is_ready else "did not get ready in its time"
        advice = (
            "raise proof.timeout, or see whether the device hangs"
            if self._is_ready
            else "see whether its numpy imports, and torch for a GPU"
        )
        raise ProofTimedOut(f"The proof {what}", where=self.python, advice=advice)

    def _died(self) -> NoReturn:
        """Raise how the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_EXIT_S)
        with contextlib.suppress(OSError):
            self._take_stderr()
        last = self._stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        words = f", last words: {last[0][:300]}" if last else ""
        status = self._process.returncode
        if status is not None and status < 0:
            raise self._ended_by(-status, words)
        how = "closed its pipe" if status is None else f"ended with status {status}"
        if not self._is_ready:
            # The program itself always says why it ends; this Python did not run it.
            msg = f"The proof's Python does not run the proof's program: it {how}{words}"
            raise PythonUnfit(msg, where=self.python, advice=f"3.9 is the oldest that will do; {_NEW_PYTHON}")
        raise ProofCrashed(f"The proof's process {how}{words}", where=self.python, advice=_TRY_AGAIN)

    def _ended_by(self, number: int, words: str) -> ProofUnavailable:
        """Return the error for a process that a signal ended."""
        how = f"The proof's process ended by signal {number} ({signal.strsignal(number)}){words}"
        if number == signal.SIGXCPU:
            return ProofTimedOut(how, where=self.python, advice="it used up its processor time; raise proof.timeout")
        if number in _OWN_SIGNALS:
            return ProofCrashed(how, where=self.python, advice=_TRY_AGAIN)
        advice = "it was ended from outside: by hand, or by the kernel for want of memory, see dmesg"
        return ProofKilled(how, where=self.python, advice=advice)


def _shared_memory(size_bytes: int) -> int:
    """Return a descriptor of memory whose size is sealed: a child that shortened it would end this process by SIGBUS.

    Only the pages that are written to take memory.
    """
    descriptor = os.memfd_create("mlsync-proof", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size_bytes)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


# By the kind of failure that the child reports: the error, its text, and the advice.
_FAILURES: Mapping[str, tuple[type[ProofUnavailable], str, str]] = {
    "python": (PythonUnfit, "The proof's Python is older than 3.9", _NEW_PYTHON),
    "no-numpy": (
        PythonUnfit,
        "The proof's Python has no numpy",
        "name another one as proof.python: mlsync's own has it, and a trainer's mostly",
    ),
    "broken-numpy": (
        PythonUnfit,
        "The numpy of the proof's Python does not work",
        f"mend it, see python -c 'import numpy', or {_NEW_PYTHON}",
    ),
    "no-torch": (
        TorchMissing,
        "No torch for the proof on a GPU",
        'install mlsync with torch, set proof.python to the trainer\'s Python, or take "cpu"',
    ),
    "broken-torch": (
        TorchMissing,
        "The torch for the proof on a GPU does not work",
        "mend it, see python -c 'import torch', or name another Python that has one as proof.python",
    ),
    "no-device": (
        DeviceMissing,
        "No CUDA device for the proof",
        'see nvidia-smi and CUDA_VISIBLE_DEVICES, or take "cpu"',
    ),
    "device-memory": (
        ProofOutOfMemory,
        "Not enough memory on the proof's device",
        "prove when the trainer needs less, or on the CPU",
    ),
    "host-memory": (
        ProofOutOfMemory,
        "Not enough of the machine's memory for the proof",
        "give the machine, or mlsync's unit, more",
    ),
    "device-error": (
        DeviceFailed,
        "The proof's device failed",
        'see whether nvidia-smi answers, and dmesg; proof.device = "cpu" proves without it',
    ),
    "error": (ProofCrashed, "The proof's process failed", _TRY_AGAIN),
}


def _failure(kind: str, text: str, python: str) -> ProofUnavailable:
    error, what, advice = _FAILURES.get(kind, _FAILURES["error"])
    return error(f"{what}: {text}", where=python, advice=advice)
