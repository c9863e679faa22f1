"""The numbered rules of docs/format.md for versions and what is beside them, with values that break or keep each.

A case is a path into the document's root, later proof or other object, as plain values, and what is put there.
``tests/vectors`` has an object for each case, and the document's table of rules is written from this list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from forged import (
    CHUNKS,
    DROPPED,
    EXAMPLES,
    PROOF,
    SEGMENTS,
    changed,
    decision_value,
    epoch_value,
    evaluation_value,
    move_value,
    proof_value,
    root_value,
)

SEGMENT = (SEGMENTS, 0)
PACKS, ENTRIES = (*SEGMENT, 2, 0), (*SEGMENT, 2, 1)
FILE, FOLDER, LINK, SYMLINK = ((*ENTRIES, at) for at in range(4))
REF = (*FILE, CHUNKS, 0)
FINDING = (*FILE, PROOF, 9, 0)
ROOMS = ((15,), (*SEGMENT, 2, 2), (*FOLDER, 12))
PACK = b"\1\0" + bytes(16)
COUNT_MAX = (1 << 63) - 1
NUMBER_MAX = 9_999_999_999
ORDINALS = 1 << 16
DEEP = [[[[[[[None]]]]]]]
# Links to later proofs, and what is none: of another shape, and then in another order than that of their ids.
TO_PROOF = bytes(range(32))
LATER = b"\1" + TO_PROOF[1:]
LINKS = [[TO_PROOF], [TO_PROOF, LATER]]
NO_LINKS: list[Any] = [[], None, {}, [TO_PROOF[:-1]], [TO_PROOF + b"x"], [TO_PROOF.decode()], [[TO_PROOF]]]
SHAPES = len(NO_LINKS)
NO_LINKS += [[LATER, TO_PROOF], [TO_PROOF, TO_PROOF], [TO_PROOF, TO_PROOF[:-1] + b"\xff"]]
# The chunk reference of the document's file as a difference, without its base, and that base.
DIFFERING = [EXAMPLES.name, 0, 0, 48, 32, 16, 3]
BASE = [bytes(32), *DIFFERING[1:6], 0, None]
# A chunk reference of a move record, and its tables of packs.
MOVED = [bytes(32), 0, 0, 48, 26, 10, 0, None]
MOVE_TABLE = move_value()[3]
RECORD = [1, False, 1, [TO_PROOF]]


def sparse(kind: int, hole_bytes: int, plain_bytes: int = 16) -> list[Any]:
    """The document's file with a digest of that kind, a hole of that length, and as many bytes of data."""
    value = root_value()
    for step in FILE:
        value = value[step]
    pieces = [1 << 24] * (plain_bytes >> 24) + [plain_bytes % (1 << 24)] * (plain_bytes % (1 << 24) > 0)
    value[8] = bytes([kind]) + bytes(32)
    value[6], value[9] = hole_bytes + plain_bytes, [[0, hole_bytes]] if hole_bytes else []
    value[CHUNKS] = [[bytes(32), 0, 0, 48, 17, piece, 0, None] for piece in pieces]
    return value


STRANGE_NAMES = ("user.", "", "security.capability", "trusted.a", "system.nfs4_acl", "user.a\0", "user." + "a" * 251)

Case = tuple[Sequence[Any], Any]
Outcome = Literal["success", "damage", "newer"]


@dataclass(frozen=True)
class Rule:
    """A rule: where it holds, what holds, and cases: values that break it, are a newer mlsync's, or keep it.

    One that *is_free* says what a reader must not refuse.
    """

    number: int
    place: str
    text: str
    broken: list[Case] = field(default_factory=list)
    newer: list[Case] = field(default_factory=list)
    kept: list[Case] = field(default_factory=list)
    is_free: bool = False

    def cases(self) -> Iterator[tuple[Outcome, Case]]:
        """All cases with what a reader says of each."""
        yield from (("damage", case) for case in self.broken)
        yield from (("newer", case) for case in self.newer)
        yield from (("success", case) for case in self.kept)


def each(places: Sequence[Sequence[Any]], *values: Any) -> list[Case]:
    """Each value at each place."""
    return [(place, value) for place in places for value in values]


