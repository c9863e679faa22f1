"""Whether a run's tree is as it was when it was backed up last: asked of its stats alone, entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from mlsync.backup.files_cache import recall_trouble
from mlsync.proving.policy import Policy
from mlsync.repository.manifest import Trouble
from mlsync.source.cached_file import is_same
from mlsync.source.root import Root
from mlsync.source.scan import LeftOut, Walk
from mlsync.source.state import State

# How long the rest of a checkpoint of several files is waited for.
PATIENCE_NS: Final = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Untouched:
    """A tree in which nothing changed: how many entries it has, and what was wrong with some then and still is."""

    count: int
    troubles: tuple[Trouble, ...]
    left_out: LeftOut


def look_for_change(
    state: State,
    run: str,
    directory: bytes,
    exclude: Sequence[str],
    now_ns: int,
    policy: Policy | None = None,
    *,
    keep_temporary: bool = False,
) -> Untouched | None:
    """Return what an untouched tree is like, or ``None`` at the first sign of a change.

    What was refused by a wish that *policy* does not have any more is such a sign, if a policy is given.

    The tree and what is remembered of it come in the same order and are compared one by one: neither is ever held as a
    whole, so that an agent may look as often as it likes at however many files.
    """
    with Root.open_watched(directory) as root:
        return _compare(state, run, Walk(root, exclude, keep_temporary=keep_temporary), now_ns, policy)


def _compare(state: State, run: str, walk: Walk, now_ns: int, policy: Policy | None) -> Untouched | None:
    count = 0
    troubles: dict[bytes, Trouble] = {}
    for found, row in zip_longest(walk, state.file_rows(run)):
        if found is None or row is None:
            return None
        path, stat, entry = row
        if path != found.path or not is_same(stat, found):
            return None
        count += 1
        recalled = recall_trouble(entry)
        if recalled.trouble is not None:
            # By its own path: all files of a directory that was refused as one name that.
            troubles[recalled.trouble.path] = recalled.trouble
        if policy is not None and not policy.holds(recalled.refused_by):
            return None
        is_due = recalled.again_ns <= now_ns if recalled.again_ns else is_at_rest(found.stat.mtime_ns, now_ns)
        if recalled.is_held and is_due:
            # It was held back for a while, in case that something was still to come.
            return None
    # Below a directory that could not be read, anything may have changed.
    return None if walk.problems else Untouched(count, tuple(troubles.values()), walk.left_out)


def is_at_rest(mtime_ns: int, now_ns: int) -> bool:
    """Whether something that was last written at *mtime_ns* is not waited for any longer."""
    return now_ns - mtime_ns > PATIENCE_NS
