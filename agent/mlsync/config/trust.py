"""Under root, refuse a configuration, secrets and programs that others can change."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Final

from mlsync.errors import Untrusted

_LINKS_MAX: Final = 40
_OTHERS_MAY_WRITE: Final = 0o022
# Descriptors that the caller opened himself, as with a shell's <(command).
_DESCRIPTORS: Final = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")
_ROOT: Final = frozenset({0})


def refuse_untrusted(
    path: str | os.PathLike[str], what: str, *, uids: Collection[int] = _ROOT, gids: Collection[int] = _ROOT
) -> None:
    """Raise ``Untrusted`` if anybody but *uids* and *gids* can change a file or the way to it; only root checks.

    The way is each directory of the path, and each symbolic link with the path that it leads to: whoever can rename one
    of them decides what the file is. A missing file passes, and fails when it is opened. A check before the file is
    opened is enough: if it passes, nobody else can change the way afterwards.
    """
    if os.geteuid() != 0 or os.fspath(path).startswith(_DESCRIPTORS):
        return
    try:
        fault = _fault(os.path.abspath(path), uids, gids)
    except OSError:
        return
    if fault is not None:
        place, why = fault
        raise Untrusted(
            f"root does not use {what} that others can change: {why}",
            where=place,
            advice=f"chown root {place} && chmod go-w {place}, or run mlsync as that user",
        )


def is_trusted(path: str | os.PathLike[str]) -> bool:
    """Return whether nobody but root can change what a path leads to."""
    try:
        return _fault(os.path.abspath(path), _ROOT, _ROOT) is None
    except OSError:
        return False


def program_at(word: str, search: str) -> Path | None:
    """Return the file that a word of a command names: an absolute path, or the first such program in *search*."""
    if "/" in word:
        return Path(word) if os.path.isabs(word) and os.path.isfile(word) else None
    for directory in filter(None, search.split(os.pathsep)):
        file = Path(directory) / word
        if file.is_file() and os.access(file, os.X_OK):
            return file
    return None


def _fault(path: str, uids: Collection[int], gids: Collection[int]) -> tuple[str, str] | None:
    """Return the first place on the way to *path* that others can change, and why they can."""
    here, links = "/", 0
    parts = deque(part for part in path.split("/") if part not in ("", "."))
    fault = _of_one("/", os.lstat("/"), uids, gids)
    while parts and fault is None:
        part = parts.popleft()
        if part == "..":
            here = os.path.dirname(here)
            continue
        place = os.path.join(here, part)
        info = os.lstat(place)
        if not stat.S_ISLNK(info.st_mode):
            here, fault = place, _of_one(place, info, uids, gids)
            continue
        links += 1
        if links > _LINKS_MAX:
            return place, "its symbolic links form a loop"
        target = os.readlink(place)
        here = "/" if target.startswith("/") else here
        parts.extendleft(reversed([part for part in target.split("/") if part not in ("", ".")]))
        # A link has no mode. Where others may make links, as in /tmp, its owner counts.
        fault = None if info.st_uid in uids else (place, f"this link belongs to user {info.st_uid}")
    return fault


def _of_one(place: str, info: os.stat_result, uids: Collection[int], gids: Collection[int]) -> tuple[str, str] | None:
    if info.st_uid not in uids:
        return place, f"it belongs to user {info.st_uid}"
    # In a sticky directory like /tmp nobody renames the files of others, and the next part is checked by itself.
    if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX:
        return None
    if info.st_mode & 0o002:
        return place, f"everybody may write it, its mode is {stat.S_IMODE(info.st_mode):04o}"
    if info.st_mode & _OTHERS_MAY_WRITE and info.st_gid not in gids:
        return place, f"group {info.st_gid} may write it, its mode is {stat.S_IMODE(info.st_mode):04o}"
    return None
