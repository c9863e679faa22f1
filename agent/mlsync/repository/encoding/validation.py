"""What a decoded manifest must hold beyond the types of its fields: see docs/format.md, "Root" and "Entry".

A commit checks by the same rules, so that no writer stores what readers refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from mlsync.codec.digest import FILE_DIGEST_BYTES, OBJECT_DIGEST_BYTES, FileDigestKind, may_hash_whole
from mlsync.errors import ManifestDamaged
from mlsync.repository import names
from mlsync.repository.encoding.canonical import newer
from mlsync.repository.encoding.room import check_room
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.header import check_key_kind
from mlsync.repository.history.seen_decision import check_seen_decision
from mlsync.repository.manifest import Entry, ManifestRoot, PackPlace, Previous, Summary, Top, Trouble
from mlsync.repository.pack.pack import PACK_ID_BYTES
from mlsync.repository.proof_links import check_later_proofs
from mlsync.values import Level, Proof, is_count
from mlsync.xattrs import ROOM_NAME, is_name

# What a file system keeps; larger numbers would only fail the calls that take them.
PATH_BYTES_MAX: Final = 64 << 10
# What a file system keeps; larger numbers would only trip the calls that they are handed to.
MODE_MAX: Final = 0o7777
OWNER_MAX: Final = (1 << 32) - 2
TIME_NS_MAX: Final = (1 << 63) - 1
ORIGIN_BYTES: Final = 16
_DIGEST_KIND_MAX: Final = max(FileDigestKind)
# What a part of a path must not be: no name, or one that leads elsewhere.
_NO_NAMES: Final = frozenset({b"", b".", b".."})


def check_root(root: ManifestRoot, where: str) -> None:
    """Raise ``ManifestDamaged`` if a number, path, id or the link to the previous version is out of bounds."""
    check_previous(root.previous, root.number, where)
    table_of_packs(root.packs, where)
    numbers_are_sound = (
        0 < root.number <= names.VERSION_MAX and is_time(root.created_ns) and is_level(root.required_level)
    )
    if not numbers_are_sound:
        raise ManifestDamaged("the version's number, time or level is out of bounds", where=where)
    if not _is_sound_summary(root.summary):
        raise ManifestDamaged("the version's summary is out of bounds", where=where)
    if len(root.origin.id) != ORIGIN_BYTES or len(root.origin.machine) not in (0, ORIGIN_BYTES):
        raise ManifestDamaged("the ids of the manifest's writer have a wrong length", where=where)
    if root.top is not None and not is_sound_top(root.top):
        raise ManifestDamaged("the attributes of the run's directory are out of bounds", where=where)
    check_room(root.room, "the version", where)
    check_later_proofs(root.room, root.number, where)
    check_seen_decision(root.room, where)
    for trouble in root.troubles:
        if not _is_sound_trouble(trouble, root.number):
            raise ManifestDamaged(
                f"a trouble has an invalid path, or names a later version: {trouble.path!r}", where=where
            )


def _is_sound_summary(summary: Summary) -> bool:
    counts = (
        summary.file_count,
        summary.size_bytes,
        summary.new_bytes,
        summary.stored_bytes,
        summary.checkpoint_count,
    )
    has_level = is_level(summary.lowest_level) and (summary.checkpoint_count > 0 or summary.lowest_level == 0)
    return all(map(is_count, counts)) and has_level


def _is_sound_trouble(trouble: Trouble, number: int) -> bool:
    return is_safe_path(trouble.path) and 0 <= trouble.kept < number


def check_entry(entry: Entry, where: str) -> None:
    """Raise ``ManifestDamaged`` if the entry leads out of the tree, or its lengths do not add up."""
    if not is_safe_path(entry.path) or (entry.kind is EntryKind.HARD_LINK and not is_safe_path(entry.target)):
        raise ManifestDamaged(f"an entry's path leads out of the tree: {entry.path!r}", where=where)
    numbers_are_sound = _numbers_are_sound(entry.mode, entry.uid, entry.gid, entry.mtime_ns)
    if not numbers_are_sound or not is_count(entry.size_bytes):
        raise ManifestDamaged(f"an entry's attributes are out of bounds: {entry.path!r}", where=where)
    is_link = entry.kind is EntryKind.SYMLINK or entry.kind is EntryKind.HARD_LINK
    if is_link == (entry.target == b"") or b"\0" in entry.target:
        raise ManifestDamaged(
            f"an entry is a link without a target, or has a target and is no link: {entry.path!r}", where=where
        )
    if entry.proof is not None:
        check_proof(entry.proof, where)
    if entry.room is not None:
        check_room(entry.room, f"the entry {entry.path!r}", where)
        if ROOM_NAME in entry.room and not _are_sound_attributes(entry.room[ROOM_NAME], entry.kind):
            raise ManifestDamaged(f"an entry's extended attributes are not any of ours: {entry.path!r}", where=where)
    if entry.kind is EntryKind.FILE:
        _check_content(entry, where)
    elif entry.size_bytes or entry.digest or entry.chunks or entry.holes or entry.proof is not None:
        raise ManifestDamaged(f"an entry that is no file has content: {entry.path!r}", where=where)


def _are_sound_attributes(values: object, kind: EntryKind) -> bool:
    if kind not in (EntryKind.FILE, EntryKind.DIRECTORY) or not isinstance(values, dict) or not values:
        return False
    return all(is_name(name) and isinstance(value, bytes) for name, value in values.items())


def _numbers_are_sound(mode: int, uid: int, gid: int, mtime_ns: int) -> bool:
    owners_are_sound = 0 <= uid <= OWNER_MAX and 0 <= gid <= OWNER_MAX
    return 0 <= mode <= MODE_MAX and owners_are_sound and -TIME_NS_MAX <= mtime_ns <= TIME_NS_MAX


def _check_content(entry: Entry, where: str) -> None:
    end = hole_bytes = 0
    edges = set(accumulate((ref.plain_bytes for ref in entry.chunks), initial=0)) if entry.holes else set()
    for offset, length in entry.holes:
        if offset < end or length <= 0:
            raise ManifestDamaged(f"an entry's holes overlap: {entry.path!r}", where=where)
        if offset - hole_bytes not in edges:
            raise ManifestDamaged(f"a chunk reaches into a hole: {entry.path!r}", where=where)
        end, hole_bytes = offset + length, hole_bytes + length
    filled_bytes = sum([ref.plain_bytes for ref in entry.chunks]) + hole_bytes
    if end > entry.size_bytes or filled_bytes != entry.size_bytes:
        raise ManifestDamaged(f"an entry's chunks do not add up to its size: {entry.path!r}", where=where)
    _check_digest(entry, hole_bytes, where)


def _check_digest(entry: Entry, hole_bytes: int, where: str) -> None:
    kind = entry.digest[0] if entry.digest else 0
    if kind > _DIGEST_KIND_MAX:
        raise newer(f"the kind {kind} of an entry's digest is not known here: {entry.path!r}", where)
    if len(entry.digest) != FILE_DIGEST_BYTES or kind == 0:
        raise ManifestDamaged(f"an entry's digest is none of ours: {entry.path!r}", where=where)
    # Whoever compares a digest hashes the holes that it covers: a short manifest must not cost hours.
    if kind == FileDigestKind.WHOLE:
        is_allowed = may_hash_whole(hole_bytes, entry.size_bytes - hole_bytes)
    else:
        is_allowed = hole_bytes > 0
    if not is_allowed:
        raise ManifestDamaged(f"an entry's digest is of another kind than its holes allow: {entry.path!r}", where=where)


def check_tree(entries: Sequence[Entry], where: str) -> None:
    """Raise ``ManifestDamaged`` unless the entries make a tree, in order, whose hard links lead to files of it."""
    before, directories = b"", {b""}
    for entry in entries:
        if entry.path <= before:
            raise ManifestDamaged(f"entries out of order at {entry.path!r}", where=where)
        # A symbolic link must not be a step on the way to a file: it could lead anywhere.
        if entry.path.rpartition(b"/")[0] not in directories:
            raise ManifestDamaged(f"an entry whose directory is not in the version: {entry.path!r}", where=where)
        before = entry.path
        if entry.kind is EntryKind.DIRECTORY:
            directories.add(entry.path)
    links = [entry for entry in entries if entry.kind is EntryKind.HARD_LINK]
    # Most trees have none, and a hundred thousand paths take eight megabytes.
    files = {entry.path for entry in entries if entry.kind is EntryKind.FILE} if links else set()
    for entry in links:
        if entry.target not in files:
            raise ManifestDamaged(f"a hard link whose target is no file of the version: {entry.path!r}", where=where)


def is_safe_path(path: bytes) -> bool:
    """Return whether a relative *path* stays in its tree: an attacker may have written the manifest."""
    if not 0 < len(path) <= PATH_BYTES_MAX or b"\0" in path:
        return False
    return _NO_NAMES.isdisjoint(path.split(b"/"))


def is_sound_top(top: Top) -> bool:
    """Return whether the attributes of the run's own directory are within the format's bounds."""
    return _numbers_are_sound(top.mode, top.uid, top.gid, top.mtime_ns)


def check_previous(previous: Previous | None, number: int, where: str) -> None:
    """Raise ``ManifestDamaged`` unless the link to the previous version leads backwards."""
    if previous is not None and (not 0 < previous.number < number or len(previous.digest) != OBJECT_DIGEST_BYTES):
        raise ManifestDamaged("the link to the previous version is damaged", where=where)


def table_of_packs(table: Sequence[bytes], where: str) -> list[PackPlace]:
    """Return the packs of a table of packs.

    Raise an error for an invalid one, an id that comes twice, or a newer kind of key.
    """
    ids = [pack[2:] for pack in table]
    if any(len(pack) != PACK_ID_BYTES for pack in ids) or len(set(ids)) != len(ids):
        raise ManifestDamaged("a table of packs has an invalid id, or an id twice", where=where)
    for pack in table:
        check_key_kind(pack[0], where, ManifestDamaged)
    return [PackPlace(pack[1], pack[2:], pack[0]) for pack in table]


def check_proof(proof: Proof, where: str) -> None:
    """Raise ``ManifestDamaged`` if a level, a time or a count of the proof is out of bounds."""
    is_sound = (
        is_level(proof.level)
        and is_time(proof.proved_ns)
        and 0 <= proof.seconds < float("inf")
        and is_count(proof.tensor_count)
        and is_count(proof.tensor_bytes)
        and all(is_level(finding.level) for finding in proof.findings)
        and all(finding.offset is None or is_count(finding.offset) for finding in proof.findings)
    )
    if not is_sound:
        raise ManifestDamaged("a proof's numbers are out of bounds", where=where)


def is_level(number: int) -> bool:
    """Return whether there is a proof level of that number."""
    return 0 <= number <= Level.FRAMEWORK


def is_time(moment_ns: int) -> bool:
    """Return whether *moment_ns* is within the bounds of times, of files and of versions."""
    return -TIME_NS_MAX <= moment_ns <= TIME_NS_MAX
