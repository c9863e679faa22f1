"""Where the numbers of a tensor lie in its storage, whether two tensors lie there alike, and what a listing costs."""

from __future__ import annotations

from math import prod

from mlsync.formats.layout import ContainerBroken, Tensor

#: What the tensors of one file may take when they are listed: some two hundred thousand of them.
TENSORS_BYTES_MAX = 48 << 20
_COUNT_MAX = 1 << 63
# A tensor's tuple and its place in a list, a text's head, a number in a tuple.
_TENSOR_BYTES, _TEXT_BYTES, _NUMBER_BYTES = 112, 60, 40


def held_bytes(tensor: Tensor) -> int:
    """What a tensor in a list takes of memory, at most; its storage's name is the record's."""
    wide = 1 if tensor.name.isascii() else 4
    return _TENSOR_BYTES + _TEXT_BYTES + wide * len(tensor.name) + _NUMBER_BYTES * 2 * len(tensor.shape)


def dense_stride(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """How far apart the elements of an array lie that is written row by row; the last dimension is the fastest.

    As torch has it, a dimension of nothing counts as one. Raises ``ContainerBroken`` where no such array could be.
    """
    stride: list[int] = []
    reached = 1
    for size in reversed(shape):
        stride.append(reached)
        reached *= max(size, 1)
        if reached >= _COUNT_MAX:
            msg = "shape that cannot be"
            raise ContainerBroken(msg, record=name)
    return tuple(reversed(stride))


def element_count(tensor: Tensor) -> int:
    """How many elements the shape has; an expanded tensor has more of them than its storage."""
    return prod(tensor.shape)


def span_count(tensor: Tensor) -> int:
    """How many elements of its storage lie between the tensor's first and its last, both included."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))


def is_dense(tensor: Tensor) -> bool:
    """Whether the tensor is every element of its span once, in whatever order of its dimensions."""
    if 0 in tensor.shape:
        return True
    reached = 1
    for step, size in sorted(_steps(tensor)):
        if step != reached:
            return False
        reached *= size
    return True


def lie_alike(one: Tensor, other: Tensor) -> bool:
    """Whether each element of *one* stands as far from the first as the same element of *other* does."""
    return one.shape == other.shape and _steps(one) == _steps(other)


def _steps(tensor: Tensor) -> list[tuple[int, int]]:
    """Stride and size of each dimension along which there is a step to make at all."""
    return [(step, size) for size, step in zip(tensor.shape, tensor.stride, strict=True) if size != 1]
