"""Manifests: every value comes back, and what no writer of ours makes is refused before it is used."""

from __future__ import annotations

import msgspec
import pytest
from format_parts import (
    KEYS,
    bare_entry,
    commit_unknown,
    digest_of,
    file_entry,
    flip,
    new_repository,
    replace_object,
    unknown,
    version,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsync.codec.compression import Coding
from mlsync.codec.digest import file_digest_kind
from mlsync.codec.keys import Keys
from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository import sealed_object
from mlsync.repository.encoding import segments
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.segments import decode_entries, encode_entries
from mlsync.repository.encoding.tokens import EntryKind, TroubleKind
from mlsync.repository.encoding.validation import check_previous, check_root, check_tree, is_safe_path
from mlsync.repository.manifest import (
    ChunkRef,
    Entry,
    Manifest,
    ManifestRoot,
    Origin,
    PackedRef,
    Previous,
    Segment,
    SegmentRef,
    Summary,
    Top,
    Trouble,
)
from mlsync.values import Finding, Proof, Severity

KEY = "versions/" + "0" * 32 + "/0000000001"
REF = ChunkRef(bytes(32), bytes(16), 0, 48, 26, 10, Coding.RAW)
FILE = file_entry(b"a", [REF])
# A pack in a table of packs: the kind of its key, and its id.
PACK = b"\1\0" + bytes(16)
ORIGIN = Origin(bytes(16))

_PART = st.binary(min_size=1, max_size=12).filter(
    lambda part: part not in (b".", b"..") and not {0, 47}.intersection(part)
)
_PATH = st.lists(_PART, min_size=1, max_size=4).map(b"/".join)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_U32, _TIME = st.integers(0, (1 << 32) - 2), st.integers(1 - (1 << 63), (1 << 63) - 1)
_FACT = st.one_of(_TEXT, st.integers(-(1 << 63), (1 << 63)), st.floats(allow_nan=False), st.booleans())
_FINDING = st.builds(
    Finding, st.integers(0, 5), st.sampled_from(Severity), _TEXT, st.none() | _TEXT, st.none() | st.integers(0, 1 << 62)
)
_PROOF = st.builds(
    Proof,
    level=st.integers(0, 5),
    container=_TEXT,
    device=_TEXT,
    torch=_TEXT,
    proved_ns=_TIME,
    seconds=st.floats(0, allow_nan=False, allow_infinity=False),
    tensor_count=st.integers(0, 1 << 40),
    tensor_bytes=st.integers(0, 1 << 62),
    facts=st.dictionaries(_TEXT, _FACT, max_size=4),
    findings=st.lists(_FINDING, max_size=3),
    shortfall=_TEXT,
)
_PLAIN_REF = st.builds(
    lambda name, pack, ordinal, offset, plain, spare, coding: ChunkRef(
        name, pack, ordinal, offset, 17 + spare % plain, plain, coding
    ),
    st.binary(min_size=32, max_size=32),
    st.sampled_from([bytes([seed]) * 16 for seed in range(3)]),
    st.integers(0, 65_535),
    st.integers(48, 1 << 40),
    st.integers(1, 16 << 20),
    st.integers(0, 1 << 30),
    st.sampled_from([coding for coding in Coding if coding is not Coding.DIFFERENCE]),
)


def _differing(ref, base):
    base = msgspec.structs.replace(base, plain_bytes=ref.plain_bytes, stored_bytes=17)
    return ref if base.name == ref.name else msgspec.structs.replace(ref, coding=Coding.DIFFERENCE, base=base)


_REF = _PLAIN_REF | st.builds(_differing, _PLAIN_REF, _PLAIN_REF)


@st.composite
def entries(draw):
    """An entry of any kind, with the oddest values that the format allows."""
    path, kind = draw(_PATH), draw(st.sampled_from(EntryKind))
    values = {name: draw(of) for name, of in (("uid", _U32), ("gid", _U32), ("mtime_ns", _TIME))}
    values |= {"path": path, "kind": kind, "mode": draw(st.integers(0, 0o7777))}
    if kind in (EntryKind.SYMLINK, EntryKind.HARD_LINK):
        values["target"] = draw(_PATH)
    if kind is EntryKind.FILE:
        refs = tuple(draw(st.lists(_REF, max_size=4)))
        lengths = [draw(st.integers(0, 3)) * draw(st.integers(1, 1 << 40)) for _ in range(len(refs) + 1)]
        holes, end = [], 0
        for length, plain_bytes in zip(lengths, [*(ref.plain_bytes for ref in refs), 0], strict=True):
            holes += [(end, length)] if length else []
            end += length + plain_bytes
        kind_of_digest = bytes([file_digest_kind(end, holes)])
        values |= {"chunks": refs, "holes": tuple(holes), "size_bytes": end}
        values["digest"] = kind_of_digest + draw(st.binary(min_size=32, max_size=32))
        values["proof"] = draw(st.none() | _PROOF)
    return Entry(**values)


@settings(max_examples=150, deadline=None)
@given(st.lists(entries(), max_size=5))
def test_entries_come_back(made):
    """Paths of any bytes, odd numbers, holes, proofs: encoded and decoded, nothing is different."""
    assert decode_entries(encode_entries(made), KEY) == made


@settings(max_examples=50, deadline=None)
@given(entries(), entries())
def test_equal_entries_give_equal_bytes(one, other):
    """The bytes of a segment depend on its entries alone: that is what lets versions share them."""
    copied = decode_entries(encode_entries([one, other]), KEY)
    assert encode_entries(copied) == encode_entries([one, other])


@settings(max_examples=40, deadline=None)
@given(_TEXT, _TIME, st.binary(max_size=30), st.builds(Trouble, _PATH, st.sampled_from(TroubleKind), _TEXT))
def test_a_version_comes_back(text, when, directory, trouble):
    """Everything that a manifest says beside its entries comes back from the store."""
    repository = new_repository()
    made = version([FILE], 7, Previous(6, bytes(range(32))), "run")
    root = msgspec.structs.replace(made.root, created_ns=when, host=text, directory=directory, troubles=(trouble,))
    commit_unknown(repository, Manifest(root, made.entries))
    found = repository.manifest(repository.stored("run", 7))
    assert found.entries == made.entries
    assert msgspec.structs.replace(found.root, packs=[], segments=[]) == root


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/a",
        b"a/",
        b"a//b",
        b".",
        b"..",
        b"../a",
        b"a/..",
        b"a/../b",
        b"./a",
        b"a/.",
        b"a\0b",
        b"x" * 65_537,
    ],
)
def test_paths_that_leave_the_tree_are_refused(path):
    """No path of a manifest leads out of where it is restored to."""
    assert not is_safe_path(path)
    _refuse(msgspec.structs.replace(FILE, path=path))
    _refuse(bare_entry(b"link", EntryKind.HARD_LINK, path))


