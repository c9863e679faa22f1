"""Runs a program of the proof's with GPUs that are not there: ``SETTINGS FLAGS... PROGRAM ARGUMENTS...``, see warm.py.

It stands in for CUDA, so that what the child does on a GPU is run on machines without one. A tensor on ``cuda:0`` says
so, lies in host memory, and is computed by torch's CPU kernels; streams, events, pinned memory and the bound on memory
are this folder's. Found by it: wrong names and keywords, tensors of two devices in one operation, what is read before
it was waited for, memory that either side uses again too early, memory that is not given back or is beyond the bound,
errors of CUDA's that are taken for others. A GPU may do what it is asked for at once, when somebody waits for it, or at
any time between, so there are three schedules: ``early``, ``late``, and ``mixed``, by a fixed seed.

What it cannot show: that driver, context and sandbox get along; that CUDA's kernels give the numbers of the CPU's, or
have the types at all; an order that none of the three comes to; how torch's allocator splits what it has; any speed.
That is for tests/gpu.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import inspect
import json
import os
import runpy
import sys

import torch
from machine import Machine, Stream
from tensors import Dispatch

GLOB = glob.glob
_DRIVERS = ("libcuda.so.1", "libnvidia-ml.so.1")


class Event:
    """torch.cuda.Event: a place in a stream."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False):
        self._stream = None
        self._number = 0

    def record(self, stream=None):
        """Mark what was queued up to now."""
        self._stream = (stream or torch.cuda.current_stream())._stream
        self._number = self._stream.submitted

    def synchronize(self):
        """Wait for what is before the mark; the first wait is none where nothing was marked."""
        if self._stream is not None:
            self._stream.run_until(self._number)


class GivenStream:
    """torch.cuda.Stream: a queue beside that which there is anyway, and in no order with it."""

    def __init__(self, device=None, priority=0):
        self._stream = Stream(MACHINE.gpu(device))
        self.device = torch.device("cuda", self._stream.gpu.index)

    def synchronize(self):
        """Wait for all that is in it."""
        self._stream.run_all()


class StreamContext:
    """What torch.cuda.stream() gives: meanwhile the stream is the current one of its GPU, and that the current GPU."""

    def __init__(self, stream):
        self._stream = stream._stream

    def __enter__(self):
        gpu = self._stream.gpu
        self._before = MACHINE.current, gpu.stream
        MACHINE.current, gpu.stream = gpu.index, self._stream

    def __exit__(self, *_):
        MACHINE.current, self._stream.gpu.stream = self._before


def current_stream(device=None):
    """The stream that work is queued on."""
    gpu = MACHINE.gpu(device)
    given = object.__new__(GivenStream)
    given._stream, given.device = gpu.stream, torch.device("cuda", gpu.index)
    return given


def mem_get_info(device=None):
    """What is free and what there is, which opens the GPU."""
    gpu = MACHINE.gpu(device)
    gpu.open()
    return gpu.free_bytes(), gpu.total_bytes


def set_device(device):
    """Make a GPU the current one."""
    gpu = MACHINE.gpu(device)
    gpu.open()
    MACHINE.current = gpu.index


def set_per_process_memory_fraction(fraction, device=None):
    """Bound what may be allocated."""
    gpu = MACHINE.gpu(device)
    gpu.limit_bytes = int(fraction * gpu.total_bytes)


FUNCTIONS = {
    "is_available": lambda: bool(MACHINE.gpus),
    "device_count": lambda: len(MACHINE.gpus),
    "current_device": lambda: MACHINE.current,
    "get_device_name": lambda device=None: MACHINE.gpu(device).name,
    "mem_get_info": mem_get_info,
    "set_device": set_device,
    "set_per_process_memory_fraction": set_per_process_memory_fraction,
    "synchronize": lambda device=None: MACHINE.gpu(device).synchronize(),
    "empty_cache": lambda: None,
    "memory_reserved": lambda device=None: MACHINE.gpu(device).used_bytes,
    "current_stream": current_stream,
    "stream": StreamContext,
    "_lazy_init": lambda: None,
}


def bound_as(original, replacement):
    """The replacement, called in the ways only that torch's own function can be called in."""
    signature = inspect.signature(original)

    @functools.wraps(replacement)
    def call(*args, **kwargs):
        return replacement(**signature.bind(*args, **kwargs).arguments)

    return call


def numbered(move):
    """``Tensor.to``, with the number of the current GPU behind a mere ``cuda``, for which torch asks the driver."""

    def to(tensor, *args, **kwargs):
        here = torch.device("cuda", MACHINE.current)
        args = [here if isinstance(value, (str, torch.device)) and str(value) == "cuda" else value for value in args]
        return move(tensor, *args, **kwargs)

    return to


class Library(ctypes.CDLL):
    """A library; the driver's are those of the settings, or are not there, whatever this machine has."""

    def __init__(self, name, *args, **kwargs):
        if name in _DRIVERS:
            if LIBRARIES is None:
                raise OSError(f"{name}: cannot open shared object file")
            name = os.path.join(LIBRARIES, name)
        super().__init__(name, *args, **kwargs)


def see(pattern, *args, **kwargs):
    """``glob.glob``, which sees a device of NVIDIA's driver."""
    return ["/dev/nvidia0"] if pattern == "/dev/nvidia*" else GLOB(pattern, *args, **kwargs)


def make_error(name, text):
    """The error of torch's of that name, or its forebear where this torch has it not yet."""
    kinds = {"OutOfMemoryError": torch.cuda.OutOfMemoryError}
    return kinds.get(name, getattr(torch, name, RuntimeError))(text)


def stand_in():
    """From now on torch has the GPUs of the settings."""
    for name, replacement in FUNCTIONS.items():
        setattr(torch.cuda, name, bound_as(getattr(torch.cuda, name), replacement))
    torch.cuda.Stream, torch.cuda.Event = GivenStream, Event
    torch.version.cuda = "0.0"
    ctypes.CDLL = Library
    glob.glob = see
    torch.Tensor.to = numbered(torch.Tensor.to)
    # A model's parameters are exchanged for those on the GPU, which would else have their insides put into themselves.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    Dispatch(MACHINE).__enter__()


def main(arguments):
    """Run the program, with the GPUs of the settings."""
    global MACHINE, LIBRARIES  # noqa: PLW0603 - one for each process
    with open(arguments[0], encoding="utf-8") as file:
        settings = json.load(file)
    MACHINE = Machine(settings, make_error)
    LIBRARIES = settings.get("libraries")
    os.environ.update(settings.get("environment", {}))
    stand_in()
    arguments = arguments[1:]
    while arguments[0].startswith("-"):
        del arguments[0]
    sys.argv = arguments
    del sys.path[0]  # this folder
    runpy.run_path(arguments[0], run_name="__main__")
