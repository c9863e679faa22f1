"""docs/format.md and the code say the same: its examples are made and read by the code, its numbers are the code's."""

from __future__ import annotations

import base64
import json
import struct

import msgspec
import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from format_examples import DOCUMENT, Examples, blocks, inputs, parse, render

from doubles.memory_store import MemoryStore
from mlsync.codec.compression import Coding, decode, decode_into
from mlsync.codec.digest import object_digest
from mlsync.codec.planes import PlaneCoding
from mlsync.errors import Damage, KeyProblem
from mlsync.repository import header, names, sealed_object
from mlsync.repository.encoding import room, segments
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.segments import decode_entries
from mlsync.repository.encoding.tokens import EntryKind, TroubleKind
from mlsync.repository.history import move
from mlsync.repository.keys import keyslot, recovery_key, unlocking
from mlsync.repository.listing import runs
from mlsync.repository.manifest import ManifestRoot
from mlsync.repository.pack import footer as pack_footer
from mlsync.repository.pack import pack
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository
from mlsync.values import Severity

TEXT = DOCUMENT.read_text()
BLOCKS = blocks()
EXAMPLES = Examples(inputs())


def test_every_example_is_known():
    """The document holds the examples that the code makes, no more and no fewer."""
    assert BLOCKS.keys() == EXAMPLES.all().keys()


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_the_code_makes_the_examples(name):
    """From the inputs that the document states, the code makes the document's bytes, described as there."""
    assert render(name, EXAMPLES.all()[name]) == BLOCKS[name]


def test_the_header_example_is_read():
    """The document's header is the repository's, by its check."""
    found = header.decode(parse("header"), "document")
    assert found.repository_id == EXAMPLES.keys.repository_id
    assert found.is_of(EXAMPLES.keys)


@pytest.mark.parametrize(
    ("name", "unlock"),
    [
        ("key-slot", EXAMPLES.passphrase),
        ("key-file-slot", EXAMPLES.key_file),
        ("recovery-key-slot", EXAMPLES.recovery_key),
        ("kms-slot", EXAMPLES.kms_key),
    ],
)
def test_the_key_slot_examples_open(name, unlock):
    """The document's slots give the document's master key."""
    slot = keyslot.parse(parse(name), "document")
    assert keyslot.unwrap(slot, unlock) == EXAMPLES.keys.master


def test_the_recovery_keys_text_is_the_documents():
    """The text that the document gives for the recovery key is what mlsync prints for it, and reads."""
    stated = inputs()
    assert recovery_key.write(EXAMPLES.recovery_key.secret) == stated["recovery key text"]
    assert recovery_key.read(stated["recovery key text"]) == (EXAMPLES.recovery_key.secret, [])


def test_the_pack_example_is_read():
    """The document's pack lists its chunk in its footer, and gives it back."""
    store = _store_of_the_document()
    body = parse("pack")
    refs = pack_footer.read_refs(store, EXAMPLES.keys, EXAMPLES.pack_id, len(body))
    assert refs == [EXAMPLES.ref]
    with ChunkReader(store, EXAMPLES.keys) as reader:
        assert reader.one(refs[0]) == EXAMPLES.plain


def test_the_planes_example_is_read():
    """The document's planes are the numbers that the text names."""
    assert decode(Coding.PLANES, parse("planes"), 256) == EXAMPLES.numbers()


