"""A repository as the flows use it: open it, read its versions, and read and write its chunks.

See listing.py for its runs, readable.py for the versions that open, and commit.py for making a version.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mlsync.buffers import Buffer
from mlsync.codec.digest import chunk_name, is_named, object_digest, run_id
from mlsync.codec.keys import MASTER_KEY_BYTES, Keys
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.errors import (
    AlreadyExists,
    Damage,
    Error,
    FormatUnsupported,
    KeyProblem,
    KeyServiceUnavailable,
    ManifestDamaged,
    NotFound,
    ObjectArchived,
    ObjectDamaged,
    ObjectMissing,
    RepositoryExists,
    RepositoryMissing,
    StoreBroken,
    StoreError,
    VersionMissing,
    WriteOnlyKeyInvalid,
)
from mlsync.repository import features, header, names, sealed_object
from mlsync.repository.encoding import segments
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.tokens import FORMAT_VERSION
from mlsync.repository.encoding.validation import check_root
from mlsync.repository.evaluation import Evaluation, Evaluations, StoredEvaluation
from mlsync.repository.history import fence, tombstone
from mlsync.repository.history.fence import is_fence_size
from mlsync.repository.history.move import Moves
from mlsync.repository.keys import epochs, keyslot
from mlsync.repository.keys.keyslot import Stretching, Unlock
from mlsync.repository.keys.remembered import Remembered
from mlsync.repository.keys.unlocking import read_slot, slot_ids, unlocked
from mlsync.repository.later_proof import LaterProof, LaterProofs, StoredProof, VersionProofs
from mlsync.repository.manifest import ChunkRef, Entry, Manifest, ManifestRoot
from mlsync.repository.pack import footer as pack_footer
from mlsync.repository.proof_links import linked_id
from mlsync.repository.read_twice import read_anywhere, read_twice
from mlsync.store.base import ObjectInfo, Store

# Imported late: commands that find nothing new neither read nor write packs, and start in less time.
if TYPE_CHECKING:
    from mlsync.repository.pack.journal import InterruptedPack, PackJournal
    from mlsync.repository.reader import ChunkReader, KeepBase, ReadBase
    from mlsync.repository.writer import ChunkLookup, ChunksLookup, PackWriter

# How many objects are tried with a key that a lost header would have confirmed.
_TRIED_MAX = 8


class ListedVersion(msgspec.Struct, frozen=True):
    """An object under the name of a version, as a listing shows it; only its seal shows whether it is one."""

    number: int
    size_bytes: int
    modified_s: float

    @property
    def stamp(self) -> str:
        """A text that differs for another object under the same number."""
        return f"{self.size_bytes} {self.modified_s}"

    @property
    def is_fence(self) -> bool:
        """Whether the object is of the length that only fences have: no version, and nothing to open or to report."""
        return is_fence_size(self.size_bytes)


class StoredVersion(msgspec.Struct, frozen=True):
    """A manifest's root as it was read, with the digest that the next version refers to."""

    root: ManifestRoot
    digest: bytes
    key: str
    size_bytes: int = 0


