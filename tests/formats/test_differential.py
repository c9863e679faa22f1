"""Damaged files, judged by mlsync and loaded by the libraries that they are made for: what is proved, loads.

A part of all damage, in the suite's time; ``differential.py`` tries all of it and prints the table of the docs.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator

import pytest
import torch
from differential import SAMPLES, Loader, changes, compare, is_sound
from differential import value as torch_value

from checkpoint_files import MemorySource, flipped, parts_of, rezipped, torch_bytes
from doubles.verdict_status import status
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover

pytestmark = pytest.mark.slow

# Of flips and lengths so many are tried; a flip of each bit is met in one field or another
STEPS = {
    "torch zip": 13,
    "torch zip of 2.1": 17,
    "torch before 1.6": 5,
    "safetensors": 3,
    "npz": 7,
    "compressed npz": 11,
    "GGUF": 5,
    "pickle": 19,
}


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    """The program that loads with the real libraries."""
    with Loader() as loader:
        yield loader


@pytest.fixture(scope="module")
def inspector() -> Iterator[Prover]:
    """A prover of levels 0 to 2."""
    with Prover(ProofOptions(device="none")) as prover:
        yield prover


def needs_library(name: str) -> None:
    if name == "GGUF":
        pytest.importorskip("gguf", reason="the gguf package is not there")


@pytest.mark.parametrize("name", STEPS)
def test_what_is_proved_loads_as_it_was_saved(loader, inspector, name):
    """Of flipped bits, cut files and swapped records none is proved and refused, deadly or another checkpoint.

    But where the format has no checksum, and the docs say so.
    """
    needs_library(name)
    sample = SAMPLES[name]()
    outcomes = list(compare(sample, changes(sample, STEPS[name]), loader, inspector))
    assert [outcome[:3] for outcome in outcomes if outcome.case == "wrong"] == []
    assert sum(outcome.case == "caught" for outcome in outcomes) > len(outcomes) // 5


@pytest.mark.parametrize("name", SAMPLES)
def test_what_a_library_wrote_is_proved(inspector, name):
    """Nothing is held against an undamaged file, nor noted of it, also where a library has to be had to load it."""
    sample = SAMPLES[name]()
    verdict = inspector.prove(MemorySource(sample.data), sample.path, sample.metadata)
    assert (sample.judged(inspector, sample.data), verdict.proof.findings) == ("proved", [])
    assert verdict.proof.level == (1 if name.startswith("OCDBT") else 2)


def test_a_library_that_dies_is_not_the_end(loader):
    """The loader that a file killed is there again for the next one."""
    good = SAMPLES["npz"]().data
    before = loader.answer("npz", good)
    loader.answer("npz", b"")
    assert loader._process is not None
    loader._process.kill()
    assert loader.answer("npz", good).startswith("crashed")
    assert is_sound(before)
    assert loader.answer("npz", good) == before


# ---------------------------------------------------------------- single faults, each by its name


def central(data: bytes, record: str) -> int:
    """Where the directory's entry of a record begins."""
    return data.rindex(b"PK\x01\x02", 0, data.rindex(record.encode()))


def with_directory_bit() -> bytes:
    data = torch_bytes(torch_value())
    return flipped(data, central(data, "archive/data/1") + 38, 4)