# A number is never used for another rule: readers of others may name it. New rules go to the end.
RULES = [
    Rule(1, "root", "16 positions", [((15,), DROPPED), ((16,), None)]),
    Rule(2, "root", "the run is a str, and the one whose id the key has", [((0,), b"yolo-1"), ((0,), "yolo-2")]),
    Rule(3, "root", "the number is an int, and the key's", [((1,), value) for value in (2.0, 3, 0, -2)]),
    Rule(
        4,
        "root",
        "made at is an int within ± (2⁶³ - 1)",
        each([(2,)], 1 << 63, -(1 << 63), True),
        kept=each([(2,)], COUNT_MAX, -COUNT_MAX),
    ),
    Rule(
        5,
        "root",
        "previous is nil, or a lower number from 1 on and 32 bytes",
        [((3,), 1), ((3, 0), 2), ((3, 0), 0), ((3, 1), bytes(31)), ((3, 2), 0), ((3, 1), DROPPED)],
        kept=[((3,), None)],
    ),
    Rule(
        6, "root", "writer and host are strs, the directory is a bin", [((4,), None), ((5,), b"n"), ((6,), "/data/run")]
    ),
    Rule(7, "root", "the required level is an int from 0 to 5", each([(7,)], 6, -1, False), kept=each([(7,)], 0, 5)),
    Rule(8, "root", "the summary has 7 positions", [((8, 6), DROPPED), ((8, 7), 0)]),
    Rule(
        9,
        "root",
        "the summary's counts and sums are ints from 0 to 2⁶³ - 1",
        [((8, 0), -1), ((8, 1), 1 << 63), ((8, 2), -1), ((8, 3), -1), ((8, 4), -1), ((8, 0), 1.0)],
        kept=each([(8, at) for at in range(5)], COUNT_MAX),
    ),
    Rule(10, "root", "the summary's level is from 0 to 5", each([(8, 5)], 6, -1), kept=each([(8, 5)], 0, 5)),
    Rule(11, "root", "the summary's level is 0 without checkpoints", [((8, 4), 0)]),
    Rule(12, "root", "a trouble has 4 positions", [((9, 0, 3), DROPPED), ((9, 0, 4), 0)]),
    Rule(
        13, "root", "a trouble's path is one that an entry may have", each([(9, 0, 0)], b"../x", b"", b"a/", "best.pt")
    ),
    Rule(
        14,
        "root",
        "a trouble's kind is from 1 on; above 3 it is a newer mlsync's",
        each([(9, 0, 1)], 0, -1, 256),
        each([(9, 0, 1)], 4, 255),
        each([(9, 0, 1)], 2, 3),
    ),
    Rule(15, "root", "what a trouble kept is 0 or an older version", each([(9, 0, 3)], 2, -1), kept=[((9, 0, 3), 0)]),
    Rule(
        16,
        "root",
        "a table of packs holds bins of 18 bytes",
        each([(10,)], [PACK[:-1]], [PACK + b"x"], [b""], ["x" * 18]),
        kept=[((10,), [PACK])],
    ),
    Rule(
        17,
        "root",
        "a table of packs has no id twice",
        each([(10,)], [PACK, PACK], [PACK, b"\2" + PACK[1:]], [PACK, b"\1\1" + PACK[2:]]),
    ),
    Rule(
        18,
        "root",
        "a pack's key kind is from 1 on; above 2 it is a newer mlsync's",
        [((10,), [bytes(18)])],
        each([(10,)], [b"\3" + PACK[1:]], [b"\xff" + PACK[1:]]),
        [((10,), [b"\2" + PACK[1:]])],
    ),
    Rule(19, "root", "an origin has 2 positions", [((12, 1), DROPPED), ((12, 2), b"")]),
    Rule(20, "root", "a writer's id has 16 bytes", each([(12, 0)], bytes(15), bytes(17), b"")),
    Rule(
        21,
        "root",
        "a machine's mark has 16 bytes, or none",
        each([(12, 1)], bytes(15), bytes(17)),
        kept=[((12, 1), b"")],
    ),
    Rule(
        22, "root", "the directory has 4 positions, or is nil", [((13, 3), DROPPED), ((13, 4), 0)], kept=[((13,), None)]
    ),
    Rule(
        23,
        "root",
        "the directory's mode has 12 bits, owner and group are up to 2³² - 2, the time is within ± (2⁶³ - 1)",
        [((13, 0), 0o10000), ((13, 0), -1), ((13, 1), (1 << 32) - 1), ((13, 2), -1), ((13, 3), 1 << 63)],
        kept=[((13, 0), 0o7777), ((13, 1), (1 << 32) - 2), ((13, 2), 0), ((13, 3), -COUNT_MAX)],
    ),
    Rule(24, "root", "notes are strs", [((14, 0), b"x"), ((14,), None)], kept=[((14,), [])]),
    Rule(25, "segment reference", "the first path is the segment's", [((*SEGMENT, 0), b"b"), ((*SEGMENT, 0), b"")]),
    Rule(26, "segment reference", "the number of entries is the segment's", each([(*SEGMENT, 1)], 5, 3, -4)),
    Rule(
        27,
        "segment reference",
        "the segment is in the root or in chunks, and not in both",
        [((*SEGMENT, 2), None), ((*SEGMENT, 3), [[bytes(32), 0, 0, 48, 26, 10, 0, None]])],
    ),
    Rule(28, "segment", "3 positions", [((*SEGMENT, 2, 2), DROPPED), ((*SEGMENT, 2, 3), None)]),
    Rule(
        29,
        "segment",
        "its table of packs is as the root's",
        [((*PACKS, 0), PACK[:-1]), ((*PACKS, 0), bytes(18)), ((*PACKS, 1), b"\1\0" + EXAMPLES.pack_id)],
        [((*PACKS, 1), b"\3" + bytes(17))],
        [((*PACKS, 1), PACK)],
    ),
    Rule(30, "chunk reference", "8 positions", [((*REF, 7), DROPPED), ((*REF, 8), None)]),
    Rule(31, "chunk reference", "the name has 32 bytes", each([(*REF, 0)], bytes(31), bytes(33))),
    Rule(32, "chunk reference", "the index is in the table of packs", each([(*REF, 1)], 1, -1)),
    Rule(
        33,
        "chunk reference",
        "the ordinal is below 65,536",
        each([(*REF, 2)], ORDINALS, -1),
        kept=[((*REF, 2), ORDINALS - 1)],
    ),
    Rule(
        34,
        "chunk reference",
        "the offset is from 48 to 1 TiB",
        each([(*REF, 3)], 47, (1 << 40) + 1),
        kept=each([(*REF, 3)], 48, 1 << 40),
    ),
    Rule(
        35,
        "chunk reference",
        "the stored length is from 17 to the plain one + 16",
        each([(*REF, 4)], 16, 33),
        kept=each([(*REF, 4)], 17, 32),
    ),
    Rule(36, "chunk reference", "the plain length is from 1 to 16 MiB", each([(*REF, 5)], 0, -16, (16 << 20) + 1)),
    Rule(
        37,
        "chunk reference",
        "the coding is from 0 to 255; above 3 it is a newer mlsync's",
        each([(*REF, 6)], 256, -1),
        each([(*REF, 6)], 4, 255),
        each([(*REF, 6)], 1, 2),
    ),
    Rule(
        38,
        "chunk reference",
        "the base is nil, but with coding 3 a chunk reference; with a newer mlsync's coding, anything",
        [*each([(*REF, 7)], 0, list(BASE)), ((*REF, 6), 3), *each([REF], [*DIFFERING, 0], [*DIFFERING, []])],
        [(REF, [*DIFFERING[:6], 4, ["anything"]])],
        [(REF, [*DIFFERING, BASE])],
    ),
    Rule(39, "entry", "13 positions", [((*FOLDER, 12), DROPPED), ((*FOLDER, 13), None)]),
    Rule(
        40,
        "entry",
        "the path is a bin of 1 byte to 64 KiB, without a zero byte, its parts none of empty, `.` and `..`",
        each([(*SYMLINK, 0)], b"", b"z//b", b"z/.", b"../z", b"/z", b"z\0", "newest", b"z" * ((64 << 10) + 1)),
        kept=each([(*SYMLINK, 0)], b"z" * (64 << 10), b"\xff..", b"z\n"),
    ),
    Rule(
        41,
        "entry",
        "entries are in rising order of their paths",
        [((*FILE, 0), b"logs/a"), ((*SYMLINK, 0), b"logs/\xff.pt")],
    ),
    Rule(
        42,
        "entry",
        "the directory of its path is a directory entry",
        [((*FILE, 0), b"a/last.pt"), ((*SYMLINK, 0), b"last.pt/x")],
    ),
    Rule(
        43,
        "entry",
        "the kind is an int from 1 on; above 4 it is a newer mlsync's",
        each([(*FILE, 1)], 0, -1, 256, True),
        each([(*FILE, 1)], 5, 255),
    ),
    Rule(44, "entry", "the mode has 12 bits", each([(*FILE, 2)], 0o10000, -1), kept=each([(*FILE, 2)], 0, 0o7777)),
    Rule(
        45,
        "entry",
        "owner and group are from 0 to 2³² - 2",
        each([(*FILE, 3), (*FILE, 4)], (1 << 32) - 1, -1),
        kept=each([(*FILE, 3), (*FILE, 4)], 0, (1 << 32) - 2),
    ),
    Rule(
        46,
        "entry",
        "the time is within ± (2⁶³ - 1)",
        each([(*FILE, 5)], 1 << 63, -(1 << 63)),
        kept=each([(*FILE, 5)], COUNT_MAX, -COUNT_MAX),
    ),
    Rule(47, "entry", "chunks and holes add up to the size", each([(*FILE, 6)], 4113, 4111, 0, 1 << 63)),
    Rule(
        48,
        "entry",
        "a link has a target without a zero byte, and nothing else has one",
        [
            ((*FILE, 7), b"x"),
            ((*FOLDER, 7), b"x"),
            ((*LINK, 7), b""),
            ((*SYMLINK, 7), b""),
            ((*SYMLINK, 7), b"a\0b"),
            ((*FILE, 7), ""),
        ],
        kept=each([(*SYMLINK, 7)], b"/etc/passwd", b"../../x"),
    ),
    Rule(
        49,
        "entry",
        "a hard link's target is a file entry",
        each([(*LINK, 7)], b"logs", b"newest", b"absent", b"../last.pt"),
    ),
    Rule(
        50,
        "entry",
        "a file's digest has 33 bytes",
        each([(*FILE, 8)], b"\1" + bytes(31), b"\2" + bytes(33), b"\1" + bytes(15), b"\1", b""),
    ),
    Rule(
        51,
        "entry",
        "a hole is two ints: an offset, and a length above 0",
        each([(*FILE, 9, 0)], [0, 4096, 0], [0], [0, 4096.0], [0, 0]),
    ),
    Rule(
        52,
        "entry",
        "holes rise and do not overlap, and no chunk reaches into one",
        [((*FILE, 9, 0), [1, 4096]), ((*FILE, 9), [[0, 4096], [0, 1]]), ((*FILE, 9), [[4111, 1], [0, 4095]])],
    ),
    Rule(
        53,
        "entry",
        "what is no file has no size, digest, holes, chunks and proof",
        [
            ((*FOLDER, 6), 1),
            ((*FOLDER, 8), bytes(16)),
            ((*FOLDER, 9), [[0, 1]]),
            ((*LINK, 10), [[bytes(32), 0, 0, 48, 26, 10, 0, None]]),
            ((*SYMLINK, 11), [0, "", "", "", 0, 0.0, 0, 0, {}, [], ""]),
        ],
    ),
    Rule(54, "proof", "11 positions", [((*FILE, PROOF, 10), DROPPED), ((*FILE, PROOF, 11), "")]),
    Rule(
        55, "proof", "the level is from 0 to 5", each([(*FILE, PROOF, 0)], 6, -1), kept=each([(*FILE, PROOF, 0)], 0, 5)
    ),
    Rule(
        56,
        "proof",
        "proved at is within ± (2⁶³ - 1)",
        each([(*FILE, PROOF, 4)], 1 << 63, -(1 << 63)),
        kept=[((*FILE, PROOF, 4), -COUNT_MAX)],
    ),
    Rule(
        57,
        "proof",
        "the seconds are a finite float, not below 0",
        each([(*FILE, PROOF, 5)], 1, float("inf"), float("nan"), -0.5),
        kept=each([(*FILE, PROOF, 5)], 0.0, 1e300),
    ),
    Rule(
        58,
        "proof",
        "tensors and their bytes are from 0 to 2⁶³ - 1",
        each([(*FILE, PROOF, 6), (*FILE, PROOF, 7)], -1, 1 << 63),
        kept=each([(*FILE, PROOF, 6), (*FILE, PROOF, 7)], COUNT_MAX),
    ),
    Rule(
        59,
        "proof",
        "facts are a map from str to str, int, float or bool; a float may have any value",
        [((*FILE, PROOF, 8, "epoch"), [3]), ((*FILE, PROOF, 8, "epoch"), None), ((*FILE, PROOF, 8, b"x"), 3)],
        kept=each([(*FILE, PROOF, 8, "loss")], float("nan"), float("-inf"), "x", True, -1),
    ),
    Rule(60, "finding", "5 positions", [((*FINDING, 4), DROPPED), ((*FINDING, 5), None)]),
    Rule(61, "finding", "the level is from 0 to 5", each([(*FINDING, 0)], 6, -1), kept=each([(*FINDING, 0)], 0, 5)),
    Rule(
        62,
        "finding",
        "the severity is from 1 on; above 3 it is a newer mlsync's",
        each([(*FINDING, 1)], 0, 256),
        each([(*FINDING, 1)], 4, 255),
        each([(*FINDING, 1)], 2, 3),
    ),
    Rule(
        63, "finding", "the record is a str or nil", each([(*FINDING, 3)], b"data/0", 0), kept=[((*FINDING, 3), None)]
    ),
    Rule(
        64,
        "finding",
        "the offset is nil, or from 0 to 2⁶³ - 1",
        each([(*FINDING, 4)], -1, 1 << 63),
        kept=each([(*FINDING, 4)], None, 0, COUNT_MAX),
    ),
    Rule(
        65,
        "room",
        "nil, or a map of 1 name or more to 64 KiB",
        [*each(ROOMS, {}), ((15,), [1]), ((15,), 0), ((15,), {"a": bytes((64 << 10) - 5)})],
        kept=[((15,), {"a": bytes((64 << 10) - 6)}), *each(ROOMS, None, {"a": None})],
    ),
    Rule(
        66,
        "room",
        "a name is `a` to `z`, then up to 62 of `a` to `z`, `0` to `9` and `-`; with `!` before it, a newer mlsync's",
        each([(15,)], {"": 1}, {"!": 1}, {"A": 1}, {"1a": 1}, {"a" * 64: 1}, {"ä": 1}, {"a\n": 1}, {1: 1}),
        each(ROOMS, {"!acl": 1}),
        [((15,), {"a" * 63: 1})],
    ),
    Rule(
        67,
        "room",
        "names are in the order of their bytes, in maps inside too",
        each([(15,)], {"b": 1, "a": 1}, {"a": {"b": 1, "a": 1}}, {"a": {"\U0001f600": 1, "\uffff": 2}}),
        kept=each([(15,)], {"a": 1, "b": 1}, {"a": {"": 1, "\uffff": 2, "\U0001f600": 3}}),
    ),
    Rule(
        68,
        "room",
        "values are nil, bool, int, float, str, bin, array, or a map from str, nested at most 8 deep",
        each([(15,)], {"a": [DEEP]}, {"a": {1: 2}}),
        kept=each([(15,)], {"a": DEEP}, {"a": [True, 1, -1, 0.5, "x", b"x", [], {}]}),
    ),
    Rule(
        94,
        "`later-proofs`",
        "in the room of a root: an array of 1 or more arrays of 4 positions",
        each(
            [(15,)], *({"later-proofs": value} for value in ([], None, {}, [[]], [[1, False, 1]], [1], [[*RECORD, 0]]))
        ),
        kept=[((15,), {"later-proofs": [RECORD]})],
    ),
    Rule(
        95,
        "`later-proofs`",
        "the numbers are ints that rise, from 1 on, below the version's own",
        each([(15,)], *({"later-proofs": [[value, *RECORD[1:]]]} for value in (0, -1, 2, 1.0, True)))
        + each([(15,)], {"later-proofs": [RECORD, RECORD]}),
    ),
    Rule(
        96,
        "`later-proofs`",
        "whether one refuses is a bool",
        each([(15,)], *({"later-proofs": [[1, value, 1, [TO_PROOF]]]} for value in (0, None))),
        kept=[((15,), {"later-proofs": [[1, True, 1, [TO_PROOF]]]})],
    ),
    Rule(
        97,
        "`later-proofs`",
        "the count is an int from the number of links to 2⁶³ - 1",
        each([(15,)], *({"later-proofs": [[1, False, value, [TO_PROOF]]]} for value in (0, -1, 1 << 63, 1.0, True))),
        kept=[((15,), {"later-proofs": [[1, False, COUNT_MAX, [TO_PROOF]]]})],
    ),
    Rule(
        98,
        "`later-proofs`",
        "links are as in `seen`",
        each([(15,)], *({"later-proofs": [[1, False, 9, value]]} for value in NO_LINKS)),
        kept=each([(15,)], *({"later-proofs": [[1, False, 9, value]]} for value in LINKS)),
    ),
    Rule(
        125,
        "`decision`",
        "in the room of a root: an int from 1 to 9999999999 and a bin of 16 bytes",
        each(
            [(15,)],
            *({"decision": value} for value in ([], None, {}, [1], [1, bytes(16), 0], [1, bytes(15)], [1, "x" * 16])),
            *({"decision": [value, bytes(16)]} for value in (0, -1, 10_000_000_000, 1.0, True, None)),
        ),
        kept=each([(15,)], *({"decision": [value, bytes(16)]} for value in (1, NUMBER_MAX))),
    ),
    Rule(
        143,
        "entry",
        "the first byte of a file's digest, its kind, is from 1 on; above 2 it is a newer mlsync's",
        each([(*FILE, 8)], bytes(33)),
        each([(*FILE, 8)], b"\3" + bytes(32), b"\xff", b"\3" + bytes(64)),
        each([(*FILE, 8)], b"\1" + bytes(32), b"\2" + bytes(32)),
    ),
    Rule(
        144,
        "entry",
        "a digest of kind 1 has holes of at most 1 MiB more than the data, and of at most 4 GiB",
        each([FILE], sparse(1, (1 << 20) + 17), sparse(1, (1 << 20) + 1, 0), sparse(1, (4 << 30) + 1, 4 << 30)),
        kept=each([FILE], sparse(1, (1 << 20) + 16), sparse(1, 1 << 20, 0), sparse(1, 4 << 30, 4 << 30)),
    ),
    Rule(
        145,
        "entry",
        "a digest of kind 2 has holes",
        each([FILE], sparse(2, 0)),
        kept=each([FILE], sparse(2, 1), sparse(2, 1 << 40), sparse(2, 1 << 40, 0)),
    ),
    Rule(
        171,
        "`xattrs`",
        "in the room of an entry: a map of 1 name or more to bins",
        [((*FOLDER, 12), {"xattrs": value}) for value in ({}, [], b"x", None, {"user.a": "x"}, {"user.a": None})],
        kept=[((*FOLDER, 12), {"xattrs": {"user.a": b"", "user.b": b"x"}})],
    ),
    Rule(
        172,
        "`xattrs`",
        "a name is an ACL's, or `user.` and more, at most 255 bytes without a zero byte",
        [((*FOLDER, 12), {"xattrs": {name: b"x"}}) for name in STRANGE_NAMES],
        kept=[
            ((*FOLDER, 12), {"xattrs": {"system.posix_acl_access": b"x", "system.posix_acl_default": b"x"}}),
            ((*FOLDER, 12), {"xattrs": {"user." + "a" * 250: b"x"}}),
        ],
    ),
    Rule(
        173,
        "`xattrs`",
        "only files and directories have it",
        each([(*LINK, 12), (*SYMLINK, 12)], {"xattrs": {"user.a": b"x"}}),
        kept=each([(*FILE, 12)], {"xattrs": {"user.a": b"x"}}),
    ),
    Rule(
        200,
        "base",
        "a base is a chunk reference in all positions: rules 30 to 37 hold of it",
        [
            (REF, [*DIFFERING, changed(BASE, (at,), value)])
            for at, value in enumerate((bytes(31), 1, ORDINALS, 47, 16, 0, 256, DROPPED))
        ]
        # A name that a lax decoder would take for its bytes in base64.
        + [(REF, [*DIFFERING, changed(BASE, (at,), value)]) for at, value in ((0, "A" * 43 + "="), (2, False))],
        [(REF, [*DIFFERING, changed(BASE, (6,), 4)])],
        [(REF, [*DIFFERING, changed(BASE, (at,), value)]) for at, value in ((2, ORDINALS - 1), (3, 1 << 40), (6, 2))],
    ),
    Rule(
        201,
        "base",
        "a base is no difference and has no base",
        [
            (REF, [*DIFFERING, [*BASE[:6], 3, BASE]]),
            (REF, [*DIFFERING, [*BASE[:7], BASE]]),
            (REF, [*DIFFERING, [*BASE[:6], 3, None]]),
        ],
    ),
    Rule(202, "base", "the plain length is the chunk's", [(REF, [*DIFFERING, changed(BASE, (5,), 17)])]),
    Rule(203, "base", "the name is another than the chunk's", [(REF, [*DIFFERING, [EXAMPLES.name, *BASE[1:]]])]),
    Rule(
        204,
        "segment reference",
        "its chunks are no differences",
        [((*SEGMENT, 2), None), ((*SEGMENT, 3), [[*DIFFERING, BASE]])],
    ),
]

