"""What a key of the configuration is, and which values keys may have.

``model.py`` declares each key once, at the field that holds its value. The reader, its error messages and the file that
``mlsync init`` writes all follow that declaration, so they cannot disagree.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlsync.config.every import parse_every
from mlsync.config.run_name import check_run_name
from mlsync.config.units import DURATION, parse_duration, parse_size
from mlsync.errors import RunNameInvalid

Parse = Callable[[Any, Path], Any]
REQUIRED: Final = dataclasses.MISSING
_AS_SHOWN: Final = object()
_DEVICE: Final = re.compile(r"auto|cuda(?::\d{1,3})?|cpu|none")


@dataclass(frozen=True, slots=True)
class Key:
    """A key: *parse* returns its value or raises ``ValueError`` with what is allowed.

    *shown* is its default in TOML, or an example if it has none; *why* is the reason to set it.
    """

    parse: Parse
    shown: str
    why: str
    name: str = ""
    field: str = ""


def key(parse: Parse, shown: str, why: str, *, name: str = "", default: Any = _AS_SHOWN) -> Any:
    """Return the field of a dataclass that a key sets; the key is called like the field unless it has a *name*.

    The default is the value that is *shown*, unless *default* says otherwise.
    """
    if default is _AS_SHOWN:
        default = parse(tomllib.loads(f"value = {shown}")["value"], Path())
    return dataclasses.field(default=default, metadata={"key": Key(parse, shown, why, name)})


def keys_of(kind: type) -> Mapping[str, Key]:
    """Return the keys that a dataclass declares, by their names and in their order."""
    declared = [(field.name, field.metadata["key"]) for field in dataclasses.fields(kind) if "key" in field.metadata]
    named = [dataclasses.replace(one, name=one.name or field, field=field) for field, one in declared]
    return {one.name: one for one in named}


def is_device(value: object) -> bool:
    """Return whether a proof can be asked for on that device, in the configuration or on the command line."""
    return isinstance(value, str) and _DEVICE.fullmatch(value) is not None


def text(value: Any, _base: Path) -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a string that is not empty")
    return value


def path(value: Any, base: Path) -> Path:
    """Return an absolute path; relative ones count from the configuration file, and ``~`` is the user's home."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path in quotes")
    return Path(os.path.normpath(base / os.path.expanduser(value)))


def flag(value: Any, _base: Path) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - it becomes ConfigInvalid, whatever was wrong
    return value


def duration(value: Any, _base: Path) -> float:
    """Return seconds."""
    if not isinstance(value, str):
        raise ValueError(DURATION)  # noqa: TRY004 - it becomes ConfigInvalid, whatever was wrong
    return parse_duration(value)


def duration_above_zero(value: Any, base: Path) -> float:
    """Return more than zero seconds."""
    seconds = duration(value, base)
    if seconds <= 0:
        raise ValueError(f"{DURATION}, above zero")
    return seconds


def duration_or_never(value: Any, base: Path) -> float | None:
    """Return more than zero seconds, or ``None`` for never."""
    if value == "never":
        return None
    try:
        return duration_above_zero(value, base)
    except ValueError as error:
        raise ValueError(f'{error}; or "never"') from None


def one_of(*choices: str) -> Parse:
    """Return what accepts one of some words."""
    allowed = "one of " + ", ".join(f'"{choice}"' for choice in choices)

    def parse(value: Any, _base: Path) -> str:
        if value not in choices:
            raise ValueError(allowed)
        return str(value)

    return parse


def some_of(*choices: str) -> Parse:
    """Return what accepts a list of some words, and keeps each once."""
    allowed = "a list of some of " + ", ".join(f'"{choice}"' for choice in choices)

    def parse(value: Any, _base: Path) -> tuple[str, ...]:
        if not isinstance(value, list) or any(item not in choices for item in value):
            raise ValueError(allowed)
        return tuple(choice for choice in choices if choice in value)

    return parse


def proof_device(value: Any, _base: Path) -> str:
    """Return where to prove: a kind of device, or one GPU by its number."""
    if not is_device(value):
        raise ValueError('one of "auto", "cuda", "cuda:N", "cpu", "none"')
    return str(value)


def size_from(lowest_bytes: int) -> Parse:
    """Return what accepts an amount of memory from *lowest_bytes* on."""

    def parse(value: Any, _base: Path) -> int:
        size_bytes = parse_size(value)
        if size_bytes < lowest_bytes:
            raise ValueError(f"at least {lowest_bytes >> 20}MiB")
        return size_bytes

    return parse


def number(lowest: int, highest: int) -> Parse:
    """Return what accepts a whole number from *lowest* to *highest*."""

    def parse(value: Any, _base: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError(f"a whole number from {lowest} to {highest}")
        return value

    return parse


def texts(value: Any, _base: Path) -> tuple[str, ...]:
    """Return a list of strings, none of them empty."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError('a list of strings like ["*.tmp", "cache/"]')
    return tuple(value)


def command(value: Any, base: Path) -> tuple[str, ...]:
    """Return a command that gets a checkpoint's path; a word may name a file beside the configuration."""
    allowed = 'a list of strings like ["python", "check.py", "{path}"], with {path} among them'
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(allowed)
    if not any("{path}" in item for item in value):
        raise ValueError(allowed)
    parts = tuple(str(base / item) if (base / item).is_file() else item for item in value)
    for part in parts:
        # Python's exit status for a missing script is that of a failed check, and would count against checkpoints.
        if part.endswith(".py") and not os.path.isfile(part):
            raise ValueError(f"a command whose programs exist; there is no {base / part}")
    return parts


def variables(value: Any, base: Path) -> tuple[str, ...]:
    """Return names of environment variables, or assignments, none of which can hold mlsync's or AWS's secrets."""
    for item in texts(value, base):
        name, _, _ = item.partition("=")
        if not name.isidentifier() or name.startswith(("MLSYNC_", "AWS_")):
            raise ValueError('a list like ["PYTHONPATH", "OMP_NUM_THREADS=4"], without MLSYNC_* and AWS_*')
    return texts(value, base)


def factory(value: Any, base: Path) -> str:
    """Return where a model is built: a module and a callable in it."""
    module, colon, name = text(value, base).partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError('a module and a callable in it, like "package.module:build"')
    return str(value)


def schedule(value: Any, base: Path) -> Any:
    """Return a length of time, a cron line or never."""
    return parse_every(text(value, base))


def run_name(value: Any, base: Path) -> str:
    """Return a run name that is safe in paths and messages."""
    try:
        return check_run_name(text(value, base))
    except RunNameInvalid as error:
        raise ValueError(f"a run's name; {error.where}") from None


def repository_url(value: Any, base: Path) -> str:
    """Return a URL that names a place and holds no secret."""
    url = text(value, base)
    if url.startswith("/"):
        raise ValueError(f'a URL; for a directory write "file://{url}"')
    scheme, _, rest = url.partition("://")
    if scheme == "file" and rest.startswith("/"):
        return url
    if scheme == "s3" and rest.split("/")[0]:
        if "@" in rest.split("/")[0]:
            # Messages show URLs, and files that others read hold them.
            raise ValueError("a URL without credentials in it; they belong in an AWS profile or the environment")
        return url
    raise ValueError('"file:///directory" or "s3://bucket/prefix"')
