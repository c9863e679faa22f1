"""Which names are of files still being written, so that they never belong to a version."""

from __future__ import annotations

import fnmatch
import re
from typing import Final

RULES: Final[tuple[tuple[str, str], ...]] = (
    (".tmp*", "safetensors writes .tmpXXXXXX and renames it when it is complete"),
    ("*.tmp", "the usual name before a rename; torch's distributed checkpoints write .metadata.tmp"),
    ("*.part", "downloads and copies under way"),
    ("tmp-checkpoint-*", "Hugging Face Trainer filled this directory and renamed it (4.36-4.38 and again in 2025)"),
    ("*.orbax-checkpoint-tmp-*", "Orbax fills this directory and renames it; it stays behind after a crash"),
    (".mlsync-restore-*", "mlsync's own restore, before its rename"),
)
"""Glob on one name, and who writes such names."""

_TEMPORARY: Final = re.compile("|".join(fnmatch.translate(glob) for glob, _reason in RULES).encode())


def is_temporary(path: bytes) -> bool:
    """Say whether the name, or that of a directory above it, is one that writers use before they are done."""
    return any(_TEMPORARY.match(name) for name in path.split(b"/"))
