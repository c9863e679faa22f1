from __future__ import annotations

import collections
import datetime as dt
import os
import pickle
import sys
import tracemalloc

import pytest

from checkpoint_files import MemorySource, with_pickle
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.pickles import machine as pickle_machine
from mlsync.formats.pickles.machine import read_pickle
from mlsync.formats.pickles.nodes import Call, Global, Members, Pairs, Persistent


def plain(node: object) -> object:
    """What a graph of plain values stands for."""
    if isinstance(node, Pairs):
        return {plain(key): plain(value) for key, value in node.pairs()}
    if isinstance(node, Members):
        return {plain(item) for item in node}
    if isinstance(node, (list, tuple)):
        return type(node)(plain(item) for item in node)
    return node


VALUES = [
    None,
    True,
    [False, 0, 1, 255, 256, 65535, -1, 1 << 31, -(1 << 40), 1 << 300],
    [0.5, -1e300, float("inf")],
    ["", "text", "é\n\\x", "\ud800", "long" * 100],
    [b"", b"bytes", b"long" * 100],
    {"a": [1, (2, 3), (4,), (), (5, 6, 7, 8)], 3: {"b": None}},
    [["shared"] * 3, list(range(3000))],
    [{1, 2}, frozenset({3})],
]
# Older protocols write calls for these
FIRST_PROTOCOL = {5: 3, len(VALUES) - 1: 4}


@pytest.mark.parametrize(
    ("value", "protocol"),
    [
        pytest.param(value, protocol, id=f"{place}-{protocol}")
        for place, value in enumerate(VALUES)
        for protocol in range(FIRST_PROTOCOL.get(place, 0), 6)
    ],
)
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    """Every protocol's way to write plain values is understood, to the last byte."""
    data = pickle.dumps(value, protocol)
    node, end = read_pickle(data)
    assert plain(node) == value
    assert end == len(data)


@pytest.mark.parametrize("protocol", range(6))
def test_objects_become_inert_calls(protocol):
    """Classes, reductions and states are kept as what they say, and nothing is made of them."""
    value = [collections.OrderedDict(a=1), dt.date(2026, 1, 2), os.path.join, ValueError("x")]
    nodes, _ = read_pickle(pickle.dumps(value, protocol))
    assert isinstance(nodes, list)
    ordered, date, function, error = nodes
    assert isinstance(ordered, Call)
    assert (ordered.func.module, ordered.func.name) == ("collections", "OrderedDict")
    assert isinstance(date, Call)
    assert isinstance(function, Global)
    assert function.name == "join"
    assert isinstance(error, Call)
    assert error.args == ("x",)


def test_persistent_ids_are_kept():
    """An object outside of the pickle is its id."""
    node, _ = read_pickle(b"\x80\x02X\x01\x00\x00\x00kQ.")
    assert isinstance(node, Persistent)
    assert node.id == "k"


class Marker:
    """Would leave a trace if it were ever unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_of_the_shell_is_not_run(tmp_path, protocol):
    """A pickle that would run a command is read, and the command is not run."""
    trace = tmp_path / "trace"
    data = pickle.dumps({"epoch": 1, "x": Marker(str(trace))}, protocol)
    source = MemorySource(with_pickle(data))
    content = read_content(source, read_layout(source, "torch-zip"))
    assert content.facts["epoch"] == 1
    assert not trace.exists()
    pickle.loads(data)
    assert trace.exists(), "the trap works"


def test_nothing_is_imported(tmp_path, monkeypatch):
    """A module that a pickle names is not imported, even where it could be."""
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    read_pickle(b"ctrap_module\nThing\n(tR.")
    read_pickle(b"\x80\x04\x8c\x0btrap_module\x8c\x05Thing\x93)\x81.")
    assert "trap_module" not in sys.modules


def nested_tuples(depth: int) -> bytes:
    return b"\x80\x02)" + b"\x85" * depth + b"."


def memo_bomb(levels: int) -> bytes:
    """Each level is a pair of the one before: 2**levels leaves in a few bytes."""
    return (
        b"\x80\x02)"
        + b"".join(b"r" + n.to_bytes(4, "little") + b"j" + n.to_bytes(4, "little") + b"\x86" for n in range(levels))
        + b"."
    )


HOSTILE = {
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "out of band": b"\x80\x05\x97.",
    "protocol 6": b"\x80\x06N.",
    "huge LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 100 + b".",
    "many digits": b"L" + b"9" * 60_000 + b"L\n.",
    "cut string": b"X\xff\xff\xff\x7fabc.",
    "cut bytes8": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "cut frame": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "underflow": b"\x80\x02R.",
    "no stop": b"\x80\x02N",
    "empty": b"",
    "two results": b"\x80\x02NN.",
    "open mark": b"\x80\x02(N.",
    "many marks": b"(" * 20_000 + b".",
    "no memo": b"\x80\x02h\x05.",
    "call of a number": b"\x80\x02K\x01)R.",
    "arguments no tuple": b"\x80\x02cos\nsystem\n]R.",
    "append to none": b"\x80\x02NK\x01a.",
    "set on a list": b"\x80\x02]K\x01K\x02s.",
    "build on a dict": b"\x80\x02}}b.",
    "key without value": b"\x80\x02}(K\x01u.",
    "bad utf-8": b"X\x01\x00\x00\x00\xff.",
    "bad float": b"Fabc\n.",
    "negative length": b"T\xff\xff\xff\xff.",
    "endless line": b"c" + b"a" * 100_000,
    "unknown opcode": b"\x80\x02\xff.",
    "global no text": b"\x80\x04K\x01K\x02\x93.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_malformed_and_hostile_pickles_are_refused_with_their_place(data):
    """What no honest pickler writes is refused, and the message has the offset."""
    with pytest.raises(ContainerBroken) as caught:
        read_pickle(data)
    assert caught.value.offset is not None


def test_a_huge_memo_index_costs_nothing():
    """The memo's memory depends on what is put into it, not on the number that it is put under."""
    tracemalloc.start()
    read_pickle(b"\x80\x02Nr\xff\xff\xff\xff.")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 100_000


