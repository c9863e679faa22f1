"""What to do when the system denies this user something in a repository: whose it is, and how it becomes a group's."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path

from mlsync.store.directory.access import is_groups


def advice_on(root: Path) -> str:
    """Return what to do, by the modes and owners of the repository's *root* and of the directories above it."""
    closed = next((above for above in reversed(root.parents) if not os.access(above, os.X_OK)), None)
    try:
        found = os.stat(root if closed is None else closed)
    except OSError:
        return "check who owns the directory, and its modes"
    if closed is not None:
        owner, group, mode = _name_of_user(found.st_uid), _name_of_group(found.st_gid), stat.S_IMODE(found.st_mode)
        return f"{closed} of {owner} and group {group} is closed to this user, its mode is {mode:04o}"
    return _of_groups(root, found.st_gid) if is_groups(found) else _of_private(root, found.st_uid)


def _of_groups(root: Path, gid: int) -> str:
    group = _name_of_group(gid)
    if gid in (os.getegid(), *os.getgroups()):
        return f"something in it is not open to group {group}; its owner or root: {_commands(group, root)}"
    if os.geteuid() == 0:
        return f"group {group} shares it; a service that runs as root needs SupplementaryGroups={group}"
    return f"group {group} shares it; root adds a user by usermod -aG {group} USER, from the next login on"


def _of_private(root: Path, uid: int) -> str:
    owner = _name_of_user(uid)
    if uid == os.geteuid():
        command = f"chown -R {owner.removeprefix('user ')} {shlex.quote(str(root))}"
        return f"another user made something in this repository of {owner}'s; as root: {command}"
    return f"it is {owner}'s alone; {owner} or root shares it with a group by: {_commands('GROUP', root)}"


def _commands(group: str, root: Path) -> str:
    place = shlex.quote(str(root))
    return f"chgrp -R {group} {place} && chmod -R g+rwX {place} && find {place} -type d -exec chmod g+s {{}} +"


def _name_of_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _name_of_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
