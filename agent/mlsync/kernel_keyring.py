"""The kernel's keyring of this user (keyrings(7)): a few secret bytes for this user's next processes, for a time.

What is kept is in the kernel's memory, which is never swapped out, and no file has it. It is this user's alone: another
user's process, root's included, has a keyring of its own. The kernel drops it when its time is over. Each function
raises ``OSError`` where the kernel, or a filter before it, refuses: Docker's forbids these calls (``EPERM``), a kernel
without keyrings does not know them (``ENOSYS``), and a user's quota may be full (``EDQUOT``).
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import sys
from contextlib import suppress
from typing import Final

# add_key(2) and keyctl(2) by architecture; the numbers of new ones are those of uapi/asm-generic/unistd.h.
_CALLS: Final = {
    "x86_64": (248, 250),
    "ppc64le": (269, 271),
    "s390x": (278, 280),
    "aarch64": (217, 219),
    "riscv64": (217, 219),
    "loongarch64": (217, 219),
}
_TYPE: Final = b"user"
# Special ids, uapi/linux/keyctl.h. A process has its own keyring until it ends, and a child does not get it.
_OF_PROCESS: Final = -2
_OF_USER: Final = -4
_SETPERM, _DESCRIBE, _LINK, _UNLINK, _SEARCH, _READ, _SET_TIMEOUT, _INVALIDATE = 5, 6, 8, 9, 10, 11, 15, 21
# View, read, search and link, for who has it in one of its keyrings, as this user's processes have it. Nobody else may
# even see that it is there, and nobody may change it, or how long it stays.
_PERMISSIONS: Final = 0x1B000000
_SECRET_BYTES_MAX: Final = 1024
_RING_BYTES_MAX: Final = 1 << 20
# The kernel takes descriptions of up to a page.
_DESCRIPTION_BYTES_MAX: Final = 8192
_ID_BYTES: Final = 4


def keep(description: str, secret: bytes, for_s: float) -> None:
    """Keep *secret* under *description* for this user, in the place of what was there; the kernel drops it in time."""
    # In the ring of this process first: one that died between two of these calls would leave it there for ever.
    name = description.encode()
    key = _call(0, _TYPE, name, secret, len(secret), _OF_PROCESS)
    try:
        # Zero would be no limit at all.
        _keyctl(_SET_TIMEOUT, key, max(1, math.ceil(for_s)))
        _keyctl(_SETPERM, key, _PERMISSIONS)
        _keyctl(_LINK, key, _OF_USER)
    finally:
        _keyctl(_UNLINK, key, _OF_PROCESS)


def find(description: str) -> bytes | None:
    """Return what is kept under *description*; ``None`` for nothing, or no more."""
    try:
        # Read by whoever has it in one of its own rings: a service's session is not linked to its user's ring.
        key = _keyctl(_SEARCH, _OF_USER, _TYPE, description.encode(), _OF_PROCESS)
    except OSError as error:
        if error.errno in (errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREVOKED):
            return None
        raise
    try:
        return _read(key, _SECRET_BYTES_MAX)
    finally:
        _keyctl(_UNLINK, key, _OF_PROCESS)


def forget(prefix: str) -> int:
    """Drop all that is kept under descriptions with this *prefix*, and return how many there were."""
    # So that this process has all keys of it, whatever session it runs in.
    _keyctl(_LINK, _OF_USER, _OF_PROCESS)
    ring = _read(_OF_USER, _RING_BYTES_MAX)
    count = 0
    for at in range(0, len(ring), _ID_BYTES):
        key = int.from_bytes(ring[at : at + _ID_BYTES], sys.byteorder)
        # One that another process drops meanwhile, or whose time is over, is gone already.
        with suppress(OSError):
            if _description(key).startswith(f"{_TYPE.decode()};{prefix}"):
                _keyctl(_INVALIDATE, key)
                count += 1
    return count


def probe() -> None:
    """Raise ``OSError`` if nothing can be kept here; nothing stays."""
    key = _call(0, _TYPE, b"mlsync probe", b"probe", 5, _OF_PROCESS)
    _keyctl(_UNLINK, key, _OF_PROCESS)
    _read(_OF_USER, _RING_BYTES_MAX)


def _description(key: int) -> str:
    """Return the type of a key and its description, with a semicolon between them."""
    room = ctypes.create_string_buffer(_DESCRIPTION_BYTES_MAX)
    _keyctl(_DESCRIBE, key, room, len(room))
    # "type;uid;gid;permissions;description", and the last one may have any character.
    kind, _, _, _, name = room.value.decode(errors="replace").split(";", 4)
    return f"{kind};{name}"


def _read(key: int, limit_bytes: int) -> bytes:
    """Return the payload, cut to the limit; of a ring that is the ids of its keys."""
    room = ctypes.create_string_buffer(limit_bytes)
    read_bytes = _keyctl(_READ, key, room, limit_bytes)
    try:
        return room.raw[: min(read_bytes, limit_bytes)]
    finally:
        ctypes.memset(room, 0, limit_bytes)


def _keyctl(operation: int, *arguments: object) -> int:
    return _call(1, operation, *arguments)


def _call(which: int, *arguments: object) -> int:
    """Make a system call, the C library of which has no function."""
    calls = _CALLS.get(platform.machine())
    if sys.platform != "linux" or calls is None or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in (calls[which], *arguments)]
    result: int = library.syscall(*words)
    if result < 0:
        fault = ctypes.get_errno()
        raise OSError(fault, os.strerror(fault))
    return result
