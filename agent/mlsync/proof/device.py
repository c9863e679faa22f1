"""The proof's child: takes tensor bytes out of shared memory, puts them on the device, digests and counts them there.

It needs Python 3.9 and torch, imports nothing of mlsync, opens no file, and runs nothing that came from a checkpoint:
what reaches it is raw bytes and the names of their types. Each message to it and each answer is a 4-byte big-endian
length and a JSON object; the bytes themselves lie in windows that both sides see, and are not touched by the parent
between the message that tells of a window and the answer to it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import mmap
import os
import resource
import signal
import sys
from typing import Any

KEY_SLIDES = 64
UNIT_BYTES = 16
LENGTH_FACTOR = 0x9E3779B97F4A7C15
HEADER_BYTES_MAX = 16 << 20
CPU_WINDOW_BYTES = 1 << 20  # window, key and scratch stay in the second-level cache
CUDA_WINDOW_BYTES = 16 << 20
CUDA_WINDOWS = 3
CUDA_SPARE_BYTES = 64 << 20
CPU_SPARE_BYTES = 2 << 30
FLOAT16_MAX = 65504.0

# How a type's elements are looked at to be counted; complex numbers are pairs of floats. What is not here, or not in
# this torch, is digested and not counted.
COUNTED_AS = {
    "float64": "float64",
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "complex128": "float64",
    "complex64": "float32",
    "complex32": "float16",
    "float8_e4m3fn": "float8_e4m3fn",
    "float8_e4m3fnuz": "float8_e4m3fnuz",
    "float8_e5m2": "float8_e5m2",
    "float8_e5m2fnuz": "float8_e5m2fnuz",
}


class Unavailable(Exception):
    """Why there can be no proof here; *kind* is what the parent tells apart."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class Channel:
    """The pipes to the parent, out of reach of anything that prints."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._out = os.dup(1)
        os.dup2(2, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self._length = bytearray(4)

    def read(self) -> dict[str, Any]:
        """The next message's JSON object; ends the process if the parent closed the pipe."""
        self.fill(memoryview(self._length))
        length = int.from_bytes(self._length, "big")
        if length > HEADER_BYTES_MAX:
            raise SystemExit(3)
        text = bytearray(length)
        self.fill(memoryview(text))
        message: dict[str, Any] = json.loads(text)
        return message

    def fill(self, view: memoryview) -> None:
        """Fill *view* from the pipe."""
        at = 0
        while at < len(view):
            count = os.readv(self._in, [view[at:]])
            if count == 0:
                raise SystemExit(0)
            at += count

    def write(self, message: dict[str, Any]) -> None:
        """Send one answer."""
        text = json.dumps(message, allow_nan=False).encode()
        left = memoryview(len(text).to_bytes(4, "big") + text)
        while left:
            left = left[os.write(self._out, left) :]


class Device:
    """The device that was chosen, what can be said of it, and how much memory may be used on it."""

    def __init__(self, torch: Any, wanted: str, memory_bytes: int) -> None:
        self.torch = torch
        self.index: int | None = None
        self.note = ""
        if wanted in ("auto", "cuda"):
            self._look_for_cuda(wanted, memory_bytes)
        self.is_cuda = self.index is not None
        self.name = f"cuda:{self.index}" if self.is_cuda else "cpu"
        self.window_bytes = CUDA_WINDOW_BYTES if self.is_cuda else CPU_WINDOW_BYTES

    def describe(self) -> dict[str, Any]:
        """What the parent records of the device."""
        torch = self.torch
        about = {"device": self.name, "torch": torch.__version__, "window_bytes": self.window_bytes, "note": self.note}
        if self.is_cuda:
            about["device"] += " " + torch.cuda.get_device_name(self.index)
            about["cuda"] = str(torch.version.cuda or torch.version.hip or "")
            about["driver"] = _driver_version()
            about["free_bytes"] = torch.cuda.mem_get_info(self.index)[0]
        return about

    def _look_for_cuda(self, wanted: str, memory_bytes: int) -> None:
        """Take the first GPU with room; none is looked at before there is need, for a look costs a context."""
        torch = self.torch
        if not torch.cuda.is_available():
            self.note = "torch sees no GPU"
            if wanted == "cuda":
                raise Unavailable("device", self.note)
            return
        for index in range(torch.cuda.device_count()):
            try:
                free, total = torch.cuda.mem_get_info(index)
                if free >= memory_bytes + CUDA_SPARE_BYTES:
                    torch.cuda.set_device(index)
                    torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total), index)
                    self.index = index
                    return
            except RuntimeError as error:
                self.note = str(error).splitlines()[0][:200]
        self.note = self.note or f"no GPU has {(memory_bytes + CUDA_SPARE_BYTES) >> 20} MiB free"
        if wanted == "cuda":
            raise Unavailable("memory", self.note)


