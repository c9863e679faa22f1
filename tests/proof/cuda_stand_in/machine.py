"""The GPUs of the stand-in: streams that put their work off, memory that is counted, faults that come on command."""

from __future__ import annotations

import mmap
import random
import struct
import weakref
from collections import deque

MEBIBYTE = 1 << 20
# What an allocator of CUDA's rounds a large piece of memory up to.
_GRAIN_BYTES = 2 * MEBIBYTE
# What no memory may be taken for that nobody wrote to.
POISON = 0xAB
# Windows that are on their way to the GPU when another one joins them: all slots of the child's but that one.
_BEHIND = 2


class Ledger:
    """What a test asks of the child afterwards, in a file that both map: the child may write to none."""

    FORMAT = "<3Q"  # most bytes at a time, copies to a GPU that nobody waits for, those of them with two before them

    def __init__(self, path):
        with open(path, "r+b") as file:
            self._shared = mmap.mmap(file.fileno(), struct.calcsize(self.FORMAT))
        self._values = [0] * 3

    def peak(self, used_bytes):
        """Note what is in use on a GPU."""
        self._set(0, max(self._values[0], used_bytes))

    def copy_queued(self, before_it):
        """Note a copy, and whether enough others were before it."""
        self._set(1, self._values[1] + 1)
        self._set(2, self._values[2] + (before_it >= _BEHIND))

    def _set(self, place, value):
        self._values[place] = value
        struct.pack_into(self.FORMAT, self._shared, 0, *self._values)


class Work:
    """One kernel or copy: what it is called, what it does, and the memory that it reads or writes."""

    def __init__(self, name, run, touches):
        self.name = name
        self.run = run
        self.touches = touches


class Stream:
    """Work in order, done at the latest when somebody waits for it, and at the earliest as the schedule says."""

    def __init__(self, gpu):
        self.gpu = gpu
        self.queue = deque()
        self.submitted = self.done = 0
        gpu.streams.append(weakref.ref(self))

    def submit(self, work):
        """Queue *work*."""
        self.queue.append(work)
        self.submitted += 1
        self.gpu.machine.progress(self.gpu)

    def run_until(self, number):
        """Do all work up to that number; what fails on a GPU fails here, long after it was asked for."""
        while self.done < number:
            work = self.queue.popleft()
            self.done += 1
            self.gpu.machine.faults.strike("kernel " + work.name)
            work.run()

    def run_all(self):
        """Do all that is queued."""
        self.run_until(self.submitted)


class Gpu:
    """One GPU: its memory in numbers, and its streams."""

    def __init__(self, machine, index, about):
        self.machine = machine
        self.index = index
        self.name = about.get("name", "Stand-in GPU")
        self.total_bytes = about["total_mib"] * MEBIBYTE
        self.others_bytes = self.total_bytes - about["free_mib"] * MEBIBYTE
        self.context_bytes = about.get("context_mib", 300) * MEBIBYTE
        self.opens = about.get("opens", True)
        self.others_grow = about.get("others_grow")  # a file: by how many MiB, which a test may write meanwhile
        if self.others_grow is not None:
            with open(self.others_grow, "r+b") as file:
                self.others_grow = mmap.mmap(file.fileno(), 8)
        self.is_open = False
        self.used_bytes = 0
        self.limit_bytes = self.total_bytes
        self.streams = []
        self.default_stream = Stream(self)
        self.stream = self.default_stream

    def open(self):
        """Make the context."""
        if not self.opens:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
        self.is_open = True

    def free_bytes(self):
        """What is left for anybody."""
        if self.others_grow is not None:
            (code,) = struct.unpack("<q", self.others_grow[:])
            self.others_bytes = code * MEBIBYTE
            if code < 0:
                raise RuntimeError("CUDA error: unspecified launch failure")
        return self.total_bytes - self.others_bytes - self.is_open * self.context_bytes - self.used_bytes

    def allocate(self, size_bytes):
        """Count *size_bytes* as used; tells how many were counted."""
        self.open()
        self.machine.faults.strike("allocate")
        counted = size_bytes if size_bytes < MEBIBYTE else -(-size_bytes // _GRAIN_BYTES) * _GRAIN_BYTES
        if self.used_bytes + counted > min(self.limit_bytes, self.used_bytes + self.free_bytes()):
            self.machine.faults.out_of_memory(f"Tried to allocate {size_bytes >> 20} MiB")
        self.used_bytes += counted
        self.machine.ledger.peak(self.used_bytes)
        return counted

    def release(self, counted, stream, memory, address):
        """Give memory back to *stream*, which had it: others that still work on it find it overwritten."""
        self.used_bytes -= counted
        if any(address in work.touches for other in self.live_streams() if other is not stream for work in other.queue):
            memory.fill_(POISON)

    def live_streams(self):
        """The streams that somebody still holds."""
        return [stream for stream in (one() for one in self.streams) if stream is not None]

    def synchronize(self):
        """Do all work of all streams."""
        for stream in self.live_streams():
            stream.run_all()


class Faults:
    """What fails on command: the *nth* time that something is done, in the words and by the class of torch's error."""

    def __init__(self, faults, make_error):
        self._faults = faults
        self._make_error = make_error
        self._counts = {}

    def strike(self, deed):
        """Raise the fault that is due at this deed, if one is."""
        fault = self._due(deed)
        if fault is not None:
            raise self._make_error(fault["error"], fault["text"])

    def is_damaged(self, deed):
        """Whether what this deed carries is to arrive with a bit turned over."""
        return self._due(deed) is not None

    def _due(self, deed):
        self._counts[deed] = self._counts.get(deed, 0) + 1
        for fault in self._faults:
            if fault["at"] == deed and fault.get("nth", 1) == self._counts[deed]:
                return fault
        return None

    def out_of_memory(self, what):
        """Raise what torch raises."""
        raise self._make_error("OutOfMemoryError", f"CUDA out of memory. {what}")


class Machine:
    """All GPUs, the one that is current, and the schedule of their work."""

    def __init__(self, settings, make_error):
        self._schedule = settings["schedule"]
        self._random = random.Random(17)
        self.faults = Faults(settings.get("faults", []), make_error)
        self.ledger = Ledger(settings["ledger"])
        self.gpus = [Gpu(self, index, about) for index, about in enumerate(settings["gpus"])]
        self.current = 0

    def progress(self, gpu):
        """Let the streams of a GPU get as far as the schedule says, now that one of them got work."""
        for stream in gpu.live_streams() if self._schedule != "late" else ():
            # Mixed: less than comes in, so that there is work left over which other streams overtake.
            steps = len(stream.queue) if self._schedule == "early" else self._random.choice((0, 0, 0, 0, 0, 1, 2))
            stream.run_until(min(stream.done + steps, stream.submitted))

    def gpu(self, device=None):
        """The GPU of a torch.device, a number, a name, or the current one."""
        index = device if device is None or isinstance(device, int) else _index_of(device)
        index = self.current if index is None else index
        if not 0 <= index < len(self.gpus):
            raise RuntimeError("CUDA error: invalid device ordinal")
        return self.gpus[index]


def _index_of(device):
    if isinstance(device, str):
        number = device.partition(":")[2]
        return int(number) if number else None
    return device.index
