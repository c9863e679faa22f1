"""The parent as a node finds it that writes and cannot read: by listings, digests and the local state alone.

Its local state says which version it made last, and what that holds. What else the store has under the run's name stays
closed to it: that may be a version of another writer, or something that somebody planted. So it goes on by itself only
after a version that it made itself. See docs/runs.md, "A node that cannot read".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from mlsync.backup.files_cache import CachedPath
from mlsync.backup.parents.parent import Parent
from mlsync.errors import NotFound, StoreBroken
from mlsync.repository.manifest import Origin
from mlsync.repository.repository import ListedVersion, Repository
from mlsync.repository.sealed_object import looks_like_manifest
from mlsync.source.machine import machine_mark
from mlsync.source.state import Head, State
from mlsync.versions.rollback import rolled_back

# Objects that are no manifest cost one small read each; whoever plants more takes numbers, and no more of our time.
_LOOKED_AT_MAX: Final = 64


def find_closed_parent(repository: Repository, state: State, run: str) -> Parent:
    """Return the run's last version as far as it is known: one listing, and a read for each object above the last own.

    Raise ``HistoryRolledBack`` if the store no longer shows the version that this node made last.
    """
    head, begun = state.head(run), state.sealed(run)
    listed = list(repository.listed(run, after=head.number - 1 if head is not None else 0))
    own = _newest_own(repository, run, listed, head, begun)
    above = [one for one in listed if own is None or one.number > own.number]
    other = _newest_other(repository, run, above)
    if other is not None:
        taken = frozenset(one.number for one in above if one.number > other.number)
        return Parent(other.number, other.digest, is_remembered=False, is_closed=True, taken=taken)
    if own is None and head is not None:
        raise rolled_back(run, head, repository.store.url)
    taken = frozenset(one.number for one in above)
    if own is None:
        return Parent(0, b"", is_remembered=True, taken=taken)
    return Parent(own.number, own.digest, is_remembered=own == head, taken=taken)


def load_closed_parent(
    parent: Parent, repository: Repository, state: State, run: str, directory: bytes, files: Mapping[bytes, CachedPath]
) -> Parent:
    """Return *parent* with what the local state has of it: nothing of a version that another one made.

    Raise ``HistoryRolledBack`` if the store's object is not the one that was committed.
    """
    if not parent.number or parent.is_closed:
        return parent
    if not repository.has_bytes(run, parent.number, parent.digest):
        raise rolled_back(run, Head(parent.number, parent.digest), repository.store.url)
    known = state.writer(run, directory)
    made = [] if known is None else [one.created_ns for one in known.made if one.number == parent.number]
    if known is None or not made:
        # This node made it, of another directory.
        return msgspec.structs.replace(parent, is_closed=True)
    import socket  # late: most nodes read their last version

    rows = [one for one in files.values() if one.entry is not None and not one.row.is_held]
    troubles = [one.row.trouble for one in files.values() if one.row.trouble is not None]
    return msgspec.structs.replace(
        parent,
        created_ns=made[0],
        origin=Origin(known.id, machine_mark()),
        host=socket.gethostname(),
        directory=directory,
        entries={one.entry.path: one.entry for one in rows if one.entry is not None},
        troubles={trouble.path: trouble for trouble in troubles},
    )


def _newest_own(
    repository: Repository, run: str, listed: list[ListedVersion], head: Head | None, begun: Head | None
) -> Head | None:
    """Return the newest version that this node made and the store shows.

    That is the one that it was about to commit when it died, if the store has it.
    """
    numbers = {one.number for one in listed if not one.is_fence}
    is_newer = begun is not None and begun.number in numbers and (head is None or begun.number > head.number)
    if begun is not None and is_newer and repository.has_bytes(run, begun.number, begun.digest):
        return begun
    return head if head is not None and head.number in numbers else None


def _newest_other(repository: Repository, run: str, above: list[ListedVersion]) -> Head | None:
    """Return the newest of these objects that may be a version, with the digest of what the store has."""
    candidates = sorted((one for one in above if not one.is_fence), key=lambda one: one.number, reverse=True)
    for one in candidates[:_LOOKED_AT_MAX]:
        key = repository.version_key(run, one.number)
        try:
            if looks_like_manifest(repository.store, key, one.size_bytes):
                return Head(one.number, repository.digest_of(key))
        except NotFound:
            continue
        except StoreBroken as error:
            if not error.is_of_object:
                raise
    return None
