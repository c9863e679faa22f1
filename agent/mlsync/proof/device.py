"""The proof's child: takes tensor bytes out of shared memory, puts them on the device, digests and counts them there.

It needs Python 3.9 and torch, imports nothing of mlsync but its own two parts, which it loads from beside itself by
their path, and runs nothing that came from a checkpoint: what reaches it is raw bytes and the names of their types.
Each message to it and each answer is a 4-byte big-endian length and a JSON object; the bytes themselves lie in windows
that both sides see, and are not touched by the parent between the message that tells of a window and the answer to it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import math
import mmap
import os
import sys
from contextlib import nullcontext
from typing import Any

KEY_SLIDES = 64
UNIT_BYTES = 16
LENGTH_FACTOR = 0x9E3779B97F4A7C15
MODULUS = 1 << 64
HEADER_BYTES_MAX = 16 << 20
CPU_WINDOW_BYTES = 1 << 20  # window, key and scratch stay in the second-level cache
CUDA_WINDOW_BYTES = 16 << 20
CUDA_WINDOWS = 3
CUDA_SPARE_BYTES = 512 << 20  # a context takes some hundreds of megabytes, and the trainer is not to be crowded
FLOAT16_MAX = 65504.0
PYTHON_MIN = (3, 9)
TORCH_MIN = (2, 1)
# Squares are summed in float32 over so many elements, and in float64 from there.
NORM_ROW = 1024
HALF_BYTES = 2

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
    "float8_e8m0fnu": "float8_e8m0fnu",
}


def part(name: str, *places: str) -> Any:
    """The module of that name that lies beside this file, or in *places* from there; mlsync is not on this path."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), *places, name + ".py")
    spec = importlib.util.spec_from_file_location("mlsync_" + name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SANDBOX = part("child_sandbox")
GPUS = part("child_gpus")
PRIORITY = part("priority", "..", "courtesy")


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
        if wanted != "cpu":
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
        """Take the GPU that was asked for by its number, or the one with most memory free, if there is room on it."""
        torch = self.torch
        if not torch.cuda.is_available():
            self._do_without(wanted, "no-device", "torch sees no GPU")
            return
        count = torch.cuda.device_count()
        number = gpu_number(wanted, count)
        if number and int(number) >= count:
            self._do_without(wanted, "no-device", f"there is no {wanted}, torch sees {count} GPUs")
            return
        needed = memory_bytes + CUDA_SPARE_BYTES
        free = self._free_bytes([int(number)] if number else list(range(count)))
        kind = "device-error"
        for index in GPUS.by_room(free):
            if free[index] < needed:
                why = f"{needed >> 20} MiB are not free on {f'cuda:{number}' if number else 'any GPU'}"
                self._do_without(wanted, "device-memory", f"{why}, cuda:{index} has {free[index] >> 20} MiB")
                return
            kind = self._take(index, memory_bytes)
            if not kind:
                return
        self._do_without(wanted, kind, self.note or "no GPU tells its memory")

    def _free_bytes(self, numbers: list[int]) -> dict[int, int]:
        """What is free on these GPUs; only where the driver's libraries do not tell are they opened to be looked at."""
        told = GPUS.free_bytes()
        found = {number: told[number] for number in numbers if number in told}
        for number in numbers if not found else ():
            try:
                found[number] = self.torch.cuda.mem_get_info(number)[0]
            except RuntimeError as error:
                self.note = str(error).splitlines()[0][:200]
        return found

    def _take(self, index: int, memory_bytes: int) -> str:
        """Make this GPU the device, no more than *memory_bytes* of it; or note why not, and tell the kind of reason."""
        cuda = self.torch.cuda
        try:
            free, total = cuda.mem_get_info(index)  # makes the context, which takes memory itself
            if free < memory_bytes:
                self.note = f"{memory_bytes >> 20} MiB are not free on cuda:{index} once it is opened"
                return "device-memory"
            cuda.set_device(index)
            cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total), index)
        except RuntimeError as error:
            self.note = str(error).splitlines()[0][:200]
            return "device-error"
        self.index, self.note = index, ""
        return ""

    def _do_without(self, wanted: str, kind: str, why: str) -> None:
        """Fall back to the CPU where any device will do."""
        self.note = why
        if not wanted.startswith("auto"):
            raise Unavailable(kind, why)


