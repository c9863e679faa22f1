"""``mlsync.versions`` and ``mlsync.restore``: what notebooks and scripts look at and bring back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from mlsync.errors import Error
from mlsync.python.command import CommandAccess, absolute, run_command
from mlsync.python.values import RestoredVersion, ResumeLine, VersionRow, VersionTable

T = TypeVar("T")


def versions(
    run: str | None = None,
    *,
    repository: str | None = None,
    config: str | os.PathLike[str] | None = None,
    passphrase: str | None = None,
    passphrase_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
    forgotten: bool = False,
) -> VersionTable:
    """Return the versions of *run*, or of all runs, oldest first.

    Without *repository* and *config* the configuration of this machine counts, as for the command. *passphrase* is
    handed on through a pipe; without any secret, the configuration, the environment and systemd's credentials are
    looked at. Raises the errors of ``mlsync.errors``.
    """
    access = CommandAccess(repository, config, passphrase, passphrase_file, key_file, endpoint_url, profile)
    arguments = ["versions", *(["--all"] if forgotten else [])]
    answer = run_command(arguments, [] if run is None else [run], access)
    return _understood(lambda: VersionTable(_version(one) for one in answer["versions"]))


def restore(
    path: str | os.PathLike[str] | None = None,
    *files: str | os.PathLike[str],
    version: str | int = "resumable",
    run: str | None = None,
    repository: str | None = None,
    config: str | os.PathLike[str] | None = None,
    passphrase: str | None = None,
    passphrase_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
) -> RestoredVersion:
    """Bring a version back to the directory *path*, by default the one that it was made from; what is there is kept.

    With *files*, only these: paths in the run's directory, or patterns. *version* is a number, ``"resumable"``,
    ``"best"``, ``"latest"``, or what else ``mlsync restore --version`` takes. The other parameters are those of
    ``versions``. Raises the errors of ``mlsync.errors``.
    """
    access = CommandAccess(repository, config, passphrase, passphrase_file, key_file, endpoint_url, profile)
    arguments = ["restore", "--version", str(version)]
    if run is not None:
        arguments += ["--run", run]
    if path is not None:
        arguments += ["--to", str(absolute(path))]
    answer = run_command(arguments, [os.fspath(one) for one in files], access)
    return _understood(lambda: _restored(answer))


def _version(one: Mapping[str, Any]) -> VersionRow:
    return VersionRow(
        run=str(one["run"]),
        version=int(one["version"]),
        made=datetime.fromisoformat(one["made"]),
        host=str(one["host"]),
        directory=str(one["directory"]),
        file_count=int(one["file_count"]),
        size_bytes=int(one["size_bytes"]),
        new_bytes=int(one["new_bytes"]),
        stored_bytes=int(one["stored_bytes"]),
        checkpoint_count=int(one["checkpoint_count"]),
        broken_count=int(one["broken_count"]),
        level=one["lowest_level"],
        pending=bool(one["pending"]),
        device=one["device"],
        notes=tuple(map(str, one["notes"])),
        is_pinned=one["pin"] is not None,
        is_forgotten=one["forgotten"] is not None,
    )


def _restored(answer: Mapping[str, Any]) -> RestoredVersion:
    return RestoredVersion(
        run=str(answer["run"]),
        version=int(answer["version"]),
        directory=Path(answer["directory"]),
        file_count=int(answer["file_count"]),
        size_bytes=int(answer["size_bytes"]),
        written_count=int(answer["written_count"]),
        written_bytes=int(answer["written_bytes"]),
        read_bytes=int(answer["read_bytes"]),
        unchanged_count=int(answer["unchanged_count"]),
        seconds=float(answer["seconds"]),
        resume=tuple(ResumeLine(str(one["kind"]), Path(one["path"]), str(one["line"])) for one in answer["resume"]),
    )


def _understood(read: Callable[[], T]) -> T:
    """Return what an answer says; it comes from the mlsync of the same installation, which was updated perhaps."""
    try:
        return read()
    except (KeyError, TypeError, ValueError) as fault:
        advice = "restart this program: it has parts of an mlsync before an update"
        raise Error(f"the command's answer is not understood: {fault!r}", advice=advice) from fault
