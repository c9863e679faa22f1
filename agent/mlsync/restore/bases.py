"""Bases of differences that a restore need not fetch: they are in the target's files, or were fetched once before.

A version of several checkpoints has many differences from one base, which may be a chunk of the version itself; and a
directory that is restored again often holds it. Whatever is read here is compared by the name of what is made of it,
and fetched if that is wrong: so a file may change at any time, and nothing is hashed for it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Self

from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.target.spool import Spool
from mlsync.target.target import FilePlan, Target
from mlsync.versions.stored_file import parts_of


class BasesAtHand:
    """Where the bases of *plans* are, with the files that are *right* already; a context manager.

    ``read`` and ``keep`` are called by several threads.
    """

    def __init__(self, target: Target, plans: list[FilePlan], right: Iterable[Entry]) -> None:
        self._target = target
        self._lock = threading.Lock()
        bases = [ref.base for plan in plans for ref in _missing(plan) if ref.base is not None and ref.base.is_placed]
        self._uses = Counter(base.name for base in bases)
        self._places: dict[bytes, tuple[bytes, int]] = {}
        for plan in plans:
            self._places.update({name: (plan.entry.path, offset) for name, offset in plan.bases.items()})
        for entry in right:
            self._note(entry)
        written = {ref.name for plan in plans for ref in plan.entry.chunks if ref.name in self._uses}
        # A base that becomes a part of a file is read from there.
        sizes_bytes = {base.name: base.plain_bytes for base in bases}
        self._kept = {
            name for name, uses in self._uses.items() if uses > 1 and name not in written and name not in self._places
        }
        self._spool = self._made_spool(plans, sum(sizes_bytes[name] for name in self._kept))

    def __enter__(self) -> Self:
        """Be used in a ``with``."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Free the space of what was kept."""
        if self._spool is not None:
            self._spool.close()

    def first_needed(self, plans: list[FilePlan]) -> list[FilePlan]:
        """Return the plans of files with bases of others first, and each kind in its order."""
        return sorted(plans, key=lambda plan: not any(ref.name in self._uses for ref in plan.entry.chunks))

    def note_written(self, plan: FilePlan) -> None:
        """Note that a file has its new content, and its earlier one no more."""
        with self._lock:
            for name in plan.bases:
                if self._places.get(name, (b"", 0))[0] == plan.entry.path:
                    del self._places[name]
            self._note(plan.entry)

    def read(self, base: ChunkRef, into: memoryview) -> bool:
        """Fill *into* with a base, as far as is known; return whether there is one."""
        with self._lock:
            place = self._places.get(base.name)
        if place is not None:
            return self._target.read_part(*place, into)
        return self._spool is not None and self._spool.read(base.name, into)

    def keep(self, base: ChunkRef, plain: memoryview) -> None:
        """Keep a base that was fetched, if another file needs it too."""
        if self._spool is not None and base.name in self._kept:
            self._spool.put(base.name, plain)

    def _note(self, entry: Entry) -> None:
        if not self._uses or not any(ref.name in self._uses for ref in entry.chunks):
            return
        for part in parts_of(entry):
            if part.ref is not None and part.ref.name in self._uses:
                self._places[part.ref.name] = entry.path, part.offset

    def _made_spool(self, plans: list[FilePlan], size_bytes: int) -> Spool | None:
        """Return a place for what is kept, if that takes no room from the files."""
        needed_bytes = size_bytes + sum(plan.needed_bytes for plan in plans)
        if not size_bytes or needed_bytes > self._target.free_bytes():
            return None
        return Spool.make(self._target.root.descriptor)


def _missing(plan: FilePlan) -> Iterable[ChunkRef]:
    return (part.ref for part in plan.missing if part.ref is not None)
