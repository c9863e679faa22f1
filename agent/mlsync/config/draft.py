"""Write a configuration under another name and load it, so that an error in it comes before anything else is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlsync.config.load import load
from mlsync.errors import ConfigInvalid


@contextmanager
def drafted(place: Path, text: str, *, where: str | None, advice: str) -> Iterator[Path]:
    """Yield a file beside *place* that holds *text*, with mode 0600, and loads; it is gone at the end.

    Raise ``ConfigInvalid`` if it does not load, which is said of *where*, or if it cannot be written, with *advice*.
    """
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        try:
            _write(temporary, text)
        except OSError as error:
            raise not_written(place, error, advice) from error
        try:
            load(temporary)
        except ConfigInvalid as error:
            raise ConfigInvalid(error.what, where=where, advice=error.advice) from None
        yield temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def not_written(place: Path, error: OSError, advice: str) -> ConfigInvalid:
    """Return the error for a configuration that cannot be written."""
    return ConfigInvalid(f"the configuration cannot be written: {error.strerror}", where=str(place), advice=advice)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