EVALUATION_RULES = [
    Rule(146, "evaluation", "13 positions", [((12,), DROPPED), ((13,), 0)]),
    Rule(147, "evaluation", "run and number are the key's", [((0,), "yolo-2"), ((1,), 3), ((1,), 2.0)]),
    Rule(148, "evaluation", "the digest is the manifest's", [((2,), bytes(32)), ((2,), bytes(31))]),
    Rule(
        149,
        "evaluation",
        "made at is an int within ± (2⁶³ - 1); writer, host and device are strs",
        each([(3,)], 1 << 63, 1.0) + each([(4,), (5,), (9,)], None, b"x"),
        kept=each([(3,)], COUNT_MAX, -COUNT_MAX) + each([(4,), (5,), (9,)], ""),
    ),
    Rule(
        190,
        "evaluation",
        "the label is a str of 1 to 200 bytes, the command's digest a bin of 32",
        each([(6,)], "", "x" * 201, b"x") + each([(7,)], bytes(31), bytes(33), None),
        kept=each([(6,)], "x" * 200),
    ),
    Rule(
        191,
        "evaluation",
        "the path is empty, or one that an entry may have",
        each([(8,)], b"/etc/passwd", b"..", "last.pt"),
        kept=each([(8,)], b""),
    ),
    Rule(
        192,
        "evaluation",
        "the seconds are a finite float, not below 0",
        each([(10,)], -0.5, float("inf"), float("nan"), 1),
        kept=each([(10,)], 0.0),
    ),
    Rule(
        193,
        "evaluation",
        "1 to 100 numbers, a str and a finite float each",
        each([(11,)], [], [["loss"]], [["loss", 1.0, None]], [["loss", 1]], [[b"loss", 1.0]], [["loss", float("nan")]])
        + each([(11,)], [["loss", float("-inf")]], [[f"{at:03d}", 0.0] for at in range(101)]),
        kept=each([(11,)], [["loss", -1e308]], [[f"{at:03d}", 0.0] for at in range(100)]),
    ),
    Rule(
        194,
        "evaluation",
        "a number's name has 1 to 100 bytes and no control character; the names rise by their bytes",
        each([(11,)], *([[name, 1.0]] for name in ("", "x" * 101, "a\nb", "\x7f", "\x85", "é" * 51)))
        + each([(11,)], [["b", 1.0], ["a", 1.0]], [["a", 1.0], ["a", 1.0]]),
        kept=each([(11,)], [["é" * 50, 1.0]], [[" ", 1.0]]),
    ),
    Rule(
        195, "evaluation", "the room is as in a root", [((12,), {})], [((12,), {"!other": 1})], [((12,), {"other": []})]
    ),
]

