"""Checkpoint files for the tests, made by the libraries that trainers make them with, and ways to damage them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

from mlsync.proof.prover import Allocate


class MemorySource:
    """A file held in memory, as the parsers and the proof want it; counts what is read."""

    def __init__(self, data: bytes, block_bytes: int = 1 << 20) -> None:
        self.data = data
        self.block_bytes = block_bytes
        self.streamed_bytes = 0
        self.random_bytes = 0

    @property
    def size_bytes(self) -> int:
        """The file's length."""
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes at *offset*; asking outside of the file is a bug of the parser."""
        assert 0 <= offset <= offset + length <= len(self.data)
        self.random_bytes += length
        return self.data[offset : offset + length]

    def stream(self, allocate: Allocate | None = None) -> Iterator[memoryview]:
        """The file in blocks, in memory of their own or in one buffer, as a reader yields them."""
        buffer = memoryview(bytearray(self.block_bytes))
        for at in range(0, len(self.data), self.block_bytes):
            block = self.data[at : at + self.block_bytes]
            given = None if allocate is None else allocate(at, len(block))
            view = buffer[: len(block)] if given is None else given
            view[:] = block
            self.streamed_bytes += len(block)
            yield view


def torch_bytes(value: Any, **options: Any) -> bytes:
    """What ``torch.save`` writes of *value*."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def network() -> torch.nn.Module:
    """A small network with what networks have: convolutions, normalisation with buffers, a nested block."""
    torch.manual_seed(7)
    block = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.SiLU())
    return torch.nn.Sequential(block, torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 50))


@cache
def yolo_bytes() -> bytes:
    """A checkpoint of the shape that Ultralytics writes: a whole pickled module in half precision, AdamW, scalars."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return torch_bytes(
        {
            "epoch": 4,
            "best_fitness": np.float64(0.625),
            "model": None,
            "ema": model.half(),
            "updates": 12,
            "optimizer": optimizer.state_dict(),
            "train_args": {"imgsz": 640, "lr0": 0.01},
            "train_results": {"epoch": [1, 2], "loss": [0.5, 0.25]},
            "version": "8.4.190",
        }
    )


@cache
def weights_bytes() -> bytes:
    """A plain state dict with one tensor of 3 MiB, which spans several blocks and windows."""
    torch.manual_seed(8)
    return torch_bytes({"big": torch.randn(3 << 18), "small": torch.randn(5), "steps": torch.arange(9)})


def records(data: bytes) -> dict[str, tuple[int, int]]:
    """Offset and length of each zip record's bytes, found by Python's own zipfile."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            name_bytes, extra_bytes = struct.unpack_from("<2H", data, info.header_offset + 26)
            found[info.filename] = (info.header_offset + 30 + name_bytes + extra_bytes, info.compress_size)
    return found


def flipped(data: bytes, offset: int, bit: int = 0) -> bytes:
    """The file with one bit turned over."""
    return data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :]


def zeroed(data: bytes, offset: int, length: int) -> bytes:
    """The file with a hole of zeros in it."""
    return data[:offset] + bytes(length) + data[offset + length :]


def rezipped(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of *parts* with right checksums, as somebody would make who wants to be believed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return file.getvalue()


def parts_of(data: bytes) -> dict[str, bytes]:
    """The records of a zip, to be changed and zipped again."""
    return {name: data[at : at + length] for name, (at, length) in records(data).items()}


def with_pickle(pickle: bytes, *storages: bytes) -> bytes:
    """A torch file around *pickle* with the given storages."""
    parts = {"archive/data.pkl": pickle, "archive/byteorder": b"little", "archive/version": b"3\n"}
    return rezipped(parts | {f"archive/data/{place}": storage for place, storage in enumerate(storages)})
