"""Values of options that have a unit."""

from __future__ import annotations

import click

from mlsync.config.units import parse_size


def size_of(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Return a size in bytes, ``None`` if none was given; a callback of an option."""
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(f"not {error}: {value!r}") from None