PROOF_RULES = [
    Rule(81, "later proof", "11 positions", [((10,), DROPPED), ((11,), 0)]),
    Rule(82, "later proof", "run and number are the key's", [((0,), "yolo-2"), ((1,), 3)]),
    Rule(83, "later proof", "the digest is the manifest's", [((2,), bytes(32)), ((2,), bytes(31))]),
    Rule(
        84,
        "later proof",
        "made at is an int within ± (2⁶³ - 1)",
        each([(3,)], 1 << 63, 1.0),
        kept=each([(3,)], COUNT_MAX, -COUNT_MAX),
    ),
    Rule(85, "later proof", "the lowest level is from 0 to 5", each([(6,)], 6, -1), kept=each([(6,)], 0, 5)),
    Rule(86, "later proof", "the broken are from 0 to 2⁶³ - 1", each([(8,)], -1, 1 << 63), kept=[((8,), COUNT_MAX)]),
    Rule(87, "later proof", "a path is one that an entry may have", each([(9, 0, 0)], b"/etc/passwd", b"", "last.pt")),
    Rule(88, "later proof", "a path comes once", [((9, 1), proof_value()[9][0])]),
    Rule(
        89,
        "later proof",
        "a file has 2 positions, and its proof is as in an entry",
        [((9, 0, 2), None), ((9, 0, 1, 0), 6), ((9, 0, 1, 5), 0)],
    ),
    Rule(
        90, "later proof", "the room is as in a root", [((10,), {})], [((10,), {"!other": 1})], [((10,), {"other": []})]
    ),
    Rule(
        91,
        "`seen`",
        "in the room of a later proof: an array of 1 or more bins of 32 bytes",
        each([(10,)], *({"seen": value} for value in NO_LINKS[:SHAPES])),
        kept=[((10,), {"seen": LINKS[0]})],
    ),
    Rule(
        92,
        "`seen`",
        "the first 16 bytes, the ids, rise from link to link",
        each([(10,)], *({"seen": value} for value in NO_LINKS[SHAPES:])),
        kept=[((10,), {"seen": LINKS[1]})],
    ),
    Rule(93, "`seen`", "no id is that of the proof itself", [((10,), {"seen": [EXAMPLES.proof_id + bytes(16)]})]),
]

