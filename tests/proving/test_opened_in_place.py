"""A checkpoint that comes back from a repository right into the memory that the proof's child looks at."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

from doubles.verdict_status import status
from flow_parts import World, checkpoint
from mlsync.codec.compression import Coding
from mlsync.errors import ObjectDamaged
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proof.windows import WindowSender
from mlsync.repository import names
from mlsync.repository import reader as reading
from mlsync.versions.stored_file import RestoredFile

MIB = 1 << 20


@pytest.fixture(scope="module")
def prover() -> Iterator[Prover]:
    """A prover on the CPU."""
    with Prover(ProofOptions(device="cpu")) as prover:
        yield prover


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    """A run with a checkpoint of weights (byte planes), zeros (zstd) and noise (raw), and a small tensor."""
    world = World(tmp_path)
    torch.manual_seed(0)
    zeros, noise = torch.zeros(2 * MIB, dtype=torch.int8), torch.randint(-128, 127, (5 * MIB,), dtype=torch.int8)
    with warnings.catch_warnings(action="ignore"):
        world.write("last.pt", checkpoint(torch.randn(4 * MIB // 4), zeros, noise, torch.randn(10)))
    world.backup()
    yield world
    world.close()


def test_no_whole_chunk_is_copied(world, prover, monkeypatch):
    """Chunks of tensors are opened where the child sees them; of 11 MiB less than 10 KiB are copied."""
    senders: list[WindowSender] = []
    finish = WindowSender.finish
    monkeypatch.setattr(WindowSender, "finish", lambda self: (senders.append(self), finish(self)))
    entry = world.entry(b"last.pt")
    with world.repository.reader() as reader:
        verdict = prover.prove(RestoredFile(reader, entry, lambda _: None), entry.path)
    assert (status(verdict), verdict.proof.level) == ("proved", 4)
    assert verdict.proof.tensor_bytes > 11 * MIB
    assert senders[0].copied_bytes < 10_000


def test_a_chunk_that_fails_where_the_child_sees_it_is_told_as_ever(world, prover, monkeypatch):
    """A flipped bit in a chunk that is opened right there names pack and chunk; then the file is proved as before.

    Looking again for it makes no progress.
    """
    # What lies before the damage is not all in one read with it.
    monkeypatch.setattr(reading, "WINDOW_BYTES", 15 * MIB // 2)
    told: list[int] = []
    entry = world.entry(b"last.pt")
    ref = next(ref for ref in entry.chunks if ref.plain_bytes >= MIB and ref.coding is Coding.RAW)
    key = names.pack(ref.pack)
    whole = world.store.get(key, limit_bytes=1 << 30)
    at = ref.offset + ref.stored_bytes // 2
    replace(world, key, whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    with world.repository.reader() as reader:
        with pytest.raises(ObjectDamaged, match=f"chunk {ref.ordinal} of a pack is damaged") as caught:
            prover.prove(RestoredFile(reader, entry, told.append), entry.path)
        assert 0.4 * entry.size_bytes < sum(told) < entry.size_bytes
        assert caught.value.where == key
        replace(world, key, whole)
        assert prover.prove(RestoredFile(reader, entry, lambda _: None), entry.path).proof.level == 4


def replace(world: World, key: str, body: bytes) -> None:
    world.store.delete(key)
    world.store.put(key, body)
