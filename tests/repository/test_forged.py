"""What a holder of the keys forges is held to docs/format.md, line by line, by the code that all readers go through."""

from __future__ import annotations

import struct

import msgspec
import pytest
import zstandard
from forged import (
    EXAMPLES,
    SEGMENTS,
    packed,
    proof_value,
    read_proof,
    read_root,
    root_value,
)

from doubles.memory_store import MemoryStore
from mlsync.codec.sealing import Seal
from mlsync.errors import Damage, FormatUnsupported, KeySlotDamaged, ManifestDamaged, ObjectDamaged
from mlsync.repository import header, names, sealed_object
from mlsync.repository.encoding.tokens import FORMAT_VERSION, KEY_DERIVED, MAGIC_MANIFEST
from mlsync.repository.keys import keyslot
from mlsync.repository.pack.footer import read_refs
from mlsync.repository.pack.pack import PackSeal


def test_what_is_as_the_page_says_is_read():
    """The document's values, taken apart and put together again, are read: what follows fails for what it changes."""
    stored, entries = read_root(packed(root_value()))
    assert stored.root == EXAMPLES.root()
    assert list(entries) == EXAMPLES.entries()
    assert read_proof(msgspec.msgpack.encode(proof_value())) == EXAMPLES.later_proof()


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        (b"\xa6node-1", b"\xd9\x06node-1"),
        (b"\xcb\x3f\xd0\0\0\0\0\0\0", b"\xca\x3e\x80\0\0"),
        (b"\x84\xa5epoch\x03", b"\x85\xa5epoch\x04\xa5epoch\x03"),
    ],
    ids=["a longer length", "a float of 32 bits", "a key twice"],
)
def test_a_value_has_one_encoding(ours, other):
    """MessagePack has several ways to say a value; a reader takes the one that a writer makes."""
    root = root_value()
    segment = root[SEGMENTS][0]
    segment[2] = msgspec.msgpack.encode(segment[2]).replace(ours, other)
    plain = msgspec.msgpack.encode(root).replace(ours, other)
    assert other in plain
    with pytest.raises(ManifestDamaged, match="canonical encoding"):
        read_root(plain)


def test_nothing_stands_behind_the_root():
    """A value more behind the root's is damage."""
    with pytest.raises(ManifestDamaged, match="does not parse"):
        read_root(packed(root_value()) + b"\xc0")


def _sealed(coded: bytes, plain_bytes: int, coding: int = 1, version: int = FORMAT_VERSION, kind: int = KEY_DERIVED):
    salt = EXAMPLES.manifest_salt
    head = struct.pack("<8sHBBIHBB32s", MAGIC_MANIFEST, version, kind, coding, plain_bytes, 0, 0, 0, salt)
    seal = Seal(EXAMPLES.keys.of("manifest", salt))
    return head + seal.seal(bytes(12), coded, head + EXAMPLES.version_key.encode())


@pytest.mark.parametrize(
    "tail",
    [
        zstandard.compress(b"more"),
        zstandard.compress(b""),
        b"\x50\x2a\x4d\x18\0\0\0\0",
        b"\0",
    ],
    ids=["a second frame", "an empty frame", "a skippable frame", "a byte"],
)
def test_nothing_stands_behind_the_roots_frame(tail):
    """A root is one frame, and all of it: nothing can be hidden behind it."""
    plain = packed(root_value())
    frame = zstandard.compress(plain)
    sealed_object.open_(EXAMPLES.keys, sealed_object.MANIFEST, EXAMPLES.version_key, _sealed(frame, len(plain)))
    with pytest.raises(ManifestDamaged, match="does not decode"):
        sealed_object.open_(
            EXAMPLES.keys, sealed_object.MANIFEST, EXAMPLES.version_key, _sealed(frame + tail, len(plain))
        )


@pytest.mark.parametrize(
    ("head", "error"),
    [
        ({"version": 0}, ManifestDamaged),
        ({"version": 2}, FormatUnsupported),
        ({"kind": 0}, ManifestDamaged),
        ({"kind": 3}, FormatUnsupported),
        ({"coding": 2}, FormatUnsupported),
        ({"plain_bytes": (64 << 20) + 1}, ManifestDamaged),
    ],
    ids=str,
)
def test_numbers_of_the_head_are_newer_or_cannot_be(head, error):
    """Format and key kind count from 1: a higher number is newer, zero is nobody's."""
    plain = packed(root_value())
    body = _sealed(zstandard.compress(plain), head.pop("plain_bytes", len(plain)), **head)
    with pytest.raises(error):
        sealed_object.open_(EXAMPLES.keys, sealed_object.MANIFEST, EXAMPLES.version_key, body)


# ---------------------------------------------------------------- packs

RECORD = [EXAMPLES.name, 48, 32, 16, 0, None]


