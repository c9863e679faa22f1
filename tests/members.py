"""Users of one Unix group, by their numbers: none of them needs an entry in the system's files."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import unprivileged

ROOT, ANNA, BERT, STRANGER = 0, 61_001, 61_002, 61_003
GROUP = 61_000
NOBODY_ELSE = 0o077


@contextmanager
def shared_place() -> Iterator[Path]:
    """A directory that everybody can reach, unlike what pytest makes for root."""
    place = Path(tempfile.mkdtemp(prefix="mlsync-test-"))
    try:
        place.chmod(0o755)
        yield place
    finally:
        shutil.rmtree(place)


def groups_of(uid: int) -> Sequence[int]:
    """The groups of a user beside one of his own: root and the stranger are not in the members'."""
    return [GROUP] if uid in (ANNA, BERT) else []


def run(
    uid: int, command: Sequence[str | Path], *, umask: int = NOBODY_ELSE, **environ: str
) -> subprocess.CompletedProcess[str]:
    """What a command did that this user ran."""
    return subprocess.run(
        [os.fspath(word) for word in command],
        user=uid,
        group=uid,
        extra_groups=groups_of(uid),
        umask=umask,
        env=unprivileged.environment() | environ,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def modes_below(root: Path) -> set[tuple[str, str, int]]:
    """The kind, mode and group of everything in a directory, and of the directory."""
    found = set()
    for path in (root, *root.rglob("*")):
        info = path.lstat()
        found.add(("directory" if path.is_dir() else "file", f"{info.st_mode & 0o7777:04o}", info.st_gid))
    return found


# What there is in a group's repository while nobody writes.
GROUPS_MODES = {("directory", "2770", GROUP), ("file", "0440", GROUP)}
