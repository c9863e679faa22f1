"""The base of a difference: another chunk, of which whoever stores a chunk may store how the chunk differs from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlsync.repository.manifest import ChunkRef


@dataclass(frozen=True, slots=True)
class Base:
    """A chunk that is stored at *ref*, and is no difference.

    *read* fills memory with its plain bytes and returns whether it could; it has compared them with the name. A coder's
    thread calls it, and only for a chunk that is really new.
    """

    ref: ChunkRef
    read: Callable[[memoryview], bool]