@pytest.mark.parametrize(
    "path", [b"a", b"...", b"..a", b"a/.b", b"\xff\xfe", b"a\nb", b"-rf", b"x" * 255, b" ", b"a\\b"]
)
def test_odd_paths_are_paths(path):
    """What a file system takes as a name is a name."""
    assert is_safe_path(path)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": -1},
        {"mode": 0o10000},
        {"uid": -1},
        {"gid": (1 << 32) - 1},
        {"mtime_ns": 1 << 63},
        {"mtime_ns": -(1 << 63)},
        {"size_bytes": 11},
        {"size_bytes": 9},
        {"size_bytes": (1 << 64) - 1},
        {"chunks": ()},
        {"chunks": (REF, REF)},
        {"digest": b""},
        {"digest": b"\1" + bytes(31)},
        {"digest": b"\1" + bytes(33)},
        {"digest": bytes(33)},
        {"target": b"b"},
        {"holes": ((0, 1),)},
        {"holes": ((0, 0),)},
        {"holes": ((-5, 5), (0, 0)), "size_bytes": 15},
        {"holes": ((5, 5), (0, 5)), "size_bytes": 20},
        {"holes": ((0, 5), (4, 5)), "size_bytes": 20},
        {"holes": ((0, (1 << 63)),), "size_bytes": (1 << 63) + 10},
        {"holes": ((12, 5),), "size_bytes": 15},
        {"holes": ((5, 5),), "size_bytes": 15},
    ],
    ids=str,
)
def test_files_that_cannot_be_are_refused(change):
    """Numbers out of bounds, holes that overlap, chunks that do not add up."""
    _refuse(msgspec.structs.replace(FILE, **change))


