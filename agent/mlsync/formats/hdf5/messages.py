"""The messages that describe an HDF5 dataset: its shape, its data type, its fill value and its filters."""

from __future__ import annotations

import struct
from math import prod
from typing import Final, NamedTuple

from mlsync.formats.faults import NotChecked
from mlsync.formats.hdf5.blocks import Message, refuse
from mlsync.formats.layout import Packed

_DIMENSIONS_MAX: Final = 32
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3
_FILTERS_MAX: Final = 32
_NAMED_FILTER: Final = 256  # from this one on they are anybody's, and have a name
_SUM_BYTES: Final = 4
_COUNT_MAX: Final = 1 << 63
_TYPE_VERSION_MAX: Final = 5
_NORMALISED: Final = 0x30  # of the three ways that there are, a fourth
_FIXED, _FLOAT, _ENUM = 0, 1, 8
# Bytes of an element, bits of its exponent and of its mantissa
_FLOATS: Final = {
    (8, 11, 52): "float64",
    (4, 8, 23): "float32",
    (2, 5, 10): "float16",
    (2, 8, 7): "bfloat16",
    (1, 4, 3): "float8_e4m3fn",
    (1, 5, 2): "float8_e5m2",
}
# Texts, bits without a meaning, references: what nobody counts as numbers
_NO_NUMBERS: Final = frozenset({2, 3, 4, 5, 7, 9})


class DataType(NamedTuple):
    """A datatype: how many bytes an element has, torch's name for it, and whether it is numbers at all."""

    item_bytes: int
    dtype: str
    is_numbers: bool


class StoredForm(NamedTuple):
    """How a chunk lies in the file: how many bytes it has there, if that is known, and whether they are its numbers."""

    stored_bytes: int | None
    is_plain: bool
    packed: Packed | None


def stored_form(filters: tuple[int, ...], skipped: int, full_bytes: int) -> StoredForm:
    """Return how a chunk is stored, given the dataset's filters and the bits of those that it skipped."""
    used = [kind for place, kind in enumerate(filters) if not skipped >> place & 1]
    is_summed = used[-1:] == [_FLETCHER]
    if is_summed:
        used.pop()
    is_moved = _SHUFFLE in used  # bytes of one significance together: as many as before
    used = [kind for kind in used if kind != _SHUFFLE]
    if used not in ([], [_DEFLATE]):
        return StoredForm(None, is_plain=False, packed=None)
    sum_bytes = _SUM_BYTES if is_summed else 0
    if used:
        return StoredForm(None, is_plain=False, packed=Packed(full_bytes, None, "zlib", is_summed))
    packed = Packed(full_bytes, None, "plain", is_summed) if is_summed else None
    return StoredForm(full_bytes + sum_bytes, not is_moved, packed)


def filters_in(message: Message) -> tuple[int, ...]:
    """Return the filters that a dataset's chunks went through, in the order of writing."""
    version, count = unpack("<2B", message)
    at = 8 if version == 1 else 2
    if version not in (1, 2) or count > _FILTERS_MAX:
        refuse("impossible filters", message.at)
    kinds = []
    for _ in range(count):
        [kind] = unpack("<H", message, at)
        at += 2
        name_bytes = 0
        if version == 1 or kind >= _NAMED_FILTER:
            [name_bytes] = unpack("<H", message, at)
            at += 2
        _, numbers = unpack("<HH", message, at)
        if version == 1:
            name_bytes += -name_bytes % 8
            numbers += numbers % 2
        at += 4 + name_bytes + 4 * numbers
        kinds.append(kind)
    if at > len(message.data):
        refuse("filters run out of their message", message.at)
    return tuple(kinds)


def unpack(pattern: str, message: Message, at: int = 0) -> tuple[int, ...]:
    """Return numbers in a message, which must have them."""
    if struct.calcsize(pattern) + at > len(message.data):
        refuse("message cut short", message.at)
    return struct.unpack_from(pattern, message.data, at)


