"""How the packs that a version relies on are looked for: in how many requests, and how long a pack must be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlsync.backup.storing.presence import refuse_lost
from mlsync.codec.compression import Coding
from mlsync.errors import NotFound, ObjectDamaged
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.pack import TRAILER_BYTES
from mlsync.repository.pack_lookup import LOOKS_MAX

OFFSET, LENGTH = 64, 1000


class Packs:
    """What is asked of a repository: its packs, all of one size, and how often they were asked for."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self.ids = [bytes([number]) * 16 for number in range(count)]
        self.calls: list[str] = []
        self.store = SimpleNamespace(stat=self._stat)
        self._info = SimpleNamespace(size_bytes=size_bytes)

    def packs(self):
        """List them."""
        self.calls.append("list")
        return ((pack_id, self._info) for pack_id in self.ids)

    def refs(self) -> list[ChunkRef]:
        """Return a chunk in each, whose last byte is at the same place."""
        return [ChunkRef(bytes(32), pack_id, 0, OFFSET, LENGTH, LENGTH, Coding.RAW) for pack_id in self.ids]

    def _stat(self, key: str) -> SimpleNamespace:
        self.calls.append("stat")
        if key not in {names.pack(pack_id) for pack_id in self.ids}:
            raise NotFound("no such pack", where=key)
        return self._info


def test_few_packs_are_looked_for_one_by_one():
    """Up to eight packs cost a request each, and no listing of all that the repository has."""
    packs = Packs(LOOKS_MAX, OFFSET + LENGTH + TRAILER_BYTES)
    refuse_lost(packs, packs.refs(), frozenset())
    assert packs.calls == ["stat"] * 8


def test_one_pack_more_is_looked_for_in_a_listing():
    """Nine packs cost one listing, and no request for any of them."""
    packs = Packs(LOOKS_MAX + 1, OFFSET + LENGTH + TRAILER_BYTES)
    refuse_lost(packs, packs.refs(), frozenset())
    assert packs.calls == ["list"]


def test_a_pack_has_room_for_its_last_chunk_and_the_trailer():
    """A pack that ends right behind both is not cut short, and one that lacks a byte is."""
    end_bytes = OFFSET + LENGTH + TRAILER_BYTES
    packs = Packs(1, end_bytes)
    refuse_lost(packs, packs.refs(), frozenset())
    short = Packs(1, end_bytes - 1)
    with pytest.raises(ObjectDamaged, match="cut short"):
        refuse_lost(short, short.refs(), frozenset())
