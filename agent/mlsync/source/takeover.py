"""Permissions for a directory to continue a run, whoever wrote its newest version: small files beside the local state.

They are not in the state's database, so that a restore works even if that is damaged or in use by another process.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from mlsync.errors import StateDamaged, StateFull
from mlsync.source.paths import display

_DIRECTORY: Final = "handed-over"
_NOTE_BYTES_MAX: Final = 1 << 16


class NewestWriter(msgspec.Struct, frozen=True):
    """The number of a run's newest version, and the id of who made it; empty if that is not known."""

    number: int
    writer: bytes


def allow_takeover(
    state_directory: Path, run: str, directory: bytes, number: int, newest: NewestWriter | None = None
) -> None:
    """Allow *directory*, which holds version *number* (0: any content), to continue the run; durable on return.

    With *newest*, the run's newest version at that time, only until somebody else continues it: of two nodes that
    restored the same version the first one to make a version has the run.
    """
    note = _note(state_directory, run, directory)
    temporary = note.with_name(f".{note.name}.{os.getpid()}")
    try:
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            note_of = {"run": run, "directory": display(directory), "version": number}
            after = {} if newest is None else {"newest": newest.number, "writer": newest.writer.hex()}
            file.write(json.dumps(note_of | after).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, note)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        kind = StateFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StateDamaged
        what = f"it cannot be noted that a run goes on here: {error.strerror}"
        raise kind(what, where=display(os.fsencode(note.parent))) from error


def may_take_over(state_directory: Path, run: str, directory: bytes, newest: NewestWriter | None = None) -> bool:
    """Return whether ``allow_takeover`` was called and ``end_takeover`` was not called since.

    With *newest*, the run's newest version now: and whether nobody else has continued the run since. Its old writer may
    have: a node that is about to go makes a last version.
    """
    note = _note(state_directory, run, directory)
    if newest is None:
        return note.exists()
    try:
        content = json.loads(note.read_bytes()[:_NOTE_BYTES_MAX])
        number, writer = int(content["newest"]), bytes.fromhex(content["writer"])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # Of an earlier mlsync, or of --take-over, which asks for the run whoever has it.
        return note.exists()
    return newest.number <= number or (bool(writer) and newest.writer == writer)


def end_takeover(state_directory: Path, run: str, directory: bytes) -> None:
    """Remove the permission: the directory has written a version and is the run's writer now."""
    with suppress(OSError):
        _note(state_directory, run, directory).unlink()


def _note(state_directory: Path, run: str, directory: bytes) -> Path:
    # By the real path, because a restore and a backup may use different paths to the directory.
    name = blake2b(run.encode() + b"\0" + os.path.realpath(directory), digest_size=16).hexdigest()
    return state_directory / _DIRECTORY / f"{name}.json"
