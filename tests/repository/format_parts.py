"""Repositories in memory, and their parts, for the tests of this folder: cheap keys, known bytes, damage on purpose."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from doubles.memory_store import MemoryStore
from mlsync.buffers import Buffer
from mlsync.codec.digest import FileDigester, FileDigestKind
from mlsync.codec.keys import Keys
from mlsync.repository.commit import Committed, commit
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.manifest import ChunkRef, Entry, Manifest, ManifestRoot, Origin, Previous, Summary, Trouble
from mlsync.repository.repository import Repository
from mlsync.repository.writer import PackWriter
from mlsync.store.base import Store

MASTER = bytes(range(32))
REPOSITORY_ID = bytes(range(0x40, 0x50))
KEYS = Keys(MASTER, REPOSITORY_ID)
# A test that derives a key does not pay for one that is hard to guess.
FAST = Stretching(memory_kib=64, iterations=1, lanes=1)
PASSPHRASE = Passphrase(b"correct horse battery staple")


def noise(size_bytes: int, seed: object = 0) -> bytes:
    """Bytes that do not compress, the same at every run."""
    return random.Random(f"{seed}").randbytes(size_bytes)


def unknown(_name: bytes) -> ChunkRef | None:
    """Know no chunk."""
    return None


def nothing() -> None:
    """Release what needs no release."""


def write_chunks(
    store: Store, keys: Keys, pieces: Iterable[bytes], *, lanes: int = 1, item_bytes: int = 0
) -> list[ChunkRef]:
    """Store the pieces, in one lane unless more are asked for, and return where they lie."""
    writer = PackWriter(store, keys, unknown, lanes=lanes)
    placed = [writer.put(memoryview(piece), nothing, item_bytes) for piece in pieces]
    writer.finish()
    return [one.ref for one in placed]


def digest_of(*pieces: Buffer) -> bytes:
    """The digest that a file of these pieces has."""
    digester = FileDigester(FileDigestKind.WHOLE)
    for piece in pieces:
        digester.update(piece)
    return digester.digest()


def file_entry(path: bytes, refs: Iterable[ChunkRef] = (), pieces: Iterable[bytes] = (), **changes: object) -> Entry:
    """A file of these chunks."""
    refs = tuple(refs)
    size_bytes = sum(ref.plain_bytes for ref in refs)
    values = {"mode": 0o644, "uid": 1000, "gid": 1000, "mtime_ns": 1_700_000_000_123_456_789, "size_bytes": size_bytes}
    values |= {"digest": digest_of(*pieces), "chunks": refs, **changes}
    return Entry(path, EntryKind.FILE, **values)


def bare_entry(path: bytes, kind: EntryKind, target: bytes = b"") -> Entry:
    """A directory or link."""
    return Entry(path, kind, 0o755, 0, 0, -1, target=target)


def version(
    entries: Iterable[Entry],
    number: int = 1,
    previous: Previous | None = None,
    run: str = "run",
    troubles: tuple[Trouble, ...] = (),
) -> Manifest:
    """A version that holds *entries*."""
    entries = tuple(entries)
    root = ManifestRoot(
        run=run,
        number=number,
        created_ns=1_700_000_000_000_000_000 + number,
        previous=previous,
        writer="mlsync 0.1.0",
        host="node-1",
        directory=b"/data/runs",
        required_level=3,
        summary=summary_of(entries),
        troubles=troubles,
        packs=[],
        segments=[],
        origin=Origin(bytes(range(16))),
        top=None,
        notes=(),
    )
    return Manifest(root, entries)


def summary_of(entries: Iterable[Entry]) -> Summary:
    """The summary of a version of these entries."""
    files = [entry for entry in entries if entry.kind is EntryKind.FILE]
    lowest = min((entry.proof for entry in files if entry.proof), key=lambda proof: proof.level, default=None)
    level, device = (0, "") if lowest is None else (lowest.level, lowest.device)
    count = sum(entry.proof is not None for entry in files)
    return Summary(len(files), sum(entry.size_bytes for entry in files), 3, 4, count, level, device)


def new_repository(store: Store | None = None) -> Repository:
    """A repository in memory, or in *store*."""
    return Repository.create(store or MemoryStore(), PASSPHRASE, stretching=FAST)


def commit_unknown(repository: Repository, manifest: Manifest) -> Committed:
    """Commit without knowing any chunk."""
    return commit(repository, manifest, unknown)


def replace_object(store: MemoryStore, key: str, change: Callable[[bytes], bytes]) -> None:
    """Do what no store of ours does: change an object."""
    content, modified_s = store._objects[key]
    store._objects[key] = (change(content), modified_s)


def flip(offset: int, bits: int = 1) -> Callable[[bytes], bytes]:
    """Change bits of the byte at *offset*, which may count from the end."""

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[offset] ^= bits
        return bytes(changed)

    return change


def body_of(store: Store, key: str) -> bytes:
    """The whole of an object."""
    return store.get(key, limit_bytes=1 << 30)


def keys_under(store: Store, prefix: str) -> list[str]:
    """The names of the objects under *prefix*."""
    return [info.key for info in store.list(prefix)]
