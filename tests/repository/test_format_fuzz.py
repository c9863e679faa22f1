"""Authentic objects with values changed at random: readers take exactly what the page allows, and nothing else happens.

What they take is compared with ``format_rules``, which was written from the page. Any error but ``Damage`` and
``FormatUnsupported`` fails the tests by itself.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import format_rules as rules
import msgspec
import pytest
from forged import (
    DROPPED,
    EXAMPLES,
    changed,
    decision_value,
    evaluation_value,
    packed,
    proof_value,
    read_decision,
    read_evaluation,
    read_proof,
    read_root,
    root_value,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlsync.codec.digest import object_digest
from mlsync.errors import Damage, FormatUnsupported, ManifestDamaged

pytestmark = pytest.mark.slow


def rich_root() -> Any:
    """The document's root with one file more: three chunks of two packs and two holes, without a proof."""
    root = root_value()
    segment = root[11][0]
    packs, entries, _ = segment[2]
    chunk = entries[0][10][0]
    first, second, third = ([*chunk[:5], length, *chunk[6:]] for length in (16, 20, 24))
    packs.append(bytes([1, *bytes(16)]))
    second[1] = 1
    file = list(entries[0])
    file[0], file[6], file[11] = b"logs/z", 60 + 100 + 7, None
    file[9], file[10] = [[16, 100], [136, 7]], [first, second, third]
    entries.insert(2, file)
    entries.sort(key=lambda entry: entry[0])
    segment[1] = len(entries)
    root[15] = {"example": [1.5, {"a": None}], "decision": [3, bytes(16)], "later-proofs": [[1, True, 3, LINKS]]}
    return root


LINKS = [bytes([at]) * 32 for at in (1, 2)]
ROOT, PROOF = rich_root(), changed(proof_value(), (10,), {"example": [True], "seen": LINKS})
DECISION = changed(decision_value(), (9,), {"example": [True]})
DECISION[6].append([8, bytes(16), "Paper", "", 0])
DECISION[8].append([9, 9, "x", 0])
MANIFEST = object_digest(b"".join(part for part, _ in EXAMPLES.manifest()))
EDGES = [-(1 << 63), -1, 0, 1, 2, 3, 4, 5, 6, 16, 47, 48, 255, 256, 65_535, 65_536, 1 << 32, 1 << 40]
EDGES += [1 << 63, (1 << 64) - 1]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a value, itself among them, and the one behind the end of each array."""
    found = [at]
    if isinstance(value, list):
        found.append((*at, len(value)))
        for index, one in enumerate(value):
            found += places(one, (*at, index))
    if isinstance(value, dict):
        for key, one in value.items():
            found += places(one, (*at, key))
    return found


def value_at(value: Any, at: tuple[Any, ...]) -> Any:
    """What stands at a place; nothing behind an array's end."""
    for step in at:
        if isinstance(value, list) and step == len(value):
            return None
        value = value[step]
    return value


_BYTES = [
    bytes(15),
    bytes(16),
    bytes(17),
    bytes([1, *bytes(16)]),
    bytes([2, *bytes(16)]),
    bytes(31),
    bytes(32),
    b"a",
    b"a/b",
    b"..",
    b"a//b",
    b"\0",
    b"logs/a",
    b"last.pt",
]
_LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(EDGES),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from(_BYTES),
)
_NAMES = st.one_of(st.text(max_size=2), st.sampled_from(["a", "b-1", "!a", "A", "!", "-", "a" * 63, "a" * 64]))
_ANY = st.one_of(_LEAF, st.lists(_LEAF, max_size=3), st.dictionaries(_NAMES, _LEAF, max_size=2))


def like(here: Any) -> st.SearchStrategy[Any]:
    """Something of the same type: what a rule about the value, and not about its type, has to tell apart."""
    if type(here) is int:
        near = st.integers(max(here - 40, -(1 << 63)), min(here + 40, (1 << 64) - 1))
        return st.one_of(st.sampled_from(EDGES), near)
    if type(here) is float:
        return st.sampled_from([0.0, -0.0, -0.5, 1.5, 1e308, float("inf"), float("-inf"), float("nan")])
    if type(here) is bytes:
        return st.one_of(st.sampled_from(_BYTES), st.just(here[:-1]), st.just(here + b"x"))
    if type(here) is str:
        return st.text(max_size=3)
    if type(here) is list and here:
        swapped = st.permutations(here) if len(here) < 6 else st.just(here[::-1])
        return st.one_of(swapped, st.sampled_from(range(len(here))).map(lambda at: [*here[:at], here[at], *here[at:]]))
    return _ANY


