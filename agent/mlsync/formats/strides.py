"""Strides of tensors: which elements of a storage a tensor covers; and how much memory a list of tensors takes."""

from __future__ import annotations

from math import prod

from mlsync.formats.layout import ContainerBroken, Tensor

#: How much memory the tensors of one file may take in a list: some two hundred thousand of them.
TENSORS_BYTES_MAX = 48 << 20
_COUNT_MAX = 1 << 63
# A tensor's tuple and its place in a list, a text's head, a number in a tuple.
_TENSOR_BYTES, _TEXT_BYTES, _NUMBER_BYTES = 112, 60, 40


def held_bytes(tensor: Tensor) -> int:
    """Return how much memory a tensor takes in a list, at most; its storage's name is shared."""
    wide = 1 if tensor.name.isascii() else 4
    return _TENSOR_BYTES + _TEXT_BYTES + wide * len(tensor.name) + _NUMBER_BYTES * 2 * len(tensor.shape)


def dense_stride(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of an array in C order (the last dimension changes fastest).

    As in torch, a dimension of size 0 counts as 1. Raises ``ContainerBroken`` if the array would be impossibly large.
    """
    stride: list[int] = []
    reached = 1
    for size in reversed(shape):
        stride.append(reached)
        reached *= max(size, 1)
        if reached >= _COUNT_MAX:
            msg = "impossible shape"
            raise ContainerBroken(msg, record=name)
    return tuple(reversed(stride))


def element_count(tensor: Tensor) -> int:
    """Return how many elements the shape has; an expanded tensor has more of them than its storage."""
    return prod(tensor.shape)


def span_count(tensor: Tensor) -> int:
    """Return how many elements of its storage lie between the tensor's first and its last, both included."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))


def is_dense(tensor: Tensor) -> bool:
    """Return whether the tensor covers each element of its span exactly once, in any order of dimensions."""
    if 0 in tensor.shape:
        return True
    reached = 1
    for step, size in sorted(_steps(tensor)):
        if step != reached:
            return False
        reached *= size
    return True


def lie_alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same shape and strides, dimensions of size 1 aside."""
    return one.shape == other.shape and _steps(one) == _steps(other)


def _steps(tensor: Tensor) -> list[tuple[int, int]]:
    """Return stride and size of each dimension with more than one element."""
    return [(step, size) for size, step in zip(tensor.shape, tensor.stride, strict=True) if size != 1]
