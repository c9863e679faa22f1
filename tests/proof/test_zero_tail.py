"""Zeros at the end of a file that were perhaps never written."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save

from checkpoint_files import MemorySource
from doubles.verdict_status import status
from mlsync.formats.layout import Storage
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.zero_tail import ZeroTail
from mlsync.values import Severity

PAGE = 4096


def saved() -> bytes:
    """Weights of several tensors, none of which is zero; more than a few pages."""
    generator = torch.Generator().manual_seed(3)
    return save({f"layer{n}": torch.randn(3000, generator=generator) + 10 for n in range(6)})


def warnings(data: bytes) -> list[str]:
    """What the proof warns of."""
    with Prover(ProofOptions(device="none")) as prover:
        verdict = prover.prove(MemorySource(data), b"model.safetensors")
    assert status(verdict) == "proved"
    return [finding.what for finding in verdict.proof.findings if finding.severity == Severity.WARN]


@pytest.mark.parametrize("pages", [4, 5, 8, 10])
def test_pages_that_were_never_written_are_told_of(pages):
    """Zeros from a page's edge on, over the rest of a tensor and all behind it, are warned of."""
    data = saved()
    edge = (len(data) // PAGE - pages) * PAGE
    [what] = warnings(data[:edge] + bytes(len(data) - edge))
    assert "perhaps never written" in what


def test_tensors_that_are_zero_are_nothing_to_tell_of():
    """Zeros that begin where a tensor begins, or inside of one at no page's edge, or in the last one alone."""
    data = saved()
    assert warnings(data) == []
    assert warnings(save({"a": torch.ones(3000), "b": torch.zeros(3000), "c": torch.zeros(5000)})) == []
    assert warnings(data[: -20_000 - len(data) % PAGE + 100].ljust(len(data), b"\0")) == []
    edge = (len(data) // PAGE - 1) * PAGE
    assert warnings(data[:edge].ljust(len(data), b"\0")) == []


@pytest.mark.parametrize("step", [1, 1000, PAGE, 10_000, 1 << 20])
def test_where_the_zeros_begin_does_not_depend_on_the_blocks(step):
    """However the file comes, the same place is found."""
    data = b"x" * 9999 + bytes(5) + b"y" + bytes(30_001)
    tail = ZeroTail()
    for at in range(0, len(data), step):
        tail.feed(memoryview(data)[at : at + step])
    assert tail.begins == 10_005
    assert tail.findings([Storage("a", 0, len(data), "uint8", 1)]) == []