def shape_in(message: Message) -> tuple[int, ...] | None:
    """Return the dataset's shape; ``None`` for a null dataspace."""
    version, rank, flags, form = unpack("<4B", message)
    if version not in (1, 2) or rank > _DIMENSIONS_MAX:
        refuse("impossible shape", message.at)
    if version == 2 and form == 2:  # noqa: PLR2004 - a null space
        return None
    begins = 8 if version == 1 else 4
    shape = unpack(f"<{rank}Q", message, begins)
    largest = unpack(f"<{rank}Q", message, begins + 8 * rank) if flags & 1 else shape
    if prod(shape) >= _COUNT_MAX or any(size > most for size, most in zip(shape, largest, strict=True)):
        refuse("impossible shape", message.at)
    return shape


def check_fill_value(message: Message | None) -> None:
    """A value to fill with must lie in its message: HDF5 opens no dataset without."""
    if message is None:
        return
    if message.is_shared:
        raise NotChecked("values to fill with that are shared are not looked at", offset=message.at)
    if message.data[:1] == b"\1" or (message.data[:1] == b"\2" and message.data[3:4] != b"\0"):
        [length] = unpack("<i", message, 4)
        if length > len(message.data) - 8:
            refuse("value to fill with damaged", message.at)


def data_type_in(message: Message) -> DataType:
    """Return the data type that a message describes; ``ContainerBroken`` for one that HDF5 does not open."""
    first, *bits, item_bytes = unpack("<4BI", message)
    kind, is_big = first & 0x0F, bool(bits[0] & 1)
    if not item_bytes or not 1 <= first >> 4 <= _TYPE_VERSION_MAX:
        refuse("type of no bytes, or of no version", message.at)
    dtype = ""
    if kind == _FIXED:
        place = unpack("<HH", message, 8)
        if sum(place) > 8 * item_bytes:
            refuse("impossible type", message.at)
        dtype = _integer(bits[0], item_bytes, place)
    elif kind == _FLOAT:
        dtype = _float(message, bits, item_bytes)
    elif kind == _ENUM:  # h5py's truth values among them
        if not 1 <= unpack("<B", message, 8)[0] >> 4 <= _TYPE_VERSION_MAX:
            refuse("impossible type", message.at)
        dtype = "uint8" if item_bytes == 1 else ""
    if is_big and item_bytes > 1:
        dtype = ""
    return DataType(item_bytes, dtype, kind not in _NO_NUMBERS)


def _float(message: Message, bits: list[int], item_bytes: int) -> str:
    """Return torch's name for the float, if it has one; ``ContainerBroken`` for one that HDF5 does not open."""
    offset, precision, exponent_at, exponent, mantissa_at, mantissa = unpack("<HH4B", message, 8)
    exponent_end, mantissa_end, sign = exponent_at + exponent, mantissa_at + mantissa, bits[1]
    is_apart = min(exponent_end, mantissa_end) <= max(exponent_at, mantissa_at)
    is_inside = offset + precision <= 8 * item_bytes and max(exponent_end, mantissa_end, sign + 1) <= precision
    is_sign = not exponent_at <= sign < exponent_end and not mantissa_at <= sign < mantissa_end
    if not (is_apart and is_inside and is_sign) or bits[0] & _NORMALISED == _NORMALISED:
        refuse("impossible type", message.at)
    if unpack("<I", message, 16) != ((1 << exponent - 1) - 1 if exponent else 0,):
        raise NotChecked("floats of a kind that is not known here", offset=message.at)
    is_usual = not offset and precision == 8 * item_bytes and (exponent_at, mantissa_at) == (mantissa, 0)
    return _FLOATS.get((item_bytes, exponent, mantissa), "") if is_usual else ""


def _integer(bits: int, item_bytes: int, place: tuple[int, ...]) -> str:
    if place != (0, 8 * item_bytes) or item_bytes not in (1, 2, 4, 8):
        return ""
    return f"{'int' if bits & 0x08 else 'uint'}{8 * item_bytes}"