@pytest.mark.parametrize(
    "entry",
    [
        bare_entry(b"a", EntryKind.SYMLINK, b""),
        bare_entry(b"a", EntryKind.SYMLINK, b"x\0y"),
        bare_entry(b"a", EntryKind.HARD_LINK, b""),
        bare_entry(b"a", EntryKind.DIRECTORY, b"x"),
        msgspec.structs.replace(bare_entry(b"a", EntryKind.DIRECTORY), size_bytes=1),
        msgspec.structs.replace(bare_entry(b"a", EntryKind.DIRECTORY), digest=bytes(16)),
        msgspec.structs.replace(bare_entry(b"a", EntryKind.SYMLINK, b"x"), holes=((0, 1),)),
        msgspec.structs.replace(bare_entry(b"a", EntryKind.SYMLINK, b"x"), chunks=(REF,)),
        msgspec.structs.replace(
            bare_entry(b"a", EntryKind.DIRECTORY), proof=Proof(0, "", "", "", 0, 0.0, 0, 0, {}, [])
        ),
    ],
)
def test_links_and_directories_that_cannot_be_are_refused(entry):
    """A link leads somewhere, a directory nowhere, and only files have content."""
    _refuse(entry)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"pack": 1}, ManifestDamaged),
        ({"pack": -1}, ManifestDamaged),
        ({"name": bytes(31)}, ManifestDamaged),
        ({"ordinal": -1}, ManifestDamaged),
        ({"ordinal": 65_536}, ManifestDamaged),
        ({"ordinal": 1 << 63}, ManifestDamaged),
        ({"offset": 47}, ManifestDamaged),
        ({"offset": (1 << 64) - 1}, ManifestDamaged),
        ({"stored_bytes": 16}, ManifestDamaged),
        ({"stored_bytes": 27}, ManifestDamaged),
        ({"plain_bytes": 0, "stored_bytes": 16}, ManifestDamaged),
        ({"plain_bytes": -10}, ManifestDamaged),
        ({"plain_bytes": (16 << 20) + 1}, ManifestDamaged),
        ({"coding": 3}, ManifestDamaged),
        ({"base": 0}, ManifestDamaged),
        ({"coding": 4}, FormatUnsupported),
        ({"coding": 4, "base": 0}, FormatUnsupported),
        ({"coding": 255}, FormatUnsupported),
        ({"coding": 256}, ManifestDamaged),
        ({"coding": -1}, ManifestDamaged),
    ],
    ids=str,
)
def test_chunk_references_out_of_bounds_are_refused(change, error):
    """A reference's numbers are bounded before anything is fetched or allocated by them."""
    packed = msgspec.structs.replace(PackedRef(bytes(32), 0, 0, 48, 26, 10, 0), **change)
    entry = Entry(b"a", EntryKind.FILE, 0, 0, 0, 0, 10, b"", b"\1" + bytes(32), (), [packed], None)
    with pytest.raises(error):
        decode_entries(msgspec.msgpack.encode(Segment([PACK], [entry])), KEY)


def test_a_pack_id_of_a_wrong_length_is_refused():
    """A table of packs holds ids of sixteen bytes, each behind its key kind."""
    entry = Entry(
        b"a",
        EntryKind.FILE,
        0,
        0,
        0,
        0,
        10,
        b"",
        b"\1" + bytes(32),
        (),
        [PackedRef(bytes(32), 0, 0, 48, 26, 10, 0)],
        None,
    )
    for table in ([PACK[:-1]], [PACK + b"x"], [b""], [PACK, b"\2" + PACK[1:]]):
        with pytest.raises(ManifestDamaged, match="invalid id, or an id twice"):
            decode_entries(msgspec.msgpack.encode(Segment(table, [entry])), KEY)


