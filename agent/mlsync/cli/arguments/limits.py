"""``--limit-upload`` and ``--limit-download``: another limit than the configuration's, for one command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from mlsync.config.model import Config
from mlsync.courtesy.timetable import Timetable, parse_timetable

F = TypeVar("F", bound=Callable[..., Any])


class RateType(click.ParamType[Timetable]):
    """A line of ``[limits]``."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Timetable:
        """Return what the text says."""
        if isinstance(value, Timetable):
            return value
        try:
            return parse_timetable(value)
        except ValueError as allowed:
            self.fail(f"{value!r} is not {allowed}", param, ctx)


def limit_upload_option(function: F) -> F:
    """Give a command ``--limit-upload``."""
    text = 'Send no faster: "20 MiB/s", as in [limits].'
    return click.option("--limit-upload", "limit_upload", type=RateType(), metavar="RATE", help=text)(function)


def limit_download_option(function: F) -> F:
    """Give a command ``--limit-download``."""
    text = 'Fetch no faster: "20 MiB/s", as in [limits].'
    return click.option("--limit-download", "limit_download", type=RateType(), metavar="RATE", help=text)(function)


def limited(config: Config, *, upload: Timetable | None = None, download: Timetable | None = None) -> Config:
    """Return the configuration with the limits that were given."""
    limits = config.limits
    limits = replace(limits, upload=upload or limits.upload, download=download or limits.download)
    return replace(config, limits=limits)