def test_planes_can_be_read_from_the_document_alone():
    """What section 6 says of byte planes is enough: zstd, no code of ours, and the numbers come out."""
    coded, plain = parse("planes"), bytearray(256)
    width, plane_count, _, _ = struct.unpack_from("<BBHI", coded)
    at, below = 8 + 8 * plane_count, 0
    for index in range(plane_count):
        plane_width, coding, _, size = struct.unpack_from("<BBHI", coded, 8 + 8 * index)
        plane = coded[at : at + size] if coding == 0 else zstandard.ZstdDecompressor().decompress(coded[at : at + size])
        for number in range(len(plain) // width):
            start = number * width + below
            plain[start : start + plane_width] = plane[number * plane_width : (number + 1) * plane_width]
        at, below = at + size, below + plane_width
    assert (bytes(plain), at) == (EXAMPLES.numbers(), len(coded))


def test_the_difference_example_is_read():
    """The document's difference and its base are the numbers that the text names."""
    plain = bytearray(256)
    decode_into(Coding.DIFFERENCE, memoryview(parse("difference")), memoryview(plain), memoryview(EXAMPLES.numbers()))
    assert plain == EXAMPLES.differing()


def test_differences_can_be_read_from_the_document_alone():
    """What section 6 says of differences is enough for one number after the other, in Python's own integers."""
    distances = bytearray(256)
    decode_into(Coding.PLANES, memoryview(parse("difference")), memoryview(distances))
    base = struct.unpack("<64i", EXAMPLES.numbers())
    found = []
    for z, number in zip(struct.unpack("<64I", distances), base, strict=True):
        d = (z >> 1) ^ -(z & 1)
        ordered = d + (number ^ ((number >> 31) & 0x7FFFFFFF))
        found.append(ordered ^ ((ordered >> 31) & 0x7FFFFFFF))
    assert struct.pack("<64i", *found) == EXAMPLES.differing()
    assert list(struct.unpack("<64I", distances)) == list(range(64))


def test_the_segment_example_is_read():
    """The document's segment holds the entries that the text names."""
    entries = decode_entries(parse("entries"), "document")
    assert entries == EXAMPLES.entries()
    assert [entry.kind for entry in entries] == [
        EntryKind.FILE,
        EntryKind.DIRECTORY,
        EntryKind.HARD_LINK,
        EntryKind.SYMLINK,
    ]


def test_the_manifest_example_is_read():
    """The document's manifest opens under its key and holds the document's root."""
    plain = sealed_object.open_(EXAMPLES.keys, sealed_object.MANIFEST, EXAMPLES.version_key, parse("manifest"))
    assert plain == parse("root")
    assert decode_as(plain, ManifestRoot, "document") == EXAMPLES.root()


def test_a_restore_needs_the_documents_objects_and_the_passphrase():
    """Header, slot, pack and manifest of the document are a repository: its file's bytes come out."""
    repository = Repository.open(_store_of_the_document(), EXAMPLES.passphrase)
    (run,) = runs(repository)
    assert (run.name, run.numbers) == (EXAMPLES.run, (2,))
    stored = repository.stored(run.name, 2)
    assert stored.digest == object_digest(parse("manifest"))
    entries = repository.manifest(stored).entries
    with repository.reader() as reader:
        assert reader.one(entries[0].chunks[0]) == EXAMPLES.plain


def test_a_slot_of_kms_is_read_from_the_document_alone():
    """With what KMS unwraps, primitives and no code of ours open the document's slot, bound as the document says."""
    slot, stated = json.loads(parse("kms-slot")), inputs()
    assert base64.b64decode(slot["wrapped"]).hex() == stated["kms wrapped"]
    assert slot["key"] == stated["kms key"]
    salt, sealed = (base64.b64decode(slot[field]) for field in ("salt", "sealed"))
    wrapping = HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"mlsync 1 aws kms")
    key = wrapping.derive(bytes.fromhex(stated["kms secret"]))
    bound = json.dumps(slot | {"sealed": ""}, separators=(",", ":")).encode()
    assert AESGCM(key).decrypt(bytes(12), sealed, bound) == EXAMPLES.keys.master


def test_a_reader_written_from_the_document_alone_restores():
    """What sections 3 to 10 say is enough: primitives, no code of ours, and the file's bytes come out."""
    head, slot = json.loads(parse("header")), json.loads(parse("key-slot"))
    salt, sealed = (base64.b64decode(slot[field]) for field in ("salt", "sealed"))
    wrapping = Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=64)
    bound = json.dumps(slot | {"sealed": ""}, separators=(",", ":")).encode()
    master = AESGCM(wrapping.derive(EXAMPLES.passphrase.secret)).decrypt(bytes(12), sealed, bound)

    def key_of(info):
        return HKDF(algorithm=SHA256(), length=32, salt=bytes.fromhex(head["id"]), info=b"mlsync 1 " + info).derive(
            master
        )

    fields = json.dumps(head | {"check": ""}, separators=(",", ":")).encode()
    assert key_of(b"header" + fields).hex() == head["check"]
    run_id = blake3(EXAMPLES.run.encode(), key=key_of(b"run id")).digest()[:16]
    key = f"versions/{run_id.hex()}/{2:010d}"
    body = parse("manifest")
    root = AESGCM(key_of(b"manifest" + body[20:52])).decrypt(bytes(12), body[52:], body[:52] + key.encode())
    packs, entries, _ = msgspec.msgpack.decode(msgspec.msgpack.decode(root)[11][0][2])
    name, pack_index, ordinal, offset, stored_bytes, plain_bytes, coding, _ = entries[0][10][0]
    body = parse("pack")
    bound = body[:48] + struct.pack("<IIB32s", ordinal, plain_bytes, coding, name)
    cipher = AESGCM(key_of(b"pack" + packs[pack_index][2:]))
    plain = cipher.decrypt(struct.pack(">IQ", 0, ordinal), body[offset : offset + stored_bytes], bound)
    assert blake3(plain, key=key_of(b"chunk name")).digest() == name
    assert plain == EXAMPLES.plain


