"""What a holder of the keys forges is held to docs/format.md, line by line, by the code that all readers go through."""

from __future__ import annotations

import struct

import msgspec
import pytest
import zstandard
from forged import (
    CHUNKS,
    DROPPED,
    EXAMPLES,
    PROOF,
    SEGMENTS,
    changed,
    packed,
    proof_value,
    read_proof,
    read_root,
    root_value,
)

from doubles.memory_store import MemoryStore
from mlsync.codec.sealing import Seal
from mlsync.errors import Damage, FormatUnsupported, KeySlotDamaged, ManifestDamaged, ObjectDamaged
from mlsync.repository import header, keyslot, names, sealed_object
from mlsync.repository.pack.footer import read_refs
from mlsync.repository.pack.pack import PackSeal
from mlsync.repository.tokens import FORMAT_VERSION, KEY_DERIVED, MAGIC_MANIFEST

SEGMENT = (SEGMENTS, 0)
FILE = (*SEGMENT, 2, 1, 0)
FOLDER = (*SEGMENT, 2, 1, 1)
REF = (*FILE, CHUNKS, 0)
FINDING = (*FILE, PROOF, 9, 0)
SUMMARY = (8,)
TROUBLE = (9, 0)

#: Of each line: what the page says, where it stands, and what stands there instead.
DAMAGED = [
    ("the root has sixteen positions", (15,), DROPPED),
    ("the root has sixteen positions", (16,), None),
    ("a writer's id is 16 bytes", (12, 0), bytes(15)),
    ("a machine's mark is 16 bytes, or none", (12, 1), bytes(17)),
    ("an origin has two positions", (12, 1), DROPPED),
    ("the directory's mode has 12 bits", (13, 0), 0o10000),
    ("the directory's owner is up to 2^32 - 2", (13, 1), (1 << 32) - 1),
    ("the directory's time has 63 bits", (13, 3), 1 << 63),
    ("the directory has four positions", (13, 4), 0),
    ("notes are strs", (14, 0), b"x"),
    ("the run is a str", (0,), b"yolo-1"),
    ("the run is its key's", (0,), "yolo-2"),
    ("the number is an int", (1,), 2.0),
    ("the number is its key's", (1,), 3),
    ("the number is its key's", (1,), 0),
    ("the number is its key's", (1,), -2),
    ("made at is a time", (2,), 1 << 63),
    ("made at is a time", (2,), True),
    ("previous is an array or nil", (3,), 1),
    ("previous is lower", (3, 0), 2),
    ("previous is lower", (3, 0), 0),
    ("previous has SHA-256", (3, 1), bytes(31)),
    ("previous has two positions", (3, 2), 0),
    ("writer is a str", (4,), None),
    ("host is a str", (5,), b"node"),
    ("directory is bin", (6,), "/data/run"),
    ("levels are 0 to 5", (7,), 6),
    ("levels are 0 to 5", (7,), -1),
    ("levels are ints", (7,), False),
    ("the summary has seven positions", (*SUMMARY, 6), DROPPED),
    ("the summary has seven positions", (*SUMMARY, 7), 0),
    ("the summary counts", (*SUMMARY, 0), -1),
    ("the summary counts", (*SUMMARY, 1), 1 << 63),
    ("the summary counts", (*SUMMARY, 2), -1),
    ("the summary counts", (*SUMMARY, 3), -1),
    ("the summary counts", (*SUMMARY, 4), -1),
    ("levels are 0 to 5", (*SUMMARY, 5), 6),
    ("levels are 0 to 5", (*SUMMARY, 5), -1),
    ("without checkpoints the level is 0", (*SUMMARY, 4), 0),
    ("a trouble's path is one", (*TROUBLE, 0), b"../x"),
    ("a trouble's path is one", (*TROUBLE, 0), b""),
    ("a trouble's kind is from 1 on", (*TROUBLE, 1), 0),
    ("a trouble's kind is from 1 on", (*TROUBLE, 1), -1),
    ("a trouble has four positions", (*TROUBLE, 3), DROPPED),
    ("what is kept is older", (*TROUBLE, 3), 2),
    ("what is kept is older", (*TROUBLE, 3), -1),
    ("pack ids are 16 bytes", (10,), [bytes(15)]),
    ("pack ids are 16 bytes", (10,), [bytes(17)]),
    ("pack ids are bin", (10,), ["x" * 16]),
    ("a table has no id twice", (10,), [bytes(16), bytes(16)]),
    ("a segment's first path is its own", (*SEGMENT, 0), b"b"),
    ("a segment's count is its own", (*SEGMENT, 1), 5),
    ("a segment's count is its own", (*SEGMENT, 1), -4),
    ("a segment stands in one place", (*SEGMENT, 2), None),
    ("a segment stands in one place", (*SEGMENT, 3), [[bytes(32), 0, 0, 48, 26, 10, 0, None]]),
    ("pack ids are 16 bytes", (*SEGMENT, 2, 0, 0), bytes(15)),
    ("pack ids are 16 bytes", (*SEGMENT, 2, 0, 1), bytes(17)),
    ("a table has no id twice", (*SEGMENT, 2, 0, 1), EXAMPLES.pack_id),
    ("a reference has eight positions", (*REF, 7), DROPPED),
    ("a reference has eight positions", (*REF, 8), None),
    ("a name is 32 bytes", (*REF, 0), bytes(31)),
    ("an index is in the table", (*REF, 1), 1),
    ("an index is in the table", (*REF, 1), -1),
    ("an ordinal is below 65,536", (*REF, 2), 65_536),
    ("an ordinal is below 65,536", (*REF, 2), -1),
    ("an offset is from 48 on", (*REF, 3), 47),
    ("an offset is up to 1 TiB", (*REF, 3), (1 << 40) + 1),
    ("a stored length is from 17 on", (*REF, 4), 16),
    ("a stored length is up to plain + 16", (*REF, 4), 33),
    ("a plain length is from 1 on", (*REF, 5), 0),
    ("a plain length is up to 16 MiB", (*REF, 5), (16 << 20) + 1),
    ("a coding is a u8", (*REF, 6), 256),
    ("a coding is a u8", (*REF, 6), -1),
    ("an entry has thirteen positions", (*FOLDER, 12), DROPPED),
    ("an entry has thirteen positions", (*FOLDER, 13), None),
    ("a path is one", (*FILE, 0), b"a//b"),
    ("a path is bin", (*FILE, 0), "last.pt"),
    ("a path has its directory", (*FILE, 0), b"a/last.pt"),
    ("paths rise", (*FILE, 0), b"logs/a"),
    ("a kind is from 1 on", (*FILE, 1), 0),
    ("a kind is from 1 on", (*FILE, 1), -1),
    ("a kind is a u8", (*FILE, 1), 256),
    ("a kind is an int", (*FILE, 1), True),
    ("a mode has 12 bits", (*FILE, 2), 0o10000),
    ("a mode has 12 bits", (*FILE, 2), -1),
    ("an owner is up to 2^32 - 2", (*FILE, 3), (1 << 32) - 1),
    ("a group is up to 2^32 - 2", (*FILE, 4), -1),
    ("a time has 63 bits", (*FILE, 5), 1 << 63),
    ("a time has 63 bits", (*FILE, 5), -(1 << 63)),
    ("sizes add up", (*FILE, 6), 4113),
    ("a file has no target", (*FILE, 7), b"x"),
    ("a target is bin", (*FILE, 7), ""),
    ("a digest is 16 bytes", (*FILE, 8), bytes(15)),
    ("a hole has two positions", (*FILE, 9, 0), [0, 4096, 0]),
    ("a hole has two positions", (*FILE, 9, 0), [0]),
    ("a hole is in the file", (*FILE, 9, 0), [1, 4096]),
    ("a hole has a length", (*FILE, 9, 1), [4112, 0]),
    ("a hole is of ints", (*FILE, 9, 0), [0, 4096.0]),
    ("a directory has no content", (*FOLDER, 8), bytes(16)),
    ("a directory has no size", (*FOLDER, 6), 1),
    ("a proof has eleven positions", (*FILE, PROOF, 10), DROPPED),
    ("a proof has eleven positions", (*FILE, PROOF, 11), ""),
    ("levels are 0 to 5", (*FILE, PROOF, 0), 6),
    ("levels are 0 to 5", (*FILE, PROOF, 0), -1),
    ("proved at is a time", (*FILE, PROOF, 4), 1 << 63),
    ("seconds are a float", (*FILE, PROOF, 5), 1),
    ("seconds are finite", (*FILE, PROOF, 5), float("inf")),
    ("seconds are finite", (*FILE, PROOF, 5), float("nan")),
    ("seconds are not negative", (*FILE, PROOF, 5), -0.5),
    ("tensors are counted", (*FILE, PROOF, 6), -1),
    ("tensors' bytes are counted", (*FILE, PROOF, 7), -1),
    ("a fact is a plain value", (*FILE, PROOF, 8, "epoch"), [3]),
    ("a fact is a plain value", (*FILE, PROOF, 8, "epoch"), None),
    ("a fact's name is a str", (*FILE, PROOF, 8, b"x"), 3),
    ("levels are 0 to 5", (*FINDING, 0), 6),
    ("a severity is from 1 on", (*FINDING, 1), 0),
    ("a finding has five positions", (*FINDING, 4), DROPPED),
    ("a finding's offset counts", (*FINDING, 4), -1),
    ("a finding's record is a str or nil", (*FINDING, 3), b"data/0"),
]

