"""Names of chunks, runs and objects."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from mlsync.codec import digest
from mlsync.codec.digest import FileDigester, FileDigestKind

KEY = bytes(range(32))


def test_names_are_keyed_blake3():
    """A name is BLAKE3's keyed hash: the first of its authors' test vectors comes out."""
    name = digest.chunk_name(b"whats the Elvish word for friend", b"")
    assert name.hex() == "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"


@given(st.binary(max_size=200), st.binary(min_size=32, max_size=32))
def test_a_name_depends_on_the_key(plain, other_key):
    """Under another key the same bytes have another name, so a store cannot recompute it."""
    name = digest.chunk_name(KEY, plain)
    assert len(name) == digest.NAME_BYTES
    assert (digest.chunk_name(other_key, plain) == name) is (other_key == KEY)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_is_named_refuses_other_bytes(plain, data):
    """Only the bytes that a name was computed from match it."""
    name = digest.chunk_name(KEY, plain)
    assert digest.is_named(KEY, plain, name)
    changed = bytearray(plain)
    changed[data.draw(st.integers(0, len(plain) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not digest.is_named(KEY, changed, name)
    assert not digest.is_named(KEY, plain + b"\0", name)


def test_a_run_id_is_sixteen_keyed_bytes():
    """A run's id is the first half of a keyed hash of its name, so the store does not learn the name."""
    assert digest.run_id(KEY, "yolo-ä") == digest.chunk_name(KEY, "yolo-ä".encode())[:16]
    assert digest.run_id(bytes(32), "yolo-ä") != digest.run_id(KEY, "yolo-ä")


def test_object_digest_is_sha256():
    """The digest of an object is SHA-256, which any tool computes."""
    assert digest.object_digest(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_digest_is_what_b3sum_prints():
    """Behind its kind stands BLAKE3 of the whole file: of no bytes, the first of its authors' test vectors."""
    made = FileDigester(FileDigestKind.WHOLE).digest()
    assert made.hex() == "01af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert len(made) == digest.FILE_DIGEST_BYTES
    assert digest.blake3_of(made) == made[1:]
    assert digest.blake3_of(b"\2" + made[1:]) is None
    assert digest.blake3_of(b"") is None


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 5)), max_size=8), st.integers(1, 7))
def test_holes_are_hashed_as_zeros(parts, step):
    """The digest of data and holes is that of the file that both make, however the data is fed."""
    holes, data, content = [], [], b""
    for piece, hole_bytes in parts:
        data += [piece[at : at + step] for at in range(0, len(piece), step)]
        content += piece
        if hole_bytes:
            holes.append((len(content), hole_bytes))
            content += bytes(hole_bytes)
    whole, bare = FileDigester(FileDigestKind.WHOLE, holes), FileDigester(FileDigestKind.DATA, holes)
    for piece in data:
        whole.update(memoryview(piece))
        bare.update(memoryview(piece))
    assert whole.digest() == b"\1" + blake3(content).digest()
    assert bare.digest() == b"\2" + blake3(b"".join(data)).digest()


def test_a_long_hole_is_hashed_in_steps():
    """A hole longer than what is hashed at once is hashed whole, to its last byte."""
    made = FileDigester(FileDigestKind.WHOLE, [(8, (3 << 20) + 5)])
    made.update(bytes(range(8)))
    made.update(b"x")
    assert made.digest() == b"\1" + blake3(bytes(range(8)) + bytes((3 << 20) + 5) + b"x").digest()


@pytest.mark.parametrize(
    ("hole_bytes", "data_bytes", "is_whole"),
    [
        (0, 0, True),
        (1 << 20, 0, True),
        ((1 << 20) + 1, 0, False),
        ((1 << 20) + 9, 9, True),
        ((1 << 20) + 10, 9, False),
        (4 << 30, 5 << 30, True),
        ((4 << 30) + 1, 5 << 30, False),
        (1 << 40, 0, False),
    ],
)
def test_long_holes_are_not_hashed(hole_bytes, data_bytes, is_whole):
    """A writer hashes no more zeros than data and one MiB, and never more than four GiB."""
    holes = [(0, hole_bytes)] if hole_bytes else []
    wanted = FileDigestKind.WHOLE if is_whole else FileDigestKind.DATA
    assert digest.file_digest_kind(hole_bytes + data_bytes, holes) is wanted
    assert digest.may_hash_whole(hole_bytes, data_bytes) is is_whole
