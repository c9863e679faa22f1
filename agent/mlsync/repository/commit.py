"""Commit a version: store its body, then create its manifest.

The order makes a crash harmless: first the packs of the files are durable, then the flow proves the candidate, then the
packs of the manifest's own body are stored, then the manifest. Its creation is conditional, and is the commit. Right
after it comes the manifest's second copy: never before, since a copy without a manifest would look like a lost version.

The order also makes a prune harmless, however long this process is stopped between two steps: a free number is known,
then the run is registered, then the caller looks at tombstones and packs, then the manifest is created under that
number. A prune that deletes a pack of it has put a fence under the number. See docs/format.md, "Deleting packs".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from mlsync.codec.digest import object_digest
from mlsync.errors import (
    AlreadyExists,
    Error,
    FormatUnsupported,
    ManifestDamaged,
    NotFound,
    RepositoryMissing,
    StoreBroken,
    StoreError,
    VersionTaken,
)
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding import segments
from mlsync.repository.encoding.validation import check_root
from mlsync.repository.manifest import ChunkRef, Manifest, ManifestRoot
from mlsync.repository.repository import Repository
from mlsync.repository.writer import ChunkLookup, PlacedChunk

# There is one lane, so neighbours stay neighbours, however little its thread takes at a time. Of a million files the
# body is two hundred megabytes.
_BATCH_BYTES: Final = 1 << 20

# What looks at packs before a manifest is created: it gets the chunks of the version's body, and their new packs.
PackCheckAtCommit = Callable[[Sequence[ChunkRef], Sequence[bytes]], None]


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit made: the manifest's digest, the chunks that hold its body, and their new packs.

    *copy_error* says why the manifest has no second copy yet, if it has none.
    """

    digest: bytes
    body_refs: tuple[ChunkRef, ...]
    packs: tuple[bytes, ...]
    stored_bytes: int
    copy_error: Error | None = None


def commit(
    repository: Repository,
    manifest: Manifest,
    lookup: ChunkLookup,
    *,
    look: PackCheckAtCommit = lambda _refs, _packs: None,
    begin: Callable[[bytes], None] = lambda _digest: None,
) -> Committed:
    """Make the version exist; raise ``VersionTaken``, with nothing else changed, if its number is taken.

    *look* is called right before the manifest is created, with the chunks and the new packs of the version's body: it
    raises unless every pack that the version relies on, these too, is in the store and without a tombstone.

    Raise ``RepositoryMissing`` if the store is not this repository any more, and ``KeyRetired`` if its key was rotated
    in the meantime. The manifest is read back, because some stores overwrite an object although they were told not to.
    *begin* is called with the manifest's digest before it is created.
    """
    key = repository.version_key(manifest.root.run, manifest.root.number)
    writer = repository.writer(lookup, lanes=1, batch_bytes=_BATCH_BYTES)

    def put(piece: bytes) -> PlacedChunk:
        return writer.put(memoryview(piece))

    try:
        body = segments.Body(manifest.entries, put, key)
        stats = writer.finish()
    except BaseException:
        writer.abort()
        raise
    packs, segment_refs = body.encode()
    root = msgspec.structs.replace(manifest.root, packs=packs, segments=segment_refs)
    check_root(root, key)
    sealed = sealed_object.seal(repository.keys, sealed_object.MANIFEST, key, msgspec.msgpack.encode(root))
    # The disk under the packs may have been unmounted: a version in its bare mount point would be lost unnoticed.
    repository.confirm()
    stored_bytes, body_refs = stats.stored_bytes + len(sealed), tuple(body.refs())
    if root.previous is None:
        # Before the look: a prune that does not know of the run yet made its tombstones before, so the look sees them.
        stored_bytes += repository.register(root.run, root.created_ns, root.writer)
    look(body_refs, stats.packs)
    begin(object_digest(sealed))
    try:
        repository.store.put(key, sealed)
    except AlreadyExists:
        raise _taken(repository, root) from None
    if not _holds(repository, key, sealed) and not _holds(repository, key, sealed):
        # It is damaged, or is another writer's: a store may have replaced ours without an error.
        if not repository.is_write_only:
            repository.open_version(key)
        raise _taken(repository, root)
    # If the key was rotated meanwhile, nobody else takes it for a version: only a look after its creation can tell.
    repository.refuse_retired()
    # The version exists, so the loss of its copy must not look like the loss of the version.
    copy_error = _copy(repository, key, sealed)
    stored_bytes += 0 if copy_error else len(sealed)
    return Committed(object_digest(sealed), body_refs, tuple(stats.packs), stored_bytes, copy_error)


def _copy(repository: Repository, key: str, sealed: bytes) -> Error | None:
    """Store the second copy of the manifest *key*; return the error if that failed."""
    copy = names.copy_of(key)
    try:
        try:
            repository.store.put(copy, sealed)
        except AlreadyExists:
            # A repair, or the next writer of the run, may have been faster.
            if not _holds(repository, copy, sealed):
                raise
    except (StoreError, RepositoryMissing) as error:
        return error
    return None


def _holds(repository: Repository, key: str, sealed: bytes) -> bool:
    """Return whether the object *key* reads back as these bytes; the caller asks twice, as a read may flip a bit."""
    try:
        return repository.store.get(key, limit_bytes=len(sealed)) == sealed
    except StoreBroken as error:
        if not error.is_of_object:
            raise
        return False


def _taken(repository: Repository, root: ManifestRoot) -> VersionTaken:
    """Return the error for a number that is taken: it says by whom."""
    run, number, url = root.run, root.number, repository.store.url
    key = repository.version_key(run, number)
    if repository.is_write_only:
        what = f"number {number} of run {run!r} is taken, by what cannot be read here"
        taken = VersionTaken(what, where=url, advice="give the command again: it lists the versions anew")
        # Its length is all that a node can tell by; a number less costs it nothing.
        taken.is_fenced = repository.has_fence_size(key)
        return taken
    try:
        repository.open_version(key)
    except NotFound:
        # A prune fenced the number, for this very writer or for another.
        taken = VersionTaken(f"number {number} of run {run!r} is not to be used", where=url)
        taken.is_fenced = repository.is_fenced(key)
        return taken
    except (ManifestDamaged, FormatUnsupported) as error:
        what = f"something that is no version was put in the place of version {number} of run {run!r}: {error.what}"
        taken = VersionTaken(what, where=url, advice="the next backup takes the next number")
        taken.is_planted = True
        return taken
    what = f"version {number} of run {run!r} was committed by another writer"
    return VersionTaken(what, where=url, advice="one run is backed up from one place")
