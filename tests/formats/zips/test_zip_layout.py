from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib

import pytest
import torch

from checkpoint_files import MemorySource, flipped, parts_of, records, rezipped, torch_bytes, weights_bytes, yolo_bytes
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken, Layout
from mlsync.formats.zips import directory


def layout_of(data: bytes) -> Layout:
    return read_layout(MemorySource(data), "torch-zip")


@pytest.mark.parametrize("make", [yolo_bytes, weights_bytes])
def test_records_are_where_pythons_zipfile_finds_them(make):
    """Names, offsets and lengths are those that an independent reader finds, in file order."""
    data = make()
    layout = layout_of(data)
    assert {extent.name: (extent.offset, extent.length) for extent in layout.extents} == records(data)
    assert [extent.offset for extent in layout.extents] == sorted(extent.offset for extent in layout.extents)


def test_checksums_are_those_of_the_bytes():
    """Every record of a sound file has the CRC-32 that the directory tells."""
    data = yolo_bytes()
    for extent in layout_of(data).extents:
        assert zlib.crc32(data[extent.offset : extent.offset + extent.length]) == extent.crc32


def test_checksums_that_torch_was_told_not_to_make_are_none():
    """A CRC of zero on a record with bytes means that none was computed."""
    config = torch.utils.serialization.config.save
    with torch.utils.serialization.config.patch("save.compute_crc32", False):
        data = torch_bytes({"a": torch.ones(5), "b": torch.zeros(0)})
    assert config.compute_crc32
    assert [extent.crc32 for extent in layout_of(data).extents if extent.length] == [None] * 7


def test_a_wide_alignment_is_followed():
    """Records are found where their headers say, not where the usual alignment would put them."""
    with torch.utils.serialization.config.patch("save.storage_alignment", 4096):
        data = torch_bytes({"a": torch.ones(5), "b": torch.ones(9)})
    found = {extent.name: extent.offset for extent in layout_of(data).extents}
    assert found["archive/data/0"] % 4096 == found["archive/data/1"] % 4096 == 0
    assert found == {name: offset for name, (offset, _) in records(data).items()}


def test_zip64_records_are_read():
    """Sizes and offsets in zip64 fields, and the zip64 end record, are understood."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("a/data.pkl", "w", force_zip64=True) as record:
            record.write(b"N.")
        archive.writestr("a/version", b"3")
    data = file.getvalue()
    assert [(extent.name, extent.length) for extent in layout_of(as_zip64(data)).extents] == [
        ("a/data.pkl", 2),
        ("a/version", 1),
    ]


def as_zip64(data: bytes) -> bytes:
    """The same zip with its end told by zip64 records, as a file of more than 4 GiB has it."""
    at = data.rindex(b"PK\x05\x06")
    count, length, offset = struct.unpack_from("<H2L", data, at + 10)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:at] + end64 + locator + end


def test_a_truncated_file_is_refused_at_every_length():
    """No prefix of a zip passes for the zip."""
    data = torch_bytes({"a": torch.ones(5)})
    for length in range(0, len(data), 7):
        with pytest.raises(ContainerBroken):
            layout_of(data[:length])


@pytest.mark.parametrize("junk", [b"\0", b"PK", bytes(5000)])
def test_an_extended_file_is_refused(junk):
    """Bytes behind the end are nothing that torch wrote."""
    with pytest.raises(ContainerBroken, match="no end record"):
        layout_of(yolo_bytes() + junk)


def test_a_shifted_file_is_refused():
    """Bytes before the first record move everything, which a lenient reader would guess away."""
    with pytest.raises(ContainerBroken):
        layout_of(b"x" + yolo_bytes())


def test_bytes_between_directory_and_end_are_refused():
    """Nothing lies between the central directory and the end record."""
    data = yolo_bytes()
    at = data.rindex(b"PK\x05\x06")
    with pytest.raises(ContainerBroken, match="does not end where"):
        layout_of(data[:at] + bytes(8) + data[at:])


def test_every_bit_of_the_directory_matters_or_harms_nothing():
    """A flip in directory or end record is refused, or leaves every record's place and length as they were."""
    data = torch_bytes({"a": torch.ones(5)})
    sound = [(extent.offset, extent.length) for extent in layout_of(data).extents]
    refused = 0
    begin = data.index(b"PK\x01\x02")
    for offset in range(begin, len(data)):
        for bit in (0, 7):
            try:
                assert [
                    (extent.offset, extent.length) for extent in layout_of(flipped(data, offset, bit)).extents
                ] == sound
            except ContainerBroken:
                refused += 1
    assert refused > len(data) - begin


def test_overlapping_records_are_refused():
    """Two records that share bytes are a trick."""
    data = bytearray(torch_bytes({"a": torch.ones(5), "b": torch.ones(5)}))
    first = records(bytes(data))["archive/data/0"]
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    struct.pack_into("<2L", data, entry + 20, first[1] + 200, first[1] + 200)
    with pytest.raises(ContainerBroken, match=r"overlap|differ"):
        layout_of(bytes(data))


def test_two_records_of_one_name_are_refused():
    """Which of the two would be loaded is anybody's guess."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/data.pkl", b"K\x01.")
    with pytest.raises(ContainerBroken, match="same name"):
        layout_of(file.getvalue())


def test_packed_records_have_no_checksum_of_their_stored_bytes():
    """A deflated record's CRC is of other bytes than those in the file."""
    data = rezipped(parts_of(torch_bytes({"a": torch.ones(500)})), zipfile.ZIP_DEFLATED)
    assert {extent.crc32 for extent in layout_of(data).extents} == {None}


def test_an_encrypted_record_is_not_called_broken():
    """What cannot be looked into is not judged, if all of the file says that it is so."""
    data = bytearray(rezipped({"a/data.pkl": b"N."}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ContainerBroken, match="local header and central directory differ"):
        layout_of(bytes(data))
    data[data.index(b"PK\x03\x04") + 6] |= 1
    with pytest.raises(NotChecked):
        layout_of(bytes(data))


def test_too_many_records_are_not_called_broken(monkeypatch):
    """The number of records is looked at before any of them."""
    monkeypatch.setattr(directory, "RECORDS_MAX", 3)
    with pytest.raises(NotChecked):
        layout_of(yolo_bytes())


def test_the_tensors_are_not_read():
    """The layout of a file with one large tensor is read from a few KiB of it."""
    source = MemorySource(weights_bytes())
    read_layout(source, "torch-zip")
    assert source.random_bytes < 150_000


class SparseFile:
    """A file on disk, read at random; counts what is read."""

    def __init__(self, path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        self.size_bytes = os.fstat(self.descriptor).st_size
        self.read_bytes = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes at *offset*."""
        assert 0 <= offset <= offset + length <= self.size_bytes
        self.read_bytes += length
        return os.pread(self.descriptor, length, offset)


def test_a_file_past_four_gigabytes_is_understood_from_a_few_kilobytes(tmp_path):
    """Lengths and offsets that need zip64 are those of the tensors, which torch left as holes and nobody reads."""
    with torch.serialization.skip_data():
        torch.save({"a": torch.empty(3 << 28), "b": torch.empty(3 << 27), "c": torch.empty(3)}, tmp_path / "big.pt")
    file = SparseFile(tmp_path / "big.pt")
    try:
        layout = read_layout(file, "torch-zip")
        content = read_content(file, layout)
    finally:
        os.close(file.descriptor)
    assert file.size_bytes > 4 << 30
    assert [storage.length for storage in content.storages] == [3 << 30, 3 << 29, 12]
    assert content.storages[2].offset > 4 << 30
    assert file.read_bytes < 8192
