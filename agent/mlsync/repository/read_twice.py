"""Damage is believed when it is seen twice.

A network or a proxy flips bits, and no client of S3 holds what it reads against anything. What the store itself has
lost comes back damaged again; what was hurt on the way mostly does not, and must cost neither a restore nor, in a
backup, another upload of a pack that is whole. Stores and the layer that tries again cannot tell: seals and names can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mlsync.errors import KeySlotDamaged, ManifestDamaged, ObjectDamaged

_Result = TypeVar("_Result")


def read_twice(read: Callable[[], _Result]) -> _Result:
    """Return what *read* gives, which reads from the store and checks; where that is damaged, what it gives then."""
    try:
        return read()
    except (ObjectDamaged, ManifestDamaged, KeySlotDamaged):
        return read()
