"""Read the lines of a policy, such as ``last 5``, ``best 3 by fitness max`` and ``within 3d``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mlsync.retention.direction import is_more_better
from mlsync.retention.nearest_word import did_you_mean
from mlsync.retention.rules import (
    PERIODS,
    BestRule,
    CalendarRule,
    EveryRule,
    LastRule,
    PinnedRule,
    RegisteredRule,
    ResumableRule,
    Rule,
    WithinRule,
)

#: What is longer is a mistake, or somebody's attempt at one: rules are shown, and stored with what they removed.
RULES_MAX: Final = 50
_CHARS_MAX: Final = 200
_COUNT_MAX: Final = 1_000_000
_SECONDS_PER: Final = {"h": 3600, "d": 86400, "w": 604800}
_SPAN: Final = re.compile(r"([0-9]{1,6})([hdw])")
_NUMBER: Final = re.compile(r"[0-9]{1,7}")
_UNITS: Final = {"epoch": "epoch", "epochs": "epoch", "step": "step", "steps": "step"}
_MORE_IS_BETTER: Final = {"max": True, "min": False}


def parse_rules(lines: Sequence[str]) -> tuple[Rule, ...]:
    """Return the rules of a policy; raise ``ValueError`` that says what is wrong with the first line that is none.

    An empty list would keep nothing: nobody means that, so it is refused. A rule that is there twice is taken once.
    """
    if not lines:
        raise ValueError("an empty one would keep nothing; without it, all versions are kept")
    if len(lines) > RULES_MAX:
        raise ValueError(f"at most {RULES_MAX} of them")
    rules = map(parse_rule, lines)
    return tuple({rule.text: rule for rule in rules}.values())


def parse_rule(line: str) -> Rule:
    """Return the rule of a line; raise ``ValueError`` that says what is wrong with it."""
    if len(line) > _CHARS_MAX or not line.isprintable():
        raise ValueError(f"a rule has at most {_CHARS_MAX} characters, all of them printable")
    words = line.split()
    try:
        return _parsed(words)
    except ValueError as error:
        raise ValueError(f"{line!r} is no rule: {error}") from None


def _parsed(words: list[str]) -> Rule:
    if not words:
        raise ValueError("it is empty")
    parse = _FORMS.get(words[0])
    if parse is None:
        raise ValueError(did_you_mean(words[0], tuple(_FORMS)) or f"rules begin with {', '.join(_FORMS)}")
    return parse(" ".join(words), words[1:])


def _counted(made: Callable[[str, int], Rule]) -> Callable[[str, list[str]], Rule]:
    def parse(text: str, words: list[str]) -> Rule:
        if len(words) != 1:
            first = text.split(maxsplit=1)[0]
            raise ValueError(f"{first} takes one number, as in {first} 5")
        return made(text, _count(words[0]))

    return parse


def _count(word: str) -> int:
    # Not str.isdigit: other scripts have digits too, and int() would take them.
    if not _NUMBER.fullmatch(word) or not 1 <= int(word) <= _COUNT_MAX:
        raise ValueError(f"{word!r} is not a whole number from 1 to {_COUNT_MAX}")
    return int(word)


def _best(text: str, words: list[str]) -> Rule:
    if len(words) < len(("N", "by", "NAME")) or words[1] != "by":
        raise ValueError("best takes a number and a name, as in best 3 by fitness max")
    count, rest = _count(words[0]), words[2:]
    is_max = _MORE_IS_BETTER.get(rest[-1])
    name = " ".join(rest if is_max is None else rest[:-1])
    if not name:
        raise ValueError("it names nothing that could be compared")
    # Without a word for it, less would be taken for worse; and here something is removed.
    if is_max is None and not is_more_better(name):
        raise ValueError(f"say with max or min at its end whether more of {name} is better")
    return BestRule(text, count, name, is_max is not False)


def _every(text: str, words: list[str]) -> Rule:
    if len(words) != len(("N", "unit")) or words[1] not in _UNITS:
        advice = (did_you_mean(words[1], tuple(_UNITS)) if len(words) > 1 else None) or "as in every 10 epochs"
        raise ValueError(f"every takes a number of epochs or of steps; {advice}")
    return EveryRule(text, _count(words[0]), _UNITS[words[1]])


def _within(text: str, words: list[str]) -> Rule:
    span = _SPAN.fullmatch(words[0]) if len(words) == 1 else None
    if span is None or int(span[1]) == 0:
        raise ValueError("within takes hours, days or weeks, as in within 36h, within 3d or within 2w")
    return WithinRule(text, int(span[1]) * _SECONDS_PER[span[2]])


def _word(made: Callable[[str], Rule]) -> Callable[[str, list[str]], Rule]:
    def parse(text: str, words: list[str]) -> Rule:
        if words:
            raise ValueError(f"{text.split(maxsplit=1)[0]} stands alone")
        return made(text)

    return parse


def _of_period(period: str) -> Callable[[str, list[str]], Rule]:
    return _counted(lambda text, count: CalendarRule(text, count, period))


_FORMS: Final[Mapping[str, Callable[[str, list[str]], Rule]]] = {
    "last": _counted(LastRule),
    "resumable": _counted(ResumableRule),
    "best": _best,
    "every": _every,
    **{period: _of_period(period) for period in PERIODS},
    "within": _within,
    "pinned": _word(PinnedRule),
    "registered": _word(RegisteredRule),
}
