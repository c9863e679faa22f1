"""GGUF files for the tests, written by hand after ggml's ``docs/gguf.md``: no library that makes them is small."""

from __future__ import annotations

import struct
from typing import NamedTuple

import torch

UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
_PLAIN = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30, torch.float64: 28, torch.int8: 24, torch.int32: 26}
Q4_K = 12
Q4_K_BLOCK = (256, 144)


class GgufTensor(NamedTuple):
    """A tensor of a file; *dims* in the order of ggml, the fastest first."""

    name: str
    dims: tuple[int, ...]
    kind: int
    data: bytes


def plain(name: str, value: torch.Tensor) -> GgufTensor:
    """A tensor of whole elements."""
    return GgufTensor(
        name, tuple(value.shape)[::-1], _PLAIN[value.dtype], value.flatten().view(torch.uint8).numpy().tobytes()
    )


def quantised(name: str, rows: int, blocks: int) -> GgufTensor:
    """Rows of Q4_K blocks, whose bits nobody looks at."""
    elements, block_bytes = Q4_K_BLOCK
    data = bytes(n * 7 % 251 for n in range(rows * blocks * block_bytes))
    return GgufTensor(name, (blocks * elements, rows), Q4_K, data)


def gguf_tensors() -> list[GgufTensor]:
    """A quantised model in small: blocks, a norm, an odd length and an empty tensor."""
    torch.manual_seed(11)
    return [
        quantised("blk.0.attn_q.weight", 3, 2),
        plain("blk.0.attn_norm.weight", torch.randn(33)),
        plain("empty", torch.zeros(0)),
        plain("output.weight", torch.randn(5, 7).half()),
        plain("rope", torch.randn(3).bfloat16()),
    ]


def text(value: str, order: str = "<") -> bytes:
    """A string as the format has it."""
    return struct.pack(order + "Q", len(value.encode())) + value.encode()


def typed(value: object, order: str = "<") -> bytes:
    """A value behind its type."""
    match value:
        case bool():
            return struct.pack(order + "IB", BOOL, value)
        case int():
            return struct.pack(order + "II", UINT32, value)
        case float():
            return struct.pack(order + "If", FLOAT32, value)
        case str():
            return struct.pack(order + "I", STRING) + text(value, order)
        case list():
            parts = [typed(part, order) for part in value]
            kind = parts[0][:4] if parts else struct.pack(order + "I", UINT32)
            head = struct.pack(order + "I", ARRAY) + kind + struct.pack(order + "Q", len(parts))
            return head + b"".join(part[4:] for part in parts)
    raise TypeError(value)


def padded(data: bytes, alignment: int) -> bytes:
    """The bytes up to the next multiple of *alignment*."""
    return data + bytes(-len(data) % alignment)


def gguf_bytes(
    keys: dict[str, object], tensors: list[GgufTensor], *, version: int = 3, order: str = "<", pad_last: bool = True
) -> bytes:
    """A whole file."""
    head = b"GGUF" + struct.pack(order + "IQQ", version, len(tensors), len(keys))
    for key, value in keys.items():
        head += text(key, order) + typed(value, order)
    alignment = keys.get("general.alignment", 32)
    assert isinstance(alignment, int)
    data = b""
    for tensor in tensors:
        head += text(tensor.name, order) + struct.pack(f"{order}I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
        head += struct.pack(order + "IQ", tensor.kind, len(padded(data, alignment)))
        data = padded(data, alignment) + tensor.data
    return padded(head, alignment) + (padded(data, alignment) if pad_last else data)
