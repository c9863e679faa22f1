"""Tombstones of packs, and registrations of runs: what writers and a prune tell each other.

A tombstone says that a pack will be deleted: from then on no version may come to rely on it. Writers go by its name
alone, so that they need no key to be safe; a prune deletes only after a tombstone that opens. A registration says that
a run has a writer although it has no version yet. See docs/format.md, "Deleting packs".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from mlsync.codec.keys import Keys
from mlsync.errors import ManifestDamaged, StoreBroken
from mlsync.repository import sealed_object
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.room import Room, check_room
from mlsync.repository.encoding.validation import is_time
from mlsync.repository.read_twice import read_twice
from mlsync.store.base import Store

# A room has up to 64 KiB.
OBJECT_BYTES_MAX: Final = 128 << 10


class Tombstone(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """When a tombstone was made and by which program; its name has the pack's id."""

    made_ns: int
    writer: str
    room: Room = None


class Registration(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The name of a run that may have no version yet, when that was noted, and by which program."""

    run: str
    made_ns: int
    writer: str
    room: Room = None


_Said = TypeVar("_Said", Tombstone, Registration)


def make_tombstone(keys: Keys, key: str, tombstone: Tombstone) -> bytes:
    """Return the tombstone under the name *key*."""
    return sealed_object.seal(keys, sealed_object.TOMBSTONE, key, msgspec.msgpack.encode(tombstone))


def make_registration(keys: Keys, key: str, registration: Registration) -> bytes:
    """Return the registration under the name *key*."""
    return sealed_object.seal(keys, sealed_object.REGISTRATION, key, msgspec.msgpack.encode(registration))


def open_tombstone(keys: Keys, key: str, body: bytes) -> Tombstone:
    """Return the tombstone under the name *key*; raise ``ManifestDamaged`` or ``FormatUnsupported``."""
    return _checked(sealed_object.open_(keys, sealed_object.TOMBSTONE, key, body), Tombstone, "a tombstone", key)


def open_registration(keys: Keys, key: str, body: bytes, is_of_run: Callable[[str], bool]) -> Registration:
    """Return the registration under the name *key*; raise ``ManifestDamaged`` or ``FormatUnsupported``."""
    plain = sealed_object.open_(keys, sealed_object.REGISTRATION, key, body)
    found = _checked(plain, Registration, "a registration", key)
    if not is_of_run(found.run):
        raise ManifestDamaged("the registration is of another run", where=key)
    return found


def _checked(plain: bytes, kind: type[_Said], noun: str, key: str) -> _Said:
    found = decode_as(plain, kind, key)
    if not is_time(found.made_ns):
        raise ManifestDamaged(f"the time in {noun} is out of bounds", where=key)
    check_room(found.room, noun, key)
    return found


def read(store: Store, key: str, open_body: Callable[[bytes], _Said]) -> tuple[_Said, bytes]:
    """Return what the object *key* says, and its bytes; raise ``NotFound``, ``ManifestDamaged`` and so on."""

    def look() -> tuple[_Said, bytes]:
        try:
            body = store.get(key, limit_bytes=OBJECT_BYTES_MAX)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            raise ManifestDamaged(f"the object was changed: {error.what}", where=key) from error
        return open_body(body), body

    return read_twice(look)
