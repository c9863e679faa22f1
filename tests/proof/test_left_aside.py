"""A level says what was looked at: what nobody counted, or what went to no device, is no level 4."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoint_files import MemorySource, network, parts_of, rezipped, torch_bytes
from doubles.verdict_status import status
from gguf_file import gguf_bytes, gguf_tensors
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict

MADE = Path(__file__).parent.parent / "formats" / "made"


@pytest.fixture(scope="module")
def prover() -> Iterator[Prover]:
    """A prover on the CPU, whose child serves all tests of this file."""
    with Prover(ProofOptions(device="cpu")) as prover:
        yield prover


def told(verdict: Verdict) -> tuple[str, int, list[str]]:
    return status(verdict), verdict.proof.level, [finding.what for finding in verdict.proof.findings]


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def frozen(model: torch.nn.Module) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop TorchScript
        traced = torch.jit.trace(model.eval(), torch.zeros(1, 3, 8, 8))
        torch.jit.save(torch.jit.freeze(traced), file)
    return file.getvalue()


def test_the_constants_of_a_frozen_module_are_counted(prover):
    """A frozen module has its weights as constants of its code; they are tensors like any others."""
    model = network()
    verdict = prover.prove(MemorySource(frozen(model)), b"model.pt")
    assert told(verdict) == ("proved", 4, [])
    assert verdict.proof.tensor_count >= 4
    assert verdict.proof.facts["parameter_count"] >= 8 * 6 * 6 * 50


def test_a_nan_in_a_frozen_module_is_found(prover):
    """What is counted, is counted."""
    model = network()
    with torch.no_grad():
        model[2].weight[3, 5] = float("nan")
    assert prover.prove(MemorySource(frozen(model)), b"model.pt").proof.facts["nan_count"] == 1


def test_a_constant_outside_of_its_storage_is_refused(prover):
    """The second pickle is held to its records as the first one is."""
    data = frozen(network())
    broken = data.replace(b"constants/1", b"constants/q")
    assert broken != data
    assert status(prover.prove(MemorySource(broken), b"model.pt")) == "broken"


def test_a_nan_of_float8_e8m0fnu_is_found(prover):
    """The type has one pattern that is NaN, and no infinity."""
    value = torch.arange(50, dtype=torch.uint8)
    value[7] = 0xFF
    verdict = prover.prove(MemorySource(torch_bytes({"scale": value.view(torch.float8_e8m0fnu)})), b"a.pt")
    assert (verdict.proof.level, verdict.proof.facts["nan_count"], verdict.proof.facts["infinite_count"]) == (4, 1, 0)


def test_numbers_of_types_that_numpy_cannot_name_are_no_level_4(prover):
    """bfloat16 and float8 as ml_dtypes 0.6.0 has them lie in an npz as raw bytes: digested, and not counted."""
    verdict = prover.prove(MemorySource((MADE / "ml_dtypes.npz").read_bytes()), b"a.npz")
    what = "numbers of void16, void8 were not counted: no torch reads them"
    assert told(verdict) == ("proved", 3, [what])
    assert verdict.proof.tensor_count == 2


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.ones(9, ">f4"), "big-endian float32"),
        (np.ones(9, ">c8"), "big-endian complex64"),
        (np.ones(9, np.longdouble), "float128"),
        (np.ones(9, np.clongdouble), "complex256"),
    ],
)
def test_numbers_of_other_widths_and_orders_are_no_level_4(prover, array, name):
    """Their bytes are digested and their numbers are not counted."""
    what = f"numbers of {name} were not counted: no torch reads them"
    assert told(prover.prove(MemorySource(npz(a=array, b=np.ones(3))), b"a.npz")) == ("proved", 3, [what])


@pytest.mark.parametrize("array", [np.arange(9).astype(">i4"), np.array(["a", "bc"]), np.ones(3, "datetime64[s]")])
def test_where_there_is_nothing_to_count_level_4_is_reached(prover, array):
    """Whole numbers, texts and times are neither NaN nor infinite."""
    assert told(prover.prove(MemorySource(npz(a=array, b=np.ones(3))), b"a.npz")) == ("proved", 4, [])


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), np.ones(3, dtype=[("x", "f4")])])
def test_arrays_of_objects_and_records_are_left_aside_and_counted(prover, array):
    """What lies in them was not looked at, and the level says so."""
    what = "1 arrays were skipped: their numbers were not counted"
    assert told(prover.prove(MemorySource(npz(a=array, b=np.ones(3))), b"a.npz")) == ("proved", 2, [what])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_floats_of_numpy_inside_of_a_torch_pickle_are_left_aside_and_counted(prover, protocol):
    """They are a part of the pickle, and go to no device."""
    value = {"w": torch.ones(3), "mean": np.ones(4), "std": np.ones((2, 2), "f4"), "best": np.float64(1)}
    what = "2 arrays were skipped: their numbers were not counted"
    verdict = prover.prove(MemorySource(torch_bytes(value, pickle_protocol=protocol)), b"a.pt")
    assert told(verdict) == ("proved", 2, [what])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_whole_numbers_of_numpy_inside_of_a_torch_pickle_take_nothing_from_the_level(prover, protocol):
    """The state of numpy's generator, which trainers save, has no number that could be NaN."""
    value = {"w": torch.ones(3), "numpy": np.random.RandomState(3).get_state(), "none": np.ones(0)}
    verdict = prover.prove(MemorySource(torch_bytes(value, pickle_protocol=protocol)), b"rng_state.pth")
    assert told(verdict) == ("proved", 4, [])


def test_an_array_of_numpy_that_lacks_bytes_is_refused(prover):
    """An array has the bytes that its shape and type need, or numpy does not take it."""
    value = {"w": torch.ones(3), "seen": np.arange(5, dtype=np.int64)}
    data = torch_bytes(value, _use_new_zipfile_serialization=False, pickle_protocol=4)
    broken = data.replace(b"K\x01K\x05\x85", b"K\x01K\x06\x85")
    assert broken != data
    assert told(prover.prove(MemorySource(broken), b"a.pt"))[::2] == (
        "broken",
        ["array in the pickle needs 48 bytes, there are 40"],
    )


def test_big_endian_floats_of_torch_are_no_level_4(prover):
    """A file that a big-endian machine wrote is digested as bytes."""
    data = rezipped(parts_of(torch_bytes({"a": torch.ones(3), "n": torch.arange(3)})) | {"archive/byteorder": b"big"})
    what = "numbers of big-endian float32 were not counted: no torch reads them"
    assert told(prover.prove(MemorySource(data), b"a.pt")) == ("proved", 3, [what])


def test_blocks_of_numbers_are_no_level_4(prover):
    """The blocks of a quantised model are digested as bytes; their scales are not counted."""
    data = gguf_bytes({"general.architecture": "llama"}, gguf_tensors())
    what = "numbers of q4_k were not counted: no torch reads them"
    assert told(prover.prove(MemorySource(data), b"m.gguf")) == ("proved", 3, [what])


def test_a_save_that_failed_is_broken(prover, tmp_path):
    """``torch.save`` of what cannot be pickled raises, and leaves a zip that is well-formed and has no object in it."""
    with pytest.raises(Exception, match="pickle"):
        torch.save({"w": torch.ones(3), "f": lambda: 3}, tmp_path / "last.pt")
    verdict = prover.prove(MemorySource((tmp_path / "last.pt").read_bytes()), b"last.pt")
    assert (status(verdict), verdict.proof.container, verdict.proof.level) == ("broken", "torch-zip", 0)
    assert verdict.proof.findings[0].what.startswith("no data.pkl")