HALF = bytes(16)
# What is registered: the version, half of its manifest's digest, place, model, number, path, time
AS_MODEL = [5, HALF, "https://mlflow.example", "yolo", 3, b"weights/best.pt", 0]
PIN = [7, HALF, "", "", 0]
ITEM = [7, HALF, "by hand", 0]
SPAN = [7, 9, "by hand", 0]

# The position of what comes second, and a value by which it would have to come first or is the same
LOWER = ((4, 3), (4, 2), (3, "Z"), (2, "A"), (0, 4), (5, b""))


def as_model(at: int, value: Any) -> Any:
    """Return a room with what is registered, and *value* at one position of it."""
    return {"!registered": [[*AS_MODEL[:at], value, *AS_MODEL[at + 1 :]]]}


DECISION_RULES = [
    Rule(101, "decision", "10 positions", [((9,), DROPPED), ((10,), 0)]),
    Rule(102, "decision", "run and number are the key's", [((0,), "yolo-2"), ((1,), 3), ((1,), 2.0), ((1,), True)]),
    Rule(
        103,
        "decision",
        "previous is nil, or a lower number from 1 on and 32 bytes",
        [((2,), 1), ((2, 0), 2), ((2, 0), 0), ((2, 1), bytes(31)), ((2, 2), 0), ((2, 1), DROPPED)],
        kept=[((2,), None)],
    ),
    Rule(
        104,
        "decision",
        "made at is an int within ± (2⁶³ - 1)",
        each([(3,)], 1 << 63, 1.0),
        kept=each([(3,)], COUNT_MAX, -COUNT_MAX),
    ),
    Rule(105, "decision", "writer and host are strs", [((4,), None), ((5,), b"n")]),
    Rule(106, "decision", "the room is as in a root", [((9,), {})], [((9,), {"!other": 1})], [((9,), {"other": []})]),
    Rule(107, "pin", "5 positions", [((6, 0, 4), DROPPED), ((6, 0, 5), 0), ((6,), None), ((6, 0), {})]),
    Rule(
        108,
        "pin",
        "the versions are ints from 1 to 9999999999 that rise",
        each([(6, 0, 0)], 0, -1, NUMBER_MAX + 1, 5.0, True) + each([(6, 1)], [5, *PIN[1:]], [2, *PIN[1:]]),
        kept=[((6, 0, 0), NUMBER_MAX), ((6, 1), PIN), ((6,), [])],
    ),
    Rule(109, "pin", "the half is a bin of 16 bytes", each([(6, 0, 1)], bytes(15), bytes(17), "x" * 16, None)),
    Rule(
        110,
        "pin",
        "the name is a str: empty, or `a` to `z` in either case, then up to 62 of these, `0` to `9`, `.`, `_`, `-`",
        each([(6, 0, 2)], "1", "-a", "a b", "a" * 64, "ä", "a/b", "a\n", b"a", None),
        kept=each([(6, 0, 2)], "", "Z", "a" + "9._-x" * 12 + "Zz"),
    ),
    Rule(
        111,
        "pin",
        "no two have one name",
        [((6, 1), [7, HALF, "paper", "", 0])],
        kept=[((6,), [PIN, [8, *PIN[1:]]]), ((6, 1), [7, HALF, "Paper", "", 0])],
    ),
    Rule(
        112,
        "pin",
        "the reason is a str of at most 1,000 bytes",
        each([(6, 0, 3)], "x" * 1001, "é" * 501, b"x", None),
        kept=each([(6, 0, 3)], "", "é" * 500),
    ),
    Rule(
        113,
        "pin",
        "made at is an int within ± (2⁶³ - 1)",
        each([(6, 0, 4)], 1 << 63, 1.0, None),
        kept=each([(6, 0, 4)], -COUNT_MAX),
    ),
    Rule(114, "forgotten", "4 positions", [((7, 0, 3), DROPPED), ((7, 0, 4), 0), ((7,), {}), ((7, 0), 0)]),
    Rule(
        115,
        "forgotten",
        "the versions are ints from 1 to 9999999999 that rise",
        each([(7, 0, 0)], 0, -1, NUMBER_MAX + 1, 4.0, True) + each([(7, 1)], [4, *ITEM[1:]]),
        kept=[((7, 0, 0), NUMBER_MAX), ((7, 1), ITEM), ((7,), [])],
    ),
    Rule(116, "forgotten", "the half is a bin of 16 bytes", each([(7, 0, 1)], bytes(15), bytes(17), "x" * 16, None)),
    Rule(
        117,
        "forgotten",
        "the rule is a str of 1 to 200 bytes",
        each([(7, 0, 2)], "", "x" * 201, "é" * 101, b"x", None),
        kept=each([(7, 0, 2)], "x", "é" * 100),
    ),
    Rule(
        118,
        "forgotten",
        "forgotten at is an int within ± (2⁶³ - 1)",
        each([(7, 0, 3)], -(1 << 63), 1.0, None),
        kept=each([(7, 0, 3)], COUNT_MAX),
    ),
    Rule(119, "gone", "4 positions", [((8, 0, 3), DROPPED), ((8, 0, 4), 0), ((8,), None), ((8, 0), "x")]),
    Rule(
        120,
        "gone",
        "first and last are ints from 1 to 9999999999, first not above last",
        [((8, 0, 0), 0), ((8, 0, 0), 4), ((8, 0, 0), True), ((8, 0, 1), 3.0), ((8, 1), [7, NUMBER_MAX + 1, "x", 0])],
        kept=[((8, 0, 0), 3), ((8, 1), [7, NUMBER_MAX, "x", 0]), ((8,), [])],
    ),
    Rule(
        121,
        "gone",
        "the ranges rise and do not overlap",
        [((8, 1), [3, 3, "x", 0]), ((8,), [SPAN, [9, 10, "x", 0]]), ((8,), [SPAN, [1, 2, "x", 0]])],
        kept=[((8,), [SPAN, [10, 10, "x", 0]])],
    ),
    Rule(
        122,
        "gone",
        "rule and time are as in what is forgotten",
        [((8, 0, 2), ""), ((8, 0, 2), "x" * 201), ((8, 0, 3), 1 << 63), ((8, 0, 3), None)],
        kept=[((8, 0, 2), "x"), ((8, 0, 3), -COUNT_MAX)],
    ),
    Rule(
        123,
        "decision",
        "no version is two of pinned, forgotten and gone",
        [((7, 0, 0), 5), ((7, 0, 0), 2), ((6, 0, 0), 4), ((6, 0, 0), 1), ((8, 0, 1), 4)],
        kept=[((8,), [[6, 6, "x", 0]])],
    ),
    Rule(
        124,
        "decision",
        "at most 1,000 pins, 100,000 forgotten versions and 100,000 ranges of gone ones",
        [
            ((6,), [[at, HALF, "", "", 0] for at in range(5, 1006)]),
            ((7,), [[at, HALF, "x", 0] for at in range(6, 100_007)]),
            ((8,), [[at, at, "x", 0] for at in range(6, 100_007)]),
        ],
        kept=[((6,), [[at, HALF, "", "", 0] for at in range(5, 1005)])],
    ),
    Rule(
        196,
        "`!registered`",
        "in the room of a decision: an array of 1 or more arrays of 7 positions",
        each(
            [(9,)], *({"!registered": value} for value in ([], None, {}, [[]], [1], [AS_MODEL[:-1]], [[*AS_MODEL, 0]]))
        ),
        kept=[((9,), {"!registered": [AS_MODEL]})],
    ),
    Rule(
        197,
        "`!registered`",
        "version, half and time are as in a pin; the number is an int from 1 to 2⁶³ - 1",
        each([(9,)], *(as_model(0, value) for value in (0, -1, NUMBER_MAX + 1, 5.0, True, None)))
        + each([(9,)], *(as_model(1, value) for value in (bytes(15), bytes(17), "x" * 16)))
        + each([(9,)], *(as_model(6, value) for value in (1 << 63, None, 0.0)))
        + each([(9,)], *(as_model(4, value) for value in (0, -1, 1 << 63, "3", 3.0, True))),
        kept=each([(9,)], as_model(0, NUMBER_MAX), as_model(6, -COUNT_MAX), as_model(4, COUNT_MAX)),
    ),
    Rule(
        198,
        "`!registered`",
        "place and model are strs of 1 to 1,000 bytes; the path is a bin, empty or one that an entry may have",
        each([(9,)], *(as_model(2, value) for value in ("", "x" * 1001, "é" * 501, b"x", None)))
        + each([(9,)], *(as_model(3, value) for value in ("", "x" * 1001, b"x")))
        + each([(9,)], *(as_model(5, value) for value in ("x", b"/a", b"../a", b"a//b", b"a/", b"a\0b", None))),
        kept=each([(9,)], as_model(2, "x" * 1000), as_model(3, "é" * 500), as_model(5, b""), as_model(5, b"a/b")),
    ),
    Rule(
        199,
        "`!registered`",
        "they rise by version, place, model and number, the strs by their bytes; no version is forgotten or gone",
        each(
            [(9,)], *({"!registered": [AS_MODEL, [*AS_MODEL[:at], value, *AS_MODEL[at + 1 :]]]} for at, value in LOWER)
        )
        + each([(9,)], *(as_model(0, value) for value in (1, 3, 4))),
        kept=each([(9,)], {"!registered": [AS_MODEL, [*AS_MODEL[:4], 4, b"", 0]]}),
    ),
]

