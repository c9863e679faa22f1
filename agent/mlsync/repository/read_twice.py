"""Read damaged objects a second time, before an error is raised.

A network or a proxy may flip bits, and clients of S3 do not check what they read. An object that is damaged in the
store is damaged again; one that was damaged on the way mostly is not, and must neither fail a restore nor make a backup
upload an intact pack again. Stores, and the layer that retries, cannot see such damage: only seals and names show it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mlsync.errors import KeySlotDamaged, ManifestDamaged, ObjectDamaged

_Result = TypeVar("_Result")


def read_twice(read: Callable[[], _Result]) -> _Result:
    """Return the result of *read*, which reads from the store and checks; if it finds damage, call it once more."""
    try:
        return read()
    except (ObjectDamaged, ManifestDamaged, KeySlotDamaged):
        return read()
