"""Move records as whoever deletes has to see them: which packs they lead to, and which of them nobody needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mlsync.repository.ahead import each
from mlsync.repository.repository import Repository


def led_to(repository: Repository, named: Iterable[bytes], moved: Collection[bytes]) -> set[bytes]:
    """Return every pack that move records lead to from the *named* packs, step by step.

    *moved* are the packs under whose ids there is an object. A pack that records lead to is needed like one that a
    manifest names: while the old pack is there too, since it is going to be deleted.
    """
    found: set[bytes] = set()
    waiting = [pack for pack in named if pack in moved]
    while waiting:
        records = (record.packs for record in each(repository.moves.of, waiting) if record is not None)
        fresh = {pack for packs in records for pack in packs} - found
        found |= fresh
        waiting = [pack for pack in fresh if pack in moved]
    return found


def spent(moved: Iterable[bytes], needed: Collection[bytes], there: Collection[bytes]) -> set[bytes]:
    """Return the packs whose move record may be deleted: they are gone, and nobody needs them.

    *needed* are the packs that manifests name, and those that records lead to from there; *there* are the packs of the
    store.
    """
    return {pack for pack in moved if pack not in needed and pack not in there}