MOVE_RULES = [
    Rule(151, "move record", "6 positions", [((5,), DROPPED), ((6,), 0)]),
    Rule(152, "move record", "the old pack's id is the key's", each([(0,)], bytes(16), b"", EXAMPLES.pack_id, None)),
    Rule(
        153,
        "move record",
        "made at is an int within ± (2⁶³ - 1)",
        each([(1,)], 1 << 63, -(1 << 63), 1.0),
        kept=each([(1,)], COUNT_MAX, -COUNT_MAX),
    ),
    Rule(154, "move record", "the writer is a str", each([(2,)], b"mlsync", None), kept=[((2,), "")]),
    Rule(
        155,
        "move record",
        "its table of packs is as a root's",
        [((3, 0), PACK[:-1]), ((3, 0), bytes(len(PACK))), ((3,), MOVE_TABLE * 2), ((3,), None)],
        [((3, 0), b"\3" + PACK[1:])],
        [((3, 0), PACK), ((3, 0), b"\2" + PACK[1:])],
    ),
    Rule(
        156,
        "move record",
        "each pack of the table has one of the chunks, and none is the old pack",
        [((3, 1), PACK), ((3, 0), PACK[:-16] + EXAMPLES.moved_id)],
    ),
    Rule(157, "move record", "1 to 65,536 chunk references", each([(4,)], [], None, [MOVED] * (ORDINALS + 1))),
    Rule(
        158,
        "move record",
        "a chunk reference is as in a segment",
        [((4, 0, at), value) for at, value in enumerate((bytes(31), 1, ORDINALS, 47, 16, 0, 256, 0))],
        [((4, 0, 6), 4)],
        [((4, 0, 3), 1 << 40), ((4, 0, 6), 2)],
    ),
    Rule(
        159,
        "move record",
        "the names rise from reference to reference",
        [((4,), [MOVED, MOVED]), ((4,), [[b"\1" * 32, *MOVED[1:]], MOVED])],
        kept=[((4,), [MOVED, [b"\1" * 32, *MOVED[1:]]])],
    ),
    Rule(
        160, "move record", "the room is as in a root", [((5,), {})], [((5,), {"!other": 1})], [((5,), {"other": []})]
    ),
    Rule(205, "move record", "its chunks are no differences", [((4, 0), [*MOVED[:6], 3, [b"\2" * 32, *MOVED[1:]]])]),
]


