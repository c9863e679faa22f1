"""What parsers return about a file: where its pieces are (``Layout``), and what they mean (``Content``).

The bytes are untrusted: parsers bound what they read, allocate and iterate, and raise only ``ContainerBroken``, with
the record and the offset of the fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from mlsync.values import Fact

#: Prefix of an unknown dtype: whether a library loads it cannot be checked.
UNKNOWN = "unknown:"
#: Prefix of a dtype in big-endian byte order.
BIG_ENDIAN = "big-endian "


class ByteSource(Protocol):
    """Random access to a file, on disk or in a repository, whose length is known."""

    @property
    def size_bytes(self) -> int:
        """The file's length."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the *length* bytes at *offset*, all of them, or an error; *length* is small (at most some MiB)."""


def is_far(source: ByteSource) -> bool:
    """Return whether every byte read is fetched over a network; on a disk, its neighbours come for free."""
    return bool(getattr(source, "is_far", False))


class ContainerBroken(Exception):
    """The bytes violate the container's format."""

    def __init__(self, reason: str, *, record: str | None = None, offset: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.record = record
        self.offset = offset

    def __str__(self) -> str:
        """Return the reason, the record and the offset on one line."""
        place = [f"record {self.record!r}"] if self.record is not None else []
        place += [f"offset {self.offset}"] if self.offset is not None else []
        return self.reason + (f" ({', '.join(place)})" if place else "")


# A checkpoint has thousands of these: a tuple is made in a third of the time that a frozen dataclass takes.
class Extent(NamedTuple):
    """The bytes of one record or tensor in the file; a checksum is ``None`` if the format has none."""

    name: str
    offset: int
    length: int
    crc32: int | None = None
    crc32c: int | None = None


class Packed(NamedTuple):
    """A record whose stored bytes differ from its content: the content's length, and its CRC-32 if there is one.

    It is deflated, raw or as a zlib stream, or plain; *is_summed* if a Fletcher checksum follows it.
    """

    plain_bytes: int
    crc32: int | None = None
    form: Literal["deflated", "zlib", "plain"] = "deflated"
    is_summed: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Level 1: the container parses; *extents* are disjoint, in file order, and inside the file.

    Records whose names are in *packed* are stored in another form.
    """

    container: str  # as ``sniff`` calls it: "torch-zip", "safetensors", "dcp"
    size_bytes: int
    extents: tuple[Extent, ...]
    packed: Mapping[str, Packed] = field(default_factory=dict, kw_only=True)


class Storage(NamedTuple):
    """A block of tensor bytes: what a device copies and digests. *dtype* is torch's name without ``torch.``."""

    name: str
    offset: int
    length: int
    dtype: str
    item_bytes: int


class Tensor(NamedTuple):
    """A view on a storage; *stride* and *first* in elements of its own *dtype*."""

    name: str
    storage: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    first: int


class Number(NamedTuple):
    """A fact that is a number in the file at *offset*, in the ``struct`` format *kind*."""

    fact: str
    offset: int
    kind: str


@dataclass(frozen=True, slots=True)
class Content:
    """Level 2: every tensor lies inside its storage; *facts* say what the checkpoint is (framework, epoch, ...).

    Besides *storages*, which are uncompressed in the file, it has *packed_count* compressed ones, and *aside_count*
    arrays whose numbers cannot be checked here. *numbers* are facts that are not read yet.
    """

    storages: tuple[Storage, ...]
    tensors: tuple[Tensor, ...]
    facts: dict[str, Fact] = field(default_factory=dict)
    packed_count: int = 0
    numbers: tuple[Number, ...] = ()
    aside_count: int = 0
