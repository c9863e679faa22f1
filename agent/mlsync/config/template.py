"""The commented configuration file that ``mlsync init`` writes: every key, its default, and what it is for."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from mlsync.config.keys import Key
from mlsync.config.model import TABLES, TOP
from mlsync.config.new_objects import Lock
from mlsync.config.places import default_state_directory
from mlsync.errors import ConfigInvalid

#: What a key can be set to here; ``None`` leaves it as it is by default.
Value: TypeAlias = str | bool | Path | Lock | Mapping[str, str] | None
_COLUMNS: Final = 100
#: What ends a key behind a # that shows no default.
EXAMPLE: Final = "  # example"
_HEAD: Final = """\
# What mlsync keeps, where, and when. Every key is here. A key behind a # shows its default, or an
# example if its default is not one value. To set it, remove the #. mlsync refuses unknown keys.
# Relative paths count from this file; ~ is your home directory.
"""


def template(
    repository: str,
    watches: Sequence[tuple[Path, str | None]] = (),
    *,
    s3: Mapping[str, Value] | None = None,
    key: Mapping[str, Value] | None = None,
    state_directory: Path | None = None,
    mirror: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Return a file that ``load`` reads back to these values; each of *watches* has a run name or none.

    *environ* says where the state directory is by default.
    """
    top = dict(TOP)
    with_default = _toml(default_state_directory(environ))
    top["state_directory"] = msgspec.structs.replace(TOP["state_directory"], default=with_default)
    parts = [_HEAD, *_lines(top, {"repository": repository, "state_directory": state_directory})]
    for directory, run in watches:
        parts += ["", "[[watch]]", *_lines(TABLES["watch"], {"directory": directory, "run": run})]
    if not watches:
        parts += ["", "#[[watch]]", *_lines(TABLES["watch"], {})]
    parts += ["", "[key]", *_lines(TABLES["key"], key or {})]
    parts += ["", "[agent]", *_lines(TABLES["agent"], {})]
    parts += ["", "[backup]", *_lines(TABLES["backup"], {})]
    parts += ["", "[limits]", *_lines(TABLES["limits"], {})]
    parts += ["", "[preemption]", *_lines(TABLES["preemption"], {})]
    parts += ["", "[proof]", *_lines(TABLES["proof"], {})]
    parts += ["", "#[[notify]]", *_lines(TABLES["notify"], {})]
    parts += ["", "[hooks]", *_lines(TABLES["hooks"], {})]
    parts += ["", "[mlflow]", *_lines(TABLES["mlflow"], {})]
    parts += ["", "[retention]", *_lines(TABLES["retention"], {})]
    parts += ["", "[evaluate]", *_lines(TABLES["evaluate"], {})]
    parts += ["", "[s3]", *_lines(TABLES["s3"], s3 or {})]
    parts += ["", "#[[mirror]]" if mirror is None else "[[mirror]]", *_lines(TABLES["mirror"], {"url": mirror})]
    return "\n".join(parts) + "\n"


def assignments(values: Mapping[str, Value]) -> list[str]:
    """Return the lines that set these keys; one whose value is ``None`` is left out."""
    return [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]


def _lines(keys: Mapping[str, Key], given: Mapping[str, Value]) -> Iterator[str]:
    unknown = set(given) - set(keys)
    assert not unknown, unknown
    for name, key in keys.items():
        yield from _comment(key.why)
        if key.default is None and key.unset:
            yield from _comment(f"Default: {key.unset}.")
        value = given.get(name)
        if value is not None:
            yield f"{name} = {_toml(value)}"
        elif key.default is not None:
            yield f"#{name} = {key.default}"
        else:
            yield f"#{name} = {key.example}{EXAMPLE}"


def _comment(text: str) -> Iterator[str]:
    lines = textwrap.wrap(text.replace("`", ""), _COLUMNS, break_long_words=False, break_on_hyphens=False)
    return (f"# {line}" for line in lines)


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(name)} = {_toml(one)}" for name, one in value.items()) + " }"
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigInvalid("a configuration file cannot hold a path that is not UTF-8", where=repr(text)) from None
    # JSON's strings are TOML's basic strings, except that TOML wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
