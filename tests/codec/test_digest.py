"""Names of chunks, runs and objects."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlsync.codec import digest

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


def test_file_digest_is_xxh3_128_in_pieces():
    """A file's digest is XXH3-128, for any split into pieces."""
    assert digest.file_digester().digest().hex() == "99aa06d3014798d86001c324468d497f"
    whole, pieces = digest.file_digester(), digest.file_digester()
    whole.update(bytes(range(250)))
    for start in range(0, 250, 50):
        pieces.update(bytes(range(start, start + 50)))
    assert whole.digest() == pieces.digest()
    assert len(whole.digest()) == digest.FILE_DIGEST_BYTES
