"""Chunks that are opened right in the child's memory: which ones, that nothing is copied, and who is believed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from test_child import liar  # noqa: F401 - a fixture

from checkpoint_files import MemorySource, flipped, records, torch_bytes
from doubles.verdict_status import status
from mlsync.errors import ProofDisbelieved
from mlsync.formats.layout import Storage
from mlsync.proof import windows
from mlsync.proof.in_place import IN_PLACE_BYTES_MIN, WindowAllocator
from mlsync.proof.options import ProofOptions
from mlsync.proof.programs import gpus
from mlsync.proof.prover import Allocate, Prover
from mlsync.proof.windows import WindowSender

MIB = 1 << 20
CPU = ProofOptions(device="cpu")


class ReaderAhead(MemorySource):
    """Gives a file in pieces that begin at a storage, all of which it fills before it gives the first."""

    def __init__(self, data: bytes, starts: list[int]) -> None:
        super().__init__(data)
        self._starts = [*starts, len(data)]
        self.rooms_count = 0

    def stream(self, allocate: Allocate | None = None) -> Iterator[memoryview]:
        """The pieces, each in its room where it has one."""
        pieces = []
        for start, end in zip(self._starts, self._starts[1:], strict=False):
            view = None if allocate is None else allocate(start, end - start)
            self.rooms_count += view is not None
            pieces.append(memoryview(bytearray(end - start)) if view is None else view)
            pieces[-1][:] = self.data[start:end]
        self.streamed_bytes += len(self.data)
        yield from pieces


def tensors_bytes() -> bytes:
    """Three tensors of 4, 3 and 5.5 MiB, and a small one, as ``torch.save`` writes them."""
    torch.manual_seed(3)
    sizes = (4 * MIB, 3 * MIB, 5 * MIB + MIB // 2, 400)
    return torch_bytes({f"w{number}": torch.randn(size // 4) for number, size in enumerate(sizes)})


def reader_ahead(data: bytes) -> ReaderAhead:
    """The file in pieces of 2 MiB of its tensors, and what lies between them."""
    starts = {0}
    for name, (offset, length) in records(data).items():
        if "/data/" in name and length >= MIB:
            starts |= {*range(offset, offset + length, 2 * MIB), offset + length}
    return ReaderAhead(data, sorted(starts))


@pytest.fixture
def senders(monkeypatch) -> list[WindowSender]:
    """All senders that a test makes."""
    made: list[WindowSender] = []
    begin = WindowSender.__init__

    def kept(self, *arguments):
        made.append(self)
        begin(self, *arguments)

    monkeypatch.setattr(windows.WindowSender, "__init__", kept)
    return made


def test_whole_chunks_are_not_copied(senders):
    """Of 12.5 MiB of tensors in pieces no byte is copied; what is said of the file is what is said of copied ones."""
    data = tensors_bytes()
    ahead = reader_ahead(data)
    with Prover(CPU) as prover:
        verdict = prover.prove(ahead, b"w.pt")
        copied = prover.prove(MemorySource(data, 300 << 10), b"w.pt")
    assert ahead.rooms_count == 7
    assert [sender.copied_bytes for sender in senders] == [400, 12 * MIB + MIB // 2 + 400]
    assert (status(verdict), verdict.proof.level, verdict.proof.facts) == ("proved", 4, copied.proof.facts)


def test_more_is_lent_than_there_is_room_for(senders):
    """Where the reader is further ahead than the child has memory, what finds no room is copied, and all is proved."""
    data = torch_bytes({"w": torch.arange(36 * MIB // 2, dtype=torch.float32)})
    ahead = reader_ahead(data)
    with Prover(CPU) as prover:
        verdicts = [prover.prove(ahead, b"w.pt"), prover.prove(reader_ahead(data), b"w.pt")]
    assert [(status(verdict), verdict.proof.level) for verdict in verdicts] == [("proved", 4)] * 2
    assert [sender.copied_bytes for sender in senders] == [12 * MIB] * 2
    assert verdicts[0].proof.facts["zero_count"] == 1


def test_where_a_gpu_may_be_chunks_are_copied(senders, monkeypatch):
    """With a GPU in sight windows lie as it takes them, and where the child then finds none, all is proved as ever."""
    data = tensors_bytes()
    copied = []
    for why in ("no GPU is here", ""):
        monkeypatch.setattr(gpus, "why_none", lambda why=why: why)
        with Prover(ProofOptions(device="auto")) as prover:
            assert prover.prove(reader_ahead(data), b"w.pt").proof.level == 4
        copied.append(senders[-1].copied_bytes)
    assert copied == [400, 12 * MIB + MIB // 2 + 400]


def test_damage_in_a_room_is_refused_like_any_other(senders):
    """A flipped byte that lay in the child's memory is told with its record, after the file was looked at again."""
    data = tensors_bytes()
    name, (offset, _) = next((name, place) for name, place in records(data).items() if name.endswith("data/1"))
    source = reader_ahead(flipped(data, offset + MIB))
    with Prover(CPU) as prover:
        verdict = prover.prove(source, b"w.pt")
    assert (status(verdict), verdict.proof.level) == ("broken", 0)
    assert [(finding.what, finding.record) for finding in verdict.proof.findings] == [("CRC-32 differs", name)]
    assert source.streamed_bytes == 2 * len(data)


