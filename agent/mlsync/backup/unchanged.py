"""Whether a run's directory is as it was at the last backup, by the stats of its entries alone."""

from __future__ import annotations

from itertools import zip_longest
from typing import Final

import msgspec

from mlsync.backup.files_cache import CacheRow, decode_row
from mlsync.backup.request import Source
from mlsync.proving.policy import Policy
from mlsync.repository.manifest import Trouble
from mlsync.source.cached_file import is_same
from mlsync.source.root import Root
from mlsync.source.scan import Found, LeftOut, Walk
from mlsync.source.state import State

# How long a backup waits for the rest of a checkpoint of several files.
PATIENCE_NS: Final = 3600 * 10**9


class Unchanged(msgspec.Struct, frozen=True):
    """A directory in which nothing changed: its count of entries, and the troubles that it still has."""

    count: int
    troubles: tuple[Trouble, ...]
    left_out: LeftOut


def find_unchanged(state: State, source: Source, now_ns: int, policy: Policy | None = None) -> Unchanged | None:
    """Return what an unchanged directory is like, or ``None`` at the first sign of a change.

    If *policy* is given, a file that another policy refused is such a sign.

    The directory and the files cache come in the same order and are compared entry by entry. Neither is held in memory
    as a whole, so an agent may look as often as it likes at any number of files.
    """
    with Root.open_watched(source.directory) as root:
        walk = Walk(root, source.exclude, keep_temporary=source.keep_temporary)
        return _compare(state, source.run, walk, now_ns, policy)


def _compare(state: State, run: str, walk: Walk, now_ns: int, policy: Policy | None) -> Unchanged | None:
    count = 0
    troubles: dict[bytes, Trouble] = {}
    for found, known in zip_longest(walk, state.file_rows(run)):
        if found is None or known is None:
            return None
        path, stat, body = known
        if path != found.path or not is_same(stat, found):
            return None
        count += 1
        row = decode_row(body)
        if row is None:
            continue
        if row.trouble is not None:
            # By its own path: all files of a directory that was refused as one have the directory's trouble.
            troubles[row.trouble.path] = row.trouble
        if policy is not None and not policy.holds(row.refused_by):
            return None
        if row.is_held and _is_due(row.again_ns, found, now_ns):
            return None
    # Below a directory that could not be read, anything may have changed.
    return None if walk.problems else Unchanged(count, tuple(troubles.values()), walk.left_out)


def find_only_logs_changed(state: State, source: Source, now_ns: int) -> Unchanged | None:
    """Return what the directory is like if nothing changed in it but what the next version may as well hold.

    These are files that were there and are no checkpoints, and deletions. Directories only say of themselves that
    something in them changed.
    """
    with Root.open_watched(source.directory) as root:
        walk = Walk(root, source.exclude, keep_temporary=source.keep_temporary)
        known_rows = iter(state.file_rows(source.run))
        count = 0
        troubles: dict[bytes, Trouble] = {}
        for found in walk:
            # What comes before it was deleted.
            known = next((row for row in known_rows if row[0] >= found.path), None)
            if known is None or known[0] != found.path:
                return None
            row = decode_row(known[2])
            if _is_news(known[1], row, found, now_ns):
                return None
            if row is not None and row.trouble is not None:
                troubles[row.trouble.path] = row.trouble
            count += 1
        return None if walk.problems else Unchanged(count, tuple(troubles.values()), walk.left_out)


def _is_news(stat: bytes, row: CacheRow | None, found: Found, now_ns: int) -> bool:
    """Return whether a version has to follow at once if the cache has this *stat* and *row* of what was *found*."""
    if is_same(stat, found):
        return row is not None and row.is_held and _is_due(row.again_ns, found, now_ns)
    if found.kind == "directory":
        return False
    if row is None or row.is_held or row.is_checkpoint:
        return True
    from mlsync.formats.groups.names import saved_by  # late: a backup that finds nothing changed needs no names

    return saved_by(found.path) is not None


def _is_due(again_ns: int, found: Found, now_ns: int) -> bool:
    """Return whether a file that was held back for some time, in case the rest was still to come, is looked at."""
    return again_ns <= now_ns if again_ns else is_at_rest(found.stat.mtime_ns, now_ns)


def is_at_rest(mtime_ns: int, now_ns: int) -> bool:
    """Return whether something that was last written at *mtime_ns* is no longer waited for."""
    return now_ns - mtime_ns > PATIENCE_NS
