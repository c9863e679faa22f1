"""The directory that a trainer writes to, and the snapshots taken of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Self


class RunDirectory:
    """A live run directory, and under *target* one snapshot of it per call of `snapshot`."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._count = 0
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def __enter__(self) -> Self:
        self._target.mkdir(parents=True)
        # Beside the series and not in it: whoever lists the series finds snapshots only.
        self.path = Path(tempfile.mkdtemp(prefix=f".{self._target.name}-", dir=self._target.parent))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path)

    def snapshot(self) -> None:
        previous, self._count = self._target / f"{self._count:04}", self._count + 1
        current = self._target / f"{self._count:04}"
        seen = {}
        for file in sorted(path for path in self.path.rglob("*") if path.is_file()):
            name = file.relative_to(self.path)
            (current / name).parent.mkdir(parents=True, exist_ok=True)
            seen[name] = stamp(file)
            if self._seen.get(name) == seen[name]:
                os.link(previous / name, current / name)
            else:
                shutil.copy2(file, current / name)
        self._seen = seen


def stamp(file: Path) -> tuple[int, int, int]:
    """What changes whenever a trainer writes a file, in place or by a rename."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