NEWER = [
    ("coding 3", (*REF, 6), 3),
    ("coding 255", (*REF, 6), 255),
    ("a base", (*REF, 7), [bytes(32), 1]),
    ("a kind of entry", (*FILE, 1), 5),
    ("a severity", (*FINDING, 1), 4),
    ("a kind of trouble", (*TROUBLE, 1), 4),
]

DAMAGED_PROOFS = [
    ("a later proof has its positions", (9,), DROPPED),
    ("a later proof has its positions", (10,), 0),
    ("it is of the run that it lies by", (0,), "yolo-2"),
    ("it is of the number that it lies by", (1,), 3),
    ("it is of the manifest that it lies by", (2,), bytes(32)),
    ("made at is a time", (3,), 1 << 63),
    ("made at is an int", (3,), 1.0),
    ("levels are 0 to 5", (6,), 6),
    ("levels are 0 to 5", (6,), -1),
    ("the broken are counted", (8,), -1),
    ("a path is one", (9, 0, 0), b"/etc/passwd"),
    ("a path comes once", (9, 1), proof_value()[9][0]),
    ("levels are 0 to 5", (9, 0, 1, 0), 6),
    ("seconds are a float", (9, 0, 1, 5), 0),
    ("a proved file has two positions", (9, 0, 2), None),
]


