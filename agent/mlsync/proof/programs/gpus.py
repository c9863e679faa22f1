"""Whether a GPU is here at all, and how much memory is free on which, asked without making a context on any.

A context takes hundreds of megabytes, and torch as much, so that nobody imports it to learn that there is no GPU.

Loaded by path, from beside ``device.py``; 3.9 and its standard library are enough. NVIDIA's management library knows
what is free, but counts the GPUs as they are plugged in; CUDA counts those that CUDA_VISIBLE_DEVICES leaves, in an
order of its own. What both know is a GPU's unique id, which CUDA's driver tells without a context.
"""

from __future__ import annotations

import ctypes
import glob
import os
import uuid

_DRIVER, _MANAGEMENT = "libcuda.so.1", "libnvidia-ml.so.1"
_UUID_BYTES = 16
# What a driver opens: NVIDIA's, Tegra's among them, AMD's, and that of Windows' Linux. Without one of these there is no
# GPU that torch.cuda reaches.
_DEVICES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/kfd", "/dev/dxg")


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (
        ("total_bytes", ctypes.c_ulonglong),
        ("free_bytes", ctypes.c_ulonglong),
        ("used_bytes", ctypes.c_ulonglong),
    )


class _Refused(Exception):
    """A library answered with an error; the GPU, or all of them, cannot be told of."""


def why_none() -> str:
    """Why there is no GPU for this process, as far as that can be told without torch; empty if there may be one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES leaves no GPU"
    return "" if any(glob.glob(pattern) for pattern in _DEVICES) else "no GPU is here"


def free_bytes() -> dict[int, int]:
    """What is free on each GPU, by its number in CUDA, as far as NVIDIA's libraries are there and tell."""
    try:
        driver, management = ctypes.CDLL(_DRIVER), ctypes.CDLL(_MANAGEMENT)
        ids = _unique_ids(driver)
        _ask(management.nvmlInit_v2)
    except (OSError, AttributeError, _Refused):
        return {}
    try:
        found = {number: _free_on(management, unique_id) for number, unique_id in ids.items()}
    finally:
        management.nvmlShutdown()
    return {number: free for number, free in found.items() if free is not None}


def by_room(free: dict[int, int]) -> list[int]:
    """The GPUs' numbers, those with most memory free first, of equal ones the lower number."""
    return sorted(free, key=lambda number: (-free[number], number))


def _unique_ids(driver: ctypes.CDLL) -> dict[int, str]:
    """Each GPU's id by its number in CUDA."""
    _ask(driver.cuInit, ctypes.c_uint(0))
    count = ctypes.c_int()
    _ask(driver.cuDeviceGetCount, ctypes.byref(count))
    # The second version, of CUDA 11.4, gives the id of a slice (MIG) and not of the GPU that it is cut from.
    get_uuid = getattr(driver, "cuDeviceGetUuid_v2", None) or driver.cuDeviceGetUuid
    ids = {}
    for number in range(count.value):
        device, text = ctypes.c_int(), ctypes.create_string_buffer(_UUID_BYTES)
        _ask(driver.cuDeviceGet, ctypes.byref(device), ctypes.c_int(number))
        _ask(get_uuid, text, device)
        ids[number] = str(uuid.UUID(bytes=text.raw))
    return ids


def _free_on(management: ctypes.CDLL, unique_id: str) -> int | None:
    """The bytes that are free on one GPU, or slice of one, if they are told."""
    for kind in ("GPU", "MIG"):
        handle, memory = ctypes.c_void_p(), _Memory()
        try:
            _ask(management.nvmlDeviceGetHandleByUUID, f"{kind}-{unique_id}".encode(), ctypes.byref(handle))
            _ask(management.nvmlDeviceGetMemoryInfo, handle, ctypes.byref(memory))
        except _Refused:
            continue
        return int(memory.free_bytes)
    return None


def _ask(function: object, *arguments: object) -> None:
    """Call a function of either library, all of which answer 0 when it was done."""
    assert callable(function)
    status = function(*arguments)
    if status != 0:
        raise _Refused(status)
