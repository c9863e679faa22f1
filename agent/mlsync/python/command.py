"""Runs a command of mlsync for a program in Python: in a process of its own, with the answer in JSON.

A notebook's process has threads, signal handlers, an event loop, perhaps a GPU, and memory that is not given back; what
fetches gigabytes beside all that had better not share any of it. And secrets stay out of a process that keeps running.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlsync import errors
from mlsync.errors import ConfigInvalid, Error, ProcessKilled

_LOG: Final = logging.getLogger("mlsync")
_SAYS: Final = "mlsync: "
_NOT_OURS: Final = {"UsageError": ConfigInvalid}
_STOP_S: Final = 30.0
# What a pipe takes at once, whoever reads it when.
_SECRET_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class CommandAccess:
    """Which repository, and what opens it; what is not named is where the command looks by itself."""

    repository: str | None = None
    config: str | os.PathLike[str] | None = None
    passphrase: str | None = field(default=None, repr=False)
    passphrase_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None
    endpoint_url: str | None = None
    profile: str | None = None

    @contextmanager
    def options(self) -> Iterator[tuple[list[str], tuple[int, ...]]]:
        """Yield the options of the command, and the descriptors that it needs: a passphrase comes through a pipe."""
        named = {
            "--repo": self.repository,
            "--config": self.config,
            "--passphrase-file": self.passphrase_file,
            "--key-file": self.key_file,
            "--endpoint-url": self.endpoint_url,
            "--profile": self.profile,
        }
        words = [word for name, value in named.items() if value is not None for word in (name, os.fspath(value))]
        if self.passphrase is None:
            yield words, ()
            return
        if self.passphrase_file is not None:
            raise ConfigInvalid("both a passphrase and a file of one were given", advice="keep one of them")
        secret = self.passphrase.encode("utf-8", "surrogateescape")
        if len(secret) > _SECRET_BYTES_MAX:
            raise ConfigInvalid(f"a passphrase of more than {_SECRET_BYTES_MAX} bytes")
        reading, writing = os.pipe()
        try:
            os.write(writing, secret)
            os.close(writing)
            yield [*words, "--passphrase-file", f"/dev/fd/{reading}"], (reading,)
        finally:
            os.close(reading)


def run_command(arguments: Sequence[str], operands: Sequence[str], access: CommandAccess) -> dict[str, Any]:
    """Return the JSON of a command; raise what it ended with. *operands* may begin with a dash.

    What it said besides goes to the log. An interruption ends it at its next safe point.
    """
    with access.options() as (options, descriptors):
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program, by our own interpreter
                [*_program(), *arguments, *options, "--json", "--", *operands],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=descriptors,
                # Ctrl-C is for the notebook, which tells the command; it would come twice otherwise.
                start_new_session=True,
            )
        except OSError as error:
            raise Error(f"the command mlsync does not start: {error.strerror}") from error
        try:
            out, said = process.communicate()
        except BaseException:
            _end(process)
            raise
    return _answer(process.returncode, out, said.decode("utf-8", "replace").splitlines())


def _program() -> list[str]:
    # -P: Python takes no file in the current directory for a module. A program that embeds Python has no interpreter.
    return [sys.executable, "-P", "-m", "mlsync"] if sys.executable else ["mlsync"]


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_STOP_S)
    except BaseException:
        process.kill()
        process.wait()
        raise


def _answer(status: int, out: bytes, said: Sequence[str]) -> dict[str, Any]:
    try:
        answer = json.loads(out)
    except ValueError:
        answer = None
    failure = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(failure, dict):
        raise _error(str(failure.get("kind")), status, str(failure.get("what")), failure, said)
    if status < 0:
        raise ProcessKilled(f"the command mlsync was killed by signal {-status}")
    if status:
        # The answer is whole, and says what went wrong one by one; the last line says why it counts as a failure.
        raise _error("", status, said[-1].removeprefix(_SAYS) if said else f"mlsync ended with {status}", {}, ())
    if not isinstance(answer, dict):
        raise Error("the command mlsync gave no answer", where=" ".join(said[-1:]) or None)
    for line in said:
        _LOG.warning("%s", line.removeprefix(_SAYS))
    return answer


def _error(name: str, status: int, what: str, failure: dict[str, Any], said: Sequence[str]) -> Error:
    """Return an error as the command met it, by its name or by its exit status."""
    kind = _NOT_OURS.get(name) or getattr(errors, name, None) or _by_status(status)
    if not (isinstance(kind, type) and issubclass(kind, Error)):
        kind = Error
    where, advice = failure.get("where"), failure.get("advice")
    error = kind(what, where=where and str(where), advice=advice and str(advice))
    if name == "Bug":
        error.add_note("\n".join(said))
    return error


def _by_status(status: int) -> type[Error]:
    kinds = [Error]
    for kind in kinds:
        kinds += kind.__subclasses__()
    found = [kind for kind in kinds if "exit_code" in vars(kind) and kind.exit_code == status]
    return next((kind for kind in found if kind.__module__ == errors.__name__), Error)


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return a path as the command gets it, whatever directory it works in."""
    return Path(os.path.abspath(os.path.expanduser(os.fspath(path))))
