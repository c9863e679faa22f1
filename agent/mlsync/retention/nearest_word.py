"""The word that somebody may have meant who wrote one that is not known."""

from __future__ import annotations

from collections.abc import Sequence


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    """Return a question that names the nearest of *known*, ``None`` if none is near."""
    import difflib  # late: no word that is known needs it

    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else None
