"""A chunk stored as a difference is of a newer mlsync."""

import msgspec
import pytest

from mlsync.errors import FormatUnsupported
from mlsync.repository.encoding.segments import unpack_refs
from mlsync.repository.manifest import PackedRef
from mlsync.repository.pack.footer import ref_of
from mlsync.repository.pack.pack import ChunkRecord

PACK = b"p" * 16
NAME = b"n" * 32


def test_reference_with_a_base_is_newer():
    """A reference whose base is not nil is refused as newer, not as damage."""
    body = msgspec.msgpack.encode([NAME, 0, 0, 48, 20, 10, 0, [NAME, 0, 1, 68, 20, 10, 0, None]])
    ref = msgspec.msgpack.decode(body, type=PackedRef)
    with pytest.raises(FormatUnsupported, match="difference"):
        unpack_refs([ref], [(0, PACK)], "here")


def test_footer_record_with_a_base_is_newer():
    """A footer's record whose base is not nil is refused as newer, not as damage."""
    record = msgspec.msgpack.decode(msgspec.msgpack.encode([NAME, 48, 20, 10, 0, [1]]), type=ChunkRecord)
    with pytest.raises(FormatUnsupported, match="difference"):
        ref_of((0, PACK), 0, record, "here")
