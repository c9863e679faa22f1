"""The text of a recovery key: 32 random bytes as 13 groups of five characters, to be written on paper and typed again.

Four characters of a group hold 20 bits each in Crockford's base 32, which has no letters that look like digits; the
fifth checks the group and its place, so that a mistake is found, and found in its group. See docs/format.md,
"Key slot".
"""

from __future__ import annotations

import re
from typing import Final

RECOVERY_KEY_BYTES: Final = 32
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DATA_CHARS: Final = 4
_GROUP_CHARS: Final = _DATA_CHARS + 1
# 256 bits, and four zero bits to fill the last group.
_GROUPS: Final = 13
_FILL_BITS: Final = 5 * _DATA_CHARS * _GROUPS - 8 * RECOVERY_KEY_BYTES
# Letters that people read as digits, as in Crockford's base 32.
_READ_AS: Final = str.maketrans("OIL", "011")
_SEPARATORS: Final = re.compile(r"[\s-]+")


def write(secret: bytes) -> str:
    """Return the text of the 32 bytes *secret*, its groups joined by ``-``."""
    number = int.from_bytes(secret, "big") << _FILL_BITS
    digits = [number >> 5 * at & 31 for at in reversed(range(_DATA_CHARS * _GROUPS))]
    groups = (digits[at : at + _DATA_CHARS] for at in range(0, len(digits), _DATA_CHARS))
    return "-".join(
        "".join(_ALPHABET[digit] for digit in (*group, _check_digit(place, group)))
        for place, group in enumerate(groups)
    )


def read(text: str) -> tuple[bytes, list[int]] | None:
    """Return the bytes of a recovery key and the numbers of its wrong groups, from 1; ``None`` if *text* is none.

    Blanks and hyphens may be anywhere, and letters small. A text is taken for a recovery key if it has the length and
    the letters of one, and most of its groups check.
    """
    letters = _SEPARATORS.sub("", text).upper().translate(_READ_AS)
    if len(letters) != _GROUP_CHARS * _GROUPS or not set(letters) <= set(_ALPHABET):
        return None
    digits = [_ALPHABET.index(letter) for letter in letters]
    groups = [digits[at : at + _GROUP_CHARS] for at in range(0, len(digits), _GROUP_CHARS)]
    wrong = [
        place + 1
        for place, group in enumerate(groups)
        if _check_digit(place, group[:_DATA_CHARS]) != group[_DATA_CHARS]
    ]
    number = 0
    for group in groups:
        for digit in group[:_DATA_CHARS]:
            number = number << 5 | digit
    if number & (1 << _FILL_BITS) - 1 and _GROUPS not in wrong:
        wrong.append(_GROUPS)
    if 2 * len(wrong) > _GROUPS:
        return None
    return (number >> _FILL_BITS).to_bytes(RECOVERY_KEY_BYTES, "big"), wrong


def _check_digit(place: int, group: list[int]) -> int:
    """Return a digit that shows each wrong digit, each two digits of a group and each two groups that changed places.

    It is a polynomial in the field of 32 elements: place and digits have different powers of x as factors.
    """
    check = place
    for digit in group:
        check = _times_x(check) ^ digit
    return _times_x(check)


def _times_x(digit: int) -> int:
    """Return a digit times x, modulo x^5 + x^2 + 1."""
    return digit << 1 ^ (0b100101 if digit & 16 else 0)
