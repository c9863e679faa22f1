"""Paths of the source are bytes, as in the kernel; this module joins, prints and sorts them."""

from __future__ import annotations

import re
from typing import Final

_DIGITS: Final = re.compile(rb"(\d+)")


def joined(root: bytes, path: bytes) -> bytes:
    """Return the relative *path* below *root*."""
    return root.rstrip(b"/") + b"/" + path


def display(path: bytes) -> str:
    r"""Return *path* on one line, without control characters; different paths look different.

    Bytes that are no UTF-8 become ``\xNN``, characters that do not print (line breaks, escapes, direction marks)
    ``\uNNNN`` or ``\UNNNNNNNN``, and the backslash itself is doubled.
    """
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if "\udc80" <= character <= "\udcff":  # how surrogateescape carries a byte that is no UTF-8
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if character <= "\uffff" else f"\\U{code:08x}"


def natural(path: bytes) -> tuple[object, bytes]:
    """Return a key that sorts paths as people count: by directory, and ``epoch2`` before ``epoch10``."""
    return tuple(map(_counted, path.split(b"/"))), path


def _counted(name: bytes) -> tuple[object, ...]:
    """Return a name as text and numbers in turn, so that only like is compared with like."""
    parts = _DIGITS.split(name)
    # The length counts first, which is the order of numbers without their zeros; int() refuses thousands of digits.
    numbers = [(len(digits.lstrip(b"0")), digits.lstrip(b"0")) for digits in parts[1::2]]
    pairs = zip(parts[::2], numbers, strict=False)
    return (*(part for pair in pairs for part in pair), parts[-1])
