"""What a tensor costs: calls are counted, of Python's functions and of built-in ones, so that no clock is asked."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from checkpoint_files import MemorySource, torch_bytes
from mlsync.formats import content_cache as answers
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.content_cache import ContentCache
from mlsync.formats.layout import Content
from mlsync.formats.libraries import safetensors
from mlsync.formats.sniff import identify
from mlsync.formats.torch import content as torch_content
from mlsync.formats.zips import directory, npz

FEW, MANY = 1000, 2000
Arrays: TypeAlias = dict[str, np.ndarray]


def npz_bytes(arrays: Arrays) -> bytes:
    target = io.BytesIO()
    np.savez(target, **arrays)
    return target.getvalue()


FORMATS: dict[str, Callable[[Arrays], bytes]] = {
    "last.pt": lambda arrays: torch_bytes({name: torch.from_numpy(array) for name, array in arrays.items()}),
    "model.safetensors": save,
    "model.npz": npz_bytes,
}


def file_of(name: str, count: int, odd: Arrays | None = None) -> bytes:
    """A file of that many small tensors, the last of which are *odd*."""
    odd = odd or {}
    usual = {f"layers.{n // 100}.block.{n % 100}.weight": np.full(4, n, np.float32) for n in range(count - len(odd))}
    return FORMATS[name](usual | odd)


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    """Begin with nothing kept, and keep contents of that many tensors as large ones."""
    monkeypatch.setattr(answers, "WEIGHT_MAX", 500)
    for module, name in ((torch_content, "_CACHE"), (safetensors, "CONTENT_CACHE"), (npz, "CONTENT_CACHE")):
        monkeypatch.setattr(module, name, ContentCache())
    monkeypatch.setattr(directory, "_LAST", directory._LastDirectory())


def understood(data: bytes, name: str) -> Content | None:
    source = MemorySource(data)
    container = identify(source, name.encode())
    assert container is not None
    return read_content(source, read_layout(source, container))


def calls_of(data: bytes, name: str) -> int:
    """How many functions are called while a file is understood, and called back."""
    count = 0

    def note(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        understood(data, name)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    ("name", "first", "again"), [("last.pt", 190, 35), ("model.safetensors", 55, 38), ("model.npz", 95, 55)]
)
def test_a_tensor_costs_few_calls_and_fewer_when_it_comes_back(name, first, again):
    """A tensor of a file that is new costs so many, and so many where the same bytes come back from the repository."""
    counted = [[calls_of(data, name) for _ in range(2)] for data in (file_of(name, FEW), file_of(name, MANY))]
    costs = [(more - less) / (MANY - FEW) for less, more in zip(*counted, strict=True)]
    assert costs[0] <= first
    assert costs[1] <= again


@pytest.mark.parametrize("name", FORMATS)
def test_what_came_back_is_looked_at_and_not_believed(name):
    """A file that differs from the last one in the name or shape of one tensor gets a content of its own."""
    data = file_of(name, MANY)
    first = understood(data, name)
    assert understood(data, name) == first
    for odd in (
        {"layers.19.block.99.Weight": np.ones(4, np.float32)},
        {"layers.19.block.99.weight": np.ones((2, 2), "f")},
    ):
        other = understood(file_of(name, MANY, odd), name)
        assert {key: list(one.shape) for key, one in odd.items()}.items() <= {
            tensor.name: list(tensor.shape) for tensor in other.tensors
        }.items()
        assert len(other.tensors) == MANY
