"""What is known of a file before it is read decides where it is cut and how its numbers are stored."""

from __future__ import annotations

import io
import os
import shutil
import time
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from flow_parts import World, bytes_of, checkpoint
from mlsync.backup.checkpoints import structure
from mlsync.codec.compression import Coding
from mlsync.formats import containers
from mlsync.proof import inspection
from mlsync.repository.encoding.tokens import TroubleKind

MIB = 1 << 20
SHARD = b"step/__0_0.distcp"


def weights(seed: int, size_bytes: int = 3 * MIB, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers like those of a layer."""
    values = torch.randn(size_bytes // dtype.itemsize, generator=torch.Generator().manual_seed(seed)) * 0.02
    return values.to(dtype)


def save_distributed(world: World, state: dict[str, object]) -> None:
    """Write a distributed checkpoint of one rank in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about torch
        writer = FileSystemWriter(os.fsdecode(world.path("step")), sync_files=False)
        distributed_checkpoint.save(state, storage_writer=writer, no_dist=True)


def new_bytes(world: World, name: bytes) -> int:
    """The bytes of a file's chunks that its version before did not have."""
    before = {ref.name for ref in world.entry(name, world.numbers()[-2]).chunks}
    return bytes_of(ref for ref in world.entry(name).chunks if ref.name not in before)


def files_of(tensor: torch.Tensor) -> dict[str, bytes]:
    """The tensor in each container whose types are known."""
    npz = io.BytesIO()
    if tensor.dtype is not torch.bfloat16:
        np.savez(npz, layer=tensor.numpy())
    files = {"a.pt": checkpoint(tensor), "a.safetensors": safetensors.torch.save({"layer": tensor})}
    return files | ({"a.npz": npz.getvalue()} if npz.getvalue() else {})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_are_stored_in_planes_whatever_they_stand_in(world, dtype):
    """By the types that a checkpoint names, its numbers are taken apart, and come back bit for bit."""
    for name, content in files_of(weights(1, 5 * MIB, dtype)).items():
        world.write(name, content)
        world.backup()
        refs = world.entry(name.encode()).chunks
        in_planes = bytes_of(ref for ref in refs if ref.coding is Coding.PLANES)
        assert in_planes >= 5 * MIB, name
    assert world.restored() == world.tree()


def test_a_shard_is_cut_where_its_tensors_are(world):
    """Tensors of a distributed checkpoint that did not change are not stored again when something before them grew."""
    state: dict[str, object] = {f"layer{number}": weights(number) for number in range(4)}
    for notes in ("", "x" * 1237):
        save_distributed(world, {"aaa_notes": [notes], **state})
        world.backup()
    assert new_bytes(world, SHARD) < 200_000
    assert any(ref.coding is Coding.PLANES for ref in world.entry(SHARD).chunks)
    assert world.restored() == world.tree()


def later(hours=2):
    """A clock by which nothing is being written any longer."""
    return {"now_ns": lambda: time.time_ns() + hours * 3600 * 10**9}


def test_metadata_of_another_save_does_no_harm(world):
    """A shard beside metadata that does not fit it is stored when nothing else has come for long, as what it is."""
    save_distributed(world, {"layer": weights(1)})
    shutil.copy(world.path("step/.metadata"), world.base / "old")
    save_distributed(world, {"a": weights(2, MIB), "b": weights(3, MIB), "notes": ["x" * 700]})
    shutil.copy(world.base / "old", world.path("step/.metadata"))
    assert world.backup().version == 0
    assert world.backup(**later()).version == 1
    assert not any(ref.coding is Coding.PLANES for ref in world.entry(SHARD).chunks)
    assert world.restored()[SHARD] == world.tree()[SHARD]


@pytest.mark.parametrize("content", [None, b"", b"\x80\x02}.", b"no pickle", bytes(1000)])
def test_metadata_that_is_none_does_no_harm(world, content):
    """Without metadata, or with nonsense in its place, a shard is stored when nothing else has come for long."""
    save_distributed(world, {"layer": weights(1)})
    if content is None:
        os.unlink(world.path("step/.metadata"))
    else:
        world.write("step/.metadata", content)
    assert world.backup().version == 0
    assert world.backup(**later()).version == 1
    assert world.restored()[SHARD] == world.tree()[SHARD]


def test_a_link_in_the_place_of_metadata_is_not_followed(world):
    """A link that leads out of the run's directory is no metadata."""
    save_distributed(world, {"layer": weights(1)})
    outside = world.base / "outside"
    os.rename(world.path("step/.metadata"), outside)
    os.symlink(outside, world.path("step/.metadata"))
    assert world.backup(**later()).version == 1
    assert not any(ref.coding is Coding.PLANES for ref in world.entry(SHARD).chunks)


def test_a_shard_that_is_damaged_keeps_its_last_good_content(world):
    """A tensor of a shard that does not match its own checksum is found while it is read."""
    save_distributed(world, {"layer": weights(1)})
    world.backup()
    good = world.tree()[SHARD]
    with open(world.path(SHARD), "r+b") as file:
        file.seek(MIB)
        file.write(b"damaged")
    world.write("log", b"1")
    assert world.backup().version == 2
    assert world.troubles()[SHARD].kind is TroubleKind.BROKEN
    assert world.restored()[SHARD][2:] == good[2:]


@pytest.mark.parametrize("fault", [MemoryError(), RecursionError(), ZeroDivisionError("of a parser")])
def test_a_file_that_a_parser_fails_at_costs_no_other_file_its_version(world, monkeypatch, fault):
    """Whatever happens within a parser is that file's trouble: it is named and keeps its last content."""
    world.write("a.pt", checkpoint(weights(1)))
    world.write("b.pt", checkpoint(weights(2)))
    world.backup()
    before = world.tree()

    def read_layout(file, container):
        if file.where.endswith("a.pt"):
            raise fault
        return containers.read_layout(file, container)

    monkeypatch.setattr(structure, "read_layout", read_layout)
    for name in ("a.pt", "b.pt"):
        world.write(name, checkpoint(weights(3)))
    result = world.backup()
    assert result.version == 2
    [trouble] = result.troubles
    assert (trouble.path, trouble.kind, trouble.kept) == (b"a.pt", TroubleKind.UNREADABLE, 1)
    restored = world.restored()
    assert restored[b"a.pt"][2:] == before[b"a.pt"][2:]
    assert restored[b"b.pt"][3] == world.tree()[b"b.pt"][3]


@pytest.mark.parametrize("fault", [MemoryError(), RecursionError()])
def test_a_proof_that_memory_runs_out_for_says_so_and_costs_no_version(world, monkeypatch, fault):
    """What cannot be looked into for want of memory is stored as it is, with a word on it in its proof."""

    def read_layout(source, container):
        raise fault

    monkeypatch.setattr(inspection, "read_layout", read_layout)
    world.write("a.pt", checkpoint(weights(1)))
    assert world.backup().version == 1
    [finding] = world.entry(b"a.pt").proof.findings
    assert "memory ran out" in finding.what
