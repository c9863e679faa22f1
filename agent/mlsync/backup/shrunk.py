"""Most checkpoints gone at once: usually a disk is not mounted, so a backup waits for them to come back."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import msgspec

from mlsync.backup.parents.parent import Parent
from mlsync.errors import Error, SourceShrunk
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.source.paths import display
from mlsync.source.scan import Scan
from mlsync.source.state import State

#: How long the checkpoints may stay away before a version is made without them.
SETTLE_NS: Final = 600 * 10**9
_NAME: Final = "shrunk"
# How far back a restore of the newest version looks for such a loss.
_LOOK_BACK: Final = 5
_MARK: Final = "most checkpoints are gone since version "


class Loss(msgspec.Struct, frozen=True):
    """How many checkpoints the last version has, and how many of these are gone."""

    before: int
    lost: int
    example: bytes


def loss_of(tree: Scan, parent: Parent) -> Loss | None:
    """Return what is lost if that is most of the checkpoints, by number or by bytes, and nothing took their place.

    By bytes, because a run may lose its one file of weights and keep five small ones. What is below a directory that
    cannot be read is not lost.
    """
    before = {path: entry for path, entry in parent.entries.items() if _is_checkpoint(entry)}
    if not before:
        return None
    sizes = {found.path: found.stat.size_bytes for found in tree.found if found.kind == "file"}
    lost = [path for path in before if path not in sizes and not _is_unknown(path, tree)]
    if not lost:
        return None
    now = [size for path, size in sizes.items() if path in before or _is_named_like_one(path)]
    before_bytes = sum(entry.size_bytes for entry in before.values())
    lost_bytes = sum(before[path].size_bytes for path in lost)
    is_fewer = len(now) * 2 < len(before) <= len(lost) * 2
    is_smaller = sum(now) * 2 < before_bytes < lost_bytes * 2
    return Loss(len(before), len(lost), min(lost)) if is_fewer or is_smaller else None


def heed_loss(loss: Loss | None, parent: Parent, state: State, run: str, now_ns: int, *, accept: bool) -> str | None:
    """Return the version's note of a loss; raise ``SourceShrunk`` while the checkpoints may still come back."""
    if loss is None:
        forget_loss(state, run)
        return None
    if not accept:
        _wait(loss, parent, state, run, now_ns)
    return f"{_MARK}{parent.number}: {loss.lost} of {loss.before}; that version still has them"


def forget_loss(state: State, run: str) -> None:
    """Reset the wait, for when checkpoints vanish again."""
    if state.last_ns(run, _NAME):
        state.set_last_ns(run, _NAME, 0)


def earlier_loss(repository: Repository, stored: StoredVersion) -> str | None:
    """Return the note of lost checkpoints in a version, or in one of the few before it."""
    root = stored.root
    for _ in range(_LOOK_BACK):
        for note in root.notes:
            if note.startswith(_MARK):
                return f"version {root.number}: {note}"
        if root.previous is None:
            return None
        with suppress(Error):
            root = repository.stored(root.run, root.previous.number).root
            continue
        return None
    return None


def _wait(loss: Loss, parent: Parent, state: State, run: str, now_ns: int) -> None:
    since_ns = state.last_ns(run, _NAME) or 0
    # If the clock was set back, the wait begins again.
    if not 0 < since_ns <= now_ns:
        since_ns = now_ns
        state.set_last_ns(run, _NAME, since_ns)
    left_s = (since_ns + SETTLE_NS - now_ns) / 1e9
    if left_s <= 0:
        return
    what = f"{loss.lost} of the {loss.before} checkpoints of version {parent.number} are gone at once"
    advice = (
        f"is a disk not mounted? Version {parent.number} stays the last one for {left_s:.0f} s more; "
        "mlsync backup --accept-loss makes a version without them now"
    )
    others = " and others" if loss.lost > 1 else ""
    raise SourceShrunk(what, where=display(loss.example) + others, advice=advice)


def _is_checkpoint(entry: Entry) -> bool:
    return entry.kind is EntryKind.FILE and entry.proof is not None


def _is_named_like_one(path: bytes) -> bool:
    # Late: most backups find nothing changed, and do without all that parses.
    from mlsync.formats.sniff import is_checkpoint_name

    return path.endswith(b".distcp") or is_checkpoint_name(path)


def _is_unknown(path: bytes, tree: Scan) -> bool:
    return any(path == place or path.startswith(place + b"/") for place, _ in tree.problems)
