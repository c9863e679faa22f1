"""What later mlsyncs add to objects: what must be understood is refused by its name, and all else is ignored."""

from __future__ import annotations

import msgspec
import pytest
from forged import EXAMPLES, changed, packed, proof_value, read_proof, read_root, root_value
from format_parts import bare_entry, commit_unknown, new_repository, version

from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository.encoding.room import ROOM_BYTES_MAX, check_room
from mlsync.repository.encoding.tokens import EntryKind

# Where the room is: in the root, in its segment, and in the second of the segment's entries.
PLACES = {"the version": (15,), "a segment": (11, 0, 2, 2), "the entry b'logs'": (11, 0, 2, 1, 1, 12)}
DEEP = [[[[[[[None]]]]]]]


@pytest.mark.parametrize(
    "value",
    [
        {"a": None},
        {"a": 1, "b": True, "c-1": [0.5, "text", b"bytes"]},
        {"a": {"": 1, "Ä": 2, "\U0001f600": 3}},
        {"a": DEEP},
        {"a" * 63: 1},
        {"a": bytes(ROOM_BYTES_MAX - 6)},
    ],
    ids=repr,
)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_need_not_be_understood_is_ignored(place, value):
    """A version with additions that this mlsync does not know is read as one without them."""
    stored, entries = read_root(packed(changed(root_value(), place, value)))
    assert (stored.root.run, [entry.path for entry in entries]) == (
        EXAMPLES.run,
        [one.path for one in EXAMPLES.entries()],
    )


@pytest.mark.parametrize(("noun", "place"), PLACES.items())
def test_what_must_be_understood_is_refused_by_its_name(noun, place):
    """An addition whose name begins with "!" is a newer mlsync's, and the message names it and where it is."""
    with pytest.raises(FormatUnsupported) as caught:
        read_root(packed(changed(root_value(), place, {"!acl": 1, "!sparse-2": [], "other": 2})))
    assert caught.value.what == f"{noun} needs !acl, !sparse-2, which is not known here"
    assert caught.value.advice == "upgrade mlsync"


def test_a_later_proof_has_room_too():
    """A later proof with an unknown addition is read, and refused by its name if that must be understood."""
    assert read_proof(msgspec.msgpack.encode(changed(proof_value(), (10,), {"other": [b"x"]}))).room == {
        "other": [b"x"]
    }
    with pytest.raises(FormatUnsupported, match="the later proof needs !other"):
        read_proof(msgspec.msgpack.encode(changed(proof_value(), (10,), {"!other": 1})))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"": 1},
        {"!": 1},
        {"A": 1},
        {"1a": 1},
        {"a" * 64: 1},
        {"ä": 1},
        {"a\n": 1},
        {"b": 1, "a": 1},
        {"a": {"b": 1, "a": 1}},
        {"a": {"\U0001f600": 1, "\uffff": 2}},
        {"a": [DEEP]},
        {"a": msgspec.msgpack.Ext(5, b"x")},
        {"a": {1: 2}},
        {"a": bytes(ROOM_BYTES_MAX - 5)},
        [1],
        0,
        "text",
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_no_writer_writes_is_damage(value):
    """An empty map, names out of order or of other letters, other types, deeper or longer values are refused."""
    with pytest.raises(ManifestDamaged):
        read_root(packed(changed(root_value(), (15,), value)))


def test_a_time_is_no_value_of_the_room():
    """MessagePack's own extensions are refused like all others: not every library has them."""
    plain = packed(changed(root_value(), (15,), {"a": "HERE"}))
    time = b"\xd6\xff" + bytes(4)
    with pytest.raises(ManifestDamaged):
        read_root(plain.replace(msgspec.msgpack.encode("HERE"), time))


def test_a_name_that_is_understood_is_not_refused():
    """What this mlsync understands is not refused."""
    check_room({"!acl": 1}, "the version", "here", understood=("!acl",))
    with pytest.raises(FormatUnsupported, match="needs !other, which"):
        check_room({"!acl": 1, "!other": 1}, "the version", "here", understood=("!acl",))


def test_no_writer_commits_what_readers_refuse():
    """A commit refuses an entry whose room readers would refuse, and nothing is committed."""
    repository = new_repository()
    entry = msgspec.structs.replace(bare_entry(b"a", EntryKind.DIRECTORY), room={"B": 1})
    with pytest.raises(ManifestDamaged, match="the last position of the entry b'a'"):
        commit_unknown(repository, version([entry]))
    assert repository.numbers("run") == []
