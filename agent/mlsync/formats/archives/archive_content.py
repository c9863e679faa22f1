"""The content of an archive, gathered file by file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import Content, Extent, Storage, Tensor
from mlsync.formats.strides import TENSORS_BYTES_MAX, held_bytes
from mlsync.values import Fact

_STORAGE_BYTES: Final = 400


@dataclass
class ArchiveContent:
    """What the files of an archive hold together, within one bound on memory."""

    storages: list[Storage] = field(default_factory=list)
    tensors: list[tuple[str, Tensor]] = field(default_factory=list)  # with the file that it lies in
    packed_count: int = 0
    aside_count: int = 0
    facts: list[dict[str, Fact]] = field(default_factory=list)
    files_count: int = 0
    left_bytes: int = TENSORS_BYTES_MAX

    def add(self, content: Content, extent: Extent, *, offset: int, is_packed: bool) -> None:
        """Take in a file whose bytes begin at *offset* of the zip, or are nowhere in it as they are."""
        name = extent.name
        self.add_tensors(name, (tensor._replace(storage=f"{name}/{tensor.storage}") for tensor in content.tensors))
        for storage in () if is_packed else content.storages:
            self._spend(_STORAGE_BYTES)
            self.storages.append(storage._replace(name=f"{name}/{storage.name}", offset=offset + storage.offset))
        self.packed_count += content.packed_count + (len(content.storages) if is_packed else 0)
        self.aside_count += content.aside_count
        self.facts.append(content.facts)

    def add_tensors(self, file: str, tensors: Iterable[Tensor]) -> None:
        """Take in the tensors of a file, whose storages have the names that they have in the zip."""
        self.files_count += 1
        for tensor in tensors:
            self._spend(held_bytes(tensor) + 4 * len(file))
            self.tensors.append((file, tensor))

    def content(self, facts: dict[str, Fact]) -> Content:
        """Return all of it as one content, with *facts* about the archive."""
        if self.aside_count:
            facts["unchecked_part_count"] = self.aside_count
        self.storages.sort(key=lambda storage: storage.offset)
        return Content(
            tuple(self.storages),
            tuple(_named(self.tensors)),
            facts,
            packed_count=self.packed_count,
            aside_count=self.aside_count,
        )

    def _spend(self, size_bytes: int) -> None:
        self.left_bytes -= size_bytes
        if self.left_bytes < 0:
            raise NotChecked("more tensors, or longer names of them, than are checked")


def _named(tensors: list[tuple[str, Tensor]]) -> Iterator[Tensor]:
    """Yield the tensors by their names, prefixed with their file's if there are several files."""
    is_one = len({file for file, _ in tensors}) == 1
    for file, tensor in tensors:
        yield tensor if is_one else tensor._replace(name=f"{file.rpartition('.')[0]}.{tensor.name}".rstrip("."))
