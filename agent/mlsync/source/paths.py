"""Paths of the source are bytes, as in the kernel; this module joins them and prints them."""

from __future__ import annotations


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
