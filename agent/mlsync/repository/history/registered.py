"""What a decision says of a registry of models: which of its models are which versions of the run.

It stands in the decision's room under a name that readers must understand: a writer that left it out would let go what
a registry points to. See docs/format.md, "Decision".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any, Final

from mlsync.errors import ManifestDamaged
from mlsync.repository import names
from mlsync.repository.encoding.room import Room
from mlsync.repository.encoding.validation import is_safe_path, is_time
from mlsync.repository.history.seen_decision import HALF_BYTES
from mlsync.values import COUNT_MAX

#: The name in the room of a decision.
ROOM_NAME: Final = "!registered"
TEXT_BYTES_MAX: Final = 1_000
_TYPES: Final = (int, bytes, str, str, int, bytes, int)


@dataclass(frozen=True, slots=True)
class Registered:
    """A version of a run, or one *path* in it, that is version *number* of *model* in the registry at *place*.

    *manifest* is the first half of the digest of the version's manifest.
    """

    version: int
    manifest: bytes
    place: str
    model: str
    number: int
    path: bytes
    made_ns: int

    @property
    def uri(self) -> str:
        """What MLflow calls it."""
        return f"models:/{self.model}/{self.number}"

    @property
    def order(self) -> tuple[int, bytes, bytes, int]:
        """By what they are sorted; no two have the same."""
        return self.version, self.place.encode(), self.model.encode(), self.number


def registered_in(room: Room) -> tuple[Registered, ...]:
    """Return what a decision's room, which was checked, says of registries."""
    return tuple(Registered(*one) for one in (room or {}).get(ROOM_NAME, ()))


def registered_value(items: Iterable[Registered]) -> list[Any] | None:
    """Return the value for a decision's room."""
    return [list(astuple(one)) for one in sorted(items, key=lambda one: one.order)] or None


def check_registered(room: Room, dropped: Sequence[tuple[int, int]], where: str) -> None:
    """Raise ``ManifestDamaged`` unless it is as docs/format.md says; *dropped* are ranges of forgotten or gone ones."""
    if room is None or ROOM_NAME not in room:
        return
    if not _is_sound(room[ROOM_NAME], dropped):
        raise ManifestDamaged("what the decision says of registries is not as any writer makes it", where=where)


def _is_sound(value: object, dropped: Sequence[tuple[int, int]]) -> bool:
    if not isinstance(value, list) or not value:
        return False
    if not all(isinstance(one, list) and tuple(map(type, one)) == _TYPES for one in value):
        return False
    items = [Registered(*one) for one in value]
    return (
        all(map(_is_item, items))
        and all(before.order < after.order for before, after in pairwise(items))
        and not any(first <= one.version <= last for one in items for first, last in dropped)
    )


def _is_item(one: Registered) -> bool:
    return (
        0 < one.version <= names.VERSION_MAX
        and len(one.manifest) == HALF_BYTES
        and 0 < len(one.place.encode()) <= TEXT_BYTES_MAX
        and 0 < len(one.model.encode()) <= TEXT_BYTES_MAX
        and 0 < one.number <= COUNT_MAX
        and (not one.path or is_safe_path(one.path))
        and is_time(one.made_ns)
    )


def by_version(items: Iterable[Registered]) -> Mapping[int, tuple[Registered, ...]]:
    """Return what is registered of each version."""
    found: dict[int, tuple[Registered, ...]] = {}
    for one in items:
        found[one.version] = (*found.get(one.version, ()), one)
    return found
