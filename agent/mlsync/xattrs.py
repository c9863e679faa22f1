"""Extended attributes that a version keeps: those of users, and POSIX ACLs; read and set by descriptor.

What the system itself or only root may give (``security.*``, ``trusted.*``) is never read and never set.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Final

#: In the room of an entry.
ROOM_NAME: Final = "xattrs"
_ACLS: Final = ("system.posix_acl_access", "system.posix_acl_default")
_USER: Final = "user."
# Marks that mlsync itself gives to directories.
_OWN: Final = "user.mlsync."
NAME_BYTES_MAX: Final = 255
# An entry's room has 64 KiB for all that is in it.
_ALL_BYTES_MAX: Final = 60 << 10
# The most that MessagePack adds to a name and its value.
_ADDED_BYTES: Final = 8
# A file system without them, or a file that is gone by now.
_NONE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODATA, errno.EPERM, errno.EACCES})


def is_name(name: str) -> bool:
    """Return whether an attribute of this name may be in a version."""
    if "\0" in name or len(name.encode()) > NAME_BYTES_MAX:
        return False
    return name in _ACLS or (name.startswith(_USER) and name != _USER)


def read(descriptor: int) -> tuple[dict[str, bytes], bool]:
    """Return the attributes of an open file or directory, by name, and whether some are left out.

    Left out is what has no room, ACLs last, and a name that is not UTF-8.
    """
    try:
        listed = os.listxattr(descriptor)
    except OSError as error:
        if error.errno in _NONE:
            return {}, False
        raise
    values: dict[str, bytes] = {}
    room, is_cut = _ALL_BYTES_MAX, False
    for name in sorted(filter(_is_ours, listed), key=lambda name: (name not in _ACLS, os.fsencode(name))):
        value = _value(descriptor, name) if _is_text(name) else None
        cost = _ADDED_BYTES + len(os.fsencode(name)) + len(value or b"")
        if value is None or cost > room:
            is_cut = True
        else:
            values[name], room = value, room - cost
    return {name: values[name] for name in sorted(values, key=str.encode)}, is_cut


def has_some(descriptor: int) -> bool:
    """Return whether ``read`` has to look: most files have none, and the system's own are no business of a version."""
    try:
        return any(map(_is_ours, os.listxattr(descriptor)))
    except OSError as error:
        if error.errno in _NONE:
            return False
        raise


def write(descriptor: int, wanted: Mapping[str, bytes]) -> None:
    """Give an open file or directory exactly these attributes of users and ACLs; raise the first ``OSError``.

    What is right already is left alone, since setting it shows.
    """
    fault: OSError | None = None
    present = _present(descriptor)
    for name in present.keys() - wanted.keys():
        fault = _tried(os.removexattr, descriptor, name) or fault
    for name, value in wanted.items():
        if not name.startswith(_OWN) and present.get(name) != value:
            fault = _tried(os.setxattr, descriptor, name, value) or fault
    if fault is not None:
        raise fault


def holds(descriptor: int, wanted: Mapping[str, bytes]) -> bool:
    """Return whether it has exactly these."""
    return _present(descriptor) == wanted


def _present(descriptor: int) -> dict[str, bytes | None]:
    try:
        listed = os.listxattr(descriptor)
    except OSError as error:
        if error.errno in _NONE:
            return {}
        raise
    return {name: _value(descriptor, name) for name in listed if _is_ours(name)}


def _tried(call: Callable[..., None], *arguments: object) -> OSError | None:
    try:
        call(*arguments)
    except OSError as error:
        return error
    return None


def _is_ours(name: str) -> bool:
    return (name.startswith(_USER) and not name.startswith(_OWN)) or name in _ACLS


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return is_name(name)


def _value(descriptor: int, name: str) -> bytes | None:
    try:
        return os.getxattr(descriptor, name)
    except OSError:
        return None
