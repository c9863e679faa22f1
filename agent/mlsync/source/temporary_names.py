"""Names of files that are still being written, which never belong to a version."""

from __future__ import annotations

from typing import Final

_BEGINNINGS: Final = (
    b".tmp",  # safetensors writes .tmpXXXXXX and renames it when it is complete
    b"tmp-checkpoint-",  # Hugging Face Trainer filled this directory and renamed it (4.36-4.38 and again in 2025)
)
_ENDS: Final = (
    b".tmp",  # the usual name before a rename; torch's distributed checkpoints write .metadata.tmp
    b".part",  # downloads and copies under way
    b".partial",  # chunks of zarr before their rename
)
# Orbax fills this directory and renames it; it stays behind after a crash.
_ORBAX: Final = b".orbax-checkpoint-tmp"  # newer ones have no number behind it


# mlsync's own restore, before its rename.
_OWN: Final = b".mlsync-restore-"
#: The same, as docs and messages show them.
TEMPORARY_NAMES: Final = ".tmp*, tmp-checkpoint-*, *.tmp, *.part, *.partial, *.orbax-checkpoint-tmp*"


def is_own(name: bytes) -> bool:
    """Return whether mlsync itself writes restored files under such a name."""
    return name.startswith(_OWN)


def is_temporary(name: bytes) -> bool:
    """Return whether writers (mlsync too) use such a base name for files that are not complete yet."""
    return name.startswith((*_BEGINNINGS, _OWN)) or name.endswith(_ENDS) or _ORBAX in name
