"""The commented configuration file that ``mlsync init`` writes: every key, its default, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlsync.config.keys import Key
from mlsync.config.model import TABLES, TOP
from mlsync.errors import ConfigInvalid

_HEAD = """\
# What mlsync keeps, where, and when. Every key is here; those behind a # show their default, or an example where there
# is none. mlsync refuses unknown keys. Relative paths count from this file; ~ is your home.
"""


def template(
    repository: str,
    watches: Sequence[tuple[Path, str | None]] = (),
    *,
    state_directory: Path | None = None,
    s3: Mapping[str, str | bool | Path | None] | None = None,
    key: Mapping[str, str | bool | Path | None] | None = None,
) -> str:
    """Return a file that ``load`` reads back to these values; each of *watches* has a run name or none."""
    given: dict[str, str | bool | Path | None] = {"repository": repository, "state_directory": state_directory}
    parts = [_HEAD, *_lines(TOP, given)]
    for directory, run in watches:
        parts += ["", "[[watch]]", *_lines(TABLES["watch"], {"directory": directory, "run": run})]
    if not watches:
        parts += ["", "# [[watch]]", *_lines(TABLES["watch"], {})]
    parts += ["", "[key]", *_lines(TABLES["key"], key or {})]
    parts += ["", "[agent]", *_lines(TABLES["agent"], {})]
    parts += ["", "[proof]", *_lines(TABLES["proof"], {})]
    parts += ["", "[s3]", *_lines(TABLES["s3"], s3 or {})]
    return "\n".join(parts) + "\n"


def _lines(keys: Mapping[str, Key], given: Mapping[str, str | bool | Path | None]) -> Iterator[str]:
    unknown = set(given) - set(keys)
    assert not unknown, unknown
    for name, key in keys.items():
        value = given.get(name)
        yield f"# {key.why}"
        yield f"# {name} = {key.shown}" if value is None else f"{name} = {_toml(value)}"


def _toml(value: str | bool | Path) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigInvalid("a configuration file cannot hold a path that is not UTF-8", where=repr(text)) from None
    # JSON's strings are TOML's basic strings, except that TOML wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