@pytest.mark.parametrize(
    ("footer", "error"),
    [
        ([RECORD[:5]], ObjectDamaged),
        ([[*RECORD, None]], ObjectDamaged),
        ([[EXAMPLES.name, 48.0, 32, 16, 0, None]], ObjectDamaged),
        ([[bytes(31), *RECORD[1:]]], ObjectDamaged),
        ([[EXAMPLES.name, 49, 32, 16, 0, None]], ObjectDamaged),
        ([[EXAMPLES.name, 48, 32, 15, 0, None]], ObjectDamaged),
        ([[EXAMPLES.name, 48, 32, 16, -1, None]], ObjectDamaged),
        ([[EXAMPLES.name, 48, 32, 16, 256, None]], ObjectDamaged),
        ([[EXAMPLES.name, 48, 32, 16, 3, None]], ObjectDamaged),
        ([[EXAMPLES.name, 48, 32, 16, 0, 1]], ObjectDamaged),
        ([[EXAMPLES.name, 48, 32, 16, 4, None]], FormatUnsupported),
        ([[EXAMPLES.name, 48, 32, 16, 4, [1]]], FormatUnsupported),
        ([RECORD, RECORD], ObjectDamaged),
        ([], ObjectDamaged),
        ({}, ObjectDamaged),
    ],
    ids=range(15),
)
def test_a_footer_is_held_to_the_page(footer, error):
    """A footer that is sealed right and breaks a rule is damage, or newer."""
    seal = PackSeal(EXAMPLES.keys, EXAMPLES.pack_id, 0)
    chunk = b"".join(part for part, _ in EXAMPLES.pack_parts)[48:80]
    plain = msgspec.msgpack.encode(footer)
    trailer = struct.pack("<II8s", len(plain) + 16, 1, b"mlsyncE\0")
    sealed = Seal(EXAMPLES.keys.of("pack", EXAMPLES.pack_id)).seal(
        struct.pack(">IQ", 1, 1), plain, seal.header + trailer
    )
    body = seal.header + chunk + sealed + trailer
    store = MemoryStore()
    store.put(names.pack(EXAMPLES.pack_id), body)
    with pytest.raises(error):
        read_refs(store, EXAMPLES.keys, EXAMPLES.pack_id, len(body))


# ---------------------------------------------------------------- header and key slots


@pytest.mark.parametrize("change", [("4041", "40 41"), ("4a4b", "4A4B"), ("4f", "4f ")], ids=str)
def test_a_header_has_one_way_to_say_its_id(change):
    """Hexadecimal is lower case, without blanks, though the check is right over what stands there."""
    made = header.decode(header.encode(EXAMPLES.keys, conditional_create=True), "memory:")
    forged = msgspec.structs.replace(made, id=made.id.replace(*change), check="")
    forged = msgspec.structs.replace(forged, check=EXAMPLES.keys.of("header", forged.bound()).hex())
    with pytest.raises(ObjectDamaged):
        header.decode(msgspec.json.format(msgspec.json.encode(forged), indent=2) + b"\n", "memory:")


@pytest.mark.parametrize("number", [0, -1])
def test_a_header_or_slot_of_a_format_that_never_was_is_damage(number):
    """Formats count from 1."""
    body = header.encode(EXAMPLES.keys, conditional_create=True).replace(b'"format": 1', b'"format": %d' % number)
    with pytest.raises(ObjectDamaged):
        header.decode(body, "memory:")
    body = EXAMPLES.slot(EXAMPLES.passphrase).replace(b'"format": 1', b'"format": %d' % number)
    with pytest.raises(KeySlotDamaged):
        keyslot.parse(body, "slot")


@pytest.mark.parametrize(
    ("which", "change"),
    [
        ("passphrase", ("vL2+vw==", "vL2+vx==")),
        ("passphrase", ("vL2+vw==", "vL2+vw==!")),
        ("passphrase", ("sLGy", "sL-Gy")),
        ("key_file", ('"memory_kib": 0', '"memory_kib": 8')),
    ],
    ids=["bits that are not read", "behind the end", "a foreign character", "a key file's cost"],
)
def test_a_slot_has_one_way_to_say_its_bytes(which, change):
    """Base64 that decodes to the right bytes and is written otherwise is refused, and so is a cost of no kind."""
    body = EXAMPLES.slot(getattr(EXAMPLES, which)).decode()
    assert change[0] in body
    with pytest.raises(KeySlotDamaged):
        keyslot.parse(body.replace(*change).encode(), "slot")


@pytest.mark.parametrize("key", [f"versions/{'0' * 32}/{'0' * 10}", f"proofs/{'0' * 32}/{'0' * 10}/{'0' * 32}"])
def test_versions_count_from_one(key):
    """There is no version 0, whoever puts an object there."""
    assert names.parse_version(key) is None
    assert names.parse_later_proof(key) is None


def test_no_damage_is_an_error_of_another_kind():
    """What is newer is never a kind of damage, so that no caller takes the one for the other."""
    assert not issubclass(FormatUnsupported, Damage)