# Cases are bytes that are put into a manifest of key kind 2: at which offset, and what.
MATERIAL_RULES = [
    Rule(181, "key material", "the stated length is 1188", [((16,), b"\xa3\4"), ((16,), b"\xa5\4"), ((16,), b"\0\0")]),
    Rule(
        182,
        "key material",
        "the suite is from 1 on; above 1 it is a newer mlsync's",
        [((68,), b"\0\0")],
        [((68,), b"\2\0"), ((68,), b"\xff\xff")],
    ),
    Rule(183, "key material", "the reserved bytes are 0", [((70,), b"\1\0"), ((70,), b"\0\1")]),
    Rule(
        184,
        "key material",
        "the secret opens with the recipient's private key",
        [((52,), bytes(16)), ((72,), bytes(32)), ((1160,), bytes(32)), ((1192,), bytes(32)), ((1208,), bytes(32))],
    ),
]
# Cases are key kinds: an object that is right in all else, and is sealed with a key of that kind.
KIND_RULE = Rule(
    185, "all but packs, manifests and registrations", "the key kind is 1, of those on this page", [((), 2)]
)


def material_cases(sound: bytes) -> Iterator[tuple[Rule, Outcome, bytes]]:
    """Each rule's cases as whole manifests; *sound* is one of key kind 2."""
    for rule in MATERIAL_RULES:
        for outcome, ((offset,), value) in rule.cases():
            yield rule, outcome, sound[:offset] + value + sound[offset + len(value) :]


# Bodies of fences are no MessagePack: a case is the whole body.
FENCE = (1).to_bytes(8, "little") + bytes(range(16)) + bytes(4)
FENCE_RULES = [
    Rule(131, "fence", "the body has 28 bytes", [((), FENCE[:-1]), ((), FENCE + b"\0"), ((), b"")], kept=[((), FENCE)]),
    Rule(132, "fence", "the last 4 bytes are 0", [((), FENCE[:-1] + b"\1"), ((), FENCE[:24] + b"\1" + bytes(3))]),
    Rule(
        133,
        "fence",
        "made at and the digest half have any value",
        kept=[((), bytes(28)), ((), b"\xff" * 24 + bytes(4))],
        is_free=True,
    ),
]
TOMBSTONE: list[Any] = [1, "mlsync 0.1.0", None]
TOMBSTONE_RULES = [
    Rule(134, "tombstone", "3 positions", [((2,), DROPPED), ((3,), None), ((), {})], kept=[((), TOMBSTONE)]),
    Rule(
        135,
        "tombstone",
        "made at is an int within ± (2⁶³ - 1)",
        each([(0,)], 1 << 63, -(1 << 63), 1.0, True),
        kept=each([(0,)], COUNT_MAX, -COUNT_MAX),
    ),
    Rule(136, "tombstone", "the writer is a str", each([(1,)], b"x", None), kept=[((1,), "")]),
    Rule(137, "tombstone", "the room is as in a root", [((2,), {})], [((2,), {"!other": 1})], [((2,), {"other": []})]),
]
REGISTRATION: list[Any] = [EXAMPLES.run, 1, "mlsync 0.1.0", None]
REGISTRATION_RULES = [
    Rule(138, "registration", "4 positions", [((3,), DROPPED), ((4,), None), ((), 1)], kept=[((), REGISTRATION)]),
    Rule(
        139,
        "registration",
        "the run is a str, and the one whose id the key has",
        each([(0,)], "yolo-2", b"yolo-1", ""),
    ),
    Rule(
        140,
        "registration",
        "made at is an int within ± (2⁶³ - 1)",
        each([(1,)], 1 << 63, -(1 << 63), 1.0),
        kept=each([(1,)], COUNT_MAX, -COUNT_MAX),
    ),
    Rule(141, "registration", "the writer is a str", each([(2,)], b"x", None), kept=[((2,), "")]),
    Rule(142, "registration", "the room is as in a root", [((3,), {})], [((3,), {"!a": 1})], [((3,), {"other": []})]),
]

