"""The group that shares a new repository: who it is, and what stands in its way, before anybody types a passphrase."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

from mlsync.config.model import Config
from mlsync.errors import ConfigInvalid
from mlsync.monitor import Monitor
from mlsync.store.directory.access import is_groups
from mlsync.store.directory.directories import refuse_unshareable


def group_for(name: str | None, config: Config, monitor: Monitor) -> int | None:
    """Return the id of the group *name*, which may be its number, or ``None`` if no group was named.

    Raise if the repository is not in a directory, if this user is not in the group, or cannot give it the directory.
    """
    if name is None:
        return None
    directory = config.repository_directory
    if directory is None:
        advice = "leave it out: everybody whose credentials may read and write the bucket shares it"
        raise ConfigInvalid("--group is for a repository in a directory", where=config.repository, advice=advice)
    group = _number_of(name)
    _refuse_stranger(group, name)
    refuse_unshareable(directory, group, name)
    closed = _closed_above(directory, group)
    if closed is not None:
        text = f"group {name} cannot reach the repository through {closed}: chgrp {name} {closed} && chmod g+x {closed}"
        monitor.notice("warning", text)
    return group


def group_of(directory: Path) -> str | None:
    """Return the group that shares the repository in *directory*, if there is one and root is not in it."""
    try:
        found = os.stat(directory)
    except OSError:
        return None
    if not is_groups(found) or found.st_gid == 0:
        return None
    try:
        return grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        return str(found.st_gid)


def _number_of(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isascii() and name.isdecimal() and int(name) < 2**32 - 1:
            return int(name)
    advice = "getent group lists them; groupadd makes one"
    raise ConfigInvalid("no such group", where=name, advice=advice)


def _refuse_stranger(group: int, name: str) -> None:
    if os.geteuid() == 0 or group in (os.getegid(), *os.getgroups()):
        return
    advice = f"root adds a user with usermod -aG {name} USER, which takes effect at the next login (or newgrp {name})"
    raise ConfigInvalid("this user is not in that group", where=name, advice=advice)


def _closed_above(directory: Path, group: int) -> Path | None:
    """Return the first directory above that members may not pass, as far as its mode says."""
    for above in reversed(directory.parents):
        try:
            found = os.stat(above)
        except OSError:
            return None
        needed = stat.S_IXGRP if found.st_gid == group else stat.S_IXOTH
        if not found.st_mode & needed:
            return above
    return None
