"""``--gently`` and ``--quickly``: whether a command comes after everything else on the machine, or takes its share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from mlsync.cli.options import Common
from mlsync.courtesy.priority import describe, stand_back
from mlsync.courtesy.session import go_on_in_own_session

F = TypeVar("F", bound=Callable[..., Any])


def gently_option(function: F) -> F:
    """Give a command the two options, and have them heeded before it does anything; it stands below common_options."""

    @functools.wraps(function)
    def call(common: Common, *, gently: bool | None, **given: Any) -> Any:
        heed(common, gently)
        return function(common, **given)

    option = click.option(
        "--gently/--quickly",
        "gently",
        default=None,
        help="Come after everything else that runs here, or take a full share of processor and disk. Without either: "
        "quickly where stderr is a terminal, gently in scripts and cron jobs.",
    )
    return cast("F", option(call))


def heed(common: Common, gently: bool | None) -> None:
    """Stand behind others if that was asked for, or nobody asked and nobody sits and waits."""
    if gently if gently is not None else not _is_watched():
        stand_behind_others()
        common.monitor().notice("info", standing())


def stand_behind_others() -> None:
    """Go on behind everybody else, in a session of mlsync's own where that is needed for it."""
    go_on_in_own_session()
    stand_back()


def standing() -> str:
    """Return what holds of this process, as a notice says it."""
    return f"stands behind others: {describe()}"


def _is_watched() -> bool:
    """Whether somebody sees how far it is: then he waits for it."""
    return sys.stderr is not None and sys.stderr.isatty()
