"""A repository as the flows see it: runs and their versions, chunks in and out, and the one way to commit.

Commit order, whatever crashes between: packs durable, then the candidate is proved (by the flow), then the packs of the
manifest's own body, then the manifest, whose creation is conditional and is the version's beginning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from mlsync.codec.digest import Buffer, is_named, object_digest, run_id
from mlsync.codec.keys import MASTER_KEY_BYTES, Keys
from mlsync.errors import (
    AlreadyExists,
    Damage,
    FormatUnsupported,
    ManifestDamaged,
    NotFound,
    ObjectDamaged,
    RepositoryExists,
    RepositoryMissing,
    StoreBroken,
    StoreError,
    VersionMissing,
    VersionTaken,
)
from mlsync.repository import header, keyslot, names, pack_footer, sealed_object, segments
from mlsync.repository.keyslot import Stretching, Unlock
from mlsync.repository.later_proof import LaterProof, LaterProofs
from mlsync.repository.manifest import ChunkRef, Entry, Manifest, Root, decode_as, storable
from mlsync.repository.pack_builder import finish_noted
from mlsync.repository.pack_journal import NotedPack, PackJournal
from mlsync.repository.reader import ChunkReader
from mlsync.repository.rules import check_root
from mlsync.repository.second_look import looked_at_twice
from mlsync.repository.unlocking import read_slot, unlocked
from mlsync.repository.writer import Known, PackWriter, Placed
from mlsync.store.base import ObjectInfo, Store

# What S3 gives of a listing at a time.
PAGE_COUNT: Final = 1000


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest's root as it was read, with the digest that the next version will carry."""

    root: Root
    digest: bytes
    key: str


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit made: the manifest's digest, and the chunks that its own body stands in."""

    digest: bytes
    body_refs: tuple[ChunkRef, ...]
    packs: tuple[bytes, ...]
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """A run as listings show it."""

    name: str
    numbers: tuple[int, ...]