class Repository:
    """The objects of one store under one master key."""

    def __init__(
        self, store: Store, keys: Keys, *, conditional_create: bool = True, slot: str = "", is_retired: bool = False
    ) -> None:
        self.store = store
        self.slot = slot
        self.conditional_create = conditional_create
        self.keys = keys
        self._run_key = keys.of("run id")
        self._name_key = keys.of("chunk name")
        # Whether the newest of the keys was rotated already when the repository was opened: it can be read.
        self.is_retired = is_retired
        self.retired_keys = epochs.RetiredKeys(store, keys)
        self._later_proofs = LaterProofs(store, keys, self.retired_keys.refuse)
        self._evaluations = Evaluations(store, keys, self.retired_keys.refuse)
        self.moves = Moves(store, keys)
        # By name: objects under names of versions and later proofs that were read and did not open, and why.
        self.skipped: dict[str, Damage | FormatUnsupported] = {}
        # By name: versions that were passed over although they open, or are forgotten, and why, as a sentence.
        self.doubts: dict[str, str] = {}
        #: Returns the number by which the best version of a run is chosen where somebody said so, as its name, perhaps
        #: with max or min behind it.
        self.best_by: Callable[[str], str | None] = lambda _run: None

    # ------------------------------------------------------------ beginning

    @classmethod
    def create(
        cls, store: Store, unlock: Unlock, *, stretching: Stretching | None = None, conditional_create: bool = True
    ) -> Repository:
        """Create a repository with one key slot; raise ``RepositoryExists``, with nothing changed, if there is one."""
        cls.refuse_existing(store)
        repository_id, master = os.urandom(header.ID_BYTES), os.urandom(MASTER_KEY_BYTES)
        keys = Keys(master, repository_id)
        salt, slot_id = os.urandom(keyslot.SALT_BYTES), os.urandom(names.SLOT_ID_BYTES)
        slot = keyslot.make(unlock, master, repository_id, salt, stretching or Stretching())
        # The slot first: nobody could ever open a repository that has a header and no slot.
        store.put(names.key_slot(slot_id), slot)
        try:
            store.put(names.HEADER, header.encode(keys, conditional_create=conditional_create))
        except AlreadyExists:
            store.delete(names.key_slot(slot_id))
            raise RepositoryExists("another init created a repository at the same time", where=store.url) from None
        return cls(store, keys, conditional_create=conditional_create, slot=names.key_slot(slot_id))

    @staticmethod
    def exists(store: Store) -> bool:
        """Return whether the store has a repository's header."""
        try:
            store.stat(names.HEADER)
        except NotFound:
            return False
        return True

    @classmethod
    def refuse_existing(cls, store: Store) -> None:
        """Raise ``RepositoryExists`` if there is a repository, or the packs of one."""
        if cls.exists(store):
            # A second machine is the usual reason for a second init.
            advice = (
                "nothing was changed; to continue a run of it on this machine: "
                f"mlsync restore --repo {store.url} --write-config"
            )
            raise RepositoryExists("there is a repository already", where=store.url, advice=advice)
        # A store with packs but no header is a repository that lost its header: a new header would make it unreadable.
        if next(iter(store.list(names.PACKS)), None) is not None:
            what = "there are packs of a repository whose header is missing"
            raise RepositoryExists(what, where=store.url, advice="nothing was changed")

    @classmethod
    def look(cls, store: Store) -> header.RepositoryHeader:
        """Return the header, without a key; raise ``RepositoryMissing``, or the error in the header."""
        try:
            return read_twice(lambda: header.decode(_header(store), store.url))
        except NotFound:
            raise RepositoryMissing(
                "there is no repository", where=store.url, advice="make one with: mlsync init"
            ) from None

    @classmethod
    def open(
        cls,
        store: Store,
        unlock: Unlock,
        *,
        found: header.RepositoryHeader | None = None,
        likely_slot: str | None = None,
        remembered: Remembered | None = None,
    ) -> Repository:
        """Open a repository with a passphrase or key file, or raise what is missing or wrong.

        *found* is the result of ``look``; *likely_slot* names the slot that opened before, which is tried first. What
        stretching the passphrase came to may be *remembered*.
        """
        found = found or cls.look(store)
        if isinstance(unlock, WriteOnlyKeys):
            return cls._open_write_only(store, unlock, found)
        opened = unlocked(store, unlock, found, likely_slot, remembered)
        keys = opened.keys
        if not found.is_of(keys):
            what = "the header was changed, or the key slot is of another repository"
            raise ObjectDamaged(what, where=f"{store.url} {names.HEADER}")
        features.refuse_unknown(store, keys)
        conditional_create = found.conditional_create
        return cls(store, keys, conditional_create=conditional_create, slot=opened.slot, is_retired=opened.is_retired)

    def refuse_retired(self) -> None:
        """Raise ``KeyRetired`` if the newest key that is known here was rotated: one request.

        A writer asks before its work, and again once its object is there: only then does the object count.
        """
        if epochs.is_retired(self.store, self.keys):
            raise epochs.retired(self.store, self.keys)

    @classmethod
    def _open_write_only(cls, store: Store, keys: WriteOnlyKeys, found: header.RepositoryHeader) -> Repository:
        """Open a repository for writing: without a master key, nobody can tell which features are right."""
        if found.repository_id != keys.repository_id:
            raise WriteOnlyKeyInvalid("the write-only key is of another repository", where=store.url)
        if not found.is_of(keys):
            what = "the header is not the one that it was when the write-only key was made"
            advice = "if it was repaired, make another key: mlsync key add --write-only FILE"
            raise ObjectDamaged(what, where=f"{store.url} {names.HEADER}", advice=advice)
        is_retired = epochs.is_retired(store, keys)
        return cls(store, keys, conditional_create=found.conditional_create, is_retired=is_retired)

    @property
    def is_write_only(self) -> bool:
        """Whether this can write and not read: it opens what it wrote itself in this process, and nothing else."""
        return isinstance(self.keys, WriteOnlyKeys)

    def confirm(self) -> None:
        """Raise ``RepositoryMissing`` unless this repository is still in the store: this reads one small object."""
        advice = "nothing was written; check whether its disk is mounted, and whether it is the right one"
        try:
            found = read_twice(lambda: header.decode(_header(self.store), self.store.url))
        except NotFound:
            raise RepositoryMissing("the repository is gone", where=self.store.url, advice=advice) from None
        if found.repository_id != self.repository_id:
            raise RepositoryMissing("another repository is in its place", where=self.store.url, advice=advice)
        if not found.is_of(self.keys):
            raise ObjectDamaged("the header was changed", where=f"{self.store.url} {names.HEADER}")

    @classmethod
    def without_header(cls, store: Store, unlock: Unlock) -> Repository:
        """Open a repository whose header is lost or damaged: its id is in the key slots, and is bound by their seals.

        Raise what ``open`` raises if no slot opens.
        """
        fault: Error | None = None
        for repository_id in slot_ids(store):
            claimed = header.RepositoryHeader("repository", FORMAT_VERSION, repository_id, False, "")
            try:
                opened = unlocked(store, unlock, claimed, None)
            except KeyServiceUnavailable:
                # It is away for each of these ids, and each try takes seconds.
                raise
            except (KeyProblem, ObjectDamaged, ObjectMissing, ManifestDamaged) as error:
                fault = fault or error
                continue
            keys, can_create = opened.keys, store.conditional_create
            found = cls(store, keys, conditional_create=can_create, slot=opened.slot, is_retired=opened.is_retired)
            # One passphrase may open slots of several repositories: an interrupted init leaves one behind.
            if found._has_objects():
                features.refuse_unknown(store, keys)
                return found
            fault = fault or ObjectDamaged("no key slot is of the objects that are there", where=store.url)
        raise fault or RepositoryMissing("there is neither a header nor a key slot", where=store.url)

    def _has_objects(self) -> bool:
        """Return whether one of the first manifests opens; if there is none, whether the first packs are of this id."""
        manifests = [
            (names.copied(info.key) if prefix == names.COPIES else info.key, info.key)
            for prefix, parse in ((names.VERSIONS, names.parse_version), (names.COPIES, names.parse_copy))
            for info in islice((info for info in self.store.list(prefix) if _may_open(info, parse)), _TRIED_MAX)
        ]
        for key, place in manifests:
            with suppress(NotFound, Damage, FormatUnsupported, ObjectArchived):
                self.open_body(key, place)
                return True
        for pack_id, info in islice(() if manifests else self.packs(), _TRIED_MAX):
            with suppress(NotFound, Damage, FormatUnsupported, ObjectArchived):
                self.pack_refs(pack_id, info.size_bytes)
                return True
        return not manifests and next(self.packs(), None) is None

    def make_header(self) -> None:
        """Store the header anew; one that is this repository's stays."""
        with suppress(NotFound, ObjectDamaged):
            if header.decode(_header(self.store), self.store.url).is_of(self.keys):
                return
            raise ObjectDamaged("the header was changed")
        self.store.delete(names.HEADER)
        self.store.put(names.HEADER, header.encode(self.keys, conditional_create=self.conditional_create))

    @property
    def repository_id(self) -> bytes:
        """The repository's id."""
        return self.keys.repository_id

    def close(self) -> None:
        """Close the store's connections."""
        self.store.close()

    # ------------------------------------------------------------ reading

    def numbers(self, run: str, *, after: int = 0) -> list[int]:
        """Return the numbers of the run's versions above *after*, rising: one listing, which begins there."""
        return [one.number for one in self.listed(run, after=after) if not one.is_fence]

    def listed(self, run: str, *, after: int = 0) -> Iterator[ListedVersion]:
        """Yield the objects under the names of the run's versions above *after*, by rising number, fences too."""
        run_id = self._run_id(run)
        last = names.version(run_id, after) if after > 0 else ""
        return (one for _, one in listed_versions(self.store.list(names.run_prefix(run_id), after=last)))

    def has_versions(self, run: str) -> bool:
        """Return whether the run has a version, as far as a listing shows it."""
        return any(not one.is_fence for one in self.listed(run))

    def refuse_unreadable(self) -> None:
        """Raise the error of the first manifest that was skipped, if there is one."""
        for error in self.skipped.values():
            raise error

    def stored(self, run: str, number: int) -> StoredVersion:
        """Return a version's root, or raise ``VersionMissing`` or ``ManifestDamaged``."""
        key = self.version_key(run, number)
        try:
            stored = self.open_version(key)
        except NotFound:
            raise VersionMissing(f"run {run!r} has no version {number}", where=self.store.url) from None
        return stored

    def open_version(self, key: str) -> StoredVersion:
        """Return the root under the name *key*; raise ``NotFound`` or ``ManifestDamaged``."""
        return self.open_body(key, key)[0]

    def open_body(self, key: str, place: str) -> tuple[StoredVersion, bytes]:
        """Return the manifest *key* from the object *place*, which may be its copy, and its bytes; raise the same."""
        return read_anywhere(self.store, lambda store: self._open_body(store, key, place))

    def _open_body(self, store: Store, key: str, place: str) -> tuple[StoredVersion, bytes]:
        try:
            body = store.get(place, limit_bytes=sealed_object.OBJECT_BYTES_MAX)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            raise ManifestDamaged(f"the manifest was changed: {error.what}", where=place) from error
        if is_fence_size(len(body)):
            fence.open_(self.keys, key, body)
            raise NotFound("a fence stands there: it is no version, or none any more", where=place)
        root = decode_as(sealed_object.open_(self.keys, sealed_object.MANIFEST, key, body), ManifestRoot, key)
        check_root(root, key)
        # The seal is bound to the key; this check holds those who have the master key to it too.
        if self.version_key(root.run, root.number) != key:
            raise ManifestDamaged("the manifest is of another version", where=key)
        self.retired_keys.refuse(key, body)
        return StoredVersion(root, object_digest(body), key, len(body)), body

    def add_copy(self, key: str, digest: bytes | None = None) -> bool:
        """Store the second copy of the manifest *key* if it is missing; return whether it was.

        A node that cannot open the manifest knows it by its *digest*.
        """
        place = names.copy_of(key)
        try:
            self.store.stat(place)
        except NotFound:
            if self.is_write_only:
                body = self.store.get(key, limit_bytes=sealed_object.OBJECT_BYTES_MAX)
                if object_digest(body) != digest:
                    return False
            else:
                _, body = self.open_body(key, key)
            # Another machine may have been faster.
            with suppress(AlreadyExists):
                self.store.put(place, body)
            return True
        return False

    def later_proofs(self, stored: StoredVersion, named: Iterable[bytes] = ()) -> VersionProofs:
        """Return the later proofs of a version, after one listing; see ``read_later_proofs``."""
        root = stored.root
        keys = self._later_proofs.of_version(self._run_id(root.run), root.number)
        return self.read_later_proofs(root.run, root.number, keys, manifest=stored.digest, named=named)

    def later_proof_keys(self, run: str) -> dict[int, list[str]]:
        """Return the names of the later proofs of a run's versions, by version: one listing."""
        return self._later_proofs.of_run(self._run_id(run))

    def read_later_proofs(
        self,
        run: str,
        number: int,
        keys: Iterable[str],
        *,
        manifest: bytes | None = None,
        named: Iterable[bytes] = (),
        unopened_max: int | None = None,
    ) -> VersionProofs:
        """Return the later proofs of these names, of the version's *manifest* if that is given.

        *named* are links to proofs that must be there. ``skipped`` gets objects under these names that do not open;
        after *unopened_max* of them no more are read.
        """
        version = self._run_id(run), number
        return self._later_proofs.read(version, keys, manifest, named, self.skipped, unopened_max=unopened_max)

    def open_later_proof(self, key: str, stored: StoredVersion) -> StoredProof:
        """Return the later proof of this name; raise ``ManifestDamaged`` if it is none of the version."""
        return self._later_proofs.open(key, stored.digest)

    def later_proof_link(self, key: str) -> bytes:
        """Return the link to the later proof of this name; raise ``ManifestDamaged`` or ``FormatUnsupported``."""
        return self._later_proofs.open(key).link

    def later_proof_key(self, run: str, number: int, link: bytes) -> str:
        """Return the name of the later proof that a link is to."""
        return names.later_proof(self._run_id(run), number, linked_id(link))

    def add_later_proof(self, proof: LaterProof) -> StoredProof:
        """Store *proof* beside its version, which does not change."""
        made = self._later_proofs.add(self._run_id(proof.run), proof)
        self.refuse_retired()
        return made

    def evaluation_keys(self, run: str) -> dict[int, list[str]]:
        """Return the names of the evaluations of a run's versions, by version: one listing."""
        return self._evaluations.of_run(self._run_id(run))

    def evaluations(self, stored: StoredVersion) -> list[Evaluation]:
        """Return the evaluations of a version that open, oldest first; ``skipped`` gets the others."""
        root = stored.root
        keys = self._evaluations.of_version(self._run_id(root.run), root.number)
        return self.read_evaluations(dict.fromkeys(keys, stored.digest))

    def read_evaluations(self, manifests: Mapping[str, bytes]) -> list[Evaluation]:
        """Return the evaluations of these names, each with its version's manifest, as ``evaluations`` does."""
        return self._evaluations.read(manifests, self.skipped)

    def open_evaluation(self, key: str, stored: StoredVersion | None = None) -> StoredEvaluation:
        """Return the evaluation of this name; raise ``ManifestDamaged`` if it is none, or is of another version."""
        return self._evaluations.open(key, None if stored is None else stored.digest)

    def add_evaluation(self, evaluation: Evaluation) -> StoredEvaluation:
        """Store *evaluation* beside its version, which does not change."""
        made = self._evaluations.add(self._run_id(evaluation.run), evaluation)
        self.refuse_retired()
        return made

    def read_slot(self, key: str) -> keyslot.Slot:
        """Return a key slot without opening it, or raise ``KeySlotDamaged`` or ``FormatUnsupported``."""
        return read_slot(self.store, key)

    def version_key(self, run: str, number: int) -> str:
        """Return the name of a version's manifest."""
        return names.version(self._run_id(run), number)

    def entries(self, stored: StoredVersion) -> tuple[Entry, ...]:
        """Return all entries of a version."""
        with self.reader() as reader:
            return segments.read_entries(stored.root, reader.stream, stored.key)

    def manifest(self, stored: StoredVersion) -> Manifest:
        """Return a version with all its entries."""
        return Manifest(stored.root, self.entries(stored))

    def reader(self, read_base: ReadBase | None = None, keep_base: KeepBase | None = None) -> ChunkReader:
        """Return a reader of chunks; close it after use.

        *read_base* may have bases of differences at hand, *keep_base* gets those that were fetched.
        """
        from mlsync.repository.reader import ChunkReader

        return ChunkReader(self.store, self.keys, read_base=read_base, keep_base=keep_base)

    def chunk_name(self, plain: Buffer) -> bytes:
        """Return the name that a chunk of these bytes has."""
        return chunk_name(self._name_key, plain)

    def is_chunk(self, plain: Buffer, name: bytes) -> bool:
        """Return whether *plain* is the chunk *name*: a restore need not fetch such chunks."""
        return is_named(self._name_key, plain, name)

    def has_bytes(self, run: str, number: int, digest: bytes) -> bool:
        """Return whether the object under the version's name has this digest, whether it opens or not."""
        try:
            return self.digest_of(self.version_key(run, number)) == digest
        except NotFound:
            return False
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            return False

    def digest_of(self, key: str) -> bytes:
        """Return the digest of the object under a version's name, whether it opens or not; raise ``NotFound``."""
        return object_digest(self.store.get(key, limit_bytes=sealed_object.OBJECT_BYTES_MAX))

    def has_pack(self, pack_id: bytes) -> bool:
        """Return whether the pack is in the store: one stat."""
        try:
            self.store.stat(names.pack(pack_id))
        except NotFound:
            return False
        return True

    def packs(self, after: bytes = b"") -> Iterator[tuple[bytes, ObjectInfo]]:
        """Yield every pack of the store with an id above *after*, by rising id: the listing begins there."""
        for info in self.store.list(names.PACKS, after=names.pack(after) if after else ""):
            pack_id = names.parse_pack(info.key)
            if pack_id is not None:
                yield pack_id, info

    def pack_refs(self, pack_id: bytes, size_bytes: int) -> list[ChunkRef]:
        """Return the chunks of a pack as its own footer lists them, or raise ``ObjectDamaged``."""
        return read_twice(lambda: pack_footer.read_refs(self.store, self.keys, pack_id, size_bytes))

    def tombstones(self) -> set[bytes]:
        """Return the packs that will be deleted: a new version must not rely on them."""
        return {pack_id for pack_id, _ in self.listed_tombstones()}

    def listed_tombstones(self, after: bytes = b"") -> Iterator[tuple[bytes, ObjectInfo]]:
        """Yield every pack that will be deleted, with its tombstone, in the same way."""
        for info in self.store.list(names.TOMBSTONES, after=names.tombstone(after) if after else ""):
            pack_id = names.parse_tombstone(info.key)
            if pack_id is not None:
                yield pack_id, info

    def is_run(self, key: str, run: str) -> bool:
        """Return whether *key* is the name of the registration of *run*."""
        return names.registration(self._run_id(run)) == key

    def is_fenced(self, key: str) -> bool:
        """Return whether a fence that opens is under the name *key* of a version: no writer gets the number.

        Whether it also says that a version was removed is told by ``fences.counts``.
        """
        return self.fence_epoch(key) is not None

    def fence_epoch(self, key: str) -> int | None:
        """Return the epoch of the fence that opens under the name *key* of a version; ``None`` if there is none."""
        return fence.epoch_at(self.store, self.keys, key)

    def has_fence_size(self, key: str) -> bool:
        """Return whether what is under the name *key* of a version has the length of fences, opened or not."""
        try:
            return is_fence_size(self.store.stat(key).size_bytes)
        except NotFound:
            return False

    # ------------------------------------------------------------ writing

    def register(self, run: str, made_ns: int, writer: str) -> int:
        """Note that the run has a writer, so that a prune knows of it before it has a version; return stored bytes."""
        key = names.registration(self._run_id(run))
        body = tombstone.make_registration(self.keys, key, tombstone.Registration(run, made_ns, writer))
        try:
            self.store.put(key, body)
        except AlreadyExists:
            return 0
        return len(body)

    def writer(
        self,
        lookup: ChunkLookup,
        *,
        lanes: int | None = None,
        journal: PackJournal | None = None,
        lookup_all: ChunksLookup | None = None,
        batch_bytes: int | None = None,
    ) -> PackWriter:
        """Return a writer of chunks; *lookup* finds a chunk that is stored already, *lookup_all* many at once.

        Some batches of *batch_bytes* wait in memory for its threads.
        With a *journal*, another process can finish packs that the writer left unfinished: see ``finish_pack``.
        """
        from mlsync.repository.writer import BATCH_BYTES, PackWriter

        return PackWriter(
            self.store,
            self.keys,
            lookup,
            lanes=lanes,
            batch_bytes=BATCH_BYTES if batch_bytes is None else batch_bytes,
            journal=journal,
            lookup_all=lookup_all,
        )

    def journal(self, directory: Path, run: str) -> PackJournal:
        """Return the journal of a run's packs below *directory*; one process at a time may use it."""
        from mlsync.repository.pack.journal import PackJournal

        return PackJournal(self.directory_of(run, directory))

    def directory_of(self, run: str, directory: Path) -> Path:
        """Return where below *directory* files of a run lie, under a name that tells nobody the run's."""
        return directory / self._run_id(run).hex()

    def finish_pack(
        self, pack: InterruptedPack, report: Callable[[StoreError], None] = lambda _error: None
    ) -> list[ChunkRef]:
        """Finish a pack whose writer died and return its chunks; if that fails, return none and *report* why."""
        from mlsync.repository.pack.builder import finish_interrupted

        return finish_interrupted(self.store, self.keys, pack, report)

    # ------------------------------------------------------------ inside

    def _run_id(self, run: str) -> bytes:
        return run_id(self._run_key, run)


def _may_open(info: ObjectInfo, parse: Callable[[str], object]) -> bool:
    return parse(info.key) is not None and not is_fence_size(info.size_bytes)


def is_no_version(error: Error) -> bool:
    """Return whether the error means that an object under the name of a version is no version, and is skipped.

    An object that opens and is of a newer format is a version; an error of the store says nothing about the object.
    """
    return isinstance(error, ManifestDamaged) or (isinstance(error, FormatUnsupported) and error.is_claim)


def listed_versions(infos: Iterable[ObjectInfo]) -> Iterator[tuple[bytes, ListedVersion]]:
    """Yield the objects that have the name of a version, each with the id of its run."""
    for info in infos:
        parsed = names.parse_version(info.key)
        if parsed is not None:
            yield parsed[0], ListedVersion(parsed[1], info.size_bytes, info.modified_s)


def _header(store: Store) -> bytes:
    try:
        return store.get(names.HEADER, limit_bytes=header.HEADER_BYTES_MAX)
    except StoreBroken as error:
        if not error.is_of_object:
            raise
        raise ObjectDamaged(f"the header was changed: {error.what}", where=store.url) from error
