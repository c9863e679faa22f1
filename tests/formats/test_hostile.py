"""Pickles made to harm, in each place where a checkpoint has one."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import tracemalloc
from collections.abc import Callable

import pytest
from torch.distributed.checkpoint.metadata import Metadata

from checkpoint_files import MemorySource, with_pickle
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.dcp.metadata import read_dcp_metadata
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.pickles import machine as pickle_machine
from mlsync.formats.torch.legacy import STORAGES_MAX

pytestmark = pytest.mark.slow


def in_zip(data: bytes) -> object:
    source = MemorySource(with_pickle(data))
    return read_content(source, read_layout(source, "torch-zip"))


def legacy_file(pickled: bytes, keys: object = ()) -> bytes:
    """The pickle as the object of a file of before 1.6."""
    opening = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    return b"".join([*opening, pickled, pickle.dumps(list(keys), 2)])


def in_legacy(data: bytes) -> object:
    source = MemorySource(legacy_file(data))
    return read_content(source, read_layout(source, "torch-legacy"))


def in_legacy_keys(data: bytes) -> object:
    """The pickle in the place of the list of storages."""
    source = MemorySource(legacy_file(b"\x80\x02}.")[: -len(pickle.dumps([], 2))] + data)
    return read_content(source, read_layout(source, "torch-legacy"))


def in_metadata(data: bytes) -> object:
    source = MemorySource(data)
    return read_content(source, read_layout(source, "dcp-metadata"))


def inside_of_metadata(data: bytes) -> object:
    """The pickle's value as the planner's data of metadata that are sound for the rest; they are looked over."""
    if data[:1] == b"\x80":
        data = data[2:]
    words = (b"state_dict_metadata", b"storage_data")
    text = b"".join(b"X" + len(word).to_bytes(4, "little") + word + b"}" for word in words)
    rest = b"X\x0c\0\0\0planner_data" + data.removesuffix(b".")
    return read_dcp_metadata(b"\x80\x04cx\nMetadata\n)\x81}(" + text + rest + b"ub.")


PLACES: dict[str, Callable[[bytes], object]] = {
    "zip": in_zip,
    "legacy": in_legacy,
    "legacy keys": in_legacy_keys,
    "metadata": in_metadata,
    "inside of metadata": inside_of_metadata,
}
places = pytest.mark.parametrize("read", PLACES.values(), ids=PLACES.keys())


class Trap:
    """Would leave a trace if it were ever unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        """The trap."""
        return self.call


def traps(trace: str) -> list[bytes]:
    """Ways to have a file made: the shell, ``open``, ``exec``, a state setter, an old instance, an extended new."""
    text = b"X" + len(trace).to_bytes(4, "little") + trace.encode()
    code = f"open({trace!r}, 'w')"
    return [
        *(pickle.dumps(Trap(os.system, f"touch {trace}"), protocol) for protocol in range(6)),
        *(pickle.dumps(Trap(open, trace, "w"), protocol) for protocol in range(6)),
        pickle.dumps(Trap(exec, code), 4),
        pickle.dumps(Trap(eval, code), 2),
        b"(" + text + b"X\x01\0\0\0wi__builtin__\nopen\n.",
        b"(c__builtin__\nopen\n" + text + b"X\x01\0\0\0wo.",
        b"\x80\x04cbuiltins\nopen\n(" + text + b"X\x01\0\0\0wt}\x92.",
        b"\x80\x02cbuiltins\nopen\n(" + text + b"X\x01\0\0\0wtR}b.",
        # What a persistent id would be called with
        b"\x80\x02(X\x06\0\0\0modulecbuiltins\nopen\nNNtQ(" + text + b"X\x01\0\0\0wtR.",
    ]


def test_the_places_are_reached():
    """A harmless pickle is read in each place: what is refused below is refused for what it is."""
    for read in (in_zip, in_legacy, inside_of_metadata):
        assert read(pickle.dumps({"epoch": 3}, 2)) is not None
    assert in_legacy_keys(pickle.dumps([], 2)) is not None
    assert in_metadata(pickle.dumps(Metadata({}, storage_data={}))) is not None


