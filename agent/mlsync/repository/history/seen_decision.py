"""What a manifest says of the newest decision that its writer had seen, so that no store can hide it afterwards."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mlsync.errors import ManifestDamaged
from mlsync.repository import names
from mlsync.repository.encoding.room import Room

# The name in the room of a root.
ROOM_NAME: Final = "decision"
HALF_BYTES: Final = 16


class SeenDecision(msgspec.Struct, frozen=True):
    """The number of a decision, and half of its digest."""

    number: int
    half: bytes


def half(digest: bytes) -> bytes:
    """Return the part of an object's digest that stands in decisions, and in a root for a decision."""
    return digest[:HALF_BYTES]


def seen_decision(room: Room) -> SeenDecision | None:
    """Return what a root's room says of decisions."""
    found = (room or {}).get(ROOM_NAME)
    return None if found is None else SeenDecision(*found)


def seen_value(seen: SeenDecision | None) -> list[Any] | None:
    """Return the value for a root's room."""
    return None if seen is None else [seen.number, seen.half]


def check_seen_decision(room: Room, where: str) -> None:
    """Raise ``ManifestDamaged`` if what a root says of decisions is not as docs/format.md says."""
    if room is None or ROOM_NAME not in room:
        return
    value = room[ROOM_NAME]
    is_sound = isinstance(value, list) and list(map(type, value)) == [int, bytes]
    if not is_sound or not 0 < value[0] <= names.VERSION_MAX or len(value[1]) != HALF_BYTES:
        raise ManifestDamaged("what the version says of decisions is not as any writer makes it", where=where)