@pytest.mark.parametrize(("kind", "error"), [(0, ManifestDamaged), (3, FormatUnsupported), (255, FormatUnsupported)])
def test_a_pack_whose_key_is_had_otherwise_is_newer(kind, error):
    """A table names the kind of each pack's key: 0 is damage, and what is above 2 is a newer mlsync's."""
    assert decode_entries(msgspec.msgpack.encode(Segment([PACK], [])), KEY) == []
    with pytest.raises(error, match=f"key kind {kind}"):
        decode_entries(msgspec.msgpack.encode(Segment([bytes([kind]) + PACK[1:]], [])), KEY)


@pytest.mark.parametrize(
    "made",
    [
        [bare_entry(b"b", EntryKind.DIRECTORY), bare_entry(b"a", EntryKind.DIRECTORY)],
        [bare_entry(b"a", EntryKind.DIRECTORY), bare_entry(b"a", EntryKind.DIRECTORY)],
        [msgspec.structs.replace(FILE, path=b"a/b")],
        [bare_entry(b"a", EntryKind.SYMLINK, b"/etc"), msgspec.structs.replace(FILE, path=b"a/b")],
        [FILE, msgspec.structs.replace(FILE, path=b"a/b")],
        [bare_entry(b"a", EntryKind.HARD_LINK, b"b")],
        [bare_entry(b"a", EntryKind.HARD_LINK, b"a")],
        [bare_entry(b"a", EntryKind.DIRECTORY), bare_entry(b"b", EntryKind.HARD_LINK, b"a")],
    ],
    ids=[
        "order",
        "twice",
        "no parent",
        "parent is a symlink",
        "parent is a file",
        "dangling",
        "itself",
        "to directory",
    ],
)
def test_entries_that_are_no_tree_are_refused(made):
    """Nothing lies below a symbolic link or a file, nothing comes twice, no hard link leads to what is no file."""
    with pytest.raises(ManifestDamaged):
        check_tree(made, KEY)
    repository = new_repository()
    with pytest.raises(ManifestDamaged):
        commit_unknown(repository, version(made))
    assert repository.numbers("run") == []
    root = _root(segments=[SegmentRef(made[0].path, len(made), encode_entries(made), [])])
    with pytest.raises(ManifestDamaged):
        segments.read_entries(root, lambda refs: iter(list(refs)), KEY)


def test_a_hard_link_may_come_before_its_file():
    """Which of a file's names is the file is the writer's choice."""
    check_tree([bare_entry(b"Z", EntryKind.HARD_LINK, b"a"), FILE], KEY)


@pytest.mark.parametrize(
    "segment",
    [
        SegmentRef(b"a", 2, encode_entries([FILE]), []),
        SegmentRef(b"b", 1, encode_entries([FILE]), []),
        SegmentRef(b"a", 1, None, []),
        SegmentRef(b"a", 1, encode_entries([FILE]), [PackedRef(bytes(32), 0, 0, 48, 26, 10, 0)]),
        SegmentRef(b"a", 1, None, [PackedRef(bytes(32), 0, 0, 48, 26, 16 << 20, 0)] * 17),
        SegmentRef(b"a", 1, b"", []),
        SegmentRef(b"a", 1, b"\xc1", []),
        SegmentRef(b"a", 1, encode_entries([FILE]) + b"\0", []),
    ],
    ids=["count", "first path", "nowhere", "twice", "too large", "empty", "no MessagePack", "bytes behind"],
)
def test_segments_that_contradict_themselves_are_refused(segment):
    """A segment is what its reference says, stands in one place, and is bounded."""
    with pytest.raises(ManifestDamaged):
        segments.read_entries(_root(segments=[segment]), lambda refs: iter([b""] * len(list(refs))), KEY)


