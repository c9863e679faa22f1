"""Write the test vectors of this folder: sound and damaged objects, each with the result that a reader must give.

A vector is a text header and, after an empty line, the object in hexadecimal. All randomness is fixed: each run gives
the same files. Run it when a vector is added. It refuses to change an existing vector, since readers of others may
rely on it; before release 1.0, remove the files first when the format changes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from mlsync.codec.compression import Coding
from mlsync.codec.digest import chunk_name
from mlsync.codec.keys import Keys, Purpose
from mlsync.codec.sealing import Seal
from mlsync.codec.write_only import unwrapped_key
from mlsync.repository import header
from mlsync.repository.history.decision import decision_key
from mlsync.repository.keys import keyslot
from mlsync.repository.keys.keyslot import KeyFile, KmsKey, Passphrase, RecoveryKey, Stretching, Unlock, WrappedSecret
from mlsync.repository.keys.object_key import ObjectKey
from mlsync.repository.pack.pack import ChunkRecord, PackSeal

HERE = Path(__file__).parent
# A vector is read by people too; what takes a bound of 64 KiB is in the tests alone.
SMALL_CHARS = 20_000
KEYS = Keys(hashlib.sha256(b"vector master key").digest(), hashlib.sha256(b"vector repository").digest()[:16])
PACK_ID = hashlib.sha256(b"vector pack").digest()[:16]
SALT = hashlib.sha256(b"vector salt").digest()
PASSPHRASE = Passphrase("Grüße vom Wächter".encode())
KEY_FILE = KeyFile(hashlib.sha256(b"vector key file").digest())
PAPER = RecoveryKey(hashlib.sha256(b"vector recovery key").digest())
KMS_KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
KMS_SECRET = hashlib.sha256(b"vector kms secret").digest()
KMS_WRAPPED = b"what KMS made of its secret"
PACK_NAME = f"packs/{PACK_ID.hex()[:2]}/{PACK_ID.hex()}"
VERSION_NAME = f"versions/{hashlib.sha256(b'vector run').hexdigest()[:32]}/0000000042"
CHUNKS = (b"the first chunk", bytes(range(256)) * 3)
# A thousand times the letter a, as zstd 1.5 writes it: written out, since releases of zstd may write it otherwise.
ZSTD_PLAIN = b"a" * 1000
ZSTD_FRAME = bytes.fromhex("28b52ffd60e8024d00001061610100e32b8005")
# A secret that is sealed to the recipient of id `vector recipient`: sealing takes random numbers, so it was done once.
RECIPIENT = hashlib.sha256(b"vector recipient").digest()[:16]
WRAPPED = bytes.fromhex((HERE / "sealed-secret.hex").read_text())
MATERIAL = RECIPIENT + struct.pack("<HH", 1, 0) + WRAPPED
ROOT = b"any bytes: what a root says is another layer's affair"


class _Service:
    """A key of KMS that wraps nothing but one secret."""

    def may_be(self, key: str) -> bool:
        """Whether that is its ARN."""
        return key == KMS_KEY

    def wrap(self, context: Mapping[str, str]) -> WrappedSecret:
        """The secret and what it is wrapped as."""
        return WrappedSecret(KMS_KEY, KMS_SECRET, KMS_WRAPPED)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes | None:
        """Nothing: whoever reads vectors has the secret from the vector."""
        return None


MAGICS: dict[Purpose, bytes] = {
    "manifest": b"mlsyncM\0",
    "later proof": b"mlsyncV\0",
    "evaluation": b"mlsyncN\0",
    "decision": b"mlsyncD\0",
    "move": b"mlsyncX\0",
    "fence": b"mlsyncF\0",
    "tombstone": b"mlsyncT\0",
    "registration": b"mlsyncR\0",
    "omission": b"mlsyncO\0",
    "epoch": b"mlsyncK\0",
}
Change = Callable[[bytes], bytes]
Vector = tuple[str, str, dict[str, str], bytes]


def pack(
    chunks: list[tuple[bytes, Coding, bytes]],
    *,
    keys: Keys = KEYS,
    change: Callable[[list[ChunkRecord]], None] = list,
    own: ObjectKey | None = None,
) -> bytes:
    """A pack of (plain, coding, coded) chunks; *change* changes the records before they are sealed.

    The base of a difference is the first chunk.
    """
    seal = PackSeal(keys, PACK_ID, 0, own)
    body, records = bytearray(seal.header), []
    for ordinal, (plain, coding, coded) in enumerate(chunks):
        name = chunk_name(keys.of("chunk name"), plain)
        base = chunk_name(keys.of("chunk name"), chunks[0][0]) if coding is Coding.DIFFERENCE else b""
        into = memoryview(bytearray(len(coded) + 16))
        seal.seal_chunk(ordinal, name, coding, len(plain), coded, into, base)
        records.append(ChunkRecord(name, len(body), len(into), len(plain), int(coding), base or None))
        body += into
    change(records)
    return bytes(body) + seal.seal_end(records)


def raw(*chunks: bytes) -> list[tuple[bytes, Coding, bytes]]:
    """Chunks that are stored raw."""
    return [(chunk, Coding.RAW, chunk) for chunk in chunks]


def manifest(
    coding: int, plain_bytes: int, coded: bytes, *, version: int = 1, key: tuple[int, int, int] = (0, 0, 0)
) -> bytes:
    """A manifest object, made by hand; *key* is the length of its key material, its epoch, and the reserved byte."""
    name = VERSION_NAME
    head = struct.pack("<8sHBBIHBB32s", b"mlsyncM\0", version, 1, coding, plain_bytes, *key, SALT)
    return head + Seal(KEYS.of("manifest", SALT)).seal(bytes(12), coded, head + name.encode())


def sealed_to_recipient(purpose: Purpose, context: bytes) -> ObjectKey:
    """The key of an object of key kind 2."""
    return ObjectKey(2, 0, MATERIAL, unwrapped_key(KEYS, RECIPIENT, 0, WRAPPED, purpose, context))


def sealed_manifest() -> bytes:
    """A manifest of key kind 2, made by hand."""
    return of_kind_two(b"mlsyncM\0", "manifest", VERSION_NAME, ROOT)


def of_kind_two(magic: bytes, purpose: Purpose, name: str, plain: bytes) -> bytes:
    """An object of key kind 2, whether there may be such objects or not."""
    head = struct.pack("<8sHBBIHBB32s", magic, 1, 2, 0, len(plain), len(MATERIAL), 0, 0, SALT) + MATERIAL
    return head + Seal(sealed_to_recipient(purpose, SALT).key).seal(bytes(12), plain, head + name.encode())


def slot(unlock: Unlock) -> bytes:
    """A key slot that costs nothing to open."""
    return keyslot.make(unlock, KEYS.master, KEYS.repository_id, SALT[:16], Stretching(64, 1, 1))


def put(offset: int, value: bytes) -> Change:
    """Write *value* over what is at *offset*, which may count from the end."""

    def change(body: bytes) -> bytes:
        changed = bytearray(body)
        start = offset % len(body)
        changed[start : start + len(value)] = value
        return bytes(changed)

    return change


def flip(offset: int) -> Change:
    """Change one bit."""
    return lambda body: put(offset, bytes([body[offset] ^ 1]))(body)


def field(**changes: object) -> Change:
    """Change fields of a JSON object and write it as our writer does."""

    def change(body: bytes) -> bytes:
        fields = json.loads(body) | changes
        return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"

    return change


def with_record(**changes: object) -> Callable[[list[ChunkRecord]], None]:
    """Change fields of the first record of a footer."""

    def change(records: list[ChunkRecord]) -> None:
        records[0] = msgspec.structs.replace(records[0], **changes)

    return change


def difference(*, lie: int = 0) -> list[tuple[bytes, Coding, bytes]]:
    """A chunk of 64 int16, negative and extreme ones too, and one that is a difference from it; both end in a byte.

    The second one's last byte is another by *lie* than what is sealed.
    """
    base = [(n * 1021 + 32767) % 65536 - 32768 for n in range(64)]
    distances = [n * 4 for n in range(64)]
    numbers = []
    for number, z in zip(base, distances, strict=True):
        ordered = (number ^ (number >> 15 & 0x7FFF)) + (z >> 1 ^ -(z & 1))
        ordered = (ordered + 32768) % 65536 - 32768
        numbers.append(ordered ^ (ordered >> 15 & 0x7FFF))
    # A zstd frame of one byte that repeats 64 times.
    zeros = bytes.fromhex("28b52ffd204003020000")
    planes = (bytes(distances), 0), (zeros, 1)
    coded = struct.pack("<BBHI", 2, 2, 0, 0)
    coded += b"".join(struct.pack("<BBHI", 1, coding, 0, len(plane)) for plane, coding in planes)
    coded += b"".join(plane for plane, _ in planes) + b"!"
    first, second = (struct.pack("<64h", *values) for values in (base, numbers))
    return [(first + b"?", Coding.RAW, first + b"?"), (second + bytes([33 + lie]), Coding.DIFFERENCE, coded)]


def with_base(base: object, at: int = -1) -> Callable[[list[ChunkRecord]], None]:
    """Change the base that a footer names for a chunk."""

    def change(records: list[ChunkRecord]) -> None:
        records[at] = msgspec.structs.replace(records[at], base=base)

    return change


def differences() -> Iterator[Vector]:
    """Vectors of packs with a chunk and another one that is a difference from it."""
    chunks = difference()
    name = chunk_name(KEYS.of("chunk name"), chunks[1][0])
    content = {"content": hashlib.sha256(b"".join(plain for plain, _, _ in chunks)).hexdigest()}
    yield "pack-difference", "success", content, pack(chunks)
    yield "pack-difference-no-base", "contradiction", {}, pack(chunks, change=with_base(None))
    yield "pack-difference-short-base", "contradiction", {}, pack(chunks, change=with_base(bytes(31)))
    yield "pack-difference-base-no-name", "contradiction", {}, pack(chunks, change=with_base("x" * 32))
    yield "pack-difference-from-itself", "contradiction", {}, pack(chunks, change=with_base(name))
    yield "pack-base-of-no-difference", "contradiction", {}, pack(chunks, change=with_base(bytes(32), 0))
    yield "pack-difference-other-base", "authentication failure", {}, pack(chunks, change=with_base(bytes(32)))
    yield "pack-difference-name-lies", "wrong name", {}, pack(difference(lie=1))
    newer = pack(raw(*CHUNKS), change=with_record(coding=7, base=["anything"]))
    yield "pack-newer-coding-and-base", "no such format", {}, newer


def packs() -> Iterator[Vector]:
    """Vectors of packs."""
    yield from differences()
    sound = pack(raw(*CHUNKS))
    other = Keys(bytes(32), KEYS.repository_id)
    content = {"content": hashlib.sha256(b"".join(CHUNKS)).hexdigest()}
    yield "pack-sound", "success", content, sound
    yield "pack-empty", "success", {"content": hashlib.sha256().hexdigest()}, pack([])
    zstd = [(ZSTD_PLAIN, Coding.ZSTD, ZSTD_FRAME)]
    yield "pack-zstd", "success", {"content": hashlib.sha256(ZSTD_PLAIN).hexdigest()}, pack(zstd)
    yield "pack-newer-format", "no such format", {}, put(8, b"\2")(sound)
    yield "pack-newer-key-kind", "no such format", {}, put(10, b"\3")(sound)
    yield "pack-newer-coding", "no such format", {}, pack(raw(*CHUNKS), change=with_record(coding=7))
    yield "pack-other-magic", "not this object", {}, put(0, b"mlsyncM\0")(sound)
    yield "pack-other-name", "wrong place", {"name": PACK_NAME[:-1] + ("1" if PACK_NAME[-1] == "0" else "0")}, sound
    yield "pack-other-repository", "wrong place", {}, pack(raw(*CHUNKS), keys=Keys(KEYS.master, bytes(16)))
    yield "pack-other-master-key", "authentication failure", {}, pack(raw(*CHUNKS), keys=other)
    yield "pack-unknown-epoch", "unknown epoch", {}, put(11, b"\1")(sound)
    yield "pack-reserved-word", "reserved bytes", {}, put(12, b"\1")(sound)
    yield "pack-chunk-flipped", "authentication failure", {}, flip(50)(sound)
    yield "pack-chunk-tag-flipped", "authentication failure", {}, flip(48 + len(CHUNKS[0]))(sound)
    yield "pack-footer-flipped", "authentication failure", {}, flip(-60)(sound)
    yield "pack-chunk-count", "authentication failure", {}, put(-12, b"\3")(sound)
    yield "pack-footer-length", "authentication failure", {}, put(-16, b"\x20\0\0\0")(sound)
    yield "pack-footer-length-too-large", "out of bounds", {}, put(-16, b"\xff\xff\xff\xff")(sound)
    yield "pack-end-magic", "truncated", {}, flip(-1)(sound)
    yield "pack-cut-by-one", "truncated", {}, sound[:-1]
    yield "pack-cut-in-header", "truncated", {}, sound[:40]
    yield "pack-nothing", "truncated", {}, b""
    yield "pack-trailing-data", "trailing data", {}, sound + b"\0"
    yield "pack-gap", "contradiction", {}, pack(raw(*CHUNKS), change=with_record(offset=49))
    yield "pack-empty-chunk", "contradiction", {}, pack(raw(b""))
    yield "pack-chunk-missing", "contradiction", {}, pack(raw(*CHUNKS), change=list.pop)
    yield "pack-length-lies", "contradiction", {}, pack(raw(*CHUNKS), change=with_record(plain_bytes=14))
    yield "pack-length-not-bound", "authentication failure", {}, pack(raw(*CHUNKS), change=with_record(plain_bytes=16))
    yield "pack-name-not-bound", "authentication failure", {}, pack(raw(*CHUNKS), change=with_record(name=bytes(32)))
    short = [(ZSTD_PLAIN[:-1], Coding.ZSTD, ZSTD_FRAME)]
    yield "pack-zstd-size-lies", "does not decode", {}, pack(short)
    yield "pack-zstd-broken", "does not decode", {}, pack([(ZSTD_PLAIN, Coding.ZSTD, ZSTD_FRAME[:-3])])
    yield "pack-name-lies", "wrong name", {}, _misnamed()
    sealed = pack(raw(*CHUNKS), own=sealed_to_recipient("pack", PACK_ID))
    yield "pack-sealed", "success", content, sealed
    yield "pack-sealed-other-kind", "reserved bytes", {}, put(10, b"\1")(sealed)
    yield "pack-sealed-length", "reserved bytes", {}, put(12, b"\xff")(sealed)
    yield "pack-sealed-newer-suite", "no such format", {}, put(64, b"\2")(sealed)
    yield "pack-sealed-reserved", "damage", {}, put(66, b"\1")(sealed)
    yield "pack-sealed-recipient-flipped", "authentication failure", {}, flip(48)(sealed)
    yield "pack-sealed-secret-flipped", "authentication failure", {}, flip(48 + len(MATERIAL) - 1)(sealed)
    yield "pack-sealed-other-master-key", "authentication failure", {"master key": "00" * 32}, sealed
    yield "pack-sealed-cut", "truncated", {}, sealed[:600] + sealed[-16:]


def _misnamed() -> bytes:
    seal, plain = PackSeal(KEYS, PACK_ID, 0), b"bytes of another name"
    into = memoryview(bytearray(len(plain) + 16))
    seal.seal_chunk(0, bytes(32), Coding.RAW, len(plain), plain, into)
    return seal.header + bytes(into) + seal.seal_end([ChunkRecord(bytes(32), 48, len(into), len(plain), 0)])


def manifests() -> Iterator[Vector]:
    """Vectors of manifests."""
    sound = manifest(0, len(ROOT), ROOT)
    yield "manifest-sound", "success", {"content": hashlib.sha256(ROOT).hexdigest()}, sound
    zstd = manifest(1, len(ZSTD_PLAIN), ZSTD_FRAME)
    yield "manifest-zstd", "success", {"content": hashlib.sha256(ZSTD_PLAIN).hexdigest()}, zstd
    yield "manifest-newer-format", "no such format", {}, manifest(0, len(ROOT), ROOT, version=2)
    yield "manifest-newer-key-kind", "no such format", {}, put(10, b"\3")(sound)
    yield "manifest-newer-coding", "no such format", {}, manifest(2, len(ROOT), ROOT)
    yield "manifest-other-magic", "not this object", {}, put(0, b"mlsyncP\0")(sound)
    yield "manifest-other-number", "authentication failure", {"name": VERSION_NAME[:-1] + "3"}, sound
    yield "manifest-other-repository", "authentication failure", {"repository id": "00" * 16}, sound
    yield "manifest-other-master-key", "authentication failure", {"master key": "00" * 32}, sound
    yield "manifest-salt-flipped", "authentication failure", {}, flip(24)(sound)
    yield "manifest-coding-flipped", "authentication failure", {}, flip(11)(sound)
    yield "manifest-length-flipped", "authentication failure", {}, flip(12)(sound)
    yield "manifest-body-flipped", "authentication failure", {}, flip(60)(sound)
    yield "manifest-tag-flipped", "authentication failure", {}, flip(-1)(sound)
    yield "manifest-trailing-data", "authentication failure", {}, sound + b"\0"
    yield "manifest-cut-by-one", "authentication failure", {}, sound[:-1]
    yield "manifest-cut-in-header", "truncated", {}, sound[:40]
    yield "manifest-nothing", "truncated", {}, b""
    yield "manifest-key-material", "reserved bytes", {}, manifest(0, len(ROOT), ROOT, key=(1, 0, 0))
    yield "manifest-reserved-byte", "reserved bytes", {}, manifest(0, len(ROOT), ROOT, key=(0, 0, 1))
    yield "manifest-reserved-byte-flipped", "authentication failure", {}, flip(19)(sound)
    yield "manifest-unknown-epoch", "unknown epoch", {}, put(18, b"\1")(sound)
    yield "manifest-key-material-flipped", "authentication failure", {}, flip(16)(sound)
    yield "manifest-too-large", "out of bounds", {}, manifest(1, 0xFFFF_FFFF, ZSTD_FRAME)
    yield "manifest-raw-length-lies", "does not decode", {}, manifest(0, len(ROOT) + 1, ROOT)
    yield "manifest-zstd-size-lies", "does not decode", {}, manifest(1, 999, ZSTD_FRAME)


def materials() -> Iterator[Vector]:
    """Vectors of key material, in manifests: the rules of docs/format.md."""
    import reader_rules

    sound = sealed_manifest()
    yield "manifest-sealed", "success", {"content": hashlib.sha256(ROOT).hexdigest()}, sound
    yield "manifest-sealed-other-master-key", "authentication failure", {"master key": "00" * 32}, sound
    yield "manifest-sealed-other-number", "authentication failure", {"name": VERSION_NAME[:-1] + "3"}, sound
    yield "manifest-sealed-salt-flipped", "authentication failure", {}, flip(24)(sound)
    yield "manifest-sealed-cut-in-material", "truncated", {}, sound[:69]
    for title, rule, expect, body in _first(reader_rules.material_cases(sound)):
        yield f"manifest-{title}", expect, {"rule": f"{rule.number}, {rule.place}: {rule.text}"}, body


def slots() -> Iterator[Vector]:
    """Vectors of key slots."""
    sound, file = slot(PASSPHRASE), slot(KEY_FILE)
    passphrase, key_file = {"passphrase": PASSPHRASE.secret.hex()}, {"key file": KEY_FILE.secret.hex()}
    content = {"content": hashlib.sha256(KEYS.master).hexdigest()}
    yield "slot-passphrase", "success", passphrase | content, sound
    yield "slot-key-file", "success", key_file | content, file
    paper = slot(PAPER)
    yield "slot-recovery-key", "success", {"recovery key": PAPER.secret.hex()} | content, paper
    yield "slot-recovery-key-as-key-file", "wrong key", {"key file": PAPER.secret.hex()}, paper
    yield from kms_slots(content)
    yield "slot-other-passphrase", "wrong key", {"passphrase": b"something else".hex()}, sound
    yield "slot-other-key-file", "wrong key", {"key file": "00" * 32}, file
    yield "slot-kinds-crossed", "wrong key", {"key file": PASSPHRASE.secret.hex().ljust(64, "0")}, sound
    yield "slot-salt-changed", "wrong key", passphrase, field(salt="A" * 22 + "==")(sound)
    yield "slot-iterations-changed", "wrong key", passphrase, field(iterations=2)(sound)
    yield "slot-repository-changed", "wrong key", passphrase, field(repository="00" * 16)(sound)
    yield "slot-newer-format", "no such format", passphrase, field(format=2)(sound)
    yield "slot-newer-kind", "no such format", passphrase, field(kind="kms")(sound)
    yield "slot-hostile-memory", "out of bounds", passphrase, field(memory_kib=1 << 40)(sound)
    yield "slot-hostile-iterations", "out of bounds", passphrase, field(iterations=1 << 30)(sound)
    yield "slot-hostile-lanes", "out of bounds", passphrase, field(lanes=1 << 20)(sound)
    yield "slot-no-iterations", "out of bounds", passphrase, field(iterations=0)(sound)
    yield "slot-field-more", "malformed", passphrase, field(more=1)(sound)
    yield "slot-short-salt", "malformed", passphrase, field(salt="AAAA")(sound)
    yield "slot-cut", "malformed", passphrase, sound[:-4]
    yield "slot-trailing-data", "malformed", passphrase, sound + b" "
    yield "slot-other-object", "not this object", passphrase, field(mlsync="repository")(sound)


def kms_slots(content: dict[str, str]) -> Iterator[Vector]:
    """Vectors of key slots of AWS KMS: *kms secret* is what KMS unwraps, for this key and *kms wrapped*."""
    sound = slot(KmsKey(_Service()))
    given = {"kms key": KMS_KEY, "kms wrapped": KMS_WRAPPED.hex(), "kms secret": KMS_SECRET.hex()}
    context = {"mlsync": "key-slot", "repository": KEYS.repository_id.hex(), "salt": json.loads(sound)["salt"]}
    yield "slot-kms", "success", given | {"kms context": json.dumps(context)} | content, sound
    yield "slot-kms-other-secret", "wrong key", given | {"kms secret": "00" * 32}, sound
    other_key = KMS_KEY.replace("1234abcd", "ffffffff")
    yield "slot-kms-other-key", "wrong key", given, field(key=other_key)(sound)
    yield "slot-kms-key-changed", "wrong key", given | {"kms key": other_key}, field(key=other_key)(sound)
    yield "slot-kms-other-wrapped", "wrong key", given, field(wrapped=base64.b64encode(bytes(32)).decode())(sound)
    yield "slot-kms-as-key-file", "wrong key", {"key file": KMS_SECRET.hex()}, sound
    yield "slot-kms-no-arn", "malformed", given, field(key="alias/training")(sound)
    yield "slot-kms-key-of-nothing", "malformed", given, field(key=KMS_KEY + chr(10))(sound)
    yield "slot-kms-wrapped-empty", "malformed", given, field(wrapped="")(sound)
    too_long = base64.b64encode(bytes(1025)).decode()
    yield "slot-kms-wrapped-too-long", "malformed", given, field(wrapped=too_long)(sound)
    yield "slot-kms-cost", "damage", given, field(memory_kib=64)(sound)
    yield "slot-kms-fields-elsewhere", "malformed", given, field(key=KMS_KEY)(slot(KEY_FILE))


def headers() -> Iterator[Vector]:
    """Vectors of headers."""
    sound = header.encode(KEYS, conditional_create=True)
    yield "header-sound", "success", {"content": hashlib.sha256(KEYS.repository_id).hexdigest()}, sound
    yield "header-newer-format", "no such format", {}, b'{"mlsync": "repository", "format": 2, "new": null}\n'
    yield "header-other-object", "not this object", {}, field(mlsync="key-slot")(sound)
    yield "header-other-master-key", "authentication failure", {"master key": "00" * 32}, sound
    yield "header-id-changed", "authentication failure", {}, field(id="00" * 16)(sound)
    yield "header-flag-changed", "authentication failure", {}, field(conditional_create=False)(sound)
    yield "header-check-changed", "authentication failure", {}, field(check="00" * 32)(sound)
    yield "header-field-more", "malformed", {}, field(more=1)(sound)
    yield "header-short-id", "malformed", {}, field(id="00")(sound)
    yield "header-blanks", "malformed", {}, sound.replace(b": ", b":  ", 1)
    yield "header-trailing-data", "malformed", {}, sound + b"\n"
    yield "header-cut", "malformed", {}, sound[:-3]


def versions() -> Iterator[Vector]:
    """Vectors of whole versions: for each rule of docs/format.md one that breaks it, is newer, or just keeps it."""
    import forged
    import reader_rules

    key = forged.EXAMPLES.version_key
    for title, rule, expect, value in _first(reader_rules.root_cases()):
        plain = forged.packed(value)
        fields = _stated(forged.EXAMPLES, key, rule) | _content(expect, plain)
        yield f"version-{title}", expect, fields, _sealed(forged.EXAMPLES.keys, "manifest", key, plain)


def later_proofs() -> Iterator[Vector]:
    """Vectors of later proofs, in the same way."""
    import forged
    import reader_rules

    key = forged.EXAMPLES.proof_key
    version = b"".join(part for part, _ in forged.EXAMPLES.manifest())
    for title, rule, expect, value in _first(reader_rules.proof_cases()):
        plain = msgspec.msgpack.encode(value)
        fields = _stated(forged.EXAMPLES, key, rule) | {"version": version.hex()} | _content(expect, plain)
        yield f"later-proof-{title}", expect, fields, _sealed(forged.EXAMPLES.keys, "later proof", key, plain)


def evaluations() -> Iterator[Vector]:
    """Vectors of evaluations, in the same way."""
    import forged
    import reader_rules

    key = forged.EXAMPLES.evaluation_key
    version = b"".join(part for part, _ in forged.EXAMPLES.manifest())
    for title, rule, expect, value in _first(reader_rules.evaluation_cases()):
        plain = msgspec.msgpack.encode(value)
        fields = _stated(forged.EXAMPLES, key, rule) | {"version": version.hex()} | _content(expect, plain)
        yield f"evaluation-{title}", expect, fields, _sealed(forged.EXAMPLES.keys, "evaluation", key, plain)


def decisions() -> Iterator[Vector]:
    """Vectors of decisions, in the same way."""
    import forged
    import reader_rules

    key = forged.EXAMPLES.decision_key
    for title, rule, expect, value in _first(reader_rules.decision_cases()):
        plain = msgspec.msgpack.encode(value)
        fields = _stated(forged.EXAMPLES, key, rule) | _content(expect, plain)
        yield f"decision-{title}", expect, fields, _sealed(forged.EXAMPLES.keys, "decision", key, plain)
    rule = reader_rules.KIND_RULE
    key, plain = decision_key(KEYS, forged.EXAMPLES.run, 2), msgspec.msgpack.encode(forged.EXAMPLES.decision())
    fields = {"name": key, "run": forged.EXAMPLES.run, "rule": f"{rule.number}, {rule.place}: {rule.text}"}
    yield f"decision-{rule.number}-damage", "damage", fields, of_kind_two(b"mlsyncD\0", "decision", key, plain)


def moves() -> Iterator[Vector]:
    """Vectors of move records, in the same way."""
    import forged
    import reader_rules

    key = forged.EXAMPLES.move_key
    for title, rule, expect, value in _first(reader_rules.move_cases()):
        plain = msgspec.msgpack.encode(value)
        fields = _stated(forged.EXAMPLES, key, rule) | _content(expect, plain)
        yield f"move-{title}", expect, fields, _sealed(forged.EXAMPLES.keys, "move", key, plain)


def fences() -> Iterator[Vector]:
    """Vectors of fences, in the same way."""
    import forged
    import reader_rules

    yield from _small(reader_rules.fence_cases(), "fence", forged.EXAMPLES.version_key, lambda body: body)


def tombstones() -> Iterator[Vector]:
    """Vectors of tombstones, in the same way."""
    import forged
    import reader_rules

    key = f"tombstones/{forged.EXAMPLES.pack_id.hex()}"
    yield from _small(reader_rules.tombstone_cases(), "tombstone", key, msgspec.msgpack.encode)


def registrations() -> Iterator[Vector]:
    """Vectors of registrations, in the same way."""
    import forged
    import reader_rules

    key = forged.EXAMPLES.registration_key
    yield from _small(reader_rules.registration_cases(), "registration", key, msgspec.msgpack.encode)


def omissions() -> Iterator[Vector]:
    """Vectors of omissions, in the same way."""
    import forged
    import reader_rules

    key = forged.EXAMPLES.omission_key
    yield from _small(reader_rules.omission_cases(), "omission", key, msgspec.msgpack.encode)


def _small(cases: Iterator[Any], kind: Purpose, key: str, encode: Callable[[Any], bytes]) -> Iterator[Vector]:
    import forged

    for title, rule, expect, value in _first(cases):
        plain = encode(value)
        fields = _stated(forged.EXAMPLES, key, rule) | _content(expect, plain)
        yield f"{kind}-{title}", expect, fields, _sealed(forged.EXAMPLES.keys, kind, key, plain)


def epochs() -> Iterator[Vector]:
    """Vectors of the objects of epochs, in the same way; what seals them is the master key of epoch 1."""
    import forged
    import reader_rules

    keys = forged.EXAMPLES.later_keys
    key, own = "epochs/001", {"epoch 1 master key": keys.masters[1].hex()}
    for title, rule, expect, value in _first(reader_rules.epoch_cases()):
        plain = msgspec.msgpack.encode(value)
        fields = _stated(forged.EXAMPLES, key, rule) | own | _content(expect, plain)
        yield f"epoch-{title}", expect, fields, _sealed(keys, "epoch", key, plain)
    plain = msgspec.msgpack.encode(forged.epoch_value())
    fields = _stated(forged.EXAMPLES, key, None) | own
    for title, changed in (("other-epoch", "epochs/002"), ("copy-name", "epochs/001-copy")):
        yield f"epoch-{title}", "damage", fields, _sealed(keys, "epoch", changed, plain)


def _stated(examples: Any, key: str, rule: Any) -> dict[str, str]:
    keys = {"master key": examples.keys.master.hex(), "repository id": examples.keys.repository_id.hex()}
    stated = {} if rule is None else {"rule": f"{rule.number}, {rule.place}: {rule.text}"}
    return {"name": key, **keys, "run": examples.run, **stated}


def _first(cases: Iterator[tuple[Any, str, Any]]) -> Iterator[tuple[str, Any, str, Any]]:
    """The first case of each rule and outcome that is not large."""
    seen = set()
    for rule, expect, value in cases:
        title = f"{rule.number:02d}-{expect}"
        if title not in seen and len(repr(value)) < SMALL_CHARS:
            seen.add(title)
            yield title, rule, expect, value


def _content(expect: str, plain: bytes) -> dict[str, str]:
    return {"content": hashlib.sha256(plain).hexdigest()} if expect == "success" else {}


def _sealed(keys: Keys, purpose: Purpose, name: str, plain: bytes) -> bytes:
    magic = MAGICS[purpose]
    head = struct.pack("<8sHBBIHBB32s", magic, 1, 1, 0, len(plain), 0, keys.epoch, 0, SALT)
    return head + Seal(keys.of(purpose, SALT, epoch=keys.epoch)).seal(bytes(12), plain, head + name.encode())


GROUPS = {
    "version": versions,
    "later proof": later_proofs,
    "evaluation": evaluations,
    "decision": decisions,
    "move record": moves,
    "fence": fences,
    "tombstone": tombstones,
    "registration": registrations,
    "omission": omissions,
    "epoch": epochs,
    "pack": packs,
    "manifest": lambda: chain(manifests(), materials()),
    "key slot": slots,
    "header": headers,
}
NAMES = {
    "version": "",
    "later proof": "",
    "evaluation": "",
    "decision": "",
    "move record": "",
    "fence": "",
    "tombstone": "",
    "registration": "",
    "omission": "",
    "epoch": "",
    "pack": PACK_NAME,
    "manifest": VERSION_NAME,
    "key slot": "keys/" + "0" * 32,
    "header": "repository",
}


def files() -> Iterator[tuple[str, str]]:
    """Every vector as a file's name and text."""
    for kind, vectors in GROUPS.items():
        for title, expect, changes, body in vectors():
            lines = {"expect": expect, "object": kind, "name": NAMES[kind]}
            lines |= {"master key": KEYS.master.hex(), "repository id": KEYS.repository_id.hex()}
            lines |= changes
            digits = body.hex()
            rows = [digits[start : start + 100] for start in range(0, len(digits), 100)]
            text = [f"{name}: {value}" for name, value in lines.items()]
            yield f"{title}.txt", "\n".join([*text, "", *rows]) + "\n"


def main() -> None:
    """Write new vectors; refuse to change existing ones."""
    sys.path[:0] = [str(HERE.parent / "repository"), str(HERE.parent)]
    for name, text in files():
        path = HERE / name
        if path.exists() and path.read_text() != text:
            sys.exit(f"{name} would change; a vector is never changed, make another one")
        path.write_text(text)


if __name__ == "__main__":
    main()
