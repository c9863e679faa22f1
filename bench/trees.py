"""Directories as a whole: their size, what was written in them, whether two are alike."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

Stamps = dict[Path, tuple[int, int, int]]


def files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def size_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in files(directory))


def stamps(directory: Path) -> Stamps:
    """What changes of each file when it is written, also where a tool sets the time of its change back."""
    statuses = {file: file.stat() for file in files(directory)} if directory.exists() else {}
    return {file: (status.st_ino, status.st_size, status.st_ctime_ns) for file, status in statuses.items()}


def written_bytes(before: Stamps, after: Stamps) -> int:
    """The size of the files that were written, each as a whole."""
    return sum(stamp[1] for file, stamp in after.items() if before.get(file) != stamp)


def digests(directory: Path) -> dict[str, str]:
    return {str(file.relative_to(directory)): digest(file) for file in files(directory)}


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_alike(source: Path, restored: Path, tool: str) -> None:
    """A figure of a tool that brought something else back would be worth nothing."""
    wanted, found = digests(source), digests(restored)
    different = [name for name in sorted(wanted | found) if wanted.get(name) != found.get(name)]
    assert not different, f"{tool} did not bring back what was there: {', '.join(different)}"


def remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
