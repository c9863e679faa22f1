"""Whether there is a GPU, and how much memory is free on each, without a context on any and without torch.

A context takes hundreds of megabytes, and so does torch. ``device.py`` loads this module by path in the child process
(Python 3.9 or newer, the standard library alone), and mlsync imports it.

NVIDIA's management library knows the free memory, but numbers the GPUs by their slots; CUDA numbers those that
CUDA_VISIBLE_DEVICES leaves, in an order of its own. Both know a GPU's unique id, which CUDA's driver reports without a
context.
"""

from __future__ import annotations

import ctypes
import glob
import os
import uuid

_DRIVER, _MANAGEMENT = "libcuda.so.1", "libnvidia-ml.so.1"
_UUID_BYTES = 16
# The devices of the drivers: NVIDIA's (and Tegra's), AMD's, and WSL's. Without one of these torch.cuda reaches no GPU.
_DEVICES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/kfd", "/dev/dxg")


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (
        ("total_bytes", ctypes.c_ulonglong),
        ("free_bytes", ctypes.c_ulonglong),
        ("used_bytes", ctypes.c_ulonglong),
    )


class _Refused(Exception):
    """A library answered with an error, for one GPU or for all."""


def why_none() -> str:
    """Return why there is no GPU for this process, empty if there may be one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES leaves no GPU"
    return "" if any(glob.glob(pattern) for pattern in _DEVICES) else "no GPU is here"


def free_bytes() -> dict[int, int]:
    """Return the free bytes of each GPU by its CUDA number, of those that NVIDIA's libraries report."""
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


def by_free_memory(free: dict[int, int]) -> list[int]:
    """Return the GPUs' numbers, most free memory first, then by number."""
    return sorted(free, key=lambda number: (-free[number], number))


def _unique_ids(driver: ctypes.CDLL) -> dict[int, str]:
    """Return each GPU's id by its CUDA number."""
    _ask(driver.cuInit, ctypes.c_uint(0))
    count = ctypes.c_int()
    _ask(driver.cuDeviceGetCount, ctypes.byref(count))
    # The second version (CUDA 11.4) returns the id of a MIG slice, not of its GPU.
    get_uuid = getattr(driver, "cuDeviceGetUuid_v2", None) or driver.cuDeviceGetUuid
    ids = {}
    for number in range(count.value):
        device, text = ctypes.c_int(), ctypes.create_string_buffer(_UUID_BYTES)
        _ask(driver.cuDeviceGet, ctypes.byref(device), ctypes.c_int(number))
        _ask(get_uuid, text, device)
        ids[number] = str(uuid.UUID(bytes=text.raw))
    return ids


def _free_on(management: ctypes.CDLL, unique_id: str) -> int | None:
    """Return the free bytes of one GPU or MIG slice, or ``None``."""
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
    """Call a function of either library; raises ``_Refused`` unless it returns 0."""
    assert callable(function)
    status = function(*arguments)
    if status != 0:
        raise _Refused(status)
