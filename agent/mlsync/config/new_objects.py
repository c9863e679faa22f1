"""What a configuration may say of new objects in a bucket: their class, their tags, their lock, whose the bucket is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from mlsync.config.keys import Kind, kind, text
from mlsync.config.units import DURATION, parse_duration

#: What mlsync itself tags objects with, of the ten tags that an object may have.
OWN_TAGS: Final = ("mlsync-kind", "mlsync-run")
TAGS_MAX: Final = 10
#: A lock is extended when half of its period is over, and nobody may be there for a day.
LOCK_MIN_S: Final = 3 * 86400.0
_LOCK_MAX_S: Final = 100 * 365 * 86400.0
_TAG_NAME_LETTERS_MAX: Final = 128
_TAG_VALUE_LETTERS_MAX: Final = 256
_TAG: Final = re.compile(r"[\w \t+\-=.:/@]*")
_CLASS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Under the names of AWS, Aliyun OSS and Tencent COS; GLACIER_IR is read like any other class.
_ARCHIVES: Final = frozenset({"glacier", "deeparchive", "archive", "coldarchive", "deepcoldarchive", "snow"})
_MODES: Final = ("governance", "compliance")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_LOCK: Final = f'"governance" or "compliance", and {DURATION}, from 3d to 100 years: "governance 30d"'


class Lock(msgspec.Struct, frozen=True):
    """For how long each new object is locked, and whether somebody can lift that."""

    mode: str
    period_s: float
    said: str

    def __str__(self) -> str:
        """Return it as the configuration says it."""
        return self.said


def readable_class(why_not: str) -> Kind[str]:
    """Return what accepts a storage class whose objects are read at once; *why_not* says why no other one."""

    def parse(value: Any, base: Path) -> str:
        name = text(value, base)
        if not _CLASS.fullmatch(name):
            raise ValueError('the name of a storage class like "STANDARD_IA"')
        if name.lower().replace("_", "").replace("-", "") in _ARCHIVES:
            raise ValueError(f"a class whose objects can be read at once: {why_not}")
        return name

    return Kind("text", parse)


@kind("a table of texts")
def tags(value: Any, _base: Path) -> Mapping[str, str]:
    """Return a user's tags by their names; words like ``name=value`` are one each."""
    words = [value] if isinstance(value, str) else value
    if isinstance(words, list) and all(isinstance(word, str) and "=" in word for word in words):
        value = dict(word.split("=", 1) for word in words)
        if len(value) < len(words):
            raise ValueError("names that come once each")
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ValueError('a table of names and values like { team = "vision" }')
    if len(value) > TAGS_MAX - len(OWN_TAGS):
        raise ValueError(
            f"at most {TAGS_MAX - len(OWN_TAGS)} tags: an object may have {TAGS_MAX}, and mlsync adds {len(OWN_TAGS)}"
        )
    for name, meaning in value.items():
        _check_tag(name, meaning)
    return dict(value)


def _check_tag(name: str, value: str) -> None:
    if name.lower().startswith(("aws:", "mlsync-")):
        raise ValueError(f"names that do not begin with aws: or mlsync-, as {name!r} does")
    if not 0 < len(name) <= _TAG_NAME_LETTERS_MAX or len(value) > _TAG_VALUE_LETTERS_MAX:
        limits = f"1 to {_TAG_NAME_LETTERS_MAX} characters, and values of at most {_TAG_VALUE_LETTERS_MAX}"
        raise ValueError(f"names of {limits}")
    for part in (name, value):
        if not _TAG.fullmatch(part):
            raise ValueError(f"made of letters, digits, spaces and + - = . _ : / @, as {part!r} is not")


@kind('"governance" or "compliance" and a length of time')
def object_lock(value: Any, _base: Path) -> Lock:
    """Return a lock's mode and period."""
    mode, _, period = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if mode not in _MODES:
        raise ValueError(_LOCK)
    try:
        period_s = parse_duration(period)
    except ValueError:
        raise ValueError(_LOCK) from None
    if not LOCK_MIN_S <= period_s <= _LOCK_MAX_S:
        raise ValueError(_LOCK)
    return Lock(mode, period_s, f"{mode} {period.strip()}")


@kind("the number of an AWS account")
def account(value: Any, _base: Path) -> str:
    """Return the twelve digits of an account."""
    # The environment's numbers are read as TOML writes them only if the text itself is refused.
    if not isinstance(value, str) or not _ACCOUNT.fullmatch(value):
        raise ValueError('an account\'s twelve digits in quotes, like "111122223333"')
    return value
