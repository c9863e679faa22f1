"""What a shell offers for the value of an argument or option, from this machine alone, without a request to a store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from mlsync.errors import Error

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def words(*choices: str) -> Complete:
    """Return what offers some fixed words."""

    def complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def directories(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer directories, and no files."""
    return [CompletionItem(incomplete, type="dir")]


def runs(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Offer the runs of the configuration; none if there is no configuration that can be read."""
    from mlsync.config.load import find_config, load  # late: half of the time that a help takes, and only shells ask

    with suppress(Error):
        config = load(find_config(context.params.get("config")))
        return [watch.run for watch in config.watches if watch.run.startswith(incomplete)]
    return []
