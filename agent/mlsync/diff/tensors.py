"""A tensor of two versions: which bytes of the two files are compared, and how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mlsync.diff.side_by_side import WINDOW_BYTES, ByteRange, RangePair, SideBySide, WindowPair
from mlsync.formats.layout import Storage, Tensor
from mlsync.formats.strides import element_count, is_dense, lie_alike, span_count

if TYPE_CHECKING:
    # It imports numpy, which a checkpoint whose tensors are all equal does not need.
    from mlsync.diff.drift import Drift

_WITH_BETWEEN: Final = "with what lies between its elements"
_BY_BYTES: Final = "byte by byte"
_OTHER_ORDER: Final = "its elements lie in another order, and are too many to be put in order"
_COMPRESSED: Final = "its bytes are compressed in the file"
_OTHER_LENGTH: Final = "its type is not known, and its length changed"


@dataclass(slots=True)
class TensorView:
    """Two tensors of one shape and type, with all *names* of the same numbers.

    *note* says what is compared instead of their elements, if anything.
    """

    before: Tensor
    after: Tensor
    both: RangePair
    note: str = ""
    is_gathered: bool = False
    names: list[str] = field(default_factory=list)

    def is_same_by_chunks(self, files: SideBySide) -> bool:
        """Return whether both are made of the same chunks, and so are equal; nothing is read."""
        return lie_alike(self.before, self.after) and files.are_same(self.both)

    def drift(self, windows: Iterable[WindowPair], *, big_endian: bool) -> Drift:
        """Return how far the numbers moved; *windows* are all of both tensors."""
        from mlsync.diff.drift import Meter

        meter = Meter(self.before.dtype, big_endian=big_endian)
        for window in windows:
            if self.is_gathered:
                meter.add(*self._gathered(window))
            elif window.after is None:
                meter.add_same(window.before)
            else:
                meter.add(window.before, window.after)
        return meter.drift()

    def _gathered(self, window: WindowPair) -> tuple[memoryview, memoryview]:
        """Return the elements of both in the same order; the window holds all of them."""
        from mlsync.diff.drift import gathered

        after = window.before if window.after is None else window.after
        return gathered(window.before, self.before), gathered(after, self.after)


def view_of(before: Tensor, old: Storage | None, after: Tensor, new: Storage | None) -> TensorView | str:
    """Return how two tensors of one shape and type are compared, or why they are not.

    A tensor that is compressed in the file has no storage.
    """
    from mlsync.diff.drift import item_bytes

    if old is None or new is None:
        return _COMPRESSED
    width = item_bytes(before.dtype)
    if width is None:
        # Elements of some bits, or blocks with a scale: their borders are not known here.
        if old.length != new.length:
            return _OTHER_LENGTH
        return TensorView(
            before, after, RangePair(ByteRange(old.offset, old.length), ByteRange(new.offset, new.length)), _BY_BYTES
        )
    both = RangePair(_span(before, old, width), _span(after, new, width))
    is_alike = lie_alike(before, after)
    if is_alike and is_dense(before):
        return TensorView(before, after, both)
    if max(both.before.length, both.after.length, element_count(before) * width) <= WINDOW_BYTES:
        return TensorView(before, after, both, is_gathered=True)
    return TensorView(before, after, both, _WITH_BETWEEN) if is_alike else _OTHER_ORDER


def _span(tensor: Tensor, storage: Storage, width: int) -> ByteRange:
    """Return the tensor's range of the file, from its first element to its last."""
    return ByteRange(storage.offset + tensor.first * width, span_count(tensor) * width)
