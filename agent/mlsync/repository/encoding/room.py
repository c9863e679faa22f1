"""Room for what later mlsyncs add to a root, a segment, an entry or a later proof: its last position.

It is nil, or a map from names to values. A name that begins with ``!`` must be understood: a reader that does not know
it refuses the object by that name, since what it would make of the rest is wrong. A reader ignores any other name that
it does not know. See docs/format.md, "Room".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from mlsync.errors import ManifestDamaged
from mlsync.repository.encoding.canonical import newer

# What a position has room for, encoded; an object may have as many as entries.
ROOM_BYTES_MAX: Final = 64 << 10
# As deep as anything of ours; a decoder of another language may recurse.
DEPTH_MAX: Final = 8
_NAME: Final = re.compile(r"!?[a-z][a-z0-9-]{0,62}")
_REQUIRED: Final = "!"
_PLAIN: Final = (type(None), bool, int, float, str, bytes)

Room = dict[str, Any] | None


def room_of(values: Mapping[str, object]) -> Room:
    """Return a room with these values, in the order that readers demand; ``None`` stands for a value that is left out.

    A room without values is ``None``.
    """
    return {name: values[name] for name in sorted(values, key=str.encode) if values[name] is not None} or None


def check_room(room: Room, noun: str, where: str, understood: Collection[str] = ()) -> None:
    """Raise ``ManifestDamaged`` for what no writer writes, and ``FormatUnsupported`` for what must be understood.

    *understood* are the names with ``!`` that this mlsync knows in such an object.
    """
    if room is None:
        return
    is_sound = (
        len(room) > 0
        and all(map(_NAME.fullmatch, room))
        and _is_plain(room, DEPTH_MAX)
        and len(msgspec.msgpack.encode(room)) <= ROOM_BYTES_MAX
    )
    if not is_sound:
        raise ManifestDamaged(f"the last position of {noun} holds what no writer writes", where=where)
    unknown = sorted(name for name in room if name.startswith(_REQUIRED) and name not in understood)
    if unknown:
        raise newer(f"{noun} needs {', '.join(unknown)}, which is not known here", where)


def _is_plain(value: object, depth: int) -> bool:
    """Return whether a value has only types that every MessagePack library has, and maps in order."""
    if type(value) in _PLAIN:
        return True
    if depth == 0:
        return False
    if isinstance(value, Mapping):
        names = list(value)
        is_map = all(isinstance(name, str) for name in names) and names == sorted(names, key=str.encode)
        return is_map and _all_plain(value.values(), depth)
    return isinstance(value, list) and _all_plain(value, depth)


def _all_plain(values: Iterable[object], depth: int) -> bool:
    # Most values are no arrays, and a root has thousands.
    return all(type(value) in _PLAIN or _is_plain(value, depth - 1) for value in values)
