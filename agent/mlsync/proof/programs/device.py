"""The proof's child process: copies tensor bytes from shared memory to the device, digests and counts them there.

mlsync starts it by path in the Python that ``proof.python`` names (3.9 or newer), with numpy for the CPU or torch for a
GPU. It imports torch only if a GPU is visible or asked for by name: that takes seconds and hundreds of megabytes. Of
mlsync it imports only its own parts, by path from beside itself, and it runs nothing that came from a checkpoint: it
gets raw bytes and the names of their types. Each message and each answer is a 4-byte big-endian length and a JSON
object. The bytes are in shared windows, which the parent does not change between a window's message and its answer.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import mmap
import os
import select
import sys
import time
from typing import Any

KEY_SLIDES = 64
UNIT_BYTES = 16
LENGTH_FACTOR = 0x9E3779B97F4A7C15
MODULUS = 1 << 64
HEADER_BYTES_MAX = 16 << 20
CUDA_WINDOW_BYTES = 16 << 20
CUDA_WINDOWS = 3
CUDA_SPARE_BYTES = 512 << 20  # a context takes some hundreds of megabytes, and the trainer needs the rest
# A child that only waits leaves as soon as less is free: so much, or this share of the GPU, whichever is more.
REST_FREE_BYTES = 4 << 30
REST_FREE_SHARE = 0.1
REST_LOOK_S = 1.0
FLOAT16_MAX = 65504.0
PYTHON_MIN = (3, 9)
TORCH_MIN = (2, 1)
NUMPY_MIN = (1, 20)
# Squares are summed in float32 over so many elements, and in float64 from there.
NORM_ROW = 1024


def part(name: str, *places: str) -> Any:
    """Load the module *name* from beside this file, or from *places* relative to it; mlsync is not importable here."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), *places, name + ".py")
    spec = importlib.util.spec_from_file_location("mlsync_" + name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SANDBOX = part("sandbox")
GPUS = part("gpus")
CPU = part("cpu")
PRIORITY = part("priority", "..", "..", "courtesy")


class Unavailable(Exception):
    """Why no proof is possible here; the parent has an error for each *kind*."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class Channel:
    """The pipes to the parent, protected from libraries that print."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._out = os.dup(1)
        os.dup2(2, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self._length = bytearray(4)

    def read(self) -> dict[str, Any]:
        """Return the next message; ends the process if the parent closed the pipe."""
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

    def is_written_to(self, wait_s: float) -> bool:
        """Wait for a message, or for the parent's end, *wait_s* at most; return whether there is one."""
        poller = select.poll()
        poller.register(self._in, select.POLLIN)
        return bool(poller.poll(wait_s * 1000))

    def write(self, message: dict[str, Any]) -> None:
        """Send one answer."""
        text = json.dumps(message, allow_nan=False).encode()
        left = memoryview(len(text).to_bytes(4, "big") + text)
        while left:
            left = left[os.write(self._out, left) :]


class Device:
    """The chosen GPU, or why there is none."""

    def __init__(self, torch: Any, wanted: str, memory_bytes: int) -> None:
        self.torch = torch
        self.index: int | None = None
        self.note = ""
        self.context_bytes = 0  # what others may take as this process's, beside its tensors; 0 if nothing tells
        self._look_for_cuda(wanted, memory_bytes)
        self.is_cuda = self.index is not None
        self.name = f"cuda:{self.index}"

    def describe(self) -> dict[str, Any]:
        """Return what the parent records of the device."""
        torch = self.torch
        return {
            "device": f"{self.name} {torch.cuda.get_device_name(self.index)}",
            "torch": torch.__version__,
            "window_bytes": CUDA_WINDOW_BYTES,
            "cuda": str(torch.version.cuda or torch.version.hip or ""),
            "driver": _driver_version(),
            "free_bytes": torch.cuda.mem_get_info(self.index)[0],
        }

    def is_roomy(self) -> bool:
        """Return whether so much of the GPU is free that nobody misses what this process only keeps."""
        free, total = self.torch.cuda.mem_get_info(self.index)
        return bool(free >= max(REST_FREE_BYTES, REST_FREE_SHARE * total))

    def _look_for_cuda(self, wanted: str, memory_bytes: int) -> None:
        """Choose the GPU that was asked for by number, or the one with the most free memory, if enough is free."""
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
        for index in GPUS.by_free_memory(free):
            if free[index] < needed:
                why = f"{needed >> 20} MiB are not free on {f'cuda:{number}' if number else 'any GPU'}"
                self._do_without(wanted, "device-memory", f"{why}, cuda:{index} has {free[index] >> 20} MiB")
                return
            kind = self._take(index, memory_bytes)
            if not kind:
                return
        self._do_without(wanted, kind, self.note or "no GPU tells its memory")

    def _free_bytes(self, numbers: list[int]) -> dict[int, int]:
        """Return the free bytes of these GPUs; makes contexts only if the driver's libraries do not report it."""
        known = GPUS.free_bytes()
        found = {number: known[number] for number in numbers if number in known}
        for number in numbers if not found else ():
            try:
                found[number] = self.torch.cuda.mem_get_info(number)[0]
            except RuntimeError as error:
                self.note = str(error).splitlines()[0][:200]
        return found

    def _take(self, index: int, memory_bytes: int) -> str:
        """Make *memory_bytes* of this GPU the device; or note why not, and return the kind of failure."""
        cuda = self.torch.cuda
        try:
            before = GPUS.free_bytes().get(index)
            free, total = cuda.mem_get_info(index)  # makes the context, which takes memory itself
            self.context_bytes = 0 if before is None else max(0, before - free)
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
        """Fall back to the CPU if the device is ``auto``."""
        self.note = why
        if not wanted.startswith("auto"):
            raise Unavailable(kind, why)


def gpu_number(wanted: str, count: int) -> str:
    """Return the number of the GPU that is asked for, empty for any; ranks count modulo the number of GPUs."""
    rank = wanted.partition("%")[2]
    return str(int(rank) % count) if rank else wanted.partition(":")[2]


class Windows:
    """The shared memory that the parent writes tensor bytes to."""

    def __init__(self, where: dict[str, int]) -> None:
        self.count = where["count"]
        self.stride_bytes = where["stride_bytes"]
        self._bytes = memoryview(mmap.mmap(where["descriptor"], self.count * self.stride_bytes))
        os.close(where["descriptor"])

    def at(self, place: int, length: int) -> memoryview:
        """Return the first *length* bytes of the *place*-th window."""
        if not 0 <= place < self.count or not 0 < length <= self.stride_bytes:
            raise SystemExit(3)
        start = place * self.stride_bytes
        return self._bytes[start : start + length]


class WindowSlot:
    """Memory for one window in progress: a pinned buffer, and one on the GPU."""

    def __init__(self, torch: Any, device: Device) -> None:
        self._torch, self._device_name = torch, device.name
        self.host: Any = torch.empty(CUDA_WINDOW_BYTES, dtype=torch.uint8, pin_memory=True)
        self.there: Any = None
        self.event: Any = torch.cuda.Event()
        self.pending: Any = None

    def take_memory(self) -> None:
        """Have a buffer on the GPU."""
        self.there = self._torch.empty(CUDA_WINDOW_BYTES, dtype=self._torch.uint8, device=self._device_name)

    def give_memory_back(self) -> None:
        """Have none, and nothing of a checkpoint on the host."""
        self.there = None
        self.host.zero_()


class GpuNh:
    """NH of a window's words, as in ``nh.py``; its sum stays on the device."""

    name = "nh"

    def __init__(self, torch: Any, device: Device, seed: bytes) -> None:
        self.torch = torch
        size = CUDA_WINDOW_BYTES
        key = bytearray(hashlib.shake_256(seed).digest(size + KEY_SLIDES * UNIT_BYTES))
        self._key = torch.frombuffer(key, dtype=torch.int32).to(device.name)
        self._second = size // 8
        self._sum32 = torch.empty(size // 8, dtype=torch.int32, device=device.name)
        self._left = torch.empty(size // 8, dtype=torch.int64, device=device.name)
        self._right = torch.empty(size // 8, dtype=torch.int64, device=device.name)

    def of(self, window: Any, index: int) -> Any:
        """Queue the sum of *window*, the *index*-th of its file."""
        torch = self.torch
        words = window.view(torch.int32)
        half = words.numel() // 2
        at = index % KEY_SLIDES * (UNIT_BYTES // 4)
        left, right, scratch = self._left[:half], self._right[:half], self._sum32[:half]
        left.copy_(torch.add(words[:half], self._key[at : at + half], out=scratch))
        at += self._second
        right.copy_(torch.add(words[half:], self._key[at : at + half], out=scratch))
        return left.mul_(right).sum()


class GpuProver:
    """Copies windows to the GPU in turn, and answers each one in order when its digest and counts are ready."""

    def __init__(self, torch: Any, device: Device, seed: bytes, channel: Channel, windows: Windows) -> None:
        self.torch = torch
        self.channel = channel
        self.windows = windows
        self.device = device
        self.slots = [WindowSlot(torch, device) for _ in range(CUDA_WINDOWS)]
        self.stream = torch.cuda.Stream(device.index)
        self._next = 0
        self.take_memory(seed)

    def take_memory(self, seed: bytes) -> None:
        """Take the GPU's memory that a proof needs, with a key from *seed*."""
        torch, device = self.torch, self.device
        for slot in self.slots:
            slot.take_memory()
        self.digest: Any = GpuNh(torch, device, seed)
        # Memory for each byte of a window as a float32: to allocate it each time would cost more than to count
        self._wide: Any = torch.empty(CUDA_WINDOW_BYTES, dtype=torch.float32, device=device.name)
        self._magnitudes: Any = torch.empty_like(self._wide)
        torch.cuda.synchronize(device.index)  # the key was copied on another stream than the one that reads it

    def give_memory_back(self) -> int:
        """Keep nothing of what was proved, and of the GPU's memory only the context; return how much that is."""
        if any(slot.pending is not None for slot in self.slots):
            raise SystemExit(3)
        cuda = self.torch.cuda
        cuda.synchronize(self.device.index)
        for slot in self.slots:
            slot.give_memory_back()
        self.digest = self._wide = self._magnitudes = None
        cuda.empty_cache()
        return self.device.context_bytes + int(cuda.memory_reserved(self.device.index))

    def take(self, header: dict[str, Any]) -> None:
        """Queue the work on one window."""
        slot = self.slots[self._next % len(self.slots)]
        self._next += 1
        self.finish(slot)
        used = header["length"]
        if used > CUDA_WINDOW_BYTES or used % UNIT_BYTES:
            raise SystemExit(3)
        shared = self.torch.frombuffer(self.windows.at(header["place"], used), dtype=self.torch.uint8)
        # Through pinned memory: only from there the GPU copies asynchronously.
        slot.host[:used].copy_(shared)
        with self.torch.cuda.stream(self.stream):
            slot.there[:used].copy_(slot.host[:used], non_blocking=True)
            self._launch(slot, header, used)
            slot.event.record(self.stream)

    def finish_all(self) -> None:
        """Answer the windows in progress, oldest first, and start over."""
        for place in range(len(self.slots)):
            self.finish(self.slots[(self._next + place) % len(self.slots)])
        self._next = 0

    def finish(self, slot: WindowSlot) -> None:
        """Wait for the slot's window, if it has one, and answer it."""
        if slot.pending is None:
            return
        header, used, total, rows = slot.pending
        slot.pending = None
        slot.event.synchronize()
        # Not on the stream of the windows: it would wait for the later ones, and the GPU would run out of work.
        digest = (int(total) + used * LENGTH_FACTOR) % MODULUS
        extremes = rows.tolist()
        # On the stream of the later windows: they use the same scratch memory.
        with self.torch.cuda.stream(self.stream):
            counts = [self._rows_of(slot, segment, row) for segment, row in zip(header["segments"], extremes)]  # noqa: B905 - 3.9
        self.channel.write({"window": header["window"], "digest": digest, "counts": counts})

    def _launch(self, slot: WindowSlot, header: dict[str, Any], used: int) -> None:
        """Queue the digest of the whole window, and the norm and the extreme magnitudes of each segment."""
        total = self.digest.of(slot.there[:used], header["window"])
        segments = header["segments"]
        rows = self.torch.empty((len(segments), 3), dtype=self.torch.float64, device=self.device.name)
        for place, segment in enumerate(segments):
            self._queue_row(slot, segment, rows[place])
        slot.pending = (header, used, total, rows)

    def _queue_row(self, slot: WindowSlot, segment: list[Any], row: Any) -> None:
        """Queue the extreme magnitudes and the norm of a segment, which go into *row*."""
        values = self._values(slot, segment)
        if values is not None:
            row[0], row[1] = self._extremes(self._magnitudes_of(values))
            row[2] = self._norm(values)

    def _extremes(self, magnitudes: Any) -> Any:
        """Return the smallest and the largest; NaN counts as larger than all.

        Numbers without a sign have the order of their bits.
        """
        bits = magnitudes.view(getattr(self.torch, f"int{8 * magnitudes.element_size()}"))
        return [bound.view(magnitudes.dtype) for bound in self.torch.aminmax(bits)]

    def _norm(self, values: Any) -> Any:
        """Return the square root of the sum of the squares."""
        norm, float64 = self.torch.linalg.vector_norm, self.torch.float64
        whole = values.numel() - values.numel() % NORM_ROW
        if not whole or values.dtype == float64:
            return norm(values, dtype=float64)
        total = norm(norm(values[:whole].view(-1, NORM_ROW), dim=1, dtype=self.torch.float32), dtype=float64)
        if whole < values.numel():
            total = self.torch.hypot(total, norm(values[whole:], dtype=float64))
        return total

    def _seen_as(self, segment: list[Any]) -> Any:
        """Return the type as which a segment's elements are counted, or None if there is nothing to count."""
        return getattr(self.torch, CPU.COUNTED_AS.get(segment[1], "-"), None) if segment[3] else None

    def _values(self, slot: WindowSlot, segment: list[Any]) -> Any:
        """Return the segment's elements as floats that can be counted, or None if there is nothing to count."""
        seen_as = self._seen_as(segment)
        if seen_as is None:
            return None
        _, dtype, start, length = segment[:4]
        values = slot.there[start : start + length].view(seen_as)
        # Torch cannot count float8 directly
        return self._widened(values) if dtype.startswith("float8") else values

    def _widened(self, values: Any) -> Any:
        return self._wide[: values.numel()].copy_(values)

    def _magnitudes_of(self, values: Any) -> Any:
        return self.torch.abs(values, out=self._magnitudes.view(values.dtype)[: values.numel()])

    def _rows_of(self, slot: WindowSlot, segment: list[Any], row: list[float]) -> Any:
        """Return a segment's row of counts, or a row for each of its storages if they have to be counted apart."""
        counts = self._counts(slot, segment, row)
        if CPU.is_one_row_enough(segment, counts):
            return counts
        parts = list(CPU.parts_of(segment))
        rows = self.torch.empty((len(parts), 3), dtype=self.torch.float64, device=self.device.name)
        for place, part in enumerate(parts):
            self._queue_row(slot, part, rows[place])
        return [self._counts(slot, part, row) for part, row in zip(parts, rows.tolist())]  # noqa: B905 - 3.9

    def _counts(self, slot: WindowSlot, segment: list[Any], row: list[float]) -> list[Any] | None:
        """[NaN, infinite, zero, at float16's limit, lowest, highest, norm] of a segment; None if not counted.

        Lowest and highest are set only if all numbers have one magnitude: only then can they all be the same.
        """
        if self._seen_as(segment) is None:
            return None
        torch = self.torch
        least, greatest, norm = row
        # For most tensors these show that there is nothing to count, in a fraction of the time.
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
        if is_finite and not math.isfinite(norm):  # rare: its squares are too large for float32
            norm = values.to(torch.float64).norm().item()
        counts = [nan_count, infinite_count, zero_count, saturated_count]
        return counts + bounds + [norm if math.isfinite(norm) else None]


def _driver_version() -> str:
    """Return the version of NVIDIA's driver by its kernel module, or an empty text."""
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as file:
            words = file.readline().split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and "." in word), "")


def _import(name: str, user_base: str) -> Any:
    """Import a module of this Python, or else the one that its user installed with pip install --user."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        sys.path.append(os.path.join(user_base, "lib", version, "site-packages"))
        return importlib.import_module(name)


def _find(name: str, oldest: tuple[int, int], user_base: str) -> Any:
    """Import a torch or numpy that is new enough; raises ``Unavailable`` if it is missing, broken or too old."""
    try:
        module = _import(name, user_base)
        version = tuple(int(number) for number in module.__version__.split(".")[:2])
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise Unavailable(f"no-{name}", text) from None
        raise Unavailable(_kind(error) if _kind(error) == "host-memory" else f"broken-{name}", text) from None
    if version < oldest:
        text = f"version {module.__version__}, and {oldest[0]}.{oldest[1]} is the oldest that will do"
        raise Unavailable(f"broken-{name}", text)
    return module


def _find_digest(user_base: str, seed: bytes) -> Any:
    """Return XXH3, which is faster, or NH if this Python has no xxhash."""
    try:
        return CPU.WindowXxh3(_import("xxhash", user_base).xxh3_64_intdigest, seed)
    except ImportError:
        return part("nh").Nh(seed, CPU.WINDOW_BYTES)


def _gpu(opening: dict[str, Any], user_base: str) -> tuple[Device | None, str]:
    """Return the GPU to prove on, or why it is the CPU; does not import torch if no GPU is visible."""
    wanted = opening["device"]
    is_any = wanted.startswith("auto")
    if wanted == "cpu":
        return None, ""
    why = GPUS.why_none()
    if why and is_any:
        return None, why
    try:
        torch = _find("torch", TORCH_MIN, user_base)
    except Unavailable as error:
        if not is_any and why and error.kind == "no-torch":
            raise Unavailable("no-device", why) from None  # torch would not change that
        if not is_any:
            raise
        return None, f"a GPU is here, and no torch that can use it: {error.text}"
    torch.set_num_threads(opening["threads"])
    torch.set_grad_enabled(False)
    device = Device(torch, wanted, opening["memory_bytes"])
    return (device, "") if device.is_cuda else (None, device.note)


def _open(channel: Channel, opening: dict[str, Any]) -> Any:
    """Choose the device, import what it needs, enter the sandbox, and report ready."""
    user_base = str(opening["user_base"])
    seed = bytes.fromhex(opening["seed"])
    device, note = _gpu(opening, user_base)
    windows = Windows(opening["windows"])
    prover: Any
    if device is not None:
        about = device.describe()
        prover = GpuProver(device.torch, device, seed, channel, windows)
    else:
        np = _find("numpy", NUMPY_MIN, user_base)
        about = {"device": "cpu", "torch": f"numpy {np.__version__}", "window_bytes": CPU.WINDOW_BYTES, "note": note}
        prover = CPU.CpuProver(np, _find_digest(user_base, seed), windows, channel.write)
        prover.rehearse()
    unconfined = SANDBOX.confine(device is not None, os.path.dirname(user_base))
    channel.write(dict(about, digest=prover.digest.name, unconfined=unconfined, ready=True))
    return prover


def _rest(channel: Channel, prover: GpuProver, stay_s: float) -> None:
    """Wait for the next version with the context alone; end after *stay_s*, and where others need its memory.

    Nobody has to ask for that: a parent that hangs, or was stopped, keeps no memory from a trainer.
    """
    ends_s = time.monotonic() + stay_s
    taken_bytes = prover.give_memory_back()
    is_roomy = prover.device.is_roomy()
    channel.write({"rests": is_roomy, "taken_bytes": taken_bytes})
    while not is_roomy or not channel.is_written_to(min(REST_LOOK_S, stay_s)):
        try:
            is_roomy = is_roomy and prover.device.is_roomy()
        except RuntimeError:  # the device failed
            is_roomy = False
        if not is_roomy or time.monotonic() >= ends_s:
            os._exit(0)  # at once, without a word to the libraries: the driver frees what they hold


def _serve(channel: Channel) -> None:
    prover = _open(channel, channel.read())
    while True:
        header = channel.read()
        if "window" in header:
            prover.take(header)
        elif "begin" in header:
            SANDBOX.allow_cpu(header["cpu_s"])
        elif "rest_s" in header:
            _rest(channel, prover, header["rest_s"])
        elif "wake" in header:
            SANDBOX.allow_cpu(header["cpu_s"])
            prover.take_memory(bytes.fromhex(header["wake"]))
            channel.write({"awake": True})
        else:
            prover.finish_all()
            channel.write({"ended": header["end"]})


def _kind(error: Exception) -> str:
    """Return the kind of a failure by its type and text: memory of the host or the device, the device, or unknown."""
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
    PRIORITY.follow()  # before torch is imported, which may take more time than all that follows
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
