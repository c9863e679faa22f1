"""Chunks of numbers of which one is close to another, stored as differences, and versions of a file of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from doubles.memory_store import MemoryStore
from mlsync.codec.digest import FileDigester, FileDigestKind
from mlsync.codec.keys import Keys
from mlsync.repository import names
from mlsync.repository.commit import commit
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.manifest import ChunkRef, Entry, Manifest, ManifestRoot, Origin, Previous, Summary
from mlsync.repository.pack.base import Base
from mlsync.repository.repository import Repository
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


def put_one(store: Store, keys: Keys, plain: bytes, base: Base | None = None, beside: bytes = b"") -> ChunkRef:
    """Store a chunk of numbers in a pack of its own, *beside* another chunk if there is one."""
    writer = PackWriter(store, keys, unknown, lanes=1)
    if beside:
        writer.put(memoryview(beside))
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


class History:
    """A run whose first version has a file of one chunk, and the later ones a difference from it each."""

    def __init__(self, later_count: int = 2, store: Store | None = None) -> None:
        passphrase, cheap = Passphrase(b"a passphrase"), Stretching(memory_kib=64, iterations=1, lanes=1)
        self.repository = Repository.create(store or MemoryStore(), passphrase, stretching=cheap)
        self.store = self.repository.store
        self.base = put_one(self.store, self.repository.keys, weights())
        self.plains, self.refs = {1: weights()}, {1: self.base}
        for number in range(2, 2 + later_count):
            plain = trained(weights(), number)
            (ref,) = put_differences(self.store, self.repository.keys, self.base, weights(), [plain])
            self.plains[number], self.refs[number] = plain, ref
        previous = None
        for number, ref in self.refs.items():
            previous = self.commit(number, [ref], previous)

    def commit(self, number: int, refs: Sequence[ChunkRef], previous: Previous | None = None) -> Previous:
        """Commit a version of one file of these chunks; what the next one says of it."""
        digester = FileDigester(FileDigestKind.WHOLE)
        for _ in refs:
            digester.update(self.plains[number])
        size_bytes = sum(ref.plain_bytes for ref in refs)
        entry = Entry(b"a", EntryKind.FILE, 0o644, 0, 0, 1, size_bytes, digest=digester.digest(), chunks=tuple(refs))
        root = ManifestRoot(
            run="run",
            number=number,
            created_ns=1_700_000_000_000_000_000 + number,
            previous=previous,
            writer="mlsync 0.1.0",
            host="node",
            directory=b"/data",
            required_level=0,
            summary=Summary(1, size_bytes, 0, 0, 0, 0, ""),
            troubles=(),
            packs=[],
            segments=[],
            origin=Origin(bytes(16)),
            top=None,
            notes=(),
        )
        return Previous(number, commit(self.repository, Manifest(root, (entry,)), unknown).digest)

    def drop(self, *numbers: int) -> None:
        """Delete versions as a policy does."""
        for number in numbers:
            key = self.repository.version_key("run", number)
            self.store.delete(key)
            self.store.delete(names.copy_of(key))

    def content(self, number: int) -> list[bytes]:
        """What a reader makes of a version's file."""
        (entry,) = self.repository.entries(self.repository.stored("run", number))
        with self.repository.reader() as reader:
            return [bytes(plain) for plain in reader.stream(entry.chunks)]

    def store_has(self, ref: ChunkRef) -> bool:
        """Whether a new version may rely on the chunk: its pack is there, and will not be deleted."""
        return self.repository.has_pack(ref.pack) and ref.pack not in self.repository.tombstones()

    def flip(self, ref: ChunkRef) -> None:
        """Change a bit of a chunk, as no store of ours does."""
        key = names.pack(ref.pack)
        content, modified_s = self.store._objects[key]
        changed = bytearray(content)
        changed[ref.offset + 100] ^= 1
        self.store._objects[key] = bytes(changed), modified_s
