"""Who may use a directory repository: one user, or the members of a group. The mode of its root says which."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

import msgspec

# The set-group-ID bit and all rights of the group: nobody has this by chance, as with the umask of 002 alone.
_GROUPS: Final = stat.S_ISGID | stat.S_IRWXG
ROOT_MODE: Final = 0o2770
# Above a group's repository: members pass through, and cannot rename what is inside.
PARENT_MODE: Final = 0o750


class Access(msgspec.Struct, frozen=True):
    """The modes that new files and directories get, and the *group* that they get; ``None`` leaves them the user's."""

    # Every member may remove what a crashed writer left, and locks it first, which NFS allows only to a writer.
    pending_mode: int
    # Objects never change. Where members could write into each other's, one careless redirection would damage some.
    object_mode: int
    directory_mode: int
    group: int | None = None

    def give(self, descriptor: int, mode: int) -> None:
        """Give what this process just made the group and *mode*, whatever umask and file system made of it.

        The set-group-ID bit of a directory below the root may be missing afterwards: seccomp filters forbid to set it
        (systemd's ``RestrictSUIDSGID=``). Nothing depends on it, because the group is always given here.
        """
        if self.group is None:
            return
        made = os.fstat(descriptor)
        if made.st_gid != self.group:
            os.fchown(descriptor, -1, self.group)
            made = os.fstat(descriptor)
        if stat.S_IMODE(made.st_mode) != mode:
            _change_mode(descriptor, mode)


ALONE: Final = Access(0o600, 0o600, 0o700)


def access_of(root: os.stat_result) -> Access:
    """Return how a repository is shared by the mode of its root directory."""
    return Access(0o660, 0o440, 0o2770, root.st_gid) if is_groups(root) else ALONE


def is_groups(root: os.stat_result) -> bool:
    """Return whether this root is that of a group's repository."""
    return root.st_mode & _GROUPS == _GROUPS


def _change_mode(descriptor: int, mode: int) -> None:
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:
        if error.errno != errno.EPERM or not mode & stat.S_ISGID:
            raise
        os.fchmod(descriptor, mode & ~stat.S_ISGID)
