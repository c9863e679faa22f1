"""Read damaged objects a second time, and then from a mirror if there is one, before an error is raised.

A network or a proxy may flip bits, and clients of S3 do not check what they read. An object that is damaged in the
store is damaged again; one that was damaged on the way mostly is not, and must neither fail a restore nor make a backup
upload an intact pack again. Stores, and the layer that retries, cannot see such damage: only seals and names show it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mlsync.errors import (
    Damage,
    FormatUnsupported,
    KeySlotDamaged,
    ManifestDamaged,
    NotFound,
    ObjectDamaged,
    StoreBroken,
    StoreError,
)
from mlsync.store.base import Store

_Result = TypeVar("_Result")


def read_twice(read: Callable[[], _Result]) -> _Result:
    """Return the result of *read*, which reads from the store and checks; if it finds damage, call it once more."""
    try:
        return read()
    except (ObjectDamaged, ManifestDamaged, KeySlotDamaged):
        return read()


def reads_back(store: Store, key: str, body: bytes) -> bool:
    """Return whether the object *key* is there with these bytes: some stores overwrite, lose or exchange objects."""
    for _ in range(2):
        try:
            if store.get(key, limit_bytes=len(body)) == body:
                return True
        except NotFound:
            continue
        except StoreBroken as error:
            if not error.is_of_object:
                raise
    return False


def read_anywhere(store: Store, read: Callable[[Store], _Result]) -> _Result:
    """Return the result of *read* as ``read_twice`` does; if the object is damaged in *store*, ask the store's mirrors.

    A mirror is believed no more than the store: *read* checks what comes. If none is sound, the store's damage counts.
    """
    try:
        return read_twice(lambda: read(store))
    except (ObjectDamaged, ManifestDamaged) as error:
        for mirror in store.mirrors():
            try:
                found = read(mirror)
            except (Damage, FormatUnsupported, StoreError):
                continue
            store.note_mirror(error.where or "", mirror, error.what)
            return found
        raise
