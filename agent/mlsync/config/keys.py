"""What a key of the configuration is, and which values keys may have.

``model.py`` declares each key once, at the field that holds its value. The reader, its error messages and the file that
``mlsync init`` writes all follow that declaration, so they cannot disagree.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from mlsync.config.address import ALLOWED as ADDRESS_ALLOWED
from mlsync.config.address import Address, parse_address
from mlsync.config.every import parse_every
from mlsync.config.run_name import check_run_name
from mlsync.config.units import DURATION, parse_duration, parse_size
from mlsync.courtesy.timetable import Timetable, parse_timetable
from mlsync.errors import ConfigInvalid, RunNameInvalid
from mlsync.kms.names import is_name
from mlsync.retention.direction import named_number
from mlsync.retention.grammar import parse_rules
from mlsync.retention.limit import ALLOWED as LIMIT_ALLOWED
from mlsync.retention.limit import RemovalLimit, parse_limit
from mlsync.retention.rules import Rule
from mlsync.source.exclude import Excludes

V = TypeVar("V")
REQUIRED: Final = dataclasses.MISSING
_AS_SHOWN: Final = object()
#: What is allowed where any text is.
TEXT: Final = "a string that is not empty"
_LEVEL: Final = re.compile(r"L[0-5]")
_CHANNEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
# What is remembered longer should be in a key file, which needs no stretching.
_REMEMBERED_S_MAX: Final = 86_400.0
_HOUR_S: Final = 3600.0
_SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?) ?%", re.ASCII)
_SHARE_PERCENT_MIN: Final = 0.1
_PERCENT: Final = 100.0
_DEVICE: Final = re.compile(r"auto|cuda(?::\d{1,3})?|cpu|none")
# A drive's letter looks like a scheme too, and so does the host of scp's places.
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.@_-]*:")


class Kind(msgspec.Struct, Generic[V], frozen=True):
    """What values a key takes, in *words*; *parse* returns one, or raises ``ValueError`` with what is allowed."""

    words: str
    parse: Callable[[Any, Path], V]

    def __call__(self, value: Any, base: Path) -> V:
        """Return what *value* means in a file in the directory *base*."""
        return self.parse(value, base)


def kind(words: str) -> Callable[[Callable[[Any, Path], V]], Kind[V]]:
    """Make a kind of values of a function that parses them."""
    return lambda parse: Kind(words, parse)


class Key(msgspec.Struct, frozen=True):
    """A key: what it is for (*why*, with code in backquotes), its *default* as TOML writes it, and an *example*.

    A key whose default is not one value has ``None`` there, and *unset* says what holds while it is not set; for a key
    that must be set it is empty.
    """

    kind: Kind[Any]
    why: str
    default: str | None
    example: str
    unset: str
    name: str = ""
    field: str = ""

    def parse(self, value: Any, base: Path) -> Any:
        """Return what *value* means in a file in the directory *base*, or raise ``ValueError``."""
        return self.kind(value, base)


def key(
    kind: Kind[Any],
    why: str,
    *,
    default: str | None = None,
    example: str = "",
    unset: str = "not set",
    name: str = "",
    otherwise: Any = _AS_SHOWN,
) -> Any:
    """Return the field of a dataclass that a key sets; the key is called like the field unless it has a *name*.

    The field's default is the value of the text *default*, or without one *otherwise*, which is ``None`` if not given.
    """
    value = None if otherwise is _AS_SHOWN else otherwise
    if default is not None:
        value = kind(tomllib.loads(f"value = {default}")["value"], Path())
    declared = Key(kind, why, default, example or default or "", unset, name)
    return dataclasses.field(default=value, metadata={"key": declared})


def keys_of(dataclass_type: type) -> Mapping[str, Key]:
    """Return the keys that a dataclass declares, by their names and in their order."""
    declared = [
        (field.name, field.metadata["key"]) for field in dataclasses.fields(dataclass_type) if "key" in field.metadata
    ]
    named = [msgspec.structs.replace(one, name=one.name or field, field=field) for field, one in declared]
    return {one.name: one for one in named}


def is_device(value: object) -> bool:
    """Return whether a proof can be asked for on that device, in the configuration or on the command line."""
    return isinstance(value, str) and _DEVICE.fullmatch(value) is not None


@kind("text")
def text(value: Any, _base: Path) -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(TEXT)
    return value


@kind("a path")
def path(value: Any, base: Path) -> Path:
    """Return an absolute path; relative ones count from the configuration file, and ``~`` is the user's home."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path in quotes")
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        raise ValueError(f"a path without ~, since the home directory of {value.partition('/')[0]} is not known here")
    try:
        return Path(os.path.abspath(base / expanded))
    except FileNotFoundError:
        raise ValueError("an absolute path, since the current directory was removed") from None


