"""The configuration's keys as environment variables: ``MLSYNC_``, the table, the key, in capitals.

``repository`` is ``MLSYNC_REPOSITORY``, and ``every`` under ``[agent]`` is ``MLSYNC_AGENT_EVERY``. The names follow
from the keys alone, so that a new key has its variable without further work. A variable counts before the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from mlsync.config.keys import TEXT, Key
from mlsync.config.model import TABLES, TOP, shown
from mlsync.config.places import SOCKETS_VARIABLE
from mlsync.errors import ConfigInvalid

_PREFIX: Final = "MLSYNC_"
# Those that are no keys: where the file is, where sockets are, secrets, which app/secrets.py reads, and a metadata
# service for tests.
_OTHERS: Final = (
    "MLSYNC_CONFIG",
    SOCKETS_VARIABLE,
    "MLSYNC_PASSPHRASE",
    "MLSYNC_KMS_KEY",
    "MLSYNC_METADATA_ENDPOINT",
)
_TESTS: Final = "MLSYNC_TEST_"
# What a command that evaluates gets: it may call mlsync.
_OF_EVALUATION: Final = re.compile(r"MLSYNC_EVALUATE_(RUN(_DIRECTORY)?|VERSION|EPOCH|STEP|CHECKPOINT|DIRECTORY|RESULT)")
# What Kubernetes and Docker set in every container beside a service that is called mlsync.
_OF_A_SERVICE: Final = re.compile(
    r"MLSYNC_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?|NAME|ENV_\w+)"
)
_TOP: Final = ""


class Said(msgspec.Struct, frozen=True):
    """What the environment says: for each table the values by field, and by ``(table, key)`` the variable."""

    values: Mapping[str, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    variables: Mapping[tuple[str, str], str] = msgspec.field(default_factory=dict)

    def of(self, table: str) -> Mapping[str, Any]:
        """Return the values of one table by the names of their fields; the keys above all tables are in ``""``."""
        return self.values.get(table, {})


def variable_of(table: str, key: str) -> str:
    """Return the variable of a key; *table* is empty for those above all tables."""
    return f"{_PREFIX}{table}_{key}".upper() if table else f"{_PREFIX}{key}".upper()


def known_variables() -> dict[str, tuple[str, Key]]:
    """Return the table and key of each variable; no two keys share one."""
    keys = [("", key) for key in TOP.values()]
    keys += [(table, key) for table, its_keys in TABLES.items() for key in its_keys.values()]
    return {variable_of(table, key.name): (table, key) for table, key in keys}


def read_environment(environ: Mapping[str, str]) -> Said:
    """Return what the variables say; an empty one counts as not set.

    Raises ``ConfigInvalid`` for a value that its key does not take, and for an unknown variable, with the nearest one.
    """
    known = known_variables()
    values: dict[str, dict[str, Any]] = {}
    variables = {}
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or name in _OTHERS or name.startswith(_TESTS) or not environ[name]:
            continue
        if name not in known:
            if not (_OF_A_SERVICE.fullmatch(name) or _OF_EVALUATION.fullmatch(name)):
                raise _unknown(name, known)
            continue
        table, key = known[name]
        try:
            values.setdefault(table, {})[key.field] = _parsed(key, environ[name])
        except ValueError as allowed:
            raise ConfigInvalid(f"{name} must be {allowed}, not {shown(environ[name])}", where=name) from None
        variables[table, key.name] = name
    return Said(values, variables)


def _parsed(key: Key, text: str) -> Any:
    """Return what *text* means: as it is, as TOML writes it, or as words of a list with commas between them."""
    meant: list[Any] = [text]
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    else:
        # What begins with a quote or bracket is meant as TOML; a run called 7 is not.
        meant.insert(0 if text[0] in "\"'[" else 1, value)
    meant.append([word.strip() for word in text.split(",")])
    fault = ValueError()
    for one in meant:
        try:
            return key.parse(one, Path())
        except ValueError as allowed:
            # Of a list that is wrong, what is wrong with its words says more. That a list is no text says nothing, and
            # that it is no length of time says less than which bound that of the text is beyond.
            says_no_more = str(allowed) == TEXT or str(fault).startswith(str(allowed))
            fault = fault if says_no_more and fault.args else allowed
    raise fault


def _unknown(name: str, known: Mapping[str, object]) -> ConfigInvalid:
    import difflib  # late: only for what is wrong

    # What all of them begin with makes none of them more alike.
    names = [one.removeprefix(_PREFIX) for one in (*known, *_OTHERS)]
    close = difflib.get_close_matches(name.removeprefix(_PREFIX), names, n=1, cutoff=0.6)
    advice = f"did you mean {_PREFIX}{close[0]}?" if close else "docs/configuration.md names them; unset it"
    return ConfigInvalid(f"the environment has {name}, and no key of the configuration is called so", advice=advice)
