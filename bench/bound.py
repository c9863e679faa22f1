"""How near the byte planes come to what the numbers of real checkpoints allow without an earlier version.

    python bench/bound.py CHECKPOINT … [--pieces 64]

For the large tensors of floats in each checkpoint that ``torch.save`` wrote: the share of their bytes that the planes
take, beside three sums of entropies. Each of these takes the low bits of a mantissa as they are, since they look like
noise to every coder. *order 0*: sign, exponent and the mantissa's upper seven bits, each by how often its values come
in the tensor. *joint*: exponent and upper mantissa together. *per row*: exponents by how often they come in their own
row of the matrix, without the price of telling a decoder; no coder that works number by number, or sorts by channel,
gets below the least of the three by much. Planes may: zstd codes each stretch of 128 KiB by itself. Writes
results/bound.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import report
import torch

from mlsync.codec.compression import encode

Numbers: TypeAlias = np.ndarray[Any, np.dtype[Any]]
PIECE_BYTES = 2 << 20
LEAST_NUMBERS = 1 << 16
# In a shorter row each value comes too seldom to say how often it comes.
LEAST_ROW = 256
#: Where the exponent begins, and how many bits it has.
LAYOUTS = {torch.float32: (23, 8), torch.bfloat16: (7, 8), torch.float16: (10, 5)}
UPPER_BITS = 7
KINDS = {"exp_avg": "Adam's first moment", "exp_avg_sq": "Adam's second moment"}


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--pieces", type=int, default=64, help="at most so many pieces of 2 MiB of each kind and file")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for path in arguments.checkpoints:
        rows += rows_of(path, arguments.pieces)
    columns = ["file", "kind", "dtype", "MiB", "planes", "order 0", "joint", "per row"]
    report.show("Share of the plain bytes", columns, [list(row.values()) for row in rows])
    report.write(
        "bound", {"what": "share of the plain bytes of tensors, without an earlier version", "rows": rows}, arguments
    )


def rows_of(path: Path, pieces_max: int) -> Iterator[dict[str, object]]:
    """A row for each kind of tensor in a checkpoint."""
    kinds: dict[tuple[str, str], list[torch.Tensor]] = {}
    for name, tensor in tensors(torch.load(path, map_location="cpu", weights_only=False), ""):
        if tensor.dtype in LAYOUTS and tensor.numel() >= LEAST_NUMBERS:
            kind = KINDS.get(name.rpartition("/")[2], "weights")
            kinds.setdefault((kind, str(tensor.dtype).removeprefix("torch.")), []).append(tensor)
    for (kind, dtype), found in sorted(kinds.items()):
        sums, size_bytes = np.zeros(4), 0
        for tensor in found:
            numbers = unsigned(tensor)
            if size_bytes and size_bytes + numbers.nbytes > pieces_max * PIECE_BYTES:
                break
            sums += numbers.nbytes * np.array([coded_share(numbers), *entropies(numbers, *LAYOUTS[tensor.dtype])])
            size_bytes += numbers.nbytes
        shares = (round(float(share), 4) for share in sums / size_bytes)
        columns = ("planes", "order_0", "joint", "per_row")
        head = {
            "file": f"{path.parent.name}/{path.name}",
            "kind": kind,
            "dtype": dtype,
            "mib": round(size_bytes / 2**20, 1),
        }
        yield {**head, **dict(zip(columns, shares, strict=True))}


def tensors(value: object, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a checkpoint; modules give those of their state."""
    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from tensors(one, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one, name)


def unsigned(tensor: torch.Tensor) -> Numbers:
    """The bits of a tensor's numbers, a row for each of its first dimension."""
    bits = 8 * tensor.element_size()
    flat = tensor.contiguous().view({32: torch.int32, 16: torch.int16}[bits]).numpy()
    return flat.view(f"u{bits // 8}").reshape(flat.shape[0], -1)


def coded_share(numbers: Numbers) -> float:
    plain = memoryview(numbers.tobytes())
    cut = (plain[at : at + PIECE_BYTES] for at in range(0, len(plain), PIECE_BYTES))
    return sum(len(encode(piece, numbers.itemsize)[1]) for piece in cut) / len(plain)


def entropies(numbers: Numbers, low: int, exponent_bits: int) -> tuple[float, float, float]:
    """Shares of the plain bits: order 0, joint, per row; the exponent begins at bit *low*."""
    bits = 8 * numbers.itemsize
    exponents = (numbers >> low) & ((1 << exponent_bits) - 1)
    uppers = (numbers >> (low - UPPER_BITS)) & ((1 << UPPER_BITS) - 1)
    rest_bits = low - UPPER_BITS + entropy(numbers >> (bits - 1), 1)
    upper, exponent = entropy(uppers, UPPER_BITS), entropy(exponents, exponent_bits)
    both = entropy(exponents.astype(np.int64) << UPPER_BITS | uppers, exponent_bits + UPPER_BITS)
    is_matrix = numbers.shape[1] >= LEAST_ROW
    row = float(np.mean([entropy(row, exponent_bits) for row in exponents])) if is_matrix else exponent
    order_0, joint, per_row = (one + rest_bits for one in (exponent + upper, both, row + upper))
    return order_0 / bits, joint / bits, per_row / bits


def entropy(values: Numbers, bits: int) -> float:
    """Bits for each value, by how often each comes."""
    counts = np.bincount(values.ravel().astype(np.int64), minlength=1 << bits)
    shares = counts[counts > 0] / values.size
    return float(-(shares * np.log2(shares)).sum())


if __name__ == "__main__":
    main()