@places
def test_nothing_is_run(read, tmp_path):
    """No way that a pickle has to call something makes the file that it would make."""
    trace = tmp_path / "trace"
    for trap in traps(str(trace)):
        with contextlib.suppress(ContainerBroken):
            read(trap)
        assert not trace.exists()
    pickle.loads(traps(str(trace))[6]).close()
    assert trace.exists(), "the traps work"


@places
def test_nothing_is_imported(read, tmp_path, monkeypatch):
    """A module that a pickle names is not imported, even where it could be."""
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for data in (b"chostile_module\nThing\n(tR.", b"\x80\x04\x8c\x0fhostile_module\x8c\x05Thing\x93)\x81."):
        with contextlib.suppress(ContainerBroken):
            read(data)
    assert "hostile_module" not in sys.modules


def memo_bomb(levels: int) -> bytes:
    """Each level is a pair of the one before: 2**levels leaves in a few bytes."""
    pairs = (b"r" + n.to_bytes(4, "little") + b"j" + n.to_bytes(4, "little") + b"\x86" for n in range(levels))
    return b"\x80\x02)" + b"".join(pairs) + b"."


BOMBS = {
    "pairs": memo_bomb(5000),
    "lists": b"\x80\x02(]q\x00" + b"".join(b"]q%c(" % n + b"h%c" % (n - 1) * 10 + b"e" for n in range(1, 200)) + b"t.",
    "deep tuples": b"\x80\x02)" + b"\x85" * 20_000 + b".",
    "deep lists": b"\x80\x02" + b"(" * 9000 + b"l" * 9000 + b".",
    "deep dicts": b"\x80\x02" + b"}K\x00" * 10_000 + b"N" + b"s" * 10_000 + b".",
    "deep calls": b"\x80\x02cx\ny\n" + b")R" * 20_000 + b".",
    "deep states": b"\x80\x02" + b"cx\ny\n)R" * 10_000 + b"N" + b"b" * 10_000 + b".",
    "deep ids": b"\x80\x02N" + b"Q" * 20_000 + b".",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "many marks": b"\x80\x02" + b"(" * 20_000 + b".",
    "huge integer": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 100 + b".",
    "many digits": b"I" + b"9" * 60_000 + b"\n.",
    "float of many digits": b"F" + b"9" * 60_000 + b"\n.",
    "huge memo index": b"\x80\x02Nr\xff\xff\xff\xff.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "buffers": b"\x80\x05\x97.",
    "cut string": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "endless line": b"c" + b"a" * 100_000,
}


@places
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_cost_what_they_weigh(read, bomb):
    """Whatever a pickle of some kilobytes unfolds to, it is answered or refused within a few megabytes."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ContainerBroken):
            read(bomb)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 << 20


@places
def test_operations_are_counted_in_every_place(read, monkeypatch):
    """A pickle of more operations than the bound is one that was not checked, wherever it lies."""
    monkeypatch.setattr(pickle_machine, "TURNS_MAX", 1000)
    with pytest.raises(NotChecked):
        read(b"\x80\x02" + b"N0" * 2000 + b"N.")


def test_a_legacy_file_that_lists_more_storages_than_it_has_bytes():
    """A short pickle that names one key a million times is refused before anything is made of it."""
    keys = b"\x80\x02](X\x01\0\0\0kq\x00" + b"h\x00" * (STORAGES_MAX + 1) + b"e."
    with pytest.raises(NotChecked):
        in_legacy_keys(keys)


def test_a_pickle_that_promises_a_large_string_costs_no_more_than_the_file():
    """A length of a gigabyte in a small file is read to the file's end, and refused."""
    source = MemorySource(legacy_file(b"\x80\x02B\x00\x00\x00\x40abc"))
    with pytest.raises(ContainerBroken, match="ends inside of its pickles"):
        read_layout(source, "torch-legacy")
    assert source.random_bytes <= 2 * source.size_bytes
