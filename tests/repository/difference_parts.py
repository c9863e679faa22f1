"""Chunks of numbers of which one is close to another, and a store with such a chunk and a difference from it."""

from __future__ import annotations

import numpy as np

from mlsync.codec.keys import Keys
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.base import Base
from mlsync.repository.writer import PackWriter
from mlsync.store.base import Store

NUMBER_BYTES = 4


def weights(seed: int = 0, count: int = 4096) -> bytes:
    """Numbers like those of a layer."""
    return (np.random.default_rng(seed).standard_normal(count) * 0.02).astype(np.float32).tobytes()


def trained(plain: bytes, seed: int = 1) -> bytes:
    """The same numbers some steps of training later."""
    numbers = np.frombuffer(plain, np.float32)
    return (numbers * (1 + np.random.default_rng(seed).standard_normal(len(numbers)) * 1e-4)).astype("<f4").tobytes()


def base_of(ref: ChunkRef, plain: bytes) -> Base:
    """A base whose bytes are at hand."""

    def read(into: memoryview) -> bool:
        into[:] = plain
        return True

    return Base(ref, read)


def unknown(_name: bytes) -> ChunkRef | None:
    """Know no chunk."""
    return None


def put_one(store: Store, keys: Keys, plain: bytes, base: Base | None = None) -> ChunkRef:
    """Store a chunk of numbers in a pack of its own."""
    writer = PackWriter(store, keys, unknown, lanes=1)
    placed = writer.put(memoryview(plain), item_bytes=NUMBER_BYTES, base=base)
    writer.finish()
    return placed.ref


def put_differences(store: Store, keys: Keys, base: ChunkRef, base_plain: bytes, plains: list[bytes]) -> list[ChunkRef]:
    """Store chunks in one pack, each as a difference from the one base."""
    writer = PackWriter(store, keys, unknown, lanes=1)
    offered = base_of(base, base_plain)
    placed = [writer.put(memoryview(plain), item_bytes=NUMBER_BYTES, base=offered) for plain in plains]
    writer.finish()
    return [one.ref for one in placed]
