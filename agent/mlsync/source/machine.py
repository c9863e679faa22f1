"""An id of this machine, derived from the system's machine id."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

MARK_BYTES: Final = 16
# The first lasts as long as the installation. Containers often have none and use the second, which all containers of
# a host share until it reboots.
ID_FILES: Final = (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id"))
_ID_BYTES: Final = 16


def machine_mark() -> bytes:
    """Return 16 bytes that stay the same on this machine whatever its host name is; empty if there is no id.

    The system's own id must not leave the machine (machine-id(5)): the mark is a digest of it.
    """
    for file in ID_FILES:
        machine_id = _read(file)
        if machine_id:
            return hmac.digest(machine_id, b"mlsync 1 machine", hashlib.sha256)[:MARK_BYTES]
    return b""


def _read(file: Path) -> bytes:
    """Return the id in a file; none if it is not there, is empty or says "uninitialized"."""
    try:
        found = bytes.fromhex(file.read_bytes().decode().strip().replace("-", ""))
    except (OSError, ValueError):
        return b""
    return found if len(found) == _ID_BYTES and any(found) else b""
