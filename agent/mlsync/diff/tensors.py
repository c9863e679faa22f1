"""A tensor of two versions: which bytes of the two files are compared, how, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mlsync.diff.side_by_side import WINDOW_BYTES, Both, SideBySide, Stretch, Window
from mlsync.formats.layout import Storage, Tensor
from mlsync.formats.strides import element_count, is_dense, lie_alike, span_count

if TYPE_CHECKING:
    # numpy would come with it, and a checkpoint whose tensors are all the same needs none.
    from mlsync.diff.drift import Drift

_WITH_BETWEEN: Final = "with what lies between its elements"
_BY_BYTES: Final = "byte by byte"
_OTHER_ORDER: Final = "its elements lie in another order, and are too many to be put in order"
_COMPRESSED: Final = "its bytes are compressed in the file"
_OTHER_LENGTH: Final = "its type is not known, and its length changed"


@dataclass(slots=True)
class TensorView:
    """Two tensors of one shape and type, under all *names* that lead to these very numbers.

    *note* says what else than their elements is compared, if it is.
    """

    before: Tensor
    after: Tensor
    both: Both
    note: str = ""
    is_gathered: bool = False
    names: list[str] = field(default_factory=list)

    def is_same_by_chunks(self, files: SideBySide) -> bool:
        """Whether both are the same numbers by the chunks that they are made of; nothing is read."""
        return lie_alike(self.before, self.after) and files.are_same(self.both)

    def drift(self, windows: Iterable[Window], *, big_endian: bool) -> Drift:
        """Return how far the numbers moved in the windows, which are all of both."""
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

    def _gathered(self, window: Window) -> tuple[memoryview, memoryview]:
        """Return the elements of both in one order; the window holds all of them."""
        from mlsync.diff.drift import gathered

        after = window.before if window.after is None else window.after
        return gathered(window.before, self.before), gathered(after, self.after)


def view_of(before: Tensor, old: Storage | None, after: Tensor, new: Storage | None) -> TensorView | str:
    """Return how two tensors of one shape and type are compared, or why they are not.

    A tensor whose storage does not lie in the file as it is has none.
    """
    from mlsync.diff.drift import item_bytes

    if old is None or new is None:
        return _COMPRESSED
    width = item_bytes(before.dtype)
    if width is None:
        # Some bits wide, or in blocks with a scale: where one of them ends is not known here.
        if old.length != new.length:
            return _OTHER_LENGTH
        return TensorView(
            before, after, Both(Stretch(old.offset, old.length), Stretch(new.offset, new.length)), _BY_BYTES
        )
    both = Both(_span(before, old, width), _span(after, new, width))
    is_alike = lie_alike(before, after)
    if is_alike and is_dense(before):
        return TensorView(before, after, both)
    if max(both.before.length, both.after.length, element_count(before) * width) <= WINDOW_BYTES:
        return TensorView(before, after, both, is_gathered=True)
    return TensorView(before, after, both, _WITH_BETWEEN) if is_alike else _OTHER_ORDER


def _span(tensor: Tensor, storage: Storage, width: int) -> Stretch:
    """Return where the tensor lies in its file, from its first element to its last."""
    return Stretch(storage.offset + tensor.first * width, span_count(tensor) * width)
