"""A mark of this machine that others do not have, where the system gives it one."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

MARK_BYTES: Final = 16
# systemd(1) and most others write 32 hexadecimal digits there at installation; in containers it is missing or empty.
MACHINE_ID_FILE = Path("/etc/machine-id")
_ID_LETTERS: Final = 32


def machine_mark() -> bytes:
    """Return 16 bytes that stay the same on this machine whatever its name is; none where it cannot be told.

    The system's own id is not to leave the machine (machine-id(5)): the mark is a digest of it.
    """
    try:
        text = MACHINE_ID_FILE.read_text("ascii").strip()
        machine_id = bytes.fromhex(text)
    except (OSError, ValueError):
        return b""
    if len(text) != _ID_LETTERS or not any(machine_id):
        return b""
    return hmac.digest(machine_id, b"mlsync 1 machine", hashlib.sha256)[:MARK_BYTES]
