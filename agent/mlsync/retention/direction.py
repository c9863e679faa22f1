"""Whether more or less of a number is better, by its name or by a word behind it."""

from __future__ import annotations

import re
from typing import Final

_LESS: Final = re.compile(
    r"loss|error|perplexity|(?:^|[^a-z])(?:err|ppl|nll|mae|mse|rmse|wer|cer|fid|mape|bpb|bpc)(?:[^a-z]|$)",
    re.IGNORECASE,
)
_WORDS: Final = {"max": True, "min": False}


def is_more_better(name: str) -> bool:
    """Return whether more is better of a number with that name, as far as names tell: less loss is."""
    return _LESS.search(name) is None


def named_number(text: str) -> tuple[str, bool]:
    """Return the name of a number and whether more of it is better: ``max`` or ``min`` may stand behind it.

    Raise ``ValueError`` if it names nothing.
    """
    words = text.split()
    is_max = _WORDS.get(words[-1]) if words else None
    name = " ".join(words if is_max is None else words[:-1])
    if not name:
        raise ValueError("it names nothing that could be compared")
    return name, is_more_better(name) if is_max is None else is_max
