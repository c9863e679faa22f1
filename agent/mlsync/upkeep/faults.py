"""Faults of packs, and the versions that they affect: a check looks at packs first, then at versions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mlsync.errors import Error
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.source.paths import display


@dataclass(slots=True)
class Fault:
    """Something wrong with a pack, or why it was *not_read*, and the versions that need that part of it."""

    key: str
    text: str
    not_read: Error | None = None
    versions: set[tuple[str, int]] = field(default_factory=set)


class Faults:
    """Faults by their subject: a whole pack, references exactly as versions have them, or the content of a file.

    Where a version says that the base of a difference lies is no part of that: the base has a reference of its own.
    """

    def __init__(self) -> None:
        self.contents: dict[tuple[bytes, bytes], Fault] = {}
        self._all: list[Fault] = []
        self._packs: dict[bytes, list[Fault]] = defaultdict(list)
        self._refs: dict[ChunkRef, list[Fault]] = defaultdict(list)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._all)

    def __bool__(self) -> bool:
        return bool(self._all)

    def of_pack(self, pack: bytes, text: str, not_read: Error | None = None) -> None:
        """Add a fault that affects every version that needs the pack."""
        self._packs[pack].append(self._new(names.pack(pack), text, not_read))

    def of_refs(self, pack: bytes, refs: Iterable[ChunkRef], text: str) -> None:
        """Add a fault that affects only versions with one of these references."""
        fault = self._new(names.pack(pack), text)
        for ref in refs:
            self._refs[ref.as_listed].append(fault)

    def of_content(self, content: bytes, claim: bytes) -> None:
        """Add the fault that these chunks in this order do not make the file that entries claim."""
        self.contents[content, claim] = self._new("", "")

    def touch(self, refs: Iterable[ChunkRef], version: tuple[str, int]) -> None:
        """Mark the faults of these references as affecting *version*."""
        for ref in refs:
            for fault in (*self._packs.get(ref.pack, ()), *self._refs.get(ref.as_listed, ())):
                fault.versions.add(version)

    def touch_content(self, content: bytes, claim: bytes, file: tuple[str, bytes], version: tuple[str, int]) -> None:
        """Mark the fault of that content and claim as affecting *version*; *file* is (manifest key, path)."""
        fault = self.contents.get((content, claim))
        if fault is None:
            return
        fault.versions.add(version)
        if not fault.key:
            fault.key = file[0]
            fault.text = f"the bytes of {display(file[1])} do not have the digest in its entry"

    def _new(self, key: str, text: str, not_read: Error | None = None) -> Fault:
        fault = Fault(key, text, not_read)
        self._all.append(fault)
        return fault
