"""``--gently`` and ``--quickly``: whether a command gives way to everything else on the machine, or takes its share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from mlsync.cli.arguments.options import Common
from mlsync.courtesy.priority import describe, stand_back
from mlsync.courtesy.session import go_on_in_own_session

F = TypeVar("F", bound=Callable[..., Any])


def gently_option(function: F) -> F:
    """Give a command the two options, applied before it does anything; use it below ``common_options``."""

    @functools.wraps(function)
    def call(common: Common, *, gently: bool | None, **given: Any) -> Any:
        _apply(common, gently)
        return function(common, **given)

    option = click.option(
        "--gently/--quickly",
        "gently",
        default=None,
        help="Give way to everything else that runs here, or do not. Default: quickly at a terminal, gently elsewhere.",
    )
    return cast("F", option(call))


def _apply(common: Common, gently: bool | None) -> None:
    """Give way to others with ``--gently``, or without either option if nobody watches."""
    if gently if gently is not None else not _is_watched():
        give_way()
        common.monitor().notice("info", describe_priorities())


def give_way() -> None:
    """Continue with the lowest priorities, in a session of mlsync's own if that takes one."""
    go_on_in_own_session()
    stand_back()


def describe_priorities() -> str:
    """Return the priorities of this process in words."""
    return f"lowest priority: {describe()}"


def _is_watched() -> bool:
    """Return whether a person watches the progress, and so waits for it."""
    return sys.stderr is not None and sys.stderr.isatty()
