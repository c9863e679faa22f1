"""Models in zips that other programs than ``torch.save`` write; ``made/make_zips.py`` says what wrote the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint_files import MemorySource, flipped, parts_of, records, rezipped
from doubles.verdict_status import status
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import MeaningBroken
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.formats.sniff import identify
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict

MADE = Path(__file__).parents[1] / "made"
FILES = {path.name: path.read_bytes() for path in MADE.iterdir() if path.suffix in (".pt2", ".zip", ".keras")}
WEIGHTS = "archive/data/weights/"
TABLE = f"{WEIGHTS}model_weights_config.json"


def proved(data: bytes, name: bytes = b"x", level: int = 4) -> Verdict:
    with Prover(ProofOptions(device="cpu", level=level)) as prover:
        return prover.prove(MemorySource(data), name)


def content_of(data: bytes) -> Content:
    source = MemorySource(data)
    content = read_content(source, read_layout(source, "pt2"))
    assert content is not None
    return content


def program(**changes: tuple[bytes, bytes]) -> bytes:
    """The program with a record changed behind a right checksum: what to replace by what, in the table of weights."""
    parts = parts_of(FILES["shared.pt2"])
    [table] = [name for name in parts if name.endswith("weights_config.json")]
    for old, new in changes.values():
        assert old in parts[table]
        parts[table] = parts[table].replace(old, new, 1)
    return rezipped(parts)


@pytest.mark.parametrize(
    ("name", "container"),
    [("model.pt2", "pt2"), ("shared.pt2", "pt2"), ("package.zip", "zip"), ("model.keras", "zip"), ("a2c.zip", "zip")],
)
def test_a_model_is_known_by_its_records(name, container):
    """Whatever it is called: exported program, torch.package with a ``data.pkl``, Keras, Stable-Baselines3."""
    assert identify(MemorySource(FILES[name]), b"no-suffix") == container


def test_a_zip_of_something_else_is_no_model():
    """Pictures and code are stored like any other file."""
    assert identify(MemorySource(rezipped({"a.png": b"x", "src/train.py": b"y"})), b"data.zip") is None


@pytest.mark.parametrize("name", FILES)
def test_each_record_is_held_against_its_checksum(name):
    """One bit anywhere in any record is damage, by level 1 alone."""
    data = FILES[name]
    assert status(proved(data, level=1), wanted=1) == "proved"
    for record, (offset, length) in records(data).items():
        if length:
            verdict = proved(flipped(data, offset + length // 2), level=1)
            assert (status(verdict), verdict.proof.findings[0].record) == ("broken", record)


@pytest.mark.parametrize("name", ["model.pt2", "shared.pt2"])
def test_an_exported_program_is_proved_to_the_numbers(name):
    """Its weights are on the device and counted."""
    verdict = proved(FILES[name])
    assert (status(verdict), verdict.proof.level) == ("proved", 4)


def test_tied_weights_and_views_lie_on_one_record():
    """Six names on four records: tied weights, and a buffer that is every third number of another."""
    content = content_of(FILES["shared.pt2"])
    tensors = {tensor.name: tensor for tensor in content.tensors}
    assert len(content.storages) == 4
    assert tensors["first.weight"].storage == tensors["second.weight"].storage
    part = tensors["part"]
    assert (part.storage, part.shape, part.stride, part.first) == (tensors["base"].storage, (3,), (3,), 4)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"as_int": 6', b'"as_int": 7', "needs"),
        (b'"as_int": 6', b'"as_int": -6', "impossible"),
        (b'"as_int": 6', b'"as_int": 1' + b"0" * 40, "needs|parse"),
        (b'"dtype": 7', b'"dtype": 8', "needs"),
        (b'"strides": [{"as_int": 6}, ', b'"strides": [', "impossible"),
        (b'"weight_0"', b'"weight_9"', "no record"),
        (b'{"config"', b'{"gonfig"', "parse"),
        (b'{"config": {', b'{"config": ' + b"[" * 5000, "parse"),
        (b'"dtype": 7', b'"dtype": "7"', "parse"),
    ],
)
def test_a_table_that_does_not_fit_its_records_is_refused(old, new, reason):
    """Behind a right checksum: a shape, a type, a stride, a name that cannot be."""
    with pytest.raises(MeaningBroken, match=reason):
        content_of(program(change=(old, new)))


@pytest.mark.parametrize("old", [b'"use_pickle": false', b'"dtype": 7', b'"layout": 7', b'{"as_int": 6}'])
def test_what_is_not_looked_at_is_counted_and_keeps_the_level_down(old):
    """A pickled weight, an unknown type or layout, a size that is an expression: level 2."""
    new = {b'"use_pickle": false': b'"use_pickle": true', b'"dtype": 7': b'"dtype": 99', b'"layout": 7': b'"layout": 1'}
    data = program(change=(old, new.get(old, b'{"as_expr": "s0"}')))
    assert content_of(data).facts["unchecked_weight_count"] == 1
    verdict = proved(data)
    assert (status(verdict), verdict.proof.level) == ("proved", 2)


def test_a_program_without_tables_is_proved_to_its_checksums():
    """Before torch 2.9 there were none: nothing is said of weights that were not looked for."""
    parts = {name: part for name, part in parts_of(FILES["model.pt2"]).items() if not name.endswith("_config.json")}
    data = rezipped(parts)
    verdict = proved(data)
    assert (identify(MemorySource(data), b"x"), verdict.proof.level) == ("pt2", 1)


def test_a_program_cut_short_is_known_for_one():
    """Its first record tells what it was to be, whatever the file is called, and it is broken."""
    data = FILES["model.pt2"][:-200]
    source = MemorySource(data)
    assert identify(source, b"no-suffix") == "pt2"
    with pytest.raises(ContainerBroken, match="no end record"):
        read_layout(source, "pt2")


def test_what_is_left_of_a_model_is_known_by_its_first_record_or_its_name():
    """A package whose directory is gone, and the first byte of a file that is named for a zip."""
    package = (MADE / "package.zip").read_bytes()
    assert identify(MemorySource(package[:-200]), b"package.zip") == "zip"
    assert identify(MemorySource(b"P"), b"model.pt2") == "zip"
    assert identify(MemorySource(b"P"), b"data.zip") is None


def test_a_file_that_is_named_for_a_zip_and_ends_as_one_is_held_to_it():
    """Whatever it begins with: Keras reads its directory, and finds no record there."""
    data = FILES["model.keras"]
    weights = data.index(b"\x89HDF")
    moved = data[weights:-200] + data[:weights] + data[-200:]
    assert identify(MemorySource(moved), b"model.keras") == "zip"
    assert identify(MemorySource(moved), b"model.h5") == "hdf5"