@st.composite
def mutated(draw, value):
    """A value with a few places changed: one like it, anything, one of the value's own from elsewhere, or nothing."""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        at = draw(st.sampled_from(places(value)))
        here = value_at(value, at)
        how = draw(st.sampled_from(["like"] * 6 + ["any", "elsewhere", "dropped"]))
        if how == "dropped" and at and here is not None:
            new = DROPPED
        elif how == "elsewhere":
            new = value_at(value, draw(st.sampled_from(places(value))))
        else:
            new = draw(_ANY if how == "any" else like(here))
        value = changed(value, at, new)
        if not isinstance(value, list):
            break
    return value


def outcome(read, *arguments) -> str:
    """What came of reading: taken, damage, or newer; any other error is the test's failure."""
    try:
        read(*arguments)
    except (Damage, rules.Broken):
        return "damage"
    except (FormatUnsupported, rules.Newer):
        return "newer"
    return "taken"


def agree(ours: str, page: str) -> bool:
    """Whether they agree; of what is both damaged and newer, either may be said."""
    return ours == page or "taken" not in (ours, page)


@settings(max_examples=250, deadline=None)
@given(mutated(ROOT))
@example(ROOT)
def test_a_root_is_taken_exactly_as_the_page_says(value):
    """The reader of manifests and the page agree on every changed root and list of files."""
    plain = packed(value)
    assert agree(outcome(read_root, plain), outcome(rules.root, value, EXAMPLES.run, 2))


@settings(max_examples=120, deadline=None)
@given(mutated(PROOF))
@example(PROOF)
def test_a_later_proof_is_taken_exactly_as_the_page_says(value):
    """The reader of later proofs and the page agree on every changed one."""
    plain = msgspec.msgpack.encode(value)
    assert agree(
        outcome(read_proof, plain), outcome(rules.later_proof, value, EXAMPLES.run, 2, MANIFEST, EXAMPLES.proof_id)
    )


@settings(max_examples=80, deadline=None)
@given(mutated(evaluation_value()))
@example(evaluation_value())
def test_an_evaluation_is_taken_exactly_as_the_page_says(value):
    """The reader of evaluations and the page agree on every changed one."""
    plain = msgspec.msgpack.encode(value)
    assert agree(outcome(read_evaluation, plain), outcome(rules.evaluation, value, EXAMPLES.run, 2, MANIFEST))


@settings(max_examples=150, deadline=None)
@given(mutated(DECISION))
@example(DECISION)
def test_a_decision_is_taken_exactly_as_the_page_says(value):
    """The reader of decisions and the page agree on every changed one."""
    plain = msgspec.msgpack.encode(value)
    assert agree(outcome(read_decision, plain), outcome(rules.decision, value, EXAMPLES.run, 2))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_changed_bytes_are_taken_or_refused(data):
    """Bytes of a root changed, cut out or put in, sealed again: it is read, damage, or newer."""
    plain = bytearray(packed(ROOT))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(plain) - 1))
        plain[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    assert outcome(read_root, bytes(plain)) in ("taken", "damage", "newer")


BOMBS = {
    "an array of four billion": b"\xdd\xff\xff\xff\xff",
    "a map of four billion": b"\xdf\xff\xff\xff\xff",
    "bytes of four gigabytes": b"\xc6\xff\xff\xff\xff",
    "a text of four gigabytes": b"\xdb\xff\xff\xff\xff",
    "a hundred thousand arrays in each other": b"\x91" * 100_000 + b"\xc0",
    "a hundred thousand maps in each other": b"\x81\xa0" * 100_000 + b"\xc0",
    "an extension": b"\xc7\xff\x05" + bytes(255),
    "a time that is none": b"\xd7\xff" + b"\xff" * 8,
    "a byte that means nothing": b"\xc1",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_what_only_claims_to_be_large_costs_nothing(bomb):
    """At whatever place a length is stated that nothing stands behind, it is refused without memory for it."""
    whole = msgspec.msgpack.encode(ROOT[:11])
    base = packed(changed(ROOT, (11, 0, 2, 1, 0, 10, 0, 7), "HERE"))
    tracemalloc.start()
    try:
        for plain in (
            bomb,
            b"\xdc\x00\x10" + bomb,
            b"\xdc\x00\x10" + whole[1:] + bomb,
            base.replace(msgspec.msgpack.encode("HERE"), bomb),
            msgspec.msgpack.encode([*ROOT[:11], [[b"last.pt", 4, b"\x93" + bomb, []]], *ROOT[12:]]),
            msgspec.msgpack.encode([*ROOT[:11], [[b"last.pt", 4, b"\x93\x90\x91\x9d" + bomb, []]], *ROOT[12:]]),
        ):
            with pytest.raises((ManifestDamaged, FormatUnsupported)):
                read_root(plain)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_base_that_is_nested_without_end_is_refused():
    """What stands for a chunk's base is a newer mlsync's, and may be anything but what breaks the reader."""
    value: Any = None
    for _ in range(300):
        value = [value]
    with pytest.raises((ManifestDamaged, FormatUnsupported)):
        read_root(packed(changed(ROOT, (11, 0, 2, 1, 0, 10, 0, 7), value)))
