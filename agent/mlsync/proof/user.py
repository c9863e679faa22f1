"""The user of the proof's processes if mlsync is root: the trainer's user, or nobody."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import stat
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Self

NOBODY: Final = "nobody"
_NOBODY_ID: Final = 65534
# To become the user, and to kill processes of that user.
_NEEDED: Final = {"CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_KILL": 5}
# The devices of a GPU; where only a group may open them, as with AMD's drivers, nobody joins that group.
_GPU_DEVICES: Final = ("/dev/nvidia*", "/dev/kfd", "/dev/dri/render*")
_FOR_GROUP, _FOR_ALL = 0o060, 0o006


@dataclass(frozen=True, slots=True)
class User:
    """A user that a process runs as; *home* holds what that user installed with pip."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str

    @classmethod
    def of(cls, uid: int) -> Self:
        """Return the user of that id with all groups; for root, nobody."""
        if uid == 0:
            return cls.nobody()
        try:
            found = pwd.getpwuid(uid)
        except KeyError:  # as in a container, whose ids come from outside
            return cls(uid, uid, (), str(uid), "/nonexistent")
        groups = tuple(os.getgrouplist(found.pw_name, found.pw_gid))
        return cls(uid, found.pw_gid, groups, found.pw_name, found.pw_dir)

    @classmethod
    def nobody(cls) -> Self:
        """Return nobody, who owns no files."""
        return cls(_NOBODY_ID, _NOBODY_ID, _groups_of_gpus(), NOBODY, "/nonexistent")

    @property
    def as_started(self) -> dict[str, Any]:
        """The arguments of ``subprocess.Popen`` with which no instruction of the program runs as root."""
        return {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}


def cannot_change_user() -> str:
    """Return why this process cannot start processes as another user and kill them; empty if it can."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                held = int(line.split()[1], 16)
                lacking = [name for name, bit in _NEEDED.items() if not held >> bit & 1]
                return f"mlsync has no {', '.join(lacking)}" if lacking else ""
    return "mlsync does not know what it may"


@cache
def _groups_of_gpus() -> tuple[int, ...]:
    groups = set()
    for pattern in _GPU_DEVICES:
        for device in glob.glob(pattern):
            with contextlib.suppress(OSError):
                info = os.stat(device)
                if (
                    stat.S_ISCHR(info.st_mode)
                    and info.st_mode & _FOR_GROUP == _FOR_GROUP
                    and not info.st_mode & _FOR_ALL
                ):
                    groups.add(info.st_gid)
    return tuple(sorted(groups - {0}))
