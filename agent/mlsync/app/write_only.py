"""Make the key file of a node that writes and cannot read."""

from __future__ import annotations

import os
from pathlib import Path

from mlsync.errors import ConfigInvalid
from mlsync.repository.keys.write_only_file import decode, encode, new_keys
from mlsync.repository.repository import Repository

_ADVICE = "give the name of a file that is not there yet, in a directory where you may write"


def refuse_taken(place: Path) -> None:
    """Raise ``ConfigInvalid`` where no key file can be made, before a repository is made or anybody is asked."""
    if os.path.lexists(place):
        raise ConfigInvalid("there is something already; no key file replaces it", where=str(place), advice=_ADVICE)
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise ConfigInvalid("no file can be made there", where=str(place), advice=_ADVICE)


def make_key_file(repository: Repository, place: Path) -> None:
    """Write the key file of one more node to *place*, for this user alone; the repository opened with it.

    The repository itself does not change: the node's keys are derived from its master key.
    """
    repository.confirm()
    body = encode(new_keys(repository.keys, conditional_create=repository.conditional_create))
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        what = f"the key file cannot be written: {error.strerror}"
        raise ConfigInvalid(what, where=str(place), advice=_ADVICE) from error
    Repository.open(repository.store, decode(place.read_bytes(), str(place)))