def test_what_is_as_the_page_says_is_read():
    """The document's values, taken apart and put together again, are read: what follows fails for what it changes."""
    stored, entries = read_root(packed(root_value()))
    assert stored.root == EXAMPLES.root()
    assert list(entries) == EXAMPLES.entries()
    assert read_proof(msgspec.msgpack.encode(proof_value())) == EXAMPLES.later_proof()


@pytest.mark.parametrize(("path", "value"), [line[1:] for line in DAMAGED], ids=[line[0] for line in DAMAGED])
def test_a_manifest_that_breaks_a_rule_is_damage(path, value):
    """Sealed with the right keys or not: what the page says that a reader refuses, it refuses."""
    with pytest.raises(ManifestDamaged):
        read_root(packed(changed(root_value(), path, value)))


@pytest.mark.parametrize(("path", "value"), [line[1:] for line in NEWER], ids=[line[0] for line in NEWER])
def test_a_token_above_the_known_ones_is_newer(path, value):
    """What a later mlsync may write is refused with the advice to upgrade, and is not called damage."""
    with pytest.raises(FormatUnsupported, match="upgrade mlsync"):
        read_root(packed(changed(root_value(), path, value)))


@pytest.mark.parametrize(
    ("path", "value"), [line[1:] for line in DAMAGED_PROOFS], ids=[line[0] for line in DAMAGED_PROOFS]
)
def test_a_later_proof_that_breaks_a_rule_is_damage(path, value):
    """A later proof of another run, number or manifest, of no path, or with numbers that cannot be."""
    with pytest.raises(ManifestDamaged):
        read_proof(msgspec.msgpack.encode(changed(proof_value(), path, value)))


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
    head = struct.pack("<8sHBBII32s", MAGIC_MANIFEST, version, kind, coding, plain_bytes, 0, salt)
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
        ({"kind": 2}, FormatUnsupported),
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
        ([[EXAMPLES.name, 48, 32, 16, 3, None]], FormatUnsupported),
        ([[EXAMPLES.name, 48, 32, 16, 0, 1]], FormatUnsupported),
        ([RECORD, RECORD], ObjectDamaged),
        ([], ObjectDamaged),
        ({}, ObjectDamaged),
    ],
    ids=range(13),
)
def test_a_footer_is_held_to_the_page(footer, error):
    """A footer that is sealed right and breaks a rule is damage, or newer."""
    seal = PackSeal(EXAMPLES.keys, EXAMPLES.pack_id)
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