@pytest.mark.parametrize("previous", [Previous(2, bytes(32)), Previous(0, bytes(32)), Previous(1, bytes(31))])
def test_links_backwards_lead_backwards(previous):
    """A manifest that follows itself, nothing, or no digest is refused."""
    with pytest.raises(ManifestDamaged):
        check_previous(previous, 2, KEY)
    check_previous(Previous(1, bytes(32)), 2, KEY)
    check_previous(None, 2, KEY)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_manifest_are_refused(body):
    """Whatever bytes a writer sealed, decoding gives entries or ``ManifestDamaged``."""
    for kind in (ManifestRoot, Segment):
        try:
            decode_as(body, kind, KEY)
        except ManifestDamaged:
            continue


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_segment_is_read_or_refused(data):
    """A segment with bytes changed gives entries that hold all rules, or one of two errors."""
    body = bytearray(encode_entries([FILE, bare_entry(b"d", EntryKind.DIRECTORY)]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_entries(bytes(body), KEY)
    except (ManifestDamaged, FormatUnsupported):
        return
    assert all(is_safe_path(entry.path) for entry in found)


def test_text_that_is_no_utf8_is_refused():
    """A text that is not UTF-8 is the manifest's damage and no crash."""
    body = msgspec.msgpack.encode(_root()).replace(b"writer", b"wr\xfftr")
    with pytest.raises(ManifestDamaged):
        decode_as(body, ManifestRoot, KEY)


def test_text_of_a_hostile_checkpoint_can_be_stored():
    """Half a surrogate pair, which a pickle may hold and UTF-8 may not, is written out; other text stays as it is."""
    finding = Finding(2, Severity.WARN, "class \ud800", "data/\udfff")
    proof = Proof(1, "", "", "", 0, 0.0, 0, 0, {"\ud800": "x\udc00y", "ä": "ö", "epoch": 3}, [finding], "\ud800")
    found = decode_entries(encode_entries([msgspec.structs.replace(FILE, proof=proof)]), KEY)[0].proof
    assert found == proof
    assert found.facts == {"\\ud800": "x\\udc00y", "ä": "ö", "epoch": 3}
    assert (found.findings[0].what, found.findings[0].record) == ("class \\ud800", "data/\\udfff")
    assert Trouble(b"a", TroubleKind.TORN, "ä \udabc").text == "ä \\udabc"


# ---------------------------------------------------------------- the object


@settings(max_examples=40)
@given(st.binary(max_size=500))
def test_a_manifest_object_opens(plain):
    """What was sealed under a key comes back from it, compressed or not."""
    assert (
        sealed_object.open_(
            KEYS, sealed_object.MANIFEST, KEY, sealed_object.seal(KEYS, sealed_object.MANIFEST, KEY, plain)
        )
        == plain
    )


def test_a_manifest_object_opens_only_where_it_belongs():
    """Under another number, run, repository or master key it does not open."""
    sealed = sealed_object.seal(KEYS, sealed_object.MANIFEST, KEY, b"root")
    others = [
        (KEYS, KEY[:-1] + "2"),
        (KEYS, KEY.replace("/0", "/1", 1)),
        (Keys(KEYS.master, bytes(16)), KEY),
        (Keys(bytes(32), KEYS.repository_id), KEY),
    ]
    for keys, key in others:
        with pytest.raises(ManifestDamaged, match="does not authenticate"):
            sealed_object.open_(keys, sealed_object.MANIFEST, key, sealed)


def test_every_changed_byte_of_a_manifest_is_found_out():
    """No byte of a manifest can change unseen, nor one be cut off or added."""
    sealed = sealed_object.seal(KEYS, sealed_object.MANIFEST, KEY, b"root" * 9)
    for changed in [*(flip(at)(sealed) for at in range(len(sealed))), sealed[:-1], sealed + b"\0", b""]:
        with pytest.raises((ManifestDamaged, FormatUnsupported)):
            sealed_object.open_(KEYS, sealed_object.MANIFEST, KEY, changed)


@pytest.mark.parametrize(
    ("offset", "value", "message"), [(8, 2, "format 2"), (10, 3, "key kind 3")], ids=["format", "key kind"]
)
def test_a_newer_manifest_is_refused_by_number(offset, value, message):
    """A newer format or way to its key is named, and not called damage."""
    changed = bytearray(sealed_object.seal(KEYS, sealed_object.MANIFEST, KEY, b"root"))
    changed[offset] = value
    with pytest.raises(FormatUnsupported, match=message):
        sealed_object.open_(KEYS, sealed_object.MANIFEST, KEY, bytes(changed))


def test_no_two_manifests_share_a_key():
    """Sealing the same version twice takes another salt, so key and nonce do not repeat."""
    one, other = (sealed_object.seal(KEYS, sealed_object.MANIFEST, KEY, b"root") for _ in range(2))
    assert one[16:48] != other[16:48]


def test_a_manifest_that_no_reader_takes_is_not_written(monkeypatch):
    """The bound on manifests holds for writers first."""
    monkeypatch.setattr(sealed_object, "PLAIN_BYTES_MAX", 100)
    with pytest.raises(ManifestDamaged, match="larger than any reader takes"):
        sealed_object.seal(KEYS, sealed_object.MANIFEST, KEY, bytes(101))
    monkeypatch.setattr(segments, "INLINE_BYTES_MAX", 0)
    monkeypatch.setattr(segments, "SEGMENT_BYTES_MAX", 100)
    with pytest.raises(ManifestDamaged, match="too long"):
        segments.Body((FILE, msgspec.structs.replace(FILE, path=b"b")), unknown, KEY)


def test_a_manifest_longer_than_any_is_damage():
    """A store that sends more than any manifest holds is stopped at the bound."""
    repository = new_repository()
    commit_unknown(repository, version([file_entry(b"a", digest=digest_of())]))
    key = repository.version_key("run", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed_object, "OBJECT_BYTES_MAX", 1000)
        replace_object(repository.store, key, lambda body: body + bytes(1000))
        with pytest.raises(ManifestDamaged, match="longer"):
            repository.stored("run", 1)


def test_the_writer_the_directory_and_the_notes_come_back():
    """What a version says of its writer, of the run's own directory and of itself is read as it was written."""
    repository = new_repository()
    made = version([file_entry(b"a", digest=digest_of())])
    written = msgspec.structs.replace(
        made.root,
        origin=Origin(b"i" * 16, b"m" * 16),
        top=Top(0o2750, 1000, 0, -1),
        notes=("two checkpoints are gone", "a lone \udc80 is stored too"),
    )
    commit_unknown(repository, Manifest(written, made.entries))
    manifest = repository.manifest(repository.stored("run", 1))
    assert (manifest.root.origin, manifest.root.top) == (written.origin, written.top)
    assert manifest.root.notes == ("two checkpoints are gone", "a lone \\udc80 is stored too")


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": Origin(bytes(15))},
        {"origin": Origin(b"")},
        {"origin": Origin(bytes(16), bytes(8))},
        {"top": Top(0o10000, 0, 0, 0)},
        {"top": Top(0o755, -1, 0, 0)},
        {"top": Top(0o755, 0, 1 << 32, 0)},
        {"top": Top(0o755, 0, 0, 1 << 63)},
    ],
)
def test_a_writer_or_directory_that_cannot_be_is_refused(changes):
    """Ids of another length and numbers that no file system has are damage, and the root without them is none."""
    with pytest.raises(ManifestDamaged):
        check_root(_root(**changes), KEY)
    check_root(_root(), KEY)
    check_root(_root(origin=Origin(bytes(16), bytes(16)), top=Top(0o7777, 0, (1 << 32) - 2, -5)), KEY)


def _refuse(entry):
    with pytest.raises(ManifestDamaged):
        decode_entries(encode_entries([entry]), KEY)


def _root(**changes):
    values = {"troubles": [], "packs": [PACK], "segments": [], "origin": ORIGIN, "top": None, "notes": []}
    values |= changes
    summary = Summary(0, 0, 0, 0, 0, 0, "")
    return ManifestRoot("run", 1, 0, None, "writer", "host", b"/d", 0, summary, **values)