def test_a_child_that_changes_its_windows_accuses_nobody(liar):  # noqa: F811
    """A child that writes to chunks ahead of their checksums has no sound file refused: it is disbelieved."""
    lie = "shared[10 << 20 : 12 << 20] = bytes(2 << 20)\nsay(answer)"
    with Prover(ProofOptions(device="cpu", python=liar(lie))) as prover:
        verdict = prover.prove(reader_ahead(tensors_bytes()), b"w.pt")
    assert (status(verdict), verdict.proof.level) == ("unavailable", 2)
    assert isinstance(verdict.unavailable, ProofDisbelieved)
    assert "other bytes in its windows" in str(verdict.unavailable)


def test_rooms_are_for_whole_numbers_of_one_storage():
    """Too short, between two storages, over an edge, or beginning or ending inside of a number: copied."""
    storages = [Storage("a", 100, 4 * MIB, "float32", 4), Storage("b", 100 + 4 * MIB, 2 * MIB, "float32", 4)]
    end = 100 + 6 * MIB
    asked = [
        (0, MIB, False),
        (100, IN_PLACE_BYTES_MIN - 4, False),
        (100, IN_PLACE_BYTES_MIN, True),
        (102, MIB, False),
        (104, MIB + 2, False),
        (104, MIB, True),
        (100 + 3 * MIB, 2 * MIB, False),
        (100 + 4 * MIB, 2 * MIB, True),
        (end, MIB, False),
    ]
    blocks = [memoryview(bytearray(16 * MIB))]
    allocator = WindowAllocator(blocks, MIB, 4, storages)
    assert [allocator.allocate(offset, length) is not None for offset, length, _ in asked] == [
        is_had for _, _, is_had in asked
    ]


def test_no_two_rooms_overlap():
    """Whatever is taken and given back in turn: all lie in the memory, in one block each, and never in each other."""
    chance = random.Random(5)
    storages = [Storage("a", 0, 1 << 40, "uint8", 1)]
    blocks = [memoryview(bytearray(16 * MIB)) for _ in range(3)]
    allocator = WindowAllocator(blocks, MIB, 4, storages)
    held: list[range] = []
    offset = had_count = 0
    for _ in range(3000):
        length = chance.choice([MIB // 2, MIB, 2 * MIB, 3 * MIB + 5, 7 * MIB, 16 * MIB])
        allocation = allocator.allocate(offset, length) if chance.random() < 0.6 else None
        if allocation is not None:
            places = range(allocation.place, allocation.place + -(-length // MIB))
            assert len(allocation.memory) == len(places) * MIB
            assert set(places) <= set(range(4, 48))
            assert places[0] // 16 == places[-1] // 16
            assert not any(set(places) & set(other) for other in held)
            held.append(places)
            offset += length
            had_count += 1
        elif held:
            allocator.free_oldest()
            del held[0]
    assert had_count > 500
