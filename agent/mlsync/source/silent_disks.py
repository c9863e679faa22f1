"""File systems that do not report every change: what another machine, or the program behind them, does goes unsaid.

The kernel reports what is written through this machine's own mount of them, and nothing else.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

# linux/magic.h, and the sources of file systems that are not in the kernel.
_SILENT: Final = {
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB",
    0x517B: "SMB",
    0x01021997: "9p",
    0x65735546: "FUSE",
    0x00C36400: "Ceph",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x5346414F: "AFS",
    0x786F4256: "a VirtualBox folder",
}
# The kernel's struct has 120 bytes on 64-bit machines, and its first word is the type.
_STATFS_BYTES: Final = 512


def silent_kind(directory: str | os.PathLike[str]) -> str | None:
    """Return the kind of file system that *directory* is on if it does not report every change; else ``None``."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _statfs(os.fsencode(directory), found) != 0:
        return None
    return _SILENT.get(ctypes.c_long.from_buffer(found).value & 0xFFFFFFFF)


_statfs = ctypes.CDLL(None, use_errno=True).statfs
_statfs.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_statfs.restype = ctypes.c_int
