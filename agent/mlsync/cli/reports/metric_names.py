"""Which metrics of a log to show: those that patterns name, or the few that most people look at first."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from mlsync.errors import MetricMissing
from mlsync.formats.logs.rows import TrainingLog

# How good the model is, what was lost on other data, what was lost in training, the rest; in each the best known first.
_QUALITY: Final = (
    r"map50-95|map_50_95|map@50:95",
    r"\bmap|accuracy|\bacc\b|_acc\b|top1|\bf1|auc|iou|dice|bleu|rouge|score|reward|psnr|ssim",
    r"precision|recall|top5|wer\b|cer\b|perplexity|\bfid|exact_match",
)
_LOSS_ELSEWHERE: Final = (r"(val|eval|test|dev).*(loss|error|mse|mae)", r"(loss|error|mse|mae).*(val|eval|test|dev)")
_LOSS: Final = (r"loss.*epoch", r"loss", r"error|mse|mae")
_REST: Final = (r"^lr|[_/.]lr|learning_rate", r"grad")
_GROUPS: Final = (_QUALITY, _LOSS_ELSEWHERE, _LOSS, _REST)
# Of the machine, and not of the model
_DULL: Final = re.compile(r"time|per_second|flos|total_|percentage|\bwall|memory|\bmem|gpu|throughput|tokens|^fit$")
_LOW: Final = re.compile(r"loss|error|perplexity|\bwer|\bcer|\bmae|mse|\bfid|\bnll|\bppl")
_EACH_MAX: Final = 2
_NEAR_MAX: Final = 5


def is_better_low(name: str) -> bool:
    """Return whether less is better, as of losses."""
    return _LOW.search(name.lower()) is not None


def is_judged(name: str) -> bool:
    """Return whether it says how good a model is: of a learning rate no value is the best."""
    return any(re.search(word, name.lower()) for group in _GROUPS[:3] for word in group)


def in_order(log: TrainingLog) -> list[str]:
    """Return the names of a log, those first that most people look at: two of each group, then the others."""
    counts = Counter(name for row in log.rows for name in row.values)
    ranked = sorted(log.names, key=lambda name: (counts[name] < 2, *_rank(name)))  # noqa: PLR2004
    taken: Counter[int] = Counter()
    first: list[str] = []
    later: list[str] = []
    for name in ranked:
        group = _rank(name)[0]
        taken[group] += 1
        (first if taken[group] <= _EACH_MAX and counts[name] > 1 else later).append(name)
    return [*first, *later]


def of_the_model(names: Sequence[str]) -> list[str]:
    """Return the names without those that tell of the machine, such as times; all of them if there are no others."""
    return [name for name in names if not _DULL.search(name.lower())] or list(names)


def one_of_each(names: Sequence[str], count: int) -> list[str]:
    """Return the first name of each group, at most *count*."""
    found: dict[int, str] = {}
    for name in of_the_model(names):
        found.setdefault(_rank(name)[0], name)
    return list(found.values())[:count]


def matching(log: TrainingLog, patterns: Iterable[str], where: str) -> list[str]:
    """Return the names that patterns name, in the order of these; raise ``MetricMissing`` for one that names none.

    A pattern is a name, a part of names, or has ``*`` and ``?``; case does not matter.
    """
    found: dict[str, None] = {}
    names = in_order(log)
    for pattern in patterns:
        named = _named(names, pattern)
        if not named:
            raise MetricMissing(f"no metric is called {pattern!r}", where=where, advice=_near(names, pattern))
        found |= dict.fromkeys(named)
    return list(found)


def _named(names: Sequence[str], pattern: str) -> list[str]:
    if pattern in names:
        return [pattern]
    low = pattern.lower()
    return [name for name in names if low in name.lower() or fnmatchcase(name.lower(), low)]


def _near(names: Sequence[str], pattern: str) -> str:
    """Return the names that are near to one, or else some of those that there are."""
    low = {name.lower(): name for name in names}
    low |= {name.lower().rpartition("/")[2]: name for name in names}
    close = [low[one] for one in difflib.get_close_matches(pattern.lower(), low, n=_NEAR_MAX, cutoff=0.5)]
    if close:
        return f"did you mean {' or '.join(dict.fromkeys(close))}?"
    more = f" and {len(names) - _NEAR_MAX} more" if len(names) > _NEAR_MAX else ""
    return f"there are {', '.join(names[:_NEAR_MAX])}{more}"


def _rank(name: str) -> tuple[int, int]:
    """Return the group of a name, and its place there."""
    low = name.lower()
    if _DULL.search(low):
        return len(_GROUPS) + 1, 0
    # A loss with "map" in its name is one all the same
    groups = enumerate(_GROUPS) if _LOW.search(low) is None else ((1, _LOSS_ELSEWHERE), (2, _LOSS), (0, _QUALITY))
    for group, words in groups:
        for place, word in enumerate(words):
            if re.search(word, low):
                return group, place
    return len(_GROUPS), 0
