"""What a platform says of the end of a machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

_WORD: Final = re.compile(r"[^A-Za-z0-9._:-]+")
_WORD_MAX: Final = 80
_ISO: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?(Z|\+00:00)?")
_LONG: Final = re.compile(r"(?:[A-Z][a-z]{2}, )?(\d{1,2}) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) (?:GMT|UTC)")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Effect(Enum):
    """What a notice means for the work on the machine."""

    ENDS = "ends"  # the machine, or all that runs on it, goes away
    RISK = "risk"  # it may go away soon, and nobody says when
    PAUSE = "pause"  # it stands still for seconds, and goes on


@dataclass(frozen=True, slots=True)
class PlatformNotice:
    """One event: *kind* is a word of ours, *deadline_s* is in seconds since 1970, ``None`` if nobody says.

    The event is *certain* if the platform has said that it comes. The same event has the same *ident* each time.
    """

    platform: str
    kind: str
    effect: Effect
    deadline_s: float | None
    certain: bool
    ident: str


def time_of(text: object, *, east_of_utc_h: int = 0) -> float | None:
    """Return the moment that a text means, in seconds since 1970; ``None`` if it is blank or means none."""
    if not isinstance(text, str):
        return None
    text = text.strip()
    if found := _ISO.fullmatch(text):
        numbers = [int(part) for part in found.groups()[:6]]
    elif (found := _LONG.fullmatch(text)) and found[2] in _MONTHS:
        numbers = [int(found[3]), _MONTHS.index(found[2]) + 1, *(int(found[part]) for part in (1, 4, 5, 6))]
    else:
        return None
    try:
        return datetime(*numbers, tzinfo=UTC).timestamp() - east_of_utc_h * 3600  # type: ignore[misc,arg-type]
    except (ValueError, OverflowError):
        return None


def word(text: object) -> str:
    """Return a text from outside as it may stand in a log: short, one line, nothing but letters, digits and dots."""
    return _WORD.sub("_", str(text))[:_WORD_MAX]
