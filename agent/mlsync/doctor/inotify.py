"""Whether the kernel can report all changes below the watched directories: inotify's limits, and what is left."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlsync.doctor.disks import NETWORK
from mlsync.doctor.findings import Diagnosis, Grade
from mlsync.doctor.mounts import Mount, mount_of
from mlsync.source.paths import display

PROC: Final = Path("/proc")
SUBJECT: Final = "inotify"
# So many that counting them takes seconds.
_DIRECTORIES_MAX: Final = 200_000
_RAISE: Final = "sysctl -w fs.inotify.max_user_watches=1048576 fs.inotify.max_user_instances=1024"
_RESCANS: Final = "changes where the watches do not reach are found by rescans only (rescan under [agent], 60 s)"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user may have of each, and what the processes that can be seen have now."""

    watches: int
    instances: int
    used_watches: int
    used_instances: int


def limits(proc: Path = PROC, uid: int | None = None) -> Limits:
    """Return the limits and their use by the user's processes; those of other users cannot be seen and do not count."""
    uid = os.geteuid() if uid is None else uid
    used_watches = used_instances = 0
    for process in proc.iterdir():
        try:
            if not process.name.isdigit() or process.stat().st_uid != uid:
                continue
            for entry in (process / "fdinfo").iterdir():
                count = entry.read_text("ascii", "replace").count("inotify wd:")
                used_watches += count
                used_instances += count > 0
        except OSError:
            continue  # it ended meanwhile, or is not for us to see
    kernel = proc / "sys/fs/inotify"
    most = [int((kernel / f"max_user_{name}").read_text()) for name in ("watches", "instances")]
    return Limits(most[0], most[1], used_watches, used_instances)


def count_directories(directory: Path, most: int = _DIRECTORIES_MAX) -> int:
    """Return how many directories there are at and below *directory*, or *most* if there are more."""
    count = 0
    for _, _, _ in os.walk(directory):
        count += 1
        if count >= most:
            break
    return count


def diagnose_inotify(needed: int, found: Limits) -> Iterator[Diagnosis]:
    """Yield whether *needed* more watches fit."""
    left = found.watches - found.used_watches
    what = f"{needed} {'watch is' if needed == 1 else 'watches are'} needed, {left} of {found.watches} are left"
    if needed > left:
        yield Diagnosis(SUBJECT, Grade.WARNING, what, _RESCANS, _RAISE)
    elif found.used_instances >= found.instances:
        what = f"{found.used_instances} of {found.instances} inotify instances are in use"
        yield Diagnosis(SUBJECT, Grade.WARNING, what, _RESCANS, _RAISE)
    else:
        yield Diagnosis(SUBJECT, Grade.FINE, what)


def diagnose_events(directory: Path, mounts: Sequence[Mount]) -> Iterator[Diagnosis]:
    """Yield whether the file system below *directory* reports what other machines change."""
    mount = mount_of(directory, list(mounts))
    if mount is not None and (mount.kind in NETWORK or mount.kind.startswith("fuse.") or mount.kind == "9p"):
        what = f"{display(bytes(directory))} lies on {mount.kind}, which does not report what other machines change"
        yield Diagnosis(
            SUBJECT, Grade.WARNING, what, _RESCANS, 'a shorter rescan = "10s" under [agent] finds it sooner'
        )