class Windows:
    """The shared memory that the parent writes tensor bytes to, as tensors."""

    def __init__(self, torch: Any, where: dict[str, int]) -> None:
        self.count = where["count"]
        self.stride_bytes = where["stride_bytes"]
        shared = mmap.mmap(where["descriptor"], self.count * self.stride_bytes)
        os.close(where["descriptor"])
        self._bytes = torch.frombuffer(shared, dtype=torch.uint8)

    def at(self, place: int, length: int) -> Any:
        """The first *length* bytes of the *place*-th window."""
        if not 0 <= place < self.count or not 0 < length <= self.stride_bytes:
            raise SystemExit(3)
        start = place * self.stride_bytes
        return self._bytes[start : start + length]


class Slot:
    """A window under way: on the CPU the shared memory itself; for a GPU pinned memory and its twin on the device."""

    def __init__(self, torch: Any, device: Device) -> None:
        size = device.window_bytes
        self.host: Any = torch.empty(size, dtype=torch.uint8, pin_memory=True) if device.is_cuda else None
        self.there: Any = torch.empty(size, dtype=torch.uint8, device=device.name) if device.is_cuda else None
        self.event: Any = torch.cuda.Event() if device.is_cuda else None
        self.pending: Any = None


class Prover:
    """Takes windows in turn and answers each one, in order, when its digest and counts are there."""

    def __init__(self, torch: Any, device: Device, seed: bytes, channel: Channel, windows: Windows) -> None:
        self.torch = torch
        self.channel = channel
        self.windows = windows
        self.device = device
        self.slots = [Slot(torch, device) for _ in range(CUDA_WINDOWS if device.is_cuda else 1)]
        self.stream = torch.cuda.Stream(device.index) if device.is_cuda else None
        self._make_key(seed)
        words = device.window_bytes // 4
        self._sum32 = torch.empty(words // 2, dtype=torch.int32, device=device.name)
        self._left = torch.empty(words // 2, dtype=torch.int64, device=device.name)
        self._right = torch.empty(words // 2, dtype=torch.int64, device=device.name)
        self._next = 0
        if device.is_cuda:
            torch.cuda.synchronize(device.index)  # the key was copied on another stream than the one that uses it

    def take(self, header: dict[str, Any]) -> None:
        """Set the device to work on one window."""
        slot = self.slots[self._next % len(self.slots)]
        self._next += 1
        self.finish(slot)
        used = header["length"]
        if used > self.device.window_bytes or used % UNIT_BYTES:
            raise SystemExit(3)
        shared = self.windows.at(header["place"], used)
        if self.stream is None:
            slot.there = shared
            self._launch(slot, header, used)
            self.finish(slot)
            return
        # Over pinned memory: only from there does the GPU fetch by itself.
        slot.host[:used].copy_(shared)
        with self.torch.cuda.stream(self.stream):
            slot.there[:used].copy_(slot.host[:used], non_blocking=True)
            self._launch(slot, header, used)
            slot.event.record(self.stream)

    def finish_all(self) -> None:
        """Answer what is still under way, oldest first, and begin anew."""
        for place in range(len(self.slots)):
            self.finish(self.slots[(self._next + place) % len(self.slots)])
        self._next = 0

    def finish(self, slot: Slot) -> None:
        """Wait for the slot's window, if it has one, and answer it."""
        if slot.pending is None:
            return
        header, used, total, rows = slot.pending
        slot.pending = None
        if slot.event is not None:
            slot.event.synchronize()
        digest = (total.item() + used * LENGTH_FACTOR) % (1 << 64)
        counts = [self._counts(slot, segment, row) for segment, row in zip(header["segments"], rows.tolist())]  # noqa: B905 - 3.9
        self.channel.write({"window": header["window"], "digest": digest, "counts": counts})

    def _make_key(self, seed: bytes) -> None:
        torch, size = self.torch, self.device.window_bytes
        key = bytearray(hashlib.shake_256(seed).digest(size + KEY_SLIDES * UNIT_BYTES))
        self._key = torch.frombuffer(key, dtype=torch.int32).to(self.device.name)
        self._second = size // 8

    def _launch(self, slot: Slot, header: dict[str, Any], used: int) -> None:
        """Queue the digest of the whole window and the extremes of each segment."""
        total = self._digest(slot.there[:used].view(self.torch.int32), header["window"])
        segments = header["segments"]
        rows = self.torch.empty((len(segments), 3), dtype=self.torch.float64, device=self.device.name)
        for place, segment in enumerate(segments):
            values = self._values(slot, segment)
            if values is not None:
                low, high = self.torch.aminmax(values)
                rows[place, 0] = low
                rows[place, 1] = high
                rows[place, 2] = values.numel() - self.torch.count_nonzero(values)
        slot.pending = (header, used, total, rows)

    def _digest(self, words: Any, index: int) -> Any:
        """NH of the words, as mlsync/proof/digest.py has it."""
        torch = self.torch
        half = words.numel() // 2
        at = index % KEY_SLIDES * (UNIT_BYTES // 4)
        left, right, scratch = self._left[:half], self._right[:half], self._sum32[:half]
        left.copy_(torch.add(words[:half], self._key[at : at + half], out=scratch))
        at += self._second
        right.copy_(torch.add(words[half:], self._key[at : at + half], out=scratch))
        return left.mul_(right).sum()

    def _values(self, slot: Slot, segment: list[Any]) -> Any:
        """The segment's elements as floats, or None where there is nothing to count."""
        _, dtype, start, length = segment
        seen_as = getattr(self.torch, COUNTED_AS.get(dtype, "-"), None)
        if seen_as is None or length == 0:
            return None
        values = slot.there[start : start + length].view(seen_as)
        return values.to(self.torch.float32) if dtype.startswith("float8") else values

    def _counts(self, slot: Slot, segment: list[Any], row: list[float]) -> list[Any] | None:
        """[NaN, infinite, zero, at float16's limit, lowest, highest] of a segment; None if not counted."""
        values = self._values(slot, segment)
        if values is None:
            return None
        low, high, zero_count = row
        nan_count = infinite_count = saturated_count = 0
        if not (math.isfinite(low) and math.isfinite(high)):
            nan_count = int(self.torch.isnan(values).sum())
            infinite_count = int(self.torch.isinf(values).sum())
        is_odd = nan_count or infinite_count or FLOAT16_MAX in (high, -low)
        if is_odd and segment[1] in ("float16", "complex32"):
            saturated_count = int((values.abs() == FLOAT16_MAX).sum())
        bounds = [bound if math.isfinite(bound) else None for bound in (low, high)]
        return [nan_count, infinite_count, int(zero_count), saturated_count, *bounds]


def _driver_version() -> str:
    """The NVIDIA driver's version as the kernel module tells it, or nothing."""
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as file:
            words = file.readline().split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and "." in word), "")


def _tie_to_parent(parent_pid: int) -> None:
    """Die with the parent, gain no rights, leave no core, stand behind the trainer."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if os.getppid() != parent_pid:
        raise SystemExit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)


def _limit(device: Device) -> None:
    """No file can grow any more, and on the CPU memory has an end; CUDA's address space is too large for a limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if device.is_cuda:
        return
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + CPU_SPARE_BYTES, used + CPU_SPARE_BYTES))