@kind("an IP address with a port")
def listening_address(value: Any, _base: Path) -> Address:
    """Return an address to listen at."""
    if not isinstance(value, str):
        raise ValueError(ADDRESS_ALLOWED)  # noqa: TRY004 - it becomes ConfigInvalid, whatever was wrong
    return parse_address(value)


@kind("`true` or `false`")
def flag(value: Any, _base: Path) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - it becomes ConfigInvalid, whatever was wrong
    return value


@kind("a length of time")
def duration(value: Any, _base: Path) -> float:
    """Return seconds."""
    if not isinstance(value, str):
        raise ValueError(DURATION)  # noqa: TRY004 - it becomes ConfigInvalid, whatever was wrong
    return parse_duration(value)


@kind("a length of time above zero")
def duration_above_zero(value: Any, base: Path) -> float:
    """Return more than zero seconds."""
    seconds = duration(value, base)
    if seconds <= 0:
        raise ValueError(f"{DURATION}, above zero")
    return seconds


@kind("a length of time up to one hour")
def duration_up_to_an_hour(value: Any, base: Path) -> float:
    """Return seconds, 3600 at most."""
    seconds = duration(value, base)
    if seconds > _HOUR_S:
        raise ValueError(f"{DURATION}, up to one hour")
    return seconds


@kind('a length of time, or "never"')
def duration_or_never(value: Any, base: Path) -> float | None:
    """Return more than zero seconds, or ``None`` for never."""
    if value == "never":
        return None
    try:
        return duration_above_zero(value, base)
    except ValueError as error:
        raise ValueError(f'{error}; or "never"') from None


@kind(f'a length of time up to {_REMEMBERED_S_MAX / 3600:g}h, or "never"')
def remembering(value: Any, base: Path) -> float | None:
    """Return more than zero seconds and no more than a day, or ``None`` for never."""
    seconds: float | None = math.inf
    with suppress(ValueError):
        seconds = duration_or_never(value, base)
    if seconds is not None and seconds > _REMEMBERED_S_MAX:
        raise ValueError(f'{DURATION}, above zero and up to {_REMEMBERED_S_MAX / 3600:g}h; or "never"')
    return seconds


@kind('a share from "0.1%" to "100%"')
def share(value: Any, _base: Path) -> float:
    """Return a share as a fraction of one."""
    found = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if found is None or not _SHARE_PERCENT_MIN <= float(found[1]) <= _PERCENT:
        raise ValueError('a share from "0.1%" to "100%"')
    return float(found[1]) / _PERCENT


def one_of(*choices: str) -> Kind[str]:
    """Return what accepts one of some words."""
    allowed = "one of " + ", ".join(f'"{choice}"' for choice in choices)

    def parse(value: Any, _base: Path) -> str:
        if value not in choices:
            raise ValueError(allowed)
        return str(value)

    return Kind(allowed, parse)


def names_or(words: tuple[str, ...], names: tuple[str, ...]) -> Kind[tuple[str, ...] | None]:
    """Return what accepts "auto" as ``None``, "off" as no name, or a list of names."""
    allowed = '"auto", "off", or a list of some of ' + ", ".join(f'"{name}"' for name in names)

    def parse(value: Any, _base: Path) -> tuple[str, ...] | None:
        if value in words:
            return None if value == words[0] else ()
        if not isinstance(value, list) or not value or any(item not in names for item in value):
            raise ValueError(allowed)
        return tuple(name for name in names if name in value)

    return Kind(allowed, parse)


def some_of(*choices: str) -> Kind[tuple[str, ...]]:
    """Return what accepts a list of some words, and keeps each once."""
    allowed = "a list of some of " + ", ".join(f'"{choice}"' for choice in choices)

    def parse(value: Any, _base: Path) -> tuple[str, ...]:
        if not isinstance(value, list) or any(item not in choices for item in value):
            raise ValueError(allowed)
        return tuple(choice for choice in choices if choice in value)

    return Kind(allowed, parse)


@kind('one of "auto", "cuda", "cuda:N", "cpu", "none"')
def proof_device(value: Any, _base: Path) -> str:
    """Return where to prove: a kind of device, or one GPU by its number."""
    if not is_device(value):
        raise ValueError('one of "auto", "cuda", "cuda:N", "cpu", "none"')
    return str(value)


