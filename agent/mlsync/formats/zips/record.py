"""Read one record of a zip: bounded, inflated, and checked against its CRC before it is parsed."""

from __future__ import annotations

from isal.isal_zlib import crc32

from mlsync.formats.faults import NotChecked, RecordDamaged, read_bounded
from mlsync.formats.layout import ByteSource, Extent
from mlsync.formats.zips.inflate import inflate
from mlsync.formats.zips.zip_layout import ZipLayout


def read_record(source: ByteSource, layout: ZipLayout, extent: Extent, limit_bytes: int, what: str) -> bytes:
    """Return a record's bytes after a check of its CRC, so that damage is not reported as a bad *what*."""
    packed = layout.packed.get(extent.name)
    plain_bytes, checksum = (extent.length, extent.crc32) if packed is None else packed[:2]
    if max(extent.length, plain_bytes) > limit_bytes:
        msg = f"{what} is larger than is checked"
        raise NotChecked(msg, record=extent.name, offset=extent.offset)
    data = read_bounded(source, extent.offset, extent.length, what)
    if packed is not None:
        data = inflate(extent, data, plain_bytes)
    if checksum is not None and crc32(data) != checksum:
        msg = "CRC-32 differs"
        raise RecordDamaged(msg, record=extent.name, offset=extent.offset)
    return data
