"""Where the tests keep their files: in memory where there is enough of it, since most of them wait for a disk.

A ``TMPDIR`` of the developer's is left alone, so ``TMPDIR=/tmp python -m pytest`` runs all of them on a disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
# Three times what a run was seen to fill at most; tests with PyTorch need the rest.
ENOUGH_BYTES = 3 << 30
ENOUGH_AVAILABLE_BYTES = 8 << 30
# Short, since the path of a socket has at most 107 bytes.
_PREFIX = "mlsync-"
_LOCK = "in-use"


class TemporaryPlace:
    """A directory in memory that ``TMPDIR`` names until ``leave``, or nothing where memory is short."""

    def __init__(self, memory: Path = MEMORY) -> None:
        self.path: Path | None = None
        self._descriptor = -1
        if "TMPDIR" in os.environ or not _has_room(memory):
            return
        sweep(memory)
        made = Path(tempfile.mkdtemp(prefix="making-mlsync-", dir=memory))
        # As /tmp is: tests have other users reach what they make there.
        made.chmod(0o1777)
        # Tells later runs that this one still runs, whatever ends it; so it comes before the name that they look for.
        # On a file in it: restores into places below lock the directory itself.
        self._descriptor = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = made.rename(memory / (_PREFIX + made.name.rpartition("-")[2]))
        os.environ["TMPDIR"] = str(self.path)
        tempfile.tempdir = None

    def leave(self, *, keep: bool) -> None:
        """Remove the directory, or *keep* it for whoever looks at a failed test; the next run removes it then."""
        if self.path is None:
            return
        del os.environ["TMPDIR"]
        tempfile.tempdir = None
        if not keep:
            _remove(self.path)
        os.close(self._descriptor)
        self.path = None


def on_disk() -> Path | None:
    """Where tests go that need a disk, or nothing if the temporary directory is not one of this module's."""
    in_memory = Path(os.environ.get("TMPDIR", "")).name.startswith(_PREFIX)
    # By convention on a disk, where /tmp may not be.
    return Path("/var/tmp") if in_memory else None


def sweep(memory: Path) -> None:
    """Remove what earlier runs of this user left in *memory* that no longer run."""
    for place in memory.glob(_PREFIX + "*"):
        with suppress(OSError):
            if place.lstat().st_uid != os.getuid():
                continue
            descriptor = os.open(place / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(place)
            finally:
                os.close(descriptor)


def _remove(place: Path) -> None:
    """Remove *place*, but nothing if something is mounted below it: that may be the whole machine, for a container."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    if not any(one.startswith(f"{place}/") for one in mounted):
        shutil.rmtree(place, ignore_errors=True)


def _has_room(memory: Path) -> bool:
    """Whether *memory* is a file system in memory that runs programs and has room for what the tests write."""
    try:
        found = os.statvfs(memory)
        kinds = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
        available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line)
    except (OSError, StopIteration):
        return False
    return (
        kinds.get(str(memory)) == "tmpfs"
        and not found.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
        and os.access(memory, os.W_OK)
        and found.f_bavail * found.f_frsize >= ENOUGH_BYTES
        and int(available.split()[1]) * 1024 >= ENOUGH_AVAILABLE_BYTES
    )
