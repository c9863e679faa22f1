"""What is free on which GPU, asked of libraries that a compiler makes here with the functions of NVIDIA's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from proof_python import PROOF_PYTHON

from mlsync.proof.engine import stride_bytes
from mlsync.proof.programs import gpus
from mlsync.proof.programs.device import gpu_number

LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """A directory with both libraries."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    directory = tmp_path_factory.mktemp("libraries")
    source = Path(__file__).with_name("fake_gpus.c")
    for library in LIBRARIES:
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", directory / library, source], check=True
        )
    return directory


def free_mebibytes(directory, fakes):
    """The free memory that ``gpus`` reports of fake GPUs, in a process that finds the libraries in *directory*."""
    code = f"""
import importlib.util, json
spec = importlib.util.spec_from_file_location("gpus", {gpus.__file__!r})
gpus = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpus)
print(json.dumps([[number, free >> 20] for number, free in gpus.free_bytes().items()]))
"""
    environment = {"LD_LIBRARY_PATH": str(directory), "FAKE_GPUS": fakes}
    done = subprocess.run([PROOF_PYTHON, "-I", "-c", code], capture_output=True, check=True, env=environment)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("fakes", "expected"),
    [
        ("7:100 3:2000", {0: 100, 1: 2000}),
        ("200:300 7:100", {0: 300, 1: 100}),
        ("1 2:50", {1: 50}),
        ("", {}),
    ],
    ids=["two", "a slice of one", "one that does not tell", "none"],
)
def test_free_memory_is_told_by_cudas_numbers(libraries, fakes, expected):
    """Each GPU is found in the management library by its unique id, whatever its place there."""
    assert free_mebibytes(libraries, fakes) == expected


@pytest.mark.parametrize("missing", LIBRARIES)
def test_without_one_of_the_libraries_nothing_is_told(libraries, tmp_path, missing):
    """A machine without NVIDIA's driver, or with half of it, is none with GPUs that tell."""
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("this machine has the real ones")
    for library in LIBRARIES:
        if library != missing:
            shutil.copy(libraries / library, tmp_path)
    assert free_mebibytes(tmp_path, "7:100") == {}


def test_the_roomiest_comes_first():
    """GPUs are tried in the order of what is free, equal ones by their number."""
    assert gpus.by_free_memory({0: 5, 1: 9, 2: 5, 3: 0}) == [1, 0, 2, 3]


@pytest.mark.parametrize(
    ("wanted", "count", "number"),
    [
        ("cuda", 4, ""),
        ("auto", 4, ""),
        ("cuda:3", 4, "3"),
        ("cuda:9", 4, "9"),
        ("cuda%3", 4, "3"),
        ("cuda%5", 4, "1"),
        ("auto%2", 4, "2"),
        ("auto%7", 1, "0"),
    ],
)
def test_ranks_go_round_the_gpus(wanted, count, number):
    """A rank has the GPU of its number, counted on where there are fewer; what was asked for by its number stays it."""
    assert gpu_number(wanted, count) == number


def test_that_there_is_no_gpu_is_seen_without_torch(monkeypatch):
    """A driver's device is one that may be used unless the environment leaves none; windows are as long as it takes."""
    found = set()
    monkeypatch.setattr(gpus.glob, "glob", lambda pattern: [pattern] * (pattern in found))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.why_none() == "no GPU is here"
    assert (stride_bytes("auto"), stride_bytes("cpu"), stride_bytes("cuda:1")) == (1 << 20, 1 << 20, 16 << 20)
    for device in ("/dev/nvidia*", "/dev/nvhost*", "/dev/kfd", "/dev/dxg"):
        found.clear()
        found.add(device)
        assert gpus.why_none() == ""
        assert stride_bytes("auto%1") == 16 << 20
    for value, why in (("0,1", ""), ("GPU-1a", ""), ("", "leaves no GPU"), ("-1", "leaves no GPU")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert why in gpus.why_none()
        assert bool(why) == bool(gpus.why_none())
