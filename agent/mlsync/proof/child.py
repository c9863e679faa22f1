"""The child process as the parent has it: started bare, spoken to in frames, ended at a deadline, never trusted."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mlsync.errors import DeviceMissing, ProofCrashed, ProofOutOfMemory, ProofTimedOut, ProofUnavailable, TorchMissing

PROGRAM = Path(__file__).with_name("device.py")
_ANSWER_BYTES_MAX = 32 << 20
_STDERR_BYTES_KEPT = 2000
# Windows that lie in memory that both sides see: one more than a GPU works on at a time, so that this side never waits
# for an answer that only comes when the next window does. No window is longer than its place.
WINDOW_COUNT = 4
WINDOW_STRIDE_BYTES = 16 << 20
_READ_BYTES = 64 << 10
_LENGTH_BYTES = 4
_POLL_S_MAX = 3600.0
_KEPT_VARIABLES = frozenset({"PATH", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"})
_KEPT_PREFIXES = ("CUDA_",)


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What the child proves on; *note* says why it is not the GPU where one was hoped for."""

    device: str
    torch: str
    window_bytes: int
    cuda: str = ""
    driver: str = ""
    note: str = ""


def bare_environment(environment: Mapping[str, str], device: str) -> dict[str, str]:
    """What of *environment* the child may see: how to find libraries and GPUs, and nothing that opens a door."""
    kept = {
        name: value for name, value in environment.items() if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    kept |= {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "CUDA_CACHE_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    if device == "cpu":
        kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept


class Child:
    """One child process; every failure of it is a ``ProofUnavailable``."""

    def __init__(self, python: str, device: str) -> None:
        self.python = python
        self._patience_s = float("inf")
        self._hears_stderr = True
        self._answers: deque[dict[str, Any]] = deque()
        self._received = bytearray()
        self._stderr = bytearray()
        self._memory_fd = os.memfd_create("mlsync-proof", os.MFD_CLOEXEC)
        command = [python, "-I", "-B", str(PROGRAM), str(os.getpid())]
        environment = bare_environment(os.environ, device)
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter is the user's own choice
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=environment,
                cwd="/",
                bufsize=0,
                start_new_session=True,
                pass_fds=[self._memory_fd],
            )
        except OSError as error:
            os.close(self._memory_fd)
            msg = f"The proof's Python does not start: {error.strerror}"
            raise TorchMissing(msg, where=python, advice="set proof.python to one that has torch") from None
        self._pipes = [stream for stream in (self._process.stdin, self._process.stdout, self._process.stderr) if stream]
        self._in, self._out, self._err = (stream.fileno() for stream in self._pipes)
        for number in (self._in, self._out, self._err):
            os.set_blocking(number, False)
        # Room for all windows; only what is written to takes memory.
        os.ftruncate(self._memory_fd, WINDOW_COUNT * WINDOW_STRIDE_BYTES)
        self._memory = memoryview(mmap.mmap(self._memory_fd, WINDOW_COUNT * WINDOW_STRIDE_BYTES))

    def window(self, place: int) -> memoryview:
        """The *place*-th of the windows that the child sees as soon as they are written."""
        return self._memory[place * WINDOW_STRIDE_BYTES : (place + 1) * WINDOW_STRIDE_BYTES]

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

    def set_patience(self, seconds: float) -> None:
        """From now on wait for the child for *seconds* in all; time that the caller spends elsewhere is not counted."""
        self._patience_s = seconds

    def send(self, message: dict[str, Any]) -> None:
        """Write a message, taking in whatever answers come meanwhile."""
        text = json.dumps(message).encode()
        self._write(memoryview(len(text).to_bytes(_LENGTH_BYTES, "big") + text))

    def take_answer(self) -> dict[str, Any] | None:
        """The oldest answer that is there, without waiting."""
        return self._answers.popleft() if self._answers else None

    def wait_answer(self) -> dict[str, Any]:
        """The next answer, waited for."""
        while not self._answers:
            self._poll(None)
        return self._answers.popleft()

    def close(self) -> None:
        """End the process, whatever it is doing; its exit status is collected."""
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
            self._memory_fd = -1
        for stream in self._pipes:
            with contextlib.suppress(OSError):
                stream.close()
        self._process.kill()
        self._process.wait()

    def _write(self, left: memoryview) -> None:
        while left:
            # Try first: waiting for a pipe that has room would cost a system call per piece
            try:
                left = left[os.write(self._in, left) :]
            except BlockingIOError:
                self._poll(self._in)
            except OSError:
                self._hear_out()

    def _hear_out(self) -> NoReturn:
        """Take in what the child said before it closed its pipe: it may tell why."""
        while True:
            self._poll(None)

    def _poll(self, writable: int | None) -> None:
        """Wait for an answer, or for room in the pipe if *writable*, and take in what came."""
        poller = select.poll()
        poller.register(self._out, select.POLLIN)
        if self._hears_stderr:
            poller.register(self._err, select.POLLIN)
        if writable is not None:
            poller.register(writable, select.POLLOUT)
        began = time.monotonic()
        ready = dict(poller.poll(min(max(self._patience_s, 0), _POLL_S_MAX) * 1000))
        self._patience_s -= time.monotonic() - began
        if not ready and self._patience_s <= 0:
            self._overdue()
        if self._err in ready:
            self._take_stderr()
        if self._out in ready:
            self._take_out()

    def _take_stderr(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._err, _READ_BYTES)
            self._hears_stderr = bool(data)
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
                self.disbelieve(f"an answer of {length} bytes")
            if len(self._received) < _LENGTH_BYTES + length:
                return
            self._parse(bytes(self._received[_LENGTH_BYTES : _LENGTH_BYTES + length]))
            del self._received[: _LENGTH_BYTES + length]

    def _parse(self, text: bytes) -> None:
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self.disbelieve("an answer that does not parse")
        if "failed" in answer:
            raise _failure(str(answer["failed"]), str(answer.get("text", "")), self.python)
        self._answers.append(answer)

    def disbelieve(self, what: str) -> NoReturn:
        """Give up on a child that answers what an honest one would not."""
        msg = f"The proof's process gave {what}"
        raise ProofCrashed(msg, where=self.python)

    def _overdue(self) -> NoReturn:
        msg = "The proof's deadline passed"
        raise ProofTimedOut(msg, where=self.python)

    def _died(self) -> NoReturn:
        """Say how the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with contextlib.suppress(OSError):
            self._take_stderr()
        status = self._process.returncode
        how = "closed its pipe" if status is None else f"ended with status {status}"
        how = f"ended by signal {-status}" if status is not None and status < 0 else how
        last = self._stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        msg = f"The proof's process {how}" + (f", last words: {last[0][:300]}" if last else "")
        raise ProofCrashed(msg, where=self.python)


def _failure(kind: str, text: str, python: str) -> ProofUnavailable:
    """The error for what the child says that it failed of."""
    if kind == "torch":
        msg = f"No torch for the proof: {text}"
        return TorchMissing(
            msg, where=python, advice="install mlsync[torch], or set proof.python to the trainer's Python"
        )
    if kind == "device":
        return DeviceMissing(f"No CUDA device for the proof: {text}", where=python)
    if kind == "memory":
        return ProofOutOfMemory(f"Not enough memory for the proof: {text}", where=python)
    return ProofCrashed(f"The proof's process failed: {text}", where=python)