def _allow_cpu(seconds: int) -> None:
    """Let this process use *seconds* more of a processor, then be killed."""
    times = os.times()
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(times.user + times.system) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def _import_torch(user_base: str) -> Any:
    """Give torch; where this Python has none of its own, the one that its user installed for himself."""
    try:
        import torch
    except ModuleNotFoundError:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        sys.path.append(os.path.join(user_base, "lib", version, "site-packages"))
        import torch
    return torch


def _open(channel: Channel, opening: dict[str, Any]) -> Prover:
    """Import torch, choose the device, and say so."""
    try:
        torch = _import_torch(str(opening.get("user_base", "")))
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        raise Unavailable("torch", f"{type(error).__name__}: {error}") from None
    torch.set_num_threads(opening["threads"])
    device = Device(torch, opening["device"], opening["memory_bytes"])
    windows = Windows(torch, opening["windows"])
    prover = Prover(torch, device, bytes.fromhex(opening["seed"]), channel, windows)
    _limit(device)
    channel.write(dict(device.describe(), ready=True))
    return prover


def _serve(channel: Channel) -> None:
    opening = channel.read()
    prover = _open(channel, opening)
    with prover.torch.no_grad():
        while True:
            header = channel.read()
            if "window" in header:
                prover.take(header)
            elif "begin" in header:
                _allow_cpu(header["cpu_s"])
            else:
                prover.finish_all()
                channel.write({"ended": header["end"]})


def _kind(error: Exception) -> str:
    """Whether memory ran out; torch says so in several ways."""
    text = str(error).lower()
    is_memory = isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
    return "memory" if is_memory else "error"


def main() -> None:
    """Serve the parent until it closes the pipe."""
    channel = Channel()
    _tie_to_parent(int(sys.argv[1]))
    try:
        _serve(channel)
    except Unavailable as error:
        channel.write({"failed": error.kind, "text": error.text[:500]})
    except Exception as error:  # noqa: BLE001 - the parent decides what it means
        text = f"{type(error).__name__}: {error}"
        channel.write({"failed": _kind(error), "text": text[:500]})


if __name__ == "__main__":
    main()