@pytest.mark.parametrize("data", [memo_bomb(5000), nested_tuples(100_000)], ids=["memo bomb", "deep"])
def test_bombs_are_read_once_and_never_unfolded(data):
    """A graph with more paths than atoms, or deeper than any stack, is held as it is and refused when walked."""
    read_pickle(data)
    source = MemorySource(with_pickle(data))
    with pytest.raises(NotChecked, match="nested more deeply"):
        read_content(source, read_layout(source, "torch-zip"))


def test_a_bomb_of_bearable_depth_is_walked_in_its_size():
    """Two hundred levels of pairs, 2**200 paths, hold no tensor and take no time."""
    source = MemorySource(with_pickle(memo_bomb(200)))
    assert read_content(source, read_layout(source, "torch-zip")).tensors == ()


def shared_by_all(count: int, what: bytes, use: bytes) -> bytes:
    """One container of *count* numbers, and as many calls that all have it."""
    return b"\x80\x02]q\x00(cos\nx\nq\x01" + what.replace(b"N", b"N" * count) + b"q\x02" + use * count + b"e."


SHARED = {
    "arguments": (b"(Nt", b"h\x01h\x02R"),
    "state": (b"}(NNu", b"h\x01)Rh\x02b"),
    "state of tuples": (b"(Nt", b"h\x01)Rh\x02b"),
    "keywords": (b"}(NNu", b"h\x01)h\x02\x92"),
    "rebuilt": (b"(h\x01h\x01)Nt", b"ctorch._utils\n_rebuild_from_type_v2\nh\x02R"),
    "parameter": (b"(Nt", b"ctorch._utils\n_rebuild_parameter\nh\x02R"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("what", "use"), SHARED.values(), ids=SHARED.keys())
def test_what_many_calls_share_is_walked_once(what, use):
    """Fifty thousand calls that share a container of fifty thousand parts cost a hundred thousand steps."""
    source = MemorySource(with_pickle(shared_by_all(50_000, what, use)))
    assert read_content(source, read_layout(source, "torch-zip")).tensors == ()


def test_a_key_that_is_dear_to_hash_is_not_hashed():
    """A dict whose key is a bomb is read like any other: keys are not hashed."""
    bomb = memo_bomb(3000)[2:-1]
    node, _ = read_pickle(b"\x80\x02}" + bomb + b"K\x01s.")
    assert isinstance(node, Pairs)
    assert len(list(node.pairs())) == 1


def test_a_graph_that_contains_itself_is_walked_once():
    """A list that holds itself ends."""
    source = MemorySource(with_pickle(b"\x80\x02]q\x00h\x00a."))
    assert read_content(source, read_layout(source, "torch-zip")).tensors == ()


def test_too_many_operations_are_not_called_broken(monkeypatch):
    """A pickle beyond the bounds is one that was not checked."""
    monkeypatch.setattr(pickle_machine, "TURNS_MAX", 10)
    with pytest.raises(NotChecked):
        read_pickle(b"N0" * 10 + b"N.")


def test_too_many_bytes_are_not_called_broken(monkeypatch):
    """The length is looked at first."""
    monkeypatch.setattr(pickle_machine, "PICKLE_BYTES_MAX", 10)
    with pytest.raises(NotChecked):
        read_pickle(b"N0" * 10 + b"N.")
