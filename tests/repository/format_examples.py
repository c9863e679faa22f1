"""The worked examples of docs/format.md, made by the code from fixed inputs; run as a script, it writes them anew."""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import msgspec
from stated_key_service import StatedKeyService

from mlsync.codec.compression import Coding
from mlsync.codec.digest import FileDigester, FileDigestKind, chunk_name, object_digest, run_id
from mlsync.codec.keys import Keys
from mlsync.repository import header, names, sealed_object
from mlsync.repository.encoding.segments import PackTable, encode_entries
from mlsync.repository.encoding.tokens import EntryKind, TroubleKind
from mlsync.repository.evaluation import Evaluation, Measure
from mlsync.repository.history.decision import Decision, Forgotten, Gone, Pin, decision_key
from mlsync.repository.history.move import MoveRecord
from mlsync.repository.keys import keyslot
from mlsync.repository.keys.epochs import EpochKeys, LastOne, announcement
from mlsync.repository.keys.keyslot import KeyFile, KmsKey, Passphrase, RecoveryKey, Stretching, Unlock
from mlsync.repository.later_proof import LaterProof, ProvedFile
from mlsync.repository.manifest import (
    ChunkRef,
    Entry,
    ManifestRoot,
    Origin,
    Previous,
    SegmentRef,
    Summary,
    Top,
    Trouble,
)
from mlsync.repository.pack.pack import ChunkRecord, PackSeal
from mlsync.repository.sealed_object import DECISION, EPOCH, EVALUATION, LATER_PROOF, MANIFEST, MOVE, SealedKind
from mlsync.values import Finding, Proof, Severity

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
# A name, and what stands in the block: hexadecimal, or the text of an object that is JSON.
BLOCK = re.compile(r"^```(?:hex|json) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXTS = ("header", "key-slot", "key-file-slot", "recovery-key-slot", "kms-slot")
INPUT = re.compile(r"^\| `([a-z ]+)` \| `(.*)` \|$", re.MULTILINE)
_LINE_BYTES = 32

Fields = list[tuple[bytes, str]]


def inputs() -> dict[str, str]:
    """The fixed inputs as the document's table states them."""
    return dict(INPUT.findall(DOCUMENT.read_text()))


class Examples:
    """Every example, from the document's own inputs."""

    def __init__(self, stated: dict[str, str]) -> None:
        self.keys = Keys(bytes.fromhex(stated["master key"]), bytes.fromhex(stated["repository id"]))
        self.pack_id = bytes.fromhex(stated["pack id"])
        self.slot_salt = bytes.fromhex(stated["slot salt"])
        self.manifest_salt = bytes.fromhex(stated["manifest salt"])
        self.proof_id = bytes.fromhex(stated["proof id"])
        self.proof_salt = bytes.fromhex(stated["proof salt"])
        self.evaluation_id = bytes.fromhex(stated["evaluation id"])
        self.evaluation_salt = bytes.fromhex(stated["evaluation salt"])
        self.decision_salt = bytes.fromhex(stated["decision salt"])
        self.moved_id = bytes.fromhex(stated["moved pack id"])
        self.move_salt = bytes.fromhex(stated["move salt"])
        self.later_keys = Keys(self.keys.master, self.keys.repository_id, (bytes.fromhex(stated["second master key"]),))
        self.epoch_salt = bytes.fromhex(stated["epoch salt"])
        self.writer_id = bytes.fromhex(stated["writer id"])
        self.machine = bytes.fromhex(stated["machine"])
        self.passphrase = Passphrase(stated["passphrase"].encode())
        self.key_file = KeyFile(bytes.fromhex(stated["key file"]))
        self.recovery_key = RecoveryKey(bytes.fromhex(stated["recovery key"]))
        secret, wrapped = (bytes.fromhex(stated[name]) for name in ("kms secret", "kms wrapped"))
        self.kms_key = KmsKey(StatedKeyService(stated["kms key"], secret, wrapped))
        self.run = stated["run"]
        self.plain = stated["chunk"].encode()
        self.name = chunk_name(self.keys.of("chunk name"), self.plain)
        self.version_key = names.version(run_id(self.keys.of("run id"), self.run), 2)
        self.proof_key = names.later_proof(run_id(self.keys.of("run id"), self.run), 2, self.proof_id)
        self.evaluation_key = names.evaluation(run_id(self.keys.of("run id"), self.run), 2, self.evaluation_id)
        self.decision_key = decision_key(self.keys, self.run, 2)
        self.move_key = names.move(self.moved_id)
        self.registration_key = names.registration(run_id(self.keys.of("run id"), self.run))
        self.omission_key = names.omission(run_id(self.keys.of("run id"), self.run), bytes(16))
        self.pack_parts = self._pack()
        self.ref = ChunkRef(self.name, self.pack_id, 0, 48, len(self.plain) + 16, len(self.plain), Coding.RAW)

    def all(self) -> dict[str, Fields]:
        """Every example by name: its bytes in pieces, each with what it is."""
        return {
            "keys": [
                (self.keys.of("chunk name"), "chunk names"),
                (self.keys.of("run id"), "run ids"),
                (self.keys.of("pack", self.pack_id), "the pack"),
                (self.keys.of("manifest", self.manifest_salt), "the manifest"),
                (self.keys.of("later proof", self.proof_salt), "the later proof"),
                (self.keys.of("evaluation", self.evaluation_salt), "the evaluation"),
                (self.keys.of("decision", self.decision_salt), "the decision"),
                (self.keys.of("move", self.move_salt), "the move record"),
                (self.later_keys.of("epoch", self.epoch_salt, epoch=1), "epoch 1"),
            ],
            "names": [
                (self.name, "the chunk's name"),
                (run_id(self.keys.of("run id"), self.run), "the run's id"),
                (bytes.fromhex(self.decision_key.rpartition("-")[2]), "the decision's tag"),
                (bytes.fromhex(announcement(self.keys, 0).rpartition("-")[2]), "the announcement's tag"),
            ],
            "header": [(header.encode(self.keys, conditional_create=True), "")],
            "key-slot": [(self.slot(self.passphrase), "")],
            "key-file-slot": [(self.slot(self.key_file), "")],
            "recovery-key-slot": [(self.slot(self.recovery_key), "")],
            "kms-slot": [(self.slot(self.kms_key), "")],
            "pack": self.pack_parts,
            "footer": [(msgspec.msgpack.encode(self.records()), "")],
            "planes": self.planes(),
            "difference": self.difference(),
            "entries": [(encode_entries(self.entries()), "")],
            "root": [(msgspec.msgpack.encode(self.root()), "")],
            "manifest": self.manifest(),
            "later-proof-body": [(msgspec.msgpack.encode(self.later_proof()), "")],
            "later-proof": self.later_proof_object(),
            "evaluation-body": [(msgspec.msgpack.encode(self.evaluation()), "")],
            "evaluation": self.evaluation_object(),
            "decision-body": [(msgspec.msgpack.encode(self.decision()), "")],
            "decision": self.decision_object(),
            "move-body": [(msgspec.msgpack.encode(self.move()), "")],
            "move": self.move_object(),
            "epoch-body": [(msgspec.msgpack.encode(self.epoch()), "")],
            "epoch": self._sealed(EPOCH, names.epoch(1), msgspec.msgpack.encode(self.epoch()), self.epoch_salt),
        }

    def slot(self, unlock: Unlock) -> bytes:
        """A key slot, cheap to open."""
        return keyslot.make(unlock, self.keys.master, self.keys.repository_id, self.slot_salt, Stretching(64, 1, 1))

    def records(self) -> list[ChunkRecord]:
        """What the pack's footer lists."""
        return [ChunkRecord(self.name, 48, len(self.plain) + 16, len(self.plain), 0)]

    def numbers(self) -> bytes:
        """The chunk that is shown in byte planes."""
        return struct.pack("<64f", *((64 + n) / 128 for n in range(64)))

    def planes(self) -> Fields:
        """The numbers in byte planes: one that is all zeros, one that is stored as it is, one of a single value."""
        bodies = [_repeated(0, 128), bytes(range(0, 128, 2)), _repeated(0x3F, 64)]
        records = zip((2, 1, 1), (1, 0, 1), map(len, bodies), strict=True)
        head = [struct.pack(f"<{kind}", value) for kind, value in zip("BBHI", (4, 3, 0, 0), strict=True)]
        head += [struct.pack("<BBHI", width, coding, 0, length) for width, coding, length in records]
        words = (
            "W",
            "P",
            "reserved",
            "reserved",
            "0: 2 bytes wide, zstd",
            "1: 1 byte wide, raw",
            "2: 1 byte wide, zstd",
        )
        return [*zip(head, words, strict=True), *zip(bodies, ("plane 0", "plane 1", "plane 2"), strict=True)]

    def differing(self) -> bytes:
        """The chunk that is shown as a difference: positive floats sort as the integers of their bits."""
        bits = struct.unpack("<64I", self.numbers())
        return struct.pack("<64I", *(bit + (n >> 1 ^ -(n & 1)) for n, bit in enumerate(bits)))

    def difference(self) -> Fields:
        """How far these numbers are from those above, in byte planes: one that is raw, and zeros."""
        bodies = [bytes(range(64)), _repeated(0, 64), _repeated(0, 128)]
        head = [struct.pack(f"<{kind}", value) for kind, value in zip("BBHI", (4, 3, 0, 0), strict=True)]
        records = zip((1, 1, 2), (0, 1, 1), map(len, bodies), strict=True)
        head += [struct.pack("<BBHI", width, coding, 0, length) for width, coding, length in records]
        words = ("W", "P", "reserved", "reserved")
        planes = ("0: 1 byte wide, raw", "1: 1 byte wide, zstd", "2: 2 bytes wide, zstd")
        parts = ("plane 0", "plane 1", "plane 2")
        return [*zip(head, (*words, *planes), strict=True), *zip(bodies, parts, strict=True)]

    def _pack(self) -> Fields:
        seal = PackSeal(self.keys, self.pack_id, 0)
        into = memoryview(bytearray(len(self.plain) + 16))
        seal.seal_chunk(0, self.name, Coding.RAW, len(self.plain), self.plain, into)
        end = seal.seal_end(self.records())
        header_parts = _split(seal.header, 8, 2, 1, 1, 4, 16, 16)
        header_words = ("magic", "format", "key kind", "epoch", "key material", "pack id", "repository id")
        trailer = _split(end[-16:], 4, 4, 8)
        return [
            *zip(header_parts, header_words, strict=True),
            (bytes(into[:-16]), "chunk 0: ciphertext"),
            (bytes(into[-16:]), "chunk 0: tag"),
            (end[:-32], "footer: ciphertext"),
            (end[-32:-16], "footer: tag"),
            *zip(trailer, ("footer length", "chunk count", "magic"), strict=True),
        ]

    def entries(self) -> list[Entry]:
        """One entry of each kind, in path order."""
        finding = Finding(2, Severity.NOTE, "an infinity", "data/0", 64)
        facts = {"epoch": 3, "loss": 0.5, "framework": "plain", "resumable": True}
        proof = Proof(3, "torch-zip", "cpu", "2.13.0", 1_795_435_200_000_000_000, 0.25, 1, 4, facts, [finding])
        holes = ((0, 4096),)
        digester = FileDigester(FileDigestKind.WHOLE, holes)
        digester.update(self.plain)
        when_ns = 1_795_435_100_000_000_001
        bare = Entry(b"logs", EntryKind.DIRECTORY, 0o755, 1000, 1000, when_ns)
        size_bytes = 4096 + len(self.plain)
        return [
            Entry(
                b"last.pt",
                EntryKind.FILE,
                0o644,
                1000,
                1000,
                when_ns,
                size_bytes,
                b"",
                digester.digest(),
                holes,
                (self.ref,),
                proof,
            ),
            msgspec.structs.replace(bare, room={"example": [1, {"a": b""}]}),
            msgspec.structs.replace(bare, path=b"logs/\xff.pt", kind=EntryKind.HARD_LINK, target=b"last.pt"),
            msgspec.structs.replace(bare, path=b"newest", kind=EntryKind.SYMLINK, mode=0o777, target=b"last.pt"),
        ]

    def root(self) -> ManifestRoot:
        """The root of version 2 of the run."""
        body = encode_entries(self.entries())
        trouble = Trouble(b"best.pt", TroubleKind.TORN, "ends in the middle", 1)
        size_bytes = 4096 + len(self.plain)
        return ManifestRoot(
            run=self.run,
            number=2,
            created_ns=1_795_435_300_000_000_000,
            previous=Previous(1, object_digest(b"version 1")),
            writer="mlsync 0.1.0",
            host="node-1",
            directory=b"/data/run",
            required_level=3,
            summary=Summary(1, size_bytes, len(self.plain), 203, 1, 3, "cpu"),
            troubles=(trouble,),
            packs=[],
            segments=[SegmentRef(b"last.pt", 4, body, [])],
            origin=Origin(self.writer_id, self.machine),
            top=Top(0o755, 1000, 1000, 1_795_435_100_000_000_001),
            notes=("two of three checkpoints of version 1 are gone",),
        )

    def manifest(self) -> Fields:
        """The manifest object."""
        return self._sealed(MANIFEST, self.version_key, msgspec.msgpack.encode(self.root()), self.manifest_salt)

    def later_proof(self) -> LaterProof:
        """What a GPU box found of version 2, a day after it was committed."""
        body = b"".join(part for part, _ in self.manifest())
        when_ns = 1_795_521_600_000_000_000
        proof = Proof(4, "torch-zip", "cuda:0 NVIDIA H100", "2.13.0", when_ns, 0.125, 1, 4, {"epoch": 3}, [])
        return LaterProof(
            self.run,
            2,
            object_digest(body),
            when_ns,
            "mlsync 0.1.0",
            "gpu-box",
            4,
            "cuda:0 NVIDIA H100",
            0,
            [ProvedFile(b"last.pt", proof)],
        )

    def later_proof_object(self) -> Fields:
        """The later proof as an object."""
        return self._sealed(LATER_PROOF, self.proof_key, msgspec.msgpack.encode(self.later_proof()), self.proof_salt)

    def evaluation(self) -> Evaluation:
        """What a command measured of a checkpoint of version 2."""
        body = b"".join(part for part, _ in self.manifest())
        return Evaluation(
            self.run,
            2,
            object_digest(body),
            1_795_525_200_000_000_000,
            "mlsync 0.1.0",
            "gpu-box",
            "evaluate.py",
            object_digest(b"evaluate.py"),
            b"last.pt",
            "cuda:0",
            41.5,
            [Measure("accuracy", 0.75), Measure("loss", 0.5)],
        )

    def evaluation_object(self) -> Fields:
        """The evaluation as an object."""
        plain = msgspec.msgpack.encode(self.evaluation())
        return self._sealed(EVALUATION, self.evaluation_key, plain, self.evaluation_salt)

    def decision(self) -> Decision:
        """What was decided of the run's versions some days later."""
        body = b"".join(part for part, _ in self.manifest())
        when_ns = 1_795_521_600_000_000_000
        return Decision(
            self.run,
            2,
            Previous(1, object_digest(b"decision 1")),
            when_ns,
            "mlsync 0.1.0",
            "node-1",
            (Pin(5, object_digest(body)[:16], "paper", "table 2 of the paper", when_ns),),
            (Forgotten(4, object_digest(b"version 4")[:16], "not in: last 2", when_ns),),
            (Gone(1, 3, "by hand", when_ns),),
        )

    def move(self) -> MoveRecord:
        """That the chunk lay in another pack before, and lies in the document's pack now."""
        table = PackTable()
        chunks = [table.refer(self.ref)]
        return MoveRecord(self.moved_id, 1_795_608_000_000_000_000, "mlsync 0.1.0", table.packs, chunks)

    def move_object(self) -> Fields:
        """The move record as an object."""
        return self._sealed(MOVE, self.move_key, msgspec.msgpack.encode(self.move()), self.move_salt)

    def decision_object(self) -> Fields:
        """The decision as an object."""
        return self._sealed(DECISION, self.decision_key, msgspec.msgpack.encode(self.decision()), self.decision_salt)

    def epoch(self) -> EpochKeys:
        """What was there when the key was rotated."""
        version, proof, decision = (
            object_digest(b"".join(part for part, _ in one))
            for one in (self.manifest(), self.later_proof_object(), self.decision_object())
        )
        last = LastOne(self.decision_key, decision[:16]), LastOne(self.version_key, version[:16])
        links = (self.proof_id + proof[:16],)
        when_ns = 1_795_608_000_000_000_000
        return EpochKeys(1, (self.keys.master,), when_ns, "mlsync 0.1.0", "node-1", last, links)

    def _sealed(self, kind: SealedKind, key: str, plain: bytes, salt: bytes) -> Fields:
        """A sealed object in parts; stored raw, since what zstd writes changes with its releases."""
        with mock.patch.object(sealed_object, "encode", lambda plain: (Coding.RAW, plain)):
            body = sealed_object.seal(self.later_keys if kind is EPOCH else self.keys, kind, key, plain, salt)
        words = ("magic", "format", "key kind", "coding", "plain length", "key material", "epoch", "reserved", "salt")
        return [
            *zip(_split(body[:52], 8, 2, 1, 1, 4, 2, 1, 1, 32), words, strict=True),
            (body[52:-16], "ciphertext"),
            (body[-16:], "tag"),
        ]


def render(name: str, fields: Fields) -> str:
    """The lines of a fenced block: text, or hexadecimal and behind a semicolon what it is."""
    if name in TEXTS:
        return b"".join(content for content, _ in fields).decode()
    lines = []
    for content, what in fields:
        for start, piece in _lines(content):
            comment = f"  ; {what}" if what and start == 0 else ""
            lines.append(piece.hex() + comment)
    return "\n".join(lines) + "\n"


def parse(name: str) -> bytes:
    """The bytes of a fenced block."""
    block = blocks()[name]
    if name in TEXTS:
        return block.encode()
    return b"".join(bytes.fromhex(line.partition(";")[0]) for line in block.splitlines())


def blocks() -> dict[str, str]:
    """The examples as they stand in the document."""
    found = BLOCK.findall(DOCUMENT.read_text())
    assert len({name for name, _ in found}) == len(found), "an example's name comes twice"
    return dict(found)


def _repeated(value: int, count: int) -> bytes:
    """A zstd frame of one byte *count* times, as anybody can write it: a single segment, one RLE block (RFC 8878)."""
    block = (count << 3 | 1 << 1 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x20" + bytes([count]) + block + bytes([value])


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(content), _LINE_BYTES):
        yield start, content[start : start + _LINE_BYTES]


def _split(content: bytes, *lengths: int) -> list[bytes]:
    parts, at = [], 0
    for length in lengths:
        parts.append(content[at : at + length])
        at += length
    assert at == len(content)
    return parts


def main() -> None:
    """Write every example of the document anew."""
    examples = {name: render(name, fields) for name, fields in Examples(inputs()).all().items()}
    text = BLOCK.sub(
        lambda match: f"```{'json' if match[1] in TEXTS else 'hex'} {match[1]}\n{examples[match[1]]}```",
        DOCUMENT.read_text(),
    )
    DOCUMENT.write_text(text)
    sys.path.append(str(DOCUMENT.parents[1] / "tests"))
    from reader_rules import table  # late: it is made of the examples

    head, _, rest = DOCUMENT.read_text().partition(table().partition("\n")[0])
    DOCUMENT.write_text(head + table().rstrip("\n") + "\n\n" + rest.partition("\n\n")[2].lstrip("\n"))


if __name__ == "__main__":
    main()
