"""Whether every file of the watched directories can be read by whoever runs this."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mlsync.doctor.findings import Diagnosis, Grade, unknown
from mlsync.source.paths import display
from mlsync.source.root import reads_everything

_FILES_MAX: Final = 200_000
_SHOWN_MAX: Final = 3
_ADVICE: Final = (
    "run mlsync as the user who owns the training, or as root by systemd, whose unit may read every user's files"
)


def diagnose_readable(directory: Path, run: str, most: int = _FILES_MAX) -> Iterator[Diagnosis]:
    """Yield how many files and directories below *directory* this process cannot read, and name some."""
    subject = f"files of run {run}"
    if not os.path.lexists(directory):
        what = f"{display(bytes(directory))} does not exist yet"
        yield Diagnosis(
            subject, Grade.WARNING, what, "there is nothing to back up", "start the training, or mend the path"
        )
        return
    if not directory.is_dir():
        yield Diagnosis(subject, Grade.GRAVE, f"{display(bytes(directory))} is no directory", advice="mend the path")
        return
    refused: list[bytes] = []
    count = 0
    walk = os.walk(os.fsencode(directory), onerror=lambda error: refused.append(os.fsencode(error.filename)))
    for top, directories, files in walk:
        count += len(files)
        refused.extend(path for name in files if not _may_read(path := os.path.join(top, name)))
        if count > most:
            directories.clear()
            yield unknown(subject, f"more than {most} files are there; {most} were looked at")
            break
    if refused:
        shown = ", ".join(display(path) for path in refused[:_SHOWN_MAX])
        more = f" and {len(refused) - _SHOWN_MAX} more" if len(refused) > _SHOWN_MAX else ""
        what = f"{len(refused)} files or directories cannot be read: {shown}{more}"
        yield Diagnosis(subject, Grade.GRAVE, what, "no version has them as they are now (status 41)", _ADVICE)
    else:
        whose = "" if reads_everything() else f" by user {os.geteuid()}; the service may run as another one"
        yield Diagnosis(
            subject,
            Grade.FINE,
            f"the one file can be read{whose}" if count == 1 else f"all {count} files can be read{whose}",
        )


def _may_read(path: bytes) -> bool:
    # A link is stored as a link; what it leads to does not matter.
    return os.path.islink(path) or os.access(path, os.R_OK, effective_ids=True) or not os.path.lexists(path)