class Repository:
    """The objects of one store under one master key."""

    def __init__(self, store: Store, keys: Keys, *, conditional_create: bool = True, slot: str = "") -> None:
        self.store = store
        self.slot = slot
        self.conditional_create = conditional_create
        self.keys = keys
        self._run_key = keys.of("run id")
        self._name_key = keys.of("chunk name")
        self._later_proofs = LaterProofs(store, keys)

    # ------------------------------------------------------------ beginning

    @classmethod
    def create(
        cls, store: Store, unlock: Unlock, *, stretching: Stretching | None = None, conditional_create: bool = True
    ) -> Repository:
        """Make a repository with one key slot; ``RepositoryExists``, and nothing changed, if there is one."""
        cls.refuse_existing(store)
        repository_id, master = os.urandom(header.ID_BYTES), os.urandom(MASTER_KEY_BYTES)
        keys = Keys(master, repository_id)
        salt, slot_id = os.urandom(keyslot.SALT_BYTES), os.urandom(names.SLOT_ID_BYTES)
        slot = keyslot.make(unlock, master, repository_id, salt, stretching or Stretching())
        # The slot first: a header without a slot would be a repository that nobody can ever open.
        store.put(names.key_slot(slot_id), slot)
        try:
            store.put(names.HEADER, header.encode(keys, conditional_create=conditional_create))
        except AlreadyExists:
            store.delete(names.key_slot(slot_id))
            raise RepositoryExists("another init was quicker", where=store.url) from None
        return cls(store, keys, conditional_create=conditional_create, slot=names.key_slot(slot_id))

    @staticmethod
    def exists(store: Store) -> bool:
        """Whether there is a repository, as far as that shows without a key."""
        try:
            store.stat(names.HEADER)
        except NotFound:
            return False
        return True

    @classmethod
    def refuse_existing(cls, store: Store) -> None:
        """Raise ``RepositoryExists`` where a repository is, or was."""
        if cls.exists(store):
            raise RepositoryExists("there is a repository already", where=store.url, advice="nothing was changed")
        # A place with packs but no header is a repository that lost its header: a new one would bury it.
        if next(iter(store.list(names.PACKS)), None) is not None:
            what = "there are packs of a repository whose header is missing"
            raise RepositoryExists(what, where=store.url, advice="nothing was changed")

    @classmethod
    def look(cls, store: Store) -> header.Header:
        """Return what shows without a key, or raise ``RepositoryMissing`` or what is wrong with the header."""
        try:
            return looked_at_twice(lambda: header.decode(_header(store), store.url))
        except NotFound:
            raise RepositoryMissing(
                "there is no repository", where=store.url, advice="make one with: mlsync init"
            ) from None

    @classmethod
    def open(
        cls, store: Store, unlock: Unlock, *, found: header.Header | None = None, likely_slot: str | None = None
    ) -> Repository:
        """Open with a passphrase or key file, or raise what is missing or wrong.

        *found* is what ``look`` gave; *likely_slot* the name of the slot that opened before, which is tried first.
        """
        found = found or cls.look(store)
        slot, master = unlocked(store, unlock, found, likely_slot)
        keys = Keys(master, found.repository_id)
        if not found.is_of(keys):
            what = "the header is not as it was written, or the key slot is of another repository"
            raise ObjectDamaged(what, where=f"{store.url} {names.HEADER}")
        return cls(store, keys, conditional_create=found.conditional_create, slot=slot)

    def confirm(self) -> None:
        """Raise ``RepositoryMissing`` unless this very repository still is in the store: one small object is read."""
        advice = "nothing was written; check whether its disk is mounted, and whether it is the right one"
        try:
            found = looked_at_twice(lambda: header.decode(_header(self.store), self.store.url))
        except NotFound:
            raise RepositoryMissing("the repository is away", where=self.store.url, advice=advice) from None
        if found.repository_id != self.repository_id:
            raise RepositoryMissing("another repository stands in its place", where=self.store.url, advice=advice)
        if not found.is_of(self.keys):
            raise ObjectDamaged("the header is not as it was written", where=f"{self.store.url} {names.HEADER}")

    @property
    def repository_id(self) -> bytes:
        """The repository's id."""
        return self.keys.repository_id

    def close(self) -> None:
        """Give back the store's connections."""
        self.store.close()

    # ------------------------------------------------------------ reading

    def numbers(self, run: str, *, after: int = 0) -> list[int]:
        """Return the numbers of the run's versions above *after*, rising: one listing, from there on."""
        return list(self._numbers(run, after))

    def _numbers(self, run: str, after: int) -> Iterator[int]:
        run_key = self._run_id(run)
        last = names.version(run_key, after) if after > 0 else ""
        for info in self.store.list(names.run_prefix(run_key), after=last):
            parsed = names.parse_version(info.key)
            if parsed is not None:
                yield parsed[1]

    def has_versions(self, run: str) -> bool:
        """Whether the run has a version."""
        return next(self._numbers(run, 0), None) is not None

    def newest(self, run: str) -> int | None:
        """Return the number of the run's newest version, if it has one.

        One page of a listing if it has up to as many versions, and for longer histories as many pages as its logarithm.
        """
        # Versions up to *low* are not the newest, or are it themselves; above *high* there is none.
        low, high, step, probe = 0, None, 0, 0
        while high is None or low < high:
            numbers = self._first_numbers(run, probe)
            if 0 < len(numbers) < PAGE_COUNT:
                return numbers[-1]
            is_behind_low = probe == low
            if numbers:
                low = numbers[-1]
            else:
                high = probe
            if high is None:
                probe, step = low + step, max(2 * step, PAGE_COUNT)
            else:
                # The page behind *low* first: most histories end in it.
                probe = (low + high) // 2 if is_behind_low else low
        return low or None

    def _first_numbers(self, run: str, after: int) -> list[int]:
        """Return the run's lowest version numbers above *after*, no more than come in one page of a listing."""
        return list(islice(self._numbers(run, after), PAGE_COUNT))

    def run_names(self) -> Iterator[str]:
        """Yield the names of all runs, in no order: for each of them a listing is begun and a manifest read."""
        after = ""
        while (info := next(self.store.list(names.VERSIONS, after=after), None)) is not None:
            after = info.key
            parsed = names.parse_version(info.key)
            if parsed is not None:
                run_key, number = parsed
                yield self._name_of(run_key, number)
                after = names.version(run_key, names.VERSION_MAX)

    def runs(self) -> list[Run]:
        """Return every run with the numbers of its versions, by name."""
        by_id: dict[bytes, list[int]] = {}
        for info in self.store.list(names.VERSIONS):
            parsed = names.parse_version(info.key)
            if parsed is not None:
                by_id.setdefault(parsed[0], []).append(parsed[1])
        runs = [Run(self._name_of(run_key, numbers[0]), tuple(numbers)) for run_key, numbers in by_id.items()]
        return sorted(runs, key=lambda run: run.name)

    def stored(self, run: str, number: int) -> Stored:
        """Return a version's root, or raise ``VersionMissing`` or ``ManifestDamaged``."""
        key = self.version_key(run, number)
        try:
            stored = self.open_version(key)
        except NotFound:
            raise VersionMissing(f"run {run!r} has no version {number}", where=self.store.url) from None
        return stored

    def open_version(self, key: str) -> Stored:
        """Return the root that stands under the name *key*; ``NotFound`` if none does, ``ManifestDamaged``."""
        return looked_at_twice(lambda: self._open_version(key))

    def _open_version(self, key: str) -> Stored:
        try:
            body = self.store.get(key, limit_bytes=sealed_object.OBJECT_BYTES_MAX)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            raise ManifestDamaged(f"the manifest is not as it was written: {error.what}", where=key) from error
        root = decode_as(sealed_object.open_(self.keys, sealed_object.MANIFEST, key, body), Root, key)
        check_root(root, key)
        # Its seal is bound to the key; this holds whoever has the master key to it too.
        if self.version_key(root.run, root.number) != key:
            raise ManifestDamaged("the manifest is another version's", where=key)
        return Stored(root, object_digest(body), key)

    def later_proofs(self, stored: Stored) -> list[LaterProof]:
        """Return what was proved of a version after it was committed, oldest first; raises ``ManifestDamaged``."""
        root = stored.root
        return self._later_proofs.of_version(self._run_id(root.run), root.number, stored.digest)

    def later_proof_keys(self, run: str) -> dict[int, list[str]]:
        """Return the names of all later proofs of a run's versions, by version: one listing."""
        return self._later_proofs.of_run(self._run_id(run))

    def read_later_proofs(self, keys: Iterable[str], stored: Stored) -> list[LaterProof]:
        """Return the later proofs of these names, which are the version's; raises ``ManifestDamaged``."""
        return self._later_proofs.read(keys, stored.digest)

    def add_later_proof(self, proof: LaterProof) -> None:
        """Have *proof* beside its version from now on; the version itself is not touched."""
        self._later_proofs.add(self._run_id(proof.run), proof)

    def read_slot(self, key: str) -> keyslot.Slot:
        """Return a key slot, or raise what is wrong with it; whether it opens is not looked at."""
        return read_slot(self.store, key)

    def version_key(self, run: str, number: int) -> str:
        """Return the name of a version's manifest."""
        return names.version(self._run_id(run), number)

    def entries(self, stored: Stored) -> tuple[Entry, ...]:
        """Return all entries of a version."""
        with self.reader() as reader:
            return segments.read_entries(stored.root, reader.stream, stored.key)

    def manifest(self, stored: Stored) -> Manifest:
        """Return a version whole."""
        root = stored.root
        return Manifest(
            root.run,
            root.number,
            root.created_ns,
            root.previous,
            root.writer,
            root.host,
            root.directory,
            root.required_level,
            root.summary,
            tuple(root.troubles),
            self.entries(stored),
            root.origin,
            root.top,
            tuple(root.notes),
        )

    def reader(self) -> ChunkReader:
        """Return a reader of chunks; close it after use."""
        return ChunkReader(self.store, self.keys)

    def is_chunk(self, plain: Buffer, name: bytes) -> bool:
        """Whether *plain* is the chunk *name*: how a restore knows what it need not fetch."""
        return is_named(self._name_key, plain, name)

    def has_version(self, run: str, number: int) -> bool:
        """Whether the version's manifest is in the store: one stat."""
        try:
            self.store.stat(self.version_key(run, number))
        except NotFound:
            return False
        return True

    def has_pack(self, pack_id: bytes) -> bool:
        """Whether the pack is in the store: one stat."""
        try:
            self.store.stat(names.pack(pack_id))
        except NotFound:
            return False
        return True

    def packs(self) -> Iterator[tuple[bytes, ObjectInfo]]:
        """Yield every pack of the store."""
        for info in self.store.list(names.PACKS):
            pack_id = names.parse_pack(info.key)
            if pack_id is not None:
                yield pack_id, info

    def pack_refs(self, pack_id: bytes, size_bytes: int) -> list[ChunkRef]:
        """Return the chunks of a pack as its own footer lists them, or raise ``ObjectDamaged``."""
        return looked_at_twice(lambda: pack_footer.read_refs(self.store, self.keys, pack_id, size_bytes))

    def tombstones(self) -> set[bytes]:
        """Return the packs that are about to be deleted: no new version may rely on one of them."""
        found = (names.parse_tombstone(info.key) for info in self.store.list(names.TOMBSTONES))
        return {pack_id for pack_id in found if pack_id is not None}

    # ------------------------------------------------------------ writing

    def writer(self, known: Known, *, lanes: int | None = None, journal: PackJournal | None = None) -> PackWriter:
        """Return a writer of chunks; *known* says where a chunk already lies.

        With a *journal*, ``finish_pack`` can finish in another process what the writer began to send.
        """
        return PackWriter(self.store, self.keys, known, lanes=lanes, journal=journal)

    def journal(self, directory: Path, run: str) -> PackJournal:
        """Return the notes of a run's packs below *directory*: one process at a time works on a run."""
        return PackJournal(directory / self._run_id(run).hex())

    def finish_pack(self, noted: NotedPack, tell: Callable[[StoreError], None] = lambda _error: None) -> list[ChunkRef]:
        """Finish a pack whose writer died; return its chunks, or none where that cannot be, and *tell* why."""
        return finish_noted(self.store, self.keys, noted, tell)

    def commit(self, manifest: Manifest, known: Known) -> Committed:
        """Make the version exist; ``VersionTaken``, and nothing else changed, if its number is taken.

        ``RepositoryMissing`` if the store is not this repository any more. The manifest is read back: there are stores
        that overwrite what they were told not to.
        """
        key = self.version_key(manifest.run, manifest.number)
        writer = self.writer(known, lanes=1)

        def put(piece: bytes) -> Placed:
            return writer.put(memoryview(piece))

        try:
            body = segments.Body(manifest.entries, put, key)
            stats = writer.finish()
        except BaseException:
            writer.abort()
            raise
        packs, segment_refs = body.encode()
        root = Root(
            manifest.run,
            manifest.number,
            manifest.created_ns,
            manifest.previous,
            manifest.writer,
            manifest.host,
            manifest.directory,
            manifest.required_level,
            manifest.summary,
            list(manifest.troubles),
            packs,
            segment_refs,
            manifest.origin,
            manifest.top,
            [storable(note) for note in manifest.notes],
        )
        check_root(root, key)
        sealed = sealed_object.seal(self.keys, sealed_object.MANIFEST, key, msgspec.msgpack.encode(root))
        # A disk may have gone from under the packs, and a version in its bare mount point would be lost unseen.
        self.confirm()
        try:
            self.store.put(key, sealed)
        except AlreadyExists:
            raise self._taken(manifest) from None
        if not self._holds(key, sealed) and not self._holds(key, sealed):
            # Damaged, or else another's: a store may have put that in the place of ours without a word.
            self.open_version(key)
            raise self._taken(manifest)
        return Committed(
            object_digest(sealed), tuple(body.refs()), tuple(stats.packs), stats.stored_bytes + len(sealed)
        )

    # ------------------------------------------------------------ inside

    def _holds(self, key: str, sealed: bytes) -> bool:
        """Whether the object *key* comes back as these bytes; a flip on the way back is no reason to doubt it."""
        try:
            return self.store.get(key, limit_bytes=len(sealed)) == sealed
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            return False

    def _taken(self, manifest: Manifest) -> VersionTaken:
        what = f"version {manifest.number} of run {manifest.run!r} was committed by another writer"
        return VersionTaken(what, where=self.store.url, advice="one run is backed up from one place")

    def _run_id(self, run: str) -> bytes:
        return run_id(self._run_key, run)

    def _name_of(self, run_key: bytes, number: int) -> str:
        """Return the name of a run: it stands sealed in each of its manifests, and any one of them will do."""
        try:
            return self.open_version(names.version(run_key, number)).root.run
        except (Damage, FormatUnsupported, NotFound):
            others = [info.key for info in self.store.list(names.run_prefix(run_key))]
            for key in reversed(others):
                with suppress(Damage, FormatUnsupported, NotFound):
                    return self.open_version(key).root.run
            raise


def _header(store: Store) -> bytes:
    try:
        return store.get(names.HEADER, limit_bytes=header.HEADER_BYTES_MAX)
    except StoreBroken as error:
        if not error.is_of_object:
            raise
        raise ObjectDamaged(f"the header is not as it was written: {error.what}", where=store.url) from error