def with_flag(bit: int) -> bytes:
    data = torch_bytes(torch_value())
    at = central(data, "archive/data/1") + 8
    return flipped(data, at + bit // 8, bit % 8)


def on_another_disk() -> bytes:
    data = torch_bytes(torch_value())
    return flipped(data, central(data, "archive/data/1") + 34, 3)


def of_two_disks() -> bytes:
    data = torch_bytes(torch_value())
    return flipped(data, data.rindex(b"PK\x06\x07") + 16, 0)


def with_an_archive_in_its_comment() -> bytes:
    """Two ends: the comment holds the end of another archive, whose length does not fit; some readers take that one."""
    inner = rezipped(parts_of(torch_bytes({"a": torch.zeros(2), "epoch": 3})))
    outer = rezipped(parts_of(torch_bytes({"a": torch.ones(2), "epoch": 10})))
    size = len(outer) - 22
    moved = bytearray(inner)
    at = inner.rindex(b"PK\x05\x06")
    directory = struct.unpack_from("<L", inner, at + 16)[0]
    entry = directory
    while inner[entry : entry + 4] == b"PK\x01\x02":
        struct.pack_into("<L", moved, entry + 42, struct.unpack_from("<L", inner, entry + 42)[0] + size + 22)
        entry += 46 + sum(struct.unpack_from("<3H", inner, entry + 28))
    struct.pack_into("<L", moved, at + 16, directory + size + 22)
    comment = bytes(moved) + b"!!"
    return outer[:-2] + struct.pack("<H", len(comment)) + comment


def outside_of_the_prefix() -> bytes:
    return rezipped({"other/readme": b"x", **parts_of(torch_bytes(torch_value()))})


def without_a_version() -> bytes:
    return rezipped(
        {name: part for name, part in parts_of(torch_bytes(torch_value())).items() if "version" not in name}
    )


def with_a_byteorder_of_its_own() -> bytes:
    return rezipped(parts_of(torch_bytes(torch_value())) | {"archive/byteorder": b"middle"})


def with_a_popped_storage() -> bytes:
    """The pickle mentions a storage that is not there, and throws the mention away: torch reads it all the same."""
    parts = parts_of(torch_bytes(torch_value()))
    pickle = parts["archive/data.pkl"]
    mention = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x009X\x03\x00\x00\x00cpuK\x01tQ1"
    return rezipped(parts | {"archive/data.pkl": pickle[:2] + mention + pickle[2:]})


FAULTS = {
    "a record marked as a directory": with_directory_bit,
    **{f"flag {bit}": lambda bit=bit: with_flag(bit) for bit in (0, 5, 6, 13)},
    "another disk": on_another_disk,
    "two disks": of_two_disks,
    "an archive in the comment": with_an_archive_in_its_comment,
    "records outside of the prefix": outside_of_the_prefix,
    "no version": without_a_version,
    "another byteorder": with_a_byteorder_of_its_own,
    "a popped storage": with_a_popped_storage,
}


@pytest.mark.parametrize("make", FAULTS.values(), ids=FAULTS.keys())
def test_what_torch_refuses_or_reads_otherwise_is_broken(loader, inspector, make):
    """A zip that Python's own zipfile may well read, and torch does not, or reads as something else."""
    data = make()
    sound = loader.answer("torch", torch_bytes(torch_value()))
    assert loader.answer("torch", data) != sound
    assert status(inspector.prove(MemorySource(data), b"last.pt")) == "broken"


def safetensors(header: bytes, data: bytes = bytes(4)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entry(name: bytes = b"a", dtype: bytes = b"F32", shape: bytes = b"[1]", offsets: bytes = b"[0,4]") -> bytes:
    return b'{"%s":{"dtype":"%s","shape":%s,"data_offsets":%s}}' % (name, dtype, shape, offsets)


REFUSED = {
    "half a character": safetensors(entry(b"\\ud800")),
    "the other half": safetensors(entry(b"\\udc00x")),
    "two first halves": safetensors(entry(b"\\ud800\\ud800")),
    "half a character in the metadata": safetensors(b'{"__metadata__":{"k":"\\ud800"},' + entry()[1:]),
    "a zero with a sign as an offset": safetensors(entry(offsets=b"[-0,4]")),
    "a zero with a sign in a shape": safetensors(entry(shape=b"[-0]", offsets=b"[0,0]"), b""),
    "a product that overflows before its zero": safetensors(
        entry(shape=b"[1099511627776,1099511627776,0]", offsets=b"[0,0]"), b""
    ),
    "a number without end": safetensors(b'{"a":{"x":1e400,' + entry()[6:]),
    "a header longer than the file": struct.pack("<Q", 40 << 20) + entry() + bytes(4),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_safetensors_refuses_is_broken(loader, inspector, data):
    """The header says what the library does not take."""
    assert loader.answer("safetensors", data).startswith("refused")
    assert status(inspector.prove(MemorySource(data), b"a.safetensors")) == "broken"


def test_what_safetensors_takes_is_proved(loader, inspector):
    """A character in two halves, and a zero that comes in time, are sound."""
    for data in (safetensors(entry(b"\\ud83d\\ude00")), safetensors(entry(shape=b"[0,7]", offsets=b"[0,0]"), b"")):
        assert is_sound(loader.answer("safetensors", data))
        assert status(inspector.prove(MemorySource(data), b"a.safetensors")) == "proved"


def test_a_type_that_safetensors_does_not_have_is_not_proved(loader, inspector):
    """It may come; until then nobody can say that the file loads."""
    data = safetensors(entry(dtype=b"G32"))
    assert loader.answer("safetensors", data).startswith("refused")
    verdict = inspector.prove(MemorySource(data), b"a.safetensors")
    assert (status(verdict), verdict.proof.level) == ("unknown", 1)


def test_a_zip_that_somebody_made_anew_is_proved(loader, inspector):
    """Records with the attributes and dates that other zippers write, and a comment, are nothing that torch minds."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts_of(torch_bytes(torch_value())).items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6)), part)
        archive.comment = b"made anew"
    assert loader.answer("torch", file.getvalue()) == loader.answer("torch", torch_bytes(torch_value()))
    assert status(inspector.prove(MemorySource(file.getvalue()), b"last.pt")) == "proved"
