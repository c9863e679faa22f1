"""Kinds of ``ContainerBroken``, and the bounded read that all parsers share."""

from __future__ import annotations

from mlsync.formats.layout import ByteSource, ContainerBroken

SLICE_BYTES = 1 << 20


class NotChecked(ContainerBroken):
    """The file may be sound, but it exceeds the bounds or uses features that these parsers do not check."""


class RecordDamaged(ContainerBroken):
    """The bytes of a record do not match the container's checksum: a fault of level 1."""


class MeaningBroken(ContainerBroken):
    """The container is sound, but its content contradicts itself: a fault of level 2."""


def read_bounded(source: ByteSource, offset: int, length: int, what: str) -> bytes:
    """Return the *length* bytes at *offset*, read in slices; ``ContainerBroken`` if the range leaves the file."""
    if offset < 0 or length < 0 or offset + length > source.size_bytes:
        msg = f"{what} lies outside of the file"
        raise ContainerBroken(msg, offset=max(offset, 0))
    if length <= SLICE_BYTES:
        return source.read_at(offset, length)
    end = offset + length
    return b"".join(source.read_at(at, min(SLICE_BYTES, end - at)) for at in range(offset, end, SLICE_BYTES))
