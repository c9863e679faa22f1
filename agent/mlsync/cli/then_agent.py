"""``--agent`` of ``init`` and ``restore``: the command goes on as ``mlsync agent``, with the passphrase that it has."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from mlsync.app.secrets import SECRET_BYTES_MAX
from mlsync.cli.arguments.options import Common
from mlsync.errors import ConfigInvalid
from mlsync.repository.keys import recovery_key
from mlsync.repository.keys.keyslot import Passphrase, RecoveryKey, Unlock

F = TypeVar("F", bound=Callable[..., Any])
KEEPING_WATCH: Final = "Keeping watch now, as mlsync agent does"
_AGENT: Final = (sys.executable, "-P", "-m", "mlsync", "agent")
_FORWARDED: Final = (
    "endpoint_url",
    "region",
    "profile",
    "addressing",
    "ca_file",
    "payload_signing",
    "kms",
    "kms_region",
    "kms_endpoint_url",
)


def agent_option(what: str) -> Callable[[F], F]:
    """Give a command the option; *what* it does is its help."""
    return click.option("--agent", "then_agent", is_flag=True, help=what)


def refuse_json(common: Common) -> None:
    """Refuse ``--agent`` with ``--json``: the command prints one value when it ends, and the agent does not end."""
    if common.as_json:
        raise ConfigInvalid("--agent with --json", advice="leave out --agent, and start mlsync agent afterwards")


def become_agent(common: Common, place: Path, secret: Unlock) -> NoReturn:
    """Become ``mlsync agent`` with the configuration at *place* and the secret that was found, in a new program.

    The agent starts with no memory, thread or handler of what was done before. A passphrase goes through a pipe, which
    nobody can read again.
    """
    words = [*_AGENT, "--config", str(place), *_options(common)]
    if isinstance(secret, Passphrase | RecoveryKey):
        words += ["--passphrase-file", f"/dev/fd/{_pipe_with(secret)}"]
    elif common.key_file is not None:
        words += ["--key-file", str(common.key_file)]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, words)  # noqa: S606 - our own program, by our own interpreter


def _options(common: Common) -> Iterator[str]:
    """Yield the options that the agent takes as well."""
    for name in _FORWARDED:
        value = getattr(common, name)
        if value is not None:
            yield from (f"--{name.replace('_', '-')}", str(value))
    yield from ["-v"] * common.verbose
    if common.quiet:
        yield "--quiet"


def _pipe_with(secret: Passphrase | RecoveryKey) -> int:
    """Return the end of a pipe from which the program that this one becomes reads the secret."""
    text = recovery_key.write(secret.secret).encode() if isinstance(secret, RecoveryKey) else secret.secret
    reading, writing = os.pipe()
    # Room for the longest secret, so that writing does not wait for a reader.
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 2 * SECRET_BYTES_MAX)
    with os.fdopen(writing, "wb") as stream:
        stream.write(text + b"\n")
    os.set_inheritable(reading, True)
    return reading
