"""Replace a small file of the agent's in one step, so that a reader finds the old content or the new one."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def replace_file(file: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace *file*, with this *mode*; raise ``OSError`` if that fails, and leave nothing behind.

    It is not synced: after a power cut it may have the old content.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
        os.replace(temporary, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
