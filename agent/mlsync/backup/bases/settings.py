"""How a backup may store differences."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Differences(msgspec.Struct, frozen=True):
    """How tensors may be stored as differences: *caches* is the directory of base caches, *cache_bytes* a cache's size.

    A node that cannot read what it wrote keeps nothing of it on its disk either, unless the user *insists*.
    """

    caches: Path
    cache_bytes: int | None = None
    insists: bool = False
