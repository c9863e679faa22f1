"""Glob patterns for paths, as in ``.gitignore``: the same in every option and key of the configuration that takes them.

``*`` and ``?`` match no slash, ``**`` between slashes matches any number of directories, ``[a-z]`` and ``[!a-z]`` one
character, and a backslash takes the next character as it is. Names that begin with a dot match too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from mlsync.errors import ConfigInvalid

_WILD: Final = frozenset("*?[\\")
_STAR, _DEEP, _REST = "star", "deep", "rest"


class _Token(NamedTuple):
    """A piece of a pattern: *expression* matches one character unless *kind* is one of the stars."""

    kind: str
    expression: str = ""


def is_pattern(text: str) -> bool:
    """Return whether *text* has a character that means something in a pattern."""
    return not _WILD.isdisjoint(text)


def expression(glob: str) -> str:
    """Return the regular expression of a pattern for whole relative paths; raise ``ConfigInvalid`` for a bad class.

    Matching takes at most the product of both lengths, whatever the pattern is: what stands between two stars is taken
    where it comes first, and never looked for again (``(?>…)``), since the later star takes up the difference.
    """
    groups: list[list[_Token]] = [[]]
    rest = ""
    for token in _tokens(glob):
        if token.kind == _DEEP:
            if len(groups) == 1 or groups[-1]:  # several in a row are one
                groups.append([])
        elif token.kind == _REST:
            rest = ".+"
        else:
            groups[-1].append(token)
    out = [_of_group(groups[0])]
    for index, group in enumerate(groups[1:], start=1):
        if index < len(groups) - 1 or rest:
            out.append(f"(?>(?:[^/]*/)*?{_of_group(group)})")
        else:
            out.append(f"(?:.*/)?{_of_group(group)}")
    return "".join(out) + rest


def _of_group(tokens: list[_Token]) -> str:
    """Return the expression of what has no ``**`` in it."""
    out: list[str] = []
    chunk: list[str] = []
    has_star = False
    for token in tokens:
        if token.kind == _STAR:
            if has_star and chunk:
                out.append(f"(?>[^/]*?{''.join(chunk)})")
            else:
                out += chunk
            chunk, has_star = [], True
            continue
        chunk.append(token.expression)
        if token.expression == "/":
            out += ["[^/]*"] * has_star + chunk
            chunk, has_star = [], False
    return "".join([*out, *["[^/]*"] * has_star, *chunk])


def _tokens(glob: str) -> Iterator[_Token]:
    at = 0
    while at < len(glob):
        starts_part = at == 0 or glob[at - 1] == "/"
        if starts_part and glob.startswith("**/", at):
            yield _Token(_DEEP)
            at += 3
        elif starts_part and glob[at:] == "**":
            yield _Token(_REST)
            at += 2
        else:
            token, at = _one(glob, at)
            yield token


def _one(glob: str, at: int) -> tuple[_Token, int]:
    """Translate the pattern at *at*; return the token and the next position."""
    character = glob[at]
    if character == "*":
        return _Token(_STAR), at + 1
    if character == "?":
        return _Token("", "[^/]"), at + 1
    if character == "\\" and at + 1 < len(glob):
        return _Token("", re.escape(glob[at + 1])), at + 2
    if character == "[":
        end = glob.find("]", at + (3 if glob[at + 1 : at + 2] in ("!", "^") else 2))
        if end > 0:
            return _Token("", _character_class(glob[at + 1 : end])), end + 1
    return _Token("", re.escape(character)), at + 1


def _character_class(inside: str) -> str:
    negated = inside[0] in "!^"
    members = inside[1:] if negated else inside
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", members)
    try:
        re.compile(f"[{members}]")
    except re.error as error:
        raise ConfigInvalid(f"a pattern has a bad character class [{inside}]") from error
    return f"(?!/)[{'^' if negated else ''}{members}]"
