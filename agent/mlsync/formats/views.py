"""Where the numbers of a tensor lie in its storage, and whether two tensors lie there alike."""

from __future__ import annotations

from math import prod

from mlsync.formats.layout import Tensor


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
