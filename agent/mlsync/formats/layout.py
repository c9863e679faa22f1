"""What the parsers of checkpoint containers say of a file: where its pieces lie, and what they mean.

Everything here is read from untrusted bytes: parsers bound what they read, allocate and loop over, and raise
``ContainerBroken`` with the place of the fault; nothing else escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from mlsync.values import Fact

#: Begins the name of a type that is not known here, of which nobody can say that a library loads it.
UNKNOWN = "unknown:"
#: Begins the name of a type whose bytes lie the other way round.
BIG_ENDIAN = "big-endian "


class ByteSource(Protocol):
    """Random access to a file, on disk or in a repository, whose length is known."""

    @property
    def size_bytes(self) -> int:
        """The file's length."""

    def read_at(self, offset: int, length: int) -> bytes:
        """The *length* bytes at *offset*, all of them, or an error; *length* is small (at most some MiB)."""


def is_far(source: ByteSource) -> bool:
    """Whether each byte that is read costs what it takes to fetch it, or (as on a disk) its neighbours come along."""
    return bool(getattr(source, "is_far", False))


class ContainerBroken(Exception):
    """The bytes are not what the container's format asks for."""

    def __init__(self, reason: str, *, record: str | None = None, offset: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.record = record
        self.offset = offset

    def __str__(self) -> str:
        """Say the reason, the record and the offset on one line."""
        place = [f"record {self.record!r}"] if self.record is not None else []
        place += [f"offset {self.offset}"] if self.offset is not None else []
        return self.reason + (f" ({', '.join(place)})" if place else "")


# A checkpoint has thousands of these: a tuple is made in a third of the time that a frozen dataclass takes.
class Extent(NamedTuple):
    """The bytes of one record or tensor inside the file; its sums are ``None`` where the format computed none."""

    name: str
    offset: int
    length: int
    crc32: int | None = None
    crc32c: int | None = None


class Packed(NamedTuple):
    """A record that does not lie in the file as it is: how long it is, and the CRC-32 of that, if one was computed.

    It is deflated, with zlib's head and sum around it or without these, or plain; behind it may be a sum of Fletcher's.
    """

    plain_bytes: int
    crc32: int | None = None
    form: Literal["deflated", "zlib", "plain"] = "deflated"
    is_summed: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Level 1: the container parses; *extents* are disjoint, in file order, and inside the file.

    Those whose names are in *packed* do not lie there as they are.
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
    """A fact that is a number in the file at *offset*, packed as *kind* of ``struct`` says."""

    fact: str
    offset: int
    kind: str


@dataclass(frozen=True, slots=True)
class Content:
    """Level 2: every tensor lies inside its storage; *facts* say what the checkpoint is (framework, epoch, ...).

    Besides *storages*, which lie in the file as they are, it has *packed_count* whose bytes are compressed, and
    *aside_count* arrays whose numbers nobody can look at here. *numbers* are facts that are not read yet.
    """

    storages: tuple[Storage, ...]
    tensors: tuple[Tensor, ...]
    facts: dict[str, Fact] = field(default_factory=dict)
    packed_count: int = 0
    numbers: tuple[Number, ...] = ()
    aside_count: int = 0
