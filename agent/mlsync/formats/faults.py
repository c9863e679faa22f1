"""What can be said against a file besides "broken", and the bounded read that all parsers share."""

from __future__ import annotations

from mlsync.formats.layout import ByteSource, ContainerBroken

SLICE_BYTES = 1 << 20


class NotChecked(ContainerBroken):
    """The file may well be sound, but it is larger or stranger than these parsers check."""


class RecordDamaged(ContainerBroken):
    """The bytes of one record are not those that the container's checksum was made of: a fault of level 1."""


class MeaningBroken(ContainerBroken):
    """The container holds together, and what is in it is not what it should be: a fault of level 2."""


def read_bounded(source: ByteSource, offset: int, length: int, what: str) -> bytes:
    """The *length* bytes at *offset*, read in slices; a range outside of the file is a fault of the file."""
    if offset < 0 or length < 0 or offset + length > source.size_bytes:
        msg = f"{what} lies outside of the file"
        raise ContainerBroken(msg, offset=max(offset, 0))
    if length <= SLICE_BYTES:
        return source.read_at(offset, length)
    end = offset + length
    return b"".join(source.read_at(at, min(SLICE_BYTES, end - at)) for at in range(offset, end, SLICE_BYTES))