def test_a_reader_written_from_the_document_alone_follows_a_move():
    """What section 6 says of move records is enough: a chunk of a pack that is gone is found in another one."""
    master, salt = EXAMPLES.keys.master, EXAMPLES.keys.repository_id
    gone = bytes.fromhex(inputs()["moved pack id"])

    def key_of(info):
        return HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"mlsync 1 " + info).derive(master)

    body = parse("move")
    magic, version, kind, coding, length, material, epoch, reserved = struct.unpack_from("<8sHBBIHBB", body)
    assert (magic, version, kind, coding, material, epoch, reserved) == (b"mlsyncX\0", 1, 1, 0, 0, 0, 0)
    bound = body[:52] + f"moves/{gone.hex()}".encode()
    record = AESGCM(key_of(b"move" + body[20:52])).decrypt(bytes(12), body[52:], bound)
    assert len(record) == length
    old, _, _, packs, chunks, _ = msgspec.msgpack.decode(record)
    assert old == gone
    (found,) = [chunk for chunk in chunks if chunk[0] == EXAMPLES.name]
    name, index, ordinal, offset, stored_bytes, plain_bytes, coding, _ = found
    assert packs[index][2:] == EXAMPLES.pack_id
    pack_body = parse("pack")
    bound = pack_body[:48] + struct.pack("<IIB32s", ordinal, plain_bytes, coding, name)
    sealed = pack_body[offset : offset + stored_bytes]
    plain = AESGCM(key_of(b"pack" + packs[index][2:])).decrypt(struct.pack(">IQ", 0, ordinal), sealed, bound)
    assert blake3(plain, key=key_of(b"chunk name")).digest() == name
    assert plain == EXAMPLES.plain


def test_a_restore_follows_the_documents_move():
    """The document's pack under another name, and its move record: the version that names the old pack is read."""
    store = _store_of_the_document()
    store.put(EXAMPLES.move_key, parse("move"))
    old = msgspec.structs.replace(EXAMPLES.ref, pack=EXAMPLES.moved_id, ordinal=7, offset=4800)
    with ChunkReader(store, EXAMPLES.keys) as reader:
        assert reader.one(old) == EXAMPLES.plain


