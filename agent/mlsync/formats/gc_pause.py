"""Turns the garbage collector off while a parser creates its objects.

The collector would traverse them again and again, which takes a third of the time for a file of many tensors, and
would find nothing: parsers use and bound everything that they create.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_lock = Lock()
_inside = 0
_was_enabled = False


def gc_paused(parse: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return *parse* so that the garbage collector is off while it runs. Any thread may call it."""

    @wraps(parse)
    def parse_uncollected(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        _enter()
        try:
            return parse(*args, **kwargs)
        finally:
            _leave()

    return parse_uncollected


def _enter() -> None:
    global _inside, _was_enabled  # noqa: PLW0603 - there is one collector in a process
    with _lock:
        if _inside == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _inside += 1


def _leave() -> None:
    global _inside  # noqa: PLW0603 - as above
    with _lock:
        _inside -= 1
        if _inside == 0 and _was_enabled:
            gc.enable()
