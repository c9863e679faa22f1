"""What is wrong with packs, and which versions that touches: found in packs first, and then looked for in versions."""

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
    """Something that is wrong with a pack, or *not_read* of it, and the versions that need what it is about."""

    key: str
    text: str
    not_read: Error | None = None
    versions: set[tuple[str, int]] = field(default_factory=set)


class Faults:
    """Faults by what they are about: a whole pack, references as exactly these versions hold them, or a content."""

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
        """Note a fault that touches whoever needs anything of the pack."""
        self._packs[pack].append(self._new(names.pack(pack), text, not_read))

    def of_refs(self, pack: bytes, refs: Iterable[ChunkRef], text: str) -> None:
        """Note a fault that touches whoever has one of these references, and nobody else that needs the pack."""
        fault = self._new(names.pack(pack), text)
        for ref in refs:
            self._refs[ref].append(fault)

    def of_content(self, content: bytes, digest: bytes) -> None:
        """Note that these chunks in this order do not make a file of that digest."""
        self.contents[content, digest] = self._new("", "")

    def touch(self, refs: Iterable[ChunkRef], version: tuple[str, int]) -> None:
        """Take in that a version has these references."""
        for ref in refs:
            for fault in (*self._packs.get(ref.pack, ()), *self._refs.get(ref, ())):
                fault.versions.add(version)

    def touch_content(self, content: bytes, digest: bytes, file: tuple[str, bytes], version: tuple[str, int]) -> None:
        """Take in that a version has a *file*, by its manifest's name and its path, of that content and digest."""
        fault = self.contents.get((content, digest))
        if fault is None:
            return
        fault.versions.add(version)
        if not fault.key:
            fault.key = file[0]
            fault.text = f"the bytes of {display(file[1])} do not have the digest that stands beside them"

    def _new(self, key: str, text: str, not_read: Error | None = None) -> Fault:
        fault = Fault(key, text, not_read)
        self._all.append(fault)
        return fault