@pytest.mark.parametrize("name", ["header", "key-slot", "pack", "manifest"])
def test_a_wrong_example_would_be_found(name):
    """One digit of an example changed, and the reading tests above fail: they look at every byte."""
    body = bytearray(parse(name))
    body[len(body) // 2] ^= 1
    store = _store_of_the_document({name: bytes(body)})
    with pytest.raises((Damage, KeyProblem)):
        _read_through(store)


def test_json_examples_have_the_documented_fields():
    """The tables of the JSON objects name their fields in the order in which they stand."""
    for name, title in (("header", "## 4."), ("key-slot", "## 5.")):
        fields = json.loads(parse(name))
        section = TEXT[TEXT.index(title) : TEXT.index("\n## ", TEXT.index(title) + 4)]
        places = [section.index(f"`{field}`") for field in fields]
        assert places == sorted(places)


def test_tokens_are_the_documented_ones():
    """Numbers of kinds, severities and codings in the text are the code's."""
    assert "kind: 1 file, 2 directory, 3 symbolic link, 4 hard link" in TEXT
    assert [kind.name for kind in EntryKind] == ["FILE", "DIRECTORY", "SYMLINK", "HARD_LINK"]
    assert "kind (1 torn, 2 broken, 3 unreadable)" in TEXT
    assert [(kind.name, int(kind)) for kind in TroubleKind] == [("TORN", 1), ("BROKEN", 2), ("UNREADABLE", 3)]
    assert "severity (1 note, 2 warning, 3 refusal)" in TEXT
    assert [(one.name, int(one)) for one in Severity] == [("NOTE", 1), ("WARN", 2), ("REFUSE", 3)]
    assert [(one.name, int(one)) for one in Coding] == [("RAW", 0), ("ZSTD", 1), ("PLANES", 2), ("DIFFERENCE", 3)]
    assert [(one.name, int(one)) for one in PlaneCoding] == [("RAW", 0), ("ZSTD", 1)]


def test_bounds_are_the_documented_ones():
    """Bounds in the text are the code's."""
    bounds = {
        "1 to 16 MiB": pack.CHUNK_BYTES_MAX == 16 << 20,
        "17 to 8 MiB": pack.FOOTER_BYTES_MAX == 8 << 20,
        "at most 65,536 |": pack.PACK_CHUNKS_MAX == 65_536,
        "above 1 TiB": pack.PACK_BYTES_MAX == 1 << 40,
        "root, at most 64 MiB": sealed_object.PLAIN_BYTES_MAX == 64 << 20,
        "segment, at most 256 MiB": segments.SEGMENT_BYTES_MAX == 256 << 20,
        "hold at most 4 GiB together": segments.BODY_BYTES_MAX == 4 << 30,
        "nested more than 8 deep": room.DEPTH_MAX == 8,
        "have at most 8 MiB each": move.RECORD_BYTES_MAX == 8 << 20,
        "follows at most 16 records": move.STEPS_MAX == 16,
        "a map of more than 64 KiB": room.ROOM_BYTES_MAX == 64 << 10,
        "up to 64 KiB; beyond": segments.INLINE_BYTES_MAX == 64 << 10,
        "at most 4096 bytes": header.HEADER_BYTES_MAX == keyslot.SLOT_BYTES_MAX == 4096,
        "wrapped it, 1 to 1024 bytes": keyslot.WRAPPED_BYTES_MAX == 1024,
        "at most 8 requests": unlocking.SERVICE_REQUESTS_MAX == 8,
        "above 1 GiB, 64 passes, 64 lanes": (keyslot._MEMORY_KIB_MAX, keyslot._ITERATIONS_MAX) == (1 << 20, 64),
    }
    for words, is_true in bounds.items():
        assert words in TEXT, words
        assert is_true, words


def test_arrays_have_the_documented_positions():
    """Every struct that stands in a manifest has as many fields as its table has rows."""
    root = TEXT[TEXT.index("### Root") : TEXT.index("Summary:")]
    assert len([line for line in root.splitlines() if line[2:3].isdigit()]) == len(msgspec.structs.fields(ManifestRoot))
    entry = TEXT[TEXT.index("### Entry") : TEXT.index("A reader refuses, before")]
    # Owner and group share a row.
    rows = [line for line in entry.splitlines() if line[2:3].isdigit()]
    assert len(rows) + 1 == len(msgspec.msgpack.decode(parse("entries"))[1][0])
    footer = msgspec.msgpack.decode(parse("footer"))
    assert len(footer[0]) == len(msgspec.structs.fields(pack.ChunkRecord)) == 6


def _store_of_the_document(changed: dict[str, bytes] | None = None) -> MemoryStore:
    keys = {
        "header": names.HEADER,
        "key-slot": names.key_slot(bytes(16)),
        "pack": names.pack(EXAMPLES.pack_id),
        "manifest": EXAMPLES.version_key,
    }
    store = MemoryStore()
    for name, key in keys.items():
        store.put(key, (changed or {}).get(name) or parse(name))
    return store


def _read_through(store: MemoryStore) -> None:
    repository = Repository.open(store, EXAMPLES.passphrase)
    (entry, *_) = repository.manifest(repository.stored(EXAMPLES.run, 2)).entries
    size_bytes = store.stat(names.pack(EXAMPLES.pack_id)).size_bytes
    repository.pack_refs(EXAMPLES.pack_id, size_bytes)
    with repository.reader() as reader:
        reader.one(entry.chunks[0])