OMISSION: list[Any] = [EXAMPLES.run, 1, "mlsync 0.1.0", "node", [[1, 3], [5, 5]], None]
NUMBER_MAX = 9_999_999_999
OMISSION_RULES = [
    Rule(
        186,
        "omission",
        "6 positions; the run is a str, and the one whose id the key has",
        [((5,), DROPPED), ((6,), None), ((), 1), *each([(0,)], "yolo-2", b"yolo-1", "")],
        kept=[((), OMISSION)],
    ),
    Rule(
        187,
        "omission",
        "made at is an int within ± (2⁶³ - 1); writer and host are strs",
        [*each([(1,)], 1 << 63, -(1 << 63), 1.0), *each([(2,), (3,)], b"x", None)],
        kept=each([(1,)], COUNT_MAX, -COUNT_MAX),
    ),
    Rule(
        188,
        "omission",
        "1 to 100,000 ranges, first and last int from 1 to 9999999999, that rise and do not overlap",
        each(
            [(4,)],
            [],
            [[0, 1]],
            [[2, 1]],
            [[1, NUMBER_MAX + 1]],
            [[1, 2], [2, 3]],
            [[3, 4], [1, 1]],
            [[1]],
            [[1, 2, 3]],
            [[1.0, 2]],
            None,
        ),
        kept=each([(4,)], [[1, NUMBER_MAX]], [[1, 1], [2, 2]]),
    ),
    Rule(189, "omission", "the room is as in a root", [((5,), {})], [((5,), {"!a": 1})], [((5,), {"other": []})]),
]


def omission_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole omissions."""
    yield from _cases(OMISSION_RULES, OMISSION)


def fence_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole bodies of fences."""
    yield from _cases(FENCE_RULES, FENCE)


def tombstone_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole tombstones."""
    yield from _cases(TOMBSTONE_RULES, TOMBSTONE)


def registration_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole registrations."""
    yield from _cases(REGISTRATION_RULES, REGISTRATION)


VERSION_ONE = EXAMPLES.version_key[:-1] + "1"
LAST = [EXAMPLES.version_key, HALF]

EPOCH_RULES = [
    Rule(161, "epoch", "8 positions", [((7,), DROPPED), ((8,), 0)]),
    Rule(162, "epoch", "the number is an int, and the key's", each([(0,)], 2, 0, 256, 1.0, True)),
    Rule(
        163,
        "epoch",
        "as many keys as the number says, bins of 32 bytes",
        each([(1,)], [], [bytes(32)] * 2, [bytes(31)], [bytes(33)], ["x" * 32], None),
        kept=[((1,), [bytes(32)])],
    ),
    Rule(
        164,
        "epoch",
        "made at is an int within ± (2⁶³ - 1)",
        each([(2,)], 1 << 63, 1.0),
        kept=each([(2,)], COUNT_MAX, -COUNT_MAX),
    ),
    Rule(165, "epoch", "writer and host are strs", [((3,), None), ((4,), b"n")]),
    Rule(
        166,
        "epoch",
        "what was there is a str and a bin of 16 bytes each",
        [((5, 1, 1), DROPPED), ((5, 1, 2), 0), *each([(5, 1, 1)], bytes(15), bytes(17), "x" * 16), ((5, 1, 0), b"x")],
        kept=[((5,), []), ((5,), [LAST])],
    ),
    Rule(
        167,
        "epoch",
        "its key is that of a version or of a decision",
        each([(5, 1, 0)], EXAMPLES.proof_key, "copies" + EXAMPLES.version_key[8:], EXAMPLES.version_key + "0", "z"),
    ),
    Rule(
        168,
        "epoch",
        "the keys rise, and no run has two versions or two decisions",
        each([(5,)], [LAST, LAST], [[VERSION_ONE, HALF], LAST], [LAST, [EXAMPLES.decision_key, HALF]]),
        kept=[((5,), [[EXAMPLES.decision_key, HALF], LAST])],
    ),
    Rule(
        169,
        "epoch",
        "links to later proofs are bins of 32 bytes that rise",
        each([(6,)], [TO_PROOF[:-1]], [TO_PROOF.decode()], [TO_PROOF, TO_PROOF], [LATER, TO_PROOF], None),
        kept=each([(6,)], [], *LINKS),
    ),
    Rule(170, "epoch", "the room is as in a root", [((7,), {})], [((7,), {"!other": 1})], [((7,), {"other": []})]),
]


def root_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole roots."""
    yield from _cases(RULES, root_value())


def proof_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole later proofs."""
    yield from _cases(PROOF_RULES, proof_value())


def evaluation_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole evaluations."""
    yield from _cases(EVALUATION_RULES, evaluation_value())


def decision_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole decisions."""
    yield from _cases(DECISION_RULES, decision_value())


def move_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole move records."""
    yield from _cases(MOVE_RULES, move_value())


def epoch_cases() -> Iterator[tuple[Rule, Outcome, Any]]:
    """Each rule's cases as whole epochs."""
    yield from _cases(EPOCH_RULES, epoch_value())


def _cases(rules: list[Rule], sound: Any) -> Iterator[tuple[Rule, Outcome, Any]]:
    for rule in rules:
        for outcome, (path, value) in rule.cases():
            yield rule, outcome, changed(sound, path, value)


ALL_RULES = [
    *RULES,
    *PROOF_RULES,
    *DECISION_RULES,
    *MOVE_RULES,
    *MATERIAL_RULES,
    KIND_RULE,
    *FENCE_RULES,
    *TOMBSTONE_RULES,
    *REGISTRATION_RULES,
    *OMISSION_RULES,
    *EPOCH_RULES,
    *EVALUATION_RULES,
]


def table() -> str:
    """The document's table of rules."""
    lines = ["| rule | in | what holds |", "|---|---|---|"]
    rules = sorted(ALL_RULES, key=lambda rule: rule.number)
    lines += [f"| {rule.number} | {rule.place} | {rule.text} |" for rule in rules]
    return "\n".join(lines) + "\n"
