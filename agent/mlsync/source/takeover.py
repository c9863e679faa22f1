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

from mlsync.errors import StateDamaged, StateFull
from mlsync.source.paths import display

_DIRECTORY: Final = "handed-over"


def allow_takeover(state_directory: Path, run: str, directory: bytes, number: int) -> None:
    """Allow *directory*, which holds version *number* (0: any content), to continue the run; durable on return."""
    note = _note(state_directory, run, directory)
    temporary = note.with_name(f".{note.name}.{os.getpid()}")
    try:
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            # Only the file's existence counts; its content is for people.
            file.write(json.dumps({"run": run, "directory": display(directory), "version": number}).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, note)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        kind = StateFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StateDamaged
        what = f"it cannot be noted that a run goes on here: {error.strerror}"
        raise kind(what, where=display(os.fsencode(note.parent))) from error


def may_take_over(state_directory: Path, run: str, directory: bytes) -> bool:
    """Return whether ``allow_takeover`` was called and ``end_takeover`` was not called since."""
    return _note(state_directory, run, directory).exists()


def end_takeover(state_directory: Path, run: str, directory: bytes) -> None:
    """Remove the permission: the directory has written a version and is the run's writer now."""
    with suppress(OSError):
        _note(state_directory, run, directory).unlink()


def _note(state_directory: Path, run: str, directory: bytes) -> Path:
    # By the real path, because a restore and a backup may use different paths to the directory.
    name = blake2b(run.encode() + b"\0" + os.path.realpath(directory), digest_size=16).hexdigest()
    return state_directory / _DIRECTORY / f"{name}.json"