def size_from(lowest_bytes: int) -> Kind[int]:
    """Return what accepts an amount of memory from *lowest_bytes* on."""

    def parse(value: Any, _base: Path) -> int:
        least = f"at least {lowest_bytes >> 20}MiB"
        try:
            size_bytes = parse_size(value)
        except ValueError as error:
            raise ValueError(f"{error}, {least}") from None
        if size_bytes < lowest_bytes:
            raise ValueError(least)
        return size_bytes

    return Kind(f"an amount of memory, at least {lowest_bytes >> 20}MiB", parse)


def number(lowest: int, highest: int) -> Kind[int]:
    """Return what accepts a whole number from *lowest* to *highest*."""

    def parse(value: Any, _base: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError(f"a whole number from {lowest} to {highest}")
        return value

    return Kind(f"a whole number from {lowest} to {highest}", parse)


@kind("a list of texts")
def texts(value: Any, _base: Path) -> tuple[str, ...]:
    """Return a list of strings, none of them empty."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError('a list of strings like ["*.tmp", "cache/"]')
    return tuple(value)


@kind("a list of patterns")
def patterns(value: Any, base: Path) -> tuple[str, ...]:
    """Return patterns of files, each of them one that can be understood."""
    found = texts(value, base)
    try:
        Excludes(found)
    except ConfigInvalid as error:
        hint = f" ({error.advice})" if error.advice else ""
        raise ValueError(f'a list of patterns like ["*.tmp", "cache/"]; {error.what}{hint}') from None
    return found


@kind("a list of rules")
def keep_rules(value: Any, _base: Path) -> tuple[Rule, ...]:
    """Return the rules of a policy, at least one."""
    allowed = 'a list of rules like ["last 5", "daily 14", "pinned"]'
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(allowed)
    try:
        return parse_rules(value)
    except ValueError as error:
        raise ValueError(f"{allowed}; {error}") from None


@kind('one of "L0", "L1", "L2", "L3", "L4", "L5"')
def proof_level(value: Any, _base: Path) -> int:
    """Return a level of proof, as lists of versions show it."""
    if not isinstance(value, str) or not _LEVEL.fullmatch(value):
        raise ValueError('one of "L0", "L1", "L2", "L3", "L4", "L5"')
    return int(value[1])


@kind("a share in percent, or a whole number")
def removal_limit(value: Any, _base: Path) -> RemovalLimit:
    """Return how many versions may be removed in one go."""
    try:
        return parse_limit(value)
    except ValueError:
        raise ValueError(LIMIT_ALLOWED) from None


@kind("a list of texts")
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


@kind("a list of texts")
def variables(value: Any, base: Path) -> tuple[str, ...]:
    """Return names of environment variables, or assignments, none of which can hold mlsync's or AWS's secrets."""
    for item in texts(value, base):
        name, _, _ = item.partition("=")
        if not name.isidentifier() or name.startswith(("MLSYNC_", "AWS_")):
            raise ValueError('a list like ["PYTHONPATH", "OMP_NUM_THREADS=4"], without MLSYNC_* and AWS_*')
    return texts(value, base)


@kind("the name of an environment variable")
def secret_variable(value: Any, base: Path) -> str:
    """Return the name of a variable that holds a secret, and is none of mlsync's own."""
    name = text(value, base)
    if not (name.isascii() and name.isidentifier()) or name.startswith("MLSYNC_"):
        raise ValueError('a variable\'s name like "WECOM_URL", which does not begin with MLSYNC_')
    return name


@kind("URL")
def tracking_uri(value: Any, base: Path) -> str:
    """Return the URL of an MLflow server, which holds no secret."""
    try:
        from mlsync.registry.address import checked_url  # late, as below: few configurations name a registry

        url, user, password = checked_url(text(value, base))
    except ConfigInvalid as error:
        raise ValueError(f"the address of an MLflow server ({error.what})") from None
    if user or password:
        raise ValueError("a URL without credentials in it; they belong in token_file or password_file")
    return url


@kind("text")
def model_name(value: Any, base: Path) -> str:
    """Return a name that MLflow takes for a model."""
    name = text(value, base)
    try:
        from mlsync.registry.names import refuse_model

        refuse_model(name)
    except ConfigInvalid as error:
        raise ValueError(f"a name that MLflow takes, without / and : ({error.what})") from None
    return name


@kind("a list of texts")
def aliases(value: Any, base: Path) -> tuple[str, ...]:
    """Return aliases that MLflow takes; one alone may be a string."""
    found = texts([value] if isinstance(value, str) else value, base)
    for one in found:
        try:
            from mlsync.registry.names import refuse_alias

            refuse_alias(one)
        except ConfigInvalid as error:
            raise ValueError(f'an alias like "champion" ({error.what})') from None
    return found


@kind("text")
def channel_name(value: Any, base: Path) -> str:
    """Return a name that is safe in messages and in the names of credentials."""
    name = text(value, base)
    if not _CHANNEL.fullmatch(name):
        raise ValueError("a name of lower-case letters, digits and dashes, up to 40 characters")
    return name


@kind("a list of texts")
def program(value: Any, base: Path) -> tuple[str, ...]:
    """Return a command; its first word, or another, may name a file beside the configuration."""
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError('a list of strings like ["/usr/local/bin/announce", "--quiet"]; no shell reads it')
    if any("\0" in item for item in value):
        raise ValueError("a list of strings without the character NUL")
    return tuple(str(base / item) if (base / item).is_file() else item for item in value)


@kind("text")
def number_name(value: Any, base: Path) -> str:
    """Return the name of a number, with ``max`` or ``min`` behind it if that is said."""
    said = text(value, base)
    try:
        named_number(said)
    except ValueError:
        raise ValueError('the name of a number like "accuracy" or "loss min"') from None
    if not said.isprintable():
        raise ValueError("a name of printable characters")
    return " ".join(said.split())


@kind("text")
def factory(value: Any, base: Path) -> str:
    """Return where a model is built: a module and a callable in it."""
    module, colon, name = text(value, base).partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError('a module and a callable in it, like "package.module:build"')
    return str(value)


@kind('a length of time, a cron line, or "never"')
def schedule(value: Any, base: Path) -> Any:
    """Return a length of time, a cron line or never."""
    return parse_every(text(value, base))


@kind("a rate, or a list of rates with hours and days")
def rates(value: Any, _base: Path) -> Timetable:
    """Return how fast one may go, by the hours of the week."""
    return parse_timetable(value)


@kind("text")
def run_name(value: Any, base: Path) -> str:
    """Return a run name that is safe in paths and messages."""
    try:
        return check_run_name(text(value, base))
    except RunNameInvalid as error:
        raise ValueError(f"a run's name; {error.where}") from None


@kind("a list of texts")
def run_names(value: Any, base: Path) -> tuple[str, ...]:
    """Return names of runs, at least one."""
    found = texts(value, base)
    if not found:
        raise ValueError('a list of runs like ["yolo", "bert"]')
    return tuple(run_name(one, base) for one in found)


@kind("a path or a URL")
def repository(value: Any, base: Path) -> str:
    """Return the URL of a place that was named by its URL or, if it is a directory, by its path.

    A path is absolute, begins with ``~``, or counts from *base*. No URL holds a secret.
    """
    if not isinstance(value, str) or not value:
        raise ValueError("a path or a URL in quotes")
    place = value
    if place.startswith("s3://"):
        return _bucket(place)
    if place.startswith("file:"):
        return _file_url(place)
    if _SCHEME.match(place):
        raise ValueError('a path, "file:///directory" or "s3://bucket/prefix"; a path may begin with "./"')
    return path(place, base).as_uri()


def _bucket(url: str) -> str:
    bucket = url.removeprefix("s3://").split("/")[0]
    if "@" in bucket:
        # Messages show URLs, and files that others read hold them.
        raise ValueError("a URL without credentials in it; they belong in an AWS profile or the environment")
    if not bucket:
        raise ValueError('a URL with a bucket\'s name, like "s3://bucket/prefix"')
    return url


def _file_url(url: str) -> str:
    host, slash, _ = url.removeprefix("file:").removeprefix("//").partition("/")
    if not slash or host not in ("", "localhost") or not url.startswith("file://"):
        raise ValueError('a directory of this machine: its path, or "file:///directory" with three slashes')
    if "?" in url or "#" in url:
        raise ValueError('a file URL with %3F for "?" and %23 for "#"; a path can hold both')
    return url


@kind("text")
def kms_key(value: Any, base: Path) -> str:
    """Return the name of a key of AWS KMS."""
    name = text(value, base)
    if not is_name(name):
        raise ValueError('a key\'s ARN, its id, or "alias/NAME"')
    return name


@kind("a URL")
def endpoint(value: Any, base: Path) -> str:
    """Return the URL of a server, which holds no secret."""
    url = text(value, base)
    scheme, _, rest = url.partition("://")
    if "@" in rest:
        raise ValueError("a URL without credentials in it; they belong in an AWS profile or the environment")
    if scheme not in ("http", "https") or not rest.strip("/"):
        raise ValueError('a URL like "https://minio.example:9000"')
    return url