def gpu_number(wanted: str, count: int) -> str:
    """The number of the GPU that is asked for, empty if any will do; ranks, which may be more than GPUs, go round."""
    rank = wanted.partition("%")[2]
    return str(int(rank) % count) if rank else wanted.partition(":")[2]


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


class Nh:
    """NH of a window's words, as mlsync/proof/nh.py has it; its sum is still on the device."""

    name = "nh"
    length_factor = LENGTH_FACTOR

    def __init__(self, torch: Any, device: Device, seed: bytes) -> None:
        self.torch = torch
        size = device.window_bytes
        key = bytearray(hashlib.shake_256(seed).digest(size + KEY_SLIDES * UNIT_BYTES))
        self._key = torch.frombuffer(key, dtype=torch.int32).to(device.name)
        self._second = size // 8
        self._sum32 = torch.empty(size // 8, dtype=torch.int32, device=device.name)
        self._left = torch.empty(size // 8, dtype=torch.int64, device=device.name)
        self._right = torch.empty(size // 8, dtype=torch.int64, device=device.name)

    def of(self, window: Any, index: int) -> Any:
        """Queue the sum for *window*, the *index*-th of its file."""
        torch = self.torch
        words = window.view(torch.int32)
        half = words.numel() // 2
        at = index % KEY_SLIDES * (UNIT_BYTES // 4)
        left, right, scratch = self._left[:half], self._right[:half], self._sum32[:half]
        left.copy_(torch.add(words[:half], self._key[at : at + half], out=scratch))
        at += self._second
        right.copy_(torch.add(words[half:], self._key[at : at + half], out=scratch))
        return left.mul_(right).sum()


class Xxh3:
    """XXH3-64 of what lies where the window's tensor is, as mlsync/proof/digest.py has it; for the CPU."""

    name = "xxh3"
    length_factor = 0  # it knows the length

    def __init__(self, function: Any, seed: bytes) -> None:
        self._function = function
        self._seed = int.from_bytes(seed[:8], "big")

    def of(self, window: Any, index: int) -> int:
        """Digest *window*, the *index*-th of its file."""
        memory = (ctypes.c_ubyte * window.numel()).from_address(window.data_ptr())
        digest: int = self._function(memory, (self._seed + index * LENGTH_FACTOR) % MODULUS)
        return digest


class Prover:
    """Takes windows in turn and answers each one, in order, when its digest and counts are there."""

    def __init__(self, torch: Any, device: Device, seed: bytes, channel: Channel, windows: Windows) -> None:
        self.torch = torch
        self.channel = channel
        self.windows = windows
        self.device = device
        self.slots = [Slot(torch, device) for _ in range(CUDA_WINDOWS if device.is_cuda else 1)]
        self.stream = torch.cuda.Stream(device.index) if device.is_cuda else None
        xxh3 = None if device.is_cuda else _find_xxh3()
        self.digest = Nh(torch, device, seed) if xxh3 is None else Xxh3(xxh3, seed)
        # Room for each byte of a window as a float32: memory that is had anew each time costs more than the counting
        self._wide = torch.empty(device.window_bytes, dtype=torch.float32, device=device.name)
        self._magnitudes = torch.empty_like(self._wide)
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

    def rehearse(self) -> None:
        """Do on the CPU once all that a window can need: what torch looks up when it is first used, it has by then.

        Under the bans nothing is found by its path any more.
        """
        size = min(4096, self.device.window_bytes)
        for pattern in (b"\0", b"\xff", b"\x7f\0\0\x7f", b"\0\1\2\3"):
            window = self.torch.frombuffer(bytearray(pattern * size)[:size], dtype=self.torch.uint8)
            slot = Slot(self.torch, self.device)
            slot.there = window
            segments = [[0, dtype, 0, len(window)] for dtype in COUNTED_AS]
            self._launch(slot, {"window": 0, "segments": segments}, len(window))
            _, _, total, rows = slot.pending
            int(total)
            for segment, row in zip(segments, rows.tolist()):  # noqa: B905 - 3.9
                self._counts(slot, segment, row)

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
        # Not on the stream of the windows, where it would wait for those behind it and leave the GPU without work.
        digest = (int(total) + used * self.digest.length_factor) % MODULUS
        extremes = rows.tolist()
        # On the stream of the windows behind it: they use the same scratch memory.
        stream = nullcontext() if self.stream is None else self.torch.cuda.stream(self.stream)
        with stream:
            counts = [self._counts(slot, segment, row) for segment, row in zip(header["segments"], extremes)]  # noqa: B905 - 3.9
        self.channel.write({"window": header["window"], "digest": digest, "counts": counts})

    def _launch(self, slot: Slot, header: dict[str, Any], used: int) -> None:
        """Queue the digest of the whole window, and the norm and the bounding magnitudes of each segment."""
        total = self.digest.of(slot.there[:used], header["window"])
        segments = header["segments"]
        rows = self.torch.empty((len(segments), 3), dtype=self.torch.float64, device=self.device.name)
        for place, segment in enumerate(segments):
            values = self._values(slot, segment)
            if values is not None:
                rows[place, 0], rows[place, 1] = self._extremes(self._magnitudes_of(values))
                rows[place, 2] = self._norm(values)
        slot.pending = (header, used, total, rows)

    def _extremes(self, magnitudes: Any) -> Any:
        """The least and the greatest; a NaN is greater than all.

        Numbers without a sign are ordered as their bits are, and of whole numbers a CPU finds both twice as fast.
        """
        bits = magnitudes.view(getattr(self.torch, f"int{8 * magnitudes.element_size()}"))
        return [bound.view(magnitudes.dtype) for bound in self.torch.aminmax(bits)]

    def _norm(self, values: Any) -> Any:
        """The square root of the sum of the squares."""
        norm, float64 = self.torch.linalg.vector_norm, self.torch.float64
        # A CPU is quicker with the float32 of a half than with the half itself
        if values.element_size() == HALF_BYTES and not self.device.is_cuda:
            values = self._widened(values)
        whole = values.numel() - values.numel() % NORM_ROW
        if not whole or values.dtype == float64:
            return norm(values, dtype=float64)
        total = norm(norm(values[:whole].view(-1, NORM_ROW), dim=1, dtype=self.torch.float32), dtype=float64)
        if whole < values.numel():
            total = self.torch.hypot(total, norm(values[whole:], dtype=float64))
        return total

    def _seen_as(self, segment: list[Any]) -> Any:
        """The type as which a segment's elements are counted, or None where there is nothing to count."""
        return getattr(self.torch, COUNTED_AS.get(segment[1], "-"), None) if segment[3] else None

    def _values(self, slot: Slot, segment: list[Any]) -> Any:
        """The segment's elements as floats that can be counted, or None where there is nothing to count."""
        seen_as = self._seen_as(segment)
        if seen_as is None:
            return None
        _, dtype, start, length = segment
        values = slot.there[start : start + length].view(seen_as)
        # Nothing counts float8 as it is
        return self._widened(values) if dtype.startswith("float8") else values

    def _widened(self, values: Any) -> Any:
        return self._wide[: values.numel()].copy_(values)

    def _magnitudes_of(self, values: Any) -> Any:
        return self.torch.abs(values, out=self._magnitudes.view(values.dtype)[: values.numel()])

    def _counts(self, slot: Slot, segment: list[Any], row: list[float]) -> list[Any] | None:
        """[NaN, infinite, zero, at float16's limit, lowest, highest, norm] of a segment; None if not counted.

        The bounds are told of numbers that are all of one magnitude, for only these can be all one number.
        """
        if self._seen_as(segment) is None:
            return None
        torch = self.torch
        least, greatest, norm = row
        # They say of most tensors that there is nothing to count, in a fraction of the time.
        is_finite = math.isfinite(greatest)
        is_saturated = segment[1] in ("float16", "complex32") and not greatest < FLOAT16_MAX
        if is_finite and 0 < least < greatest and not is_saturated and math.isfinite(norm):
            return [0, 0, 0, 0, None, None, norm]
        values: Any = self._values(slot, segment)
        nan_count = infinite_count = zero_count = saturated_count = 0
        bounds = [None, None]
        if not is_finite:
            nan_count = int(torch.isnan(values).sum())
            infinite_count = int(torch.isinf(values).sum())
        elif least == greatest:
            bounds = [bound.item() for bound in torch.aminmax(values)]
        if least == 0:
            zero_count = values.numel() - int(torch.count_nonzero(values))
        if is_saturated:
            saturated_count = int((self._magnitudes_of(values) == FLOAT16_MAX).sum())
        if is_finite and not math.isfinite(norm):  # its squares are too large for float32, rarely
            norm = values.to(torch.float64).norm().item()
        counts = [nan_count, infinite_count, zero_count, saturated_count]
        return counts + bounds + [norm if math.isfinite(norm) else None]


def _find_xxh3() -> Any:
    """XXH3-64 of a buffer and a seed, or None where this Python has no xxhash: it is quicker, and not needed."""
    try:
        from xxhash import xxh3_64_intdigest
    except ImportError:
        return None
    return xxh3_64_intdigest


def _driver_version() -> str:
    """The NVIDIA driver's version as the kernel module tells it, or nothing."""
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as file:
            words = file.readline().split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and "." in word), "")


def _import_torch(user_base: str) -> Any:
    """Give torch; where this Python has none of its own, the one that its user installed for himself."""
    try:
        import torch
    except ModuleNotFoundError:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        sys.path.append(os.path.join(user_base, "lib", version, "site-packages"))
        import torch
    return torch


def _find_torch(user_base: str) -> Any:
    """Give a torch that is new enough, or say what is the matter with it: none, broken, old."""
    try:
        torch = _import_torch(user_base)
        version = tuple(int(number) for number in torch.__version__.split(".")[:2])
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            raise Unavailable("no-torch", text) from None
        raise Unavailable(_kind(error) if _kind(error) == "host-memory" else "broken-torch", text) from None
    if version < TORCH_MIN:
        raise Unavailable("broken-torch", f"version {torch.__version__}, and 2.1 is the oldest that will do")
    return torch


def _open(channel: Channel, opening: dict[str, Any]) -> Prover:
    """Import torch, choose the device, give up all that is not needed any more, and say so."""
    user_base = str(opening["user_base"])
    torch = _find_torch(user_base)
    torch.set_num_threads(opening["threads"])
    device = Device(torch, opening["device"], opening["memory_bytes"])
    windows = Windows(torch, opening["windows"])
    prover = Prover(torch, device, bytes.fromhex(opening["seed"]), channel, windows)
    if not device.is_cuda:
        with torch.no_grad():
            prover.rehearse()
    about = dict(device.describe(), digest=prover.digest.name)
    unconfined = SANDBOX.confine(device.is_cuda, os.path.dirname(user_base), opening["threads"])
    channel.write(dict(about, unconfined=unconfined, ready=True))
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
                SANDBOX.allow_cpu(header["cpu_s"])
            else:
                prover.finish_all()
                channel.write({"ended": header["end"]})


def _kind(error: Exception) -> str:
    """Whose fault it is, as far as words tell: memory that ran out on either side, the device, or nobody knows."""
    text = str(error).lower()
    names = {one.__name__ for one in type(error).__mro__}
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "cannot allocate memory" in text:
        return "host-memory"
    if "OutOfMemoryError" in names or "out of memory" in text:
        return "device-memory"
    is_device = "AcceleratorError" in names or any(word in text for word in ("cuda", "cublas", "nvidia", "hip error"))
    return "device-error" if is_device else "error"


def main() -> None:
    """Serve the parent until it closes the pipe."""
    PRIORITY.follow()  # before torch comes, which takes more than all that follows it
    channel = Channel()
    SANDBOX.tie_to_parent(int(sys.argv[1]))
    try:
        if sys.version_info < PYTHON_MIN:
            raise Unavailable("python", f"it is {sys.version.split()[0]}")
        _serve(channel)
    except Unavailable as error:
        channel.write({"failed": error.kind, "text": error.text[:500]})
    except Exception as error:  # noqa: BLE001 - the parent decides what it means
        text = f"{type(error).__name__}: {error}"
        channel.write({"failed": _kind(error), "text": text[:500]})


if __name__ == "__main__":
    main()
