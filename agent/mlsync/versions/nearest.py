"""The paths of a version that somebody may have meant who gave one that it does not hold."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from mlsync.source.paths import display

# As many paths as a person reads in one line, and as many as are compared with one that is missing.
_NAMED_MAX: Final = 3
_COMPARED_MAX: Final = 4_000


def did_you_mean(path: bytes, paths: Iterable[bytes]) -> str | None:
    """Return a question that names the nearest of *paths*, ``None`` if none is near."""
    found = nearest(path, paths)
    return f"did you mean {' or '.join(found)}?" if found else None


def nearest(path: bytes, paths: Iterable[bytes]) -> list[str]:
    """Return those of *paths*, as they are printed, that are nearest to *path*: at most three, the nearest first."""
    plain, known = path.rstrip(b"/"), list(paths)
    name = _name(plain).lower()
    # Of a path from the working directory, its end may be a path in the run.
    likely = [one for one in known if one.endswith(b"/" + plain) or plain.endswith(b"/" + one)]
    likely = likely or [one for one in known if _name(one).lower() == name]
    if likely:
        return _closest(display(plain), {display(one): one for one in likely}, cutoff=0.0)
    shown = {display(one): one for one in known[:_COMPARED_MAX]}
    close = _closest(display(plain), shown, cutoff=0.6)
    return close or _closest(display(_name(plain)), {display(_name(one)): one for one in shown.values()}, cutoff=0.6)


def _closest(text: str, choices: dict[str, bytes], *, cutoff: float) -> list[str]:
    """Return the paths, as they are printed, whose texts in *choices* are nearest."""
    return [display(choices[one]) for one in difflib.get_close_matches(text, choices, n=_NAMED_MAX, cutoff=cutoff)]


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]
