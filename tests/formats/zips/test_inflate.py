from __future__ import annotations

import io
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch

from checkpoint_files import MemorySource, parts_of, rezipped, torch_bytes, yolo_bytes
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import NotChecked, RecordDamaged
from mlsync.formats.layout import ContainerBroken, Content, Extent
from mlsync.formats.torch import content as torch_content
from mlsync.formats.zips.inflate import PIECE_BYTES, Inflater, inflate, inflate_head

PLAIN = bytes(range(256)) * 20_000


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def extent_of(stored: bytes) -> Extent:
    return Extent("r", 40, len(stored))


def content_of(data: bytes, container: str) -> Content:
    source = MemorySource(data)
    content = read_content(source, read_layout(source, container))
    assert content is not None
    return content


def npz_bytes(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


# ---------------------------------------------------------------- one record


@pytest.mark.parametrize("step", [1000, 7777, 1 << 20])
@pytest.mark.parametrize("plain", [PLAIN, b"", bytes(5 << 20)], ids=["pattern", "nothing", "zeros"])
def test_a_record_is_unpacked_in_pieces(plain, step):
    """However it is cut, what comes out is what was packed, and no piece is larger than the bound."""
    stored = deflated(plain)
    inflater = Inflater(extent_of(stored), len(plain))
    pieces = [piece for at in range(0, len(stored), step) for piece in inflater.feed(stored[at : at + step])]
    pieces += inflater.finish()
    assert b"".join(pieces) == plain
    assert max(map(len, pieces), default=0) <= PIECE_BYTES


BAD_RECORDS = {
    "longer than told": (deflated(PLAIN), len(PLAIN) - 1, "more bytes"),
    "shorter than told": (deflated(PLAIN), len(PLAIN) + 1, "fewer bytes"),
    "cut": (deflated(PLAIN)[:-3], len(PLAIN), "cut short"),
    "empty": (b"", 0, "cut short"),
    "more behind": (deflated(PLAIN) + b"x", len(PLAIN), "end before their record"),
    "noise": (b"\xff" * 100, 100, "are damaged"),
}


@pytest.mark.parametrize(("stored", "plain_bytes", "reason"), BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_a_record_that_is_not_what_it_tells_is_damaged(stored, plain_bytes, reason):
    """The compressed data fill the record, and unpack to the length that the directory tells."""
    with pytest.raises(RecordDamaged, match=reason) as caught:
        inflate(extent_of(stored), stored, plain_bytes)
    assert (caught.value.record, caught.value.offset) == ("r", 40)


def test_a_bomb_is_unpacked_no_further_than_it_tells():
    """A hundred megabytes of zeros that are told to be a kilobyte cost a piece of memory, and are refused."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    stored = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    tracemalloc.start()
    with pytest.raises(RecordDamaged, match="more bytes"):
        inflate(extent_of(stored), stored, 1024)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * PIECE_BYTES


def test_a_head_is_unpacked_from_little():
    """The first bytes of a record of noise are had without reading it."""
    plain = np.random.default_rng(5).bytes(1 << 20)
    stored = deflated(plain)
    source = MemorySource(stored)
    assert inflate_head(source, Extent("r", 0, len(stored)), 300) == plain[:300]
    assert source.random_bytes == 1024
    assert inflate_head(source, Extent("r", 0, len(stored)), 70_000) == plain[:70_000]
    with pytest.raises(RecordDamaged, match="are damaged"):
        inflate_head(MemorySource(b"\xff" * 50), Extent("r", 0, 50), 10)


# ---------------------------------------------------------------- whole files


def test_compressed_arrays_are_known_by_their_headers():
    """What ``savez_compressed`` wrote has its arrays' types, shapes and orders, and no bytes to be sent."""
    arrays = {"a": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.ones((2, 3), "f4")), "n": np.array(3)}
    content = content_of(npz_bytes(**arrays, things=np.array([{}], dtype=object)), "npz")
    found = {tensor.name: (tensor.dtype, tensor.shape, tensor.stride) for tensor in content.tensors}
    assert found == {"a": ("float64", (2, 3), (3, 1)), "f": ("float32", (2, 3), (1, 2)), "n": ("int64", (), ())}
    assert (content.storages, content.packed_count) == ((), 3)
    assert content.facts["unchecked_array_count"] == 1


def test_a_compressed_array_that_does_not_fill_its_member_is_refused():
    """The shape is held against the length that the member has when it is unpacked."""
    member = parts_of(rezipped({"a.npy": b"x"}))  # the name alone
    file = io.BytesIO()
    np.save(file, np.arange(6.0))
    lie = file.getvalue().replace(b"(6,)", b"(7,)")
    with pytest.raises(ContainerBroken, match=r"does not fill.*a\.npy"):
        content_of(rezipped(dict.fromkeys(member, lie), zipfile.ZIP_DEFLATED), "npz")
    with pytest.raises(ContainerBroken, match="no numpy array"):
        content_of(rezipped({"a.npy": b"x" * 100}, zipfile.ZIP_DEFLATED), "npz")


def test_a_torch_file_that_was_zipped_again_is_read():
    """Compressed by somebody's zip, it has the tensors and facts that it had, and no bytes to be sent."""
    plain = content_of(yolo_bytes(), "torch-zip")
    packed = content_of(rezipped(parts_of(yolo_bytes()), zipfile.ZIP_DEFLATED), "torch-zip")
    assert (packed.tensors, packed.facts) == (plain.tensors, plain.facts)
    assert (packed.storages, packed.packed_count) == ((), len(plain.storages))


def test_a_compressed_storage_of_another_length_is_refused():
    """Its length is that which it unpacks to."""
    parts = parts_of(torch_bytes({"a": torch.ones(4)}))
    parts["archive/data/0"] = bytes(12)
    with pytest.raises(ContainerBroken, match="needs 16 bytes, its record has 12"):
        content_of(rezipped(parts, zipfile.ZIP_DEFLATED), "torch-zip")


def test_a_damaged_compressed_pickle_is_damage():
    """Its checksum is that of the unpacked bytes."""
    data = rezipped(parts_of(torch_bytes({"a": torch.ones(4)})), zipfile.ZIP_DEFLATED)
    at = data.index(b"PK\x01\x02") + 16
    changed = data[:at] + b"\0\0\0\1" + data[at + 4 :]
    with pytest.raises(RecordDamaged, match="CRC-32 differs"):
        content_of(changed, "torch-zip")


def test_a_compressed_pickle_beyond_the_bound_is_not_called_broken(monkeypatch):
    """The length that it unpacks to is looked at before anything is unpacked."""
    monkeypatch.setattr(torch_content, "PICKLE_BYTES_MAX", 200)
    data = rezipped({"archive/data.pkl": b"\x80\x02" + b"N0" * 1000 + b"N."}, zipfile.ZIP_DEFLATED)
    with pytest.raises(NotChecked, match="larger than is checked"):
        content_of(data, "torch-zip")


def test_another_byte_order_is_noted_where_it_is_compressed():
    """The word is read as it was packed."""
    parts = parts_of(torch_bytes({"x": torch.ones(2)})) | {"archive/byteorder": b"big"}
    assert content_of(rezipped(parts, zipfile.ZIP_DEFLATED), "torch-zip").facts["byteorder"] == "big"
