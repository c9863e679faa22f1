"""What it takes to run parts of mlsync as a user without rights: a Python that he may start, and a place of his own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mlsync

UID = 65534
# What this Python imports from; another Python of the same version imports from there as well.
_PLACES = [place for place in sys.path if place.endswith("-packages")]
_MLSYNC = str(Path(mlsync.__file__).parents[1])


def environment() -> dict[str, str]:
    """What a Python of the system needs to import mlsync and what that needs."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "PYTHONPATH": os.pathsep.join([_MLSYNC, *_PLACES])}


def python_for_all() -> str:
    """A Python that any user may start and that imports mlsync; the test is skipped where there is none, or no root."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    name = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        done = (
            subprocess.run(
                [python, "-c", "import mlsync.cli.main, numpy"],
                user=UID,
                group=UID,
                extra_groups=[],
                env=environment(),
                cwd="/",
                capture_output=True,
                check=False,
            )
            if may_start(python)
            else None
        )
        if done is not None and done.returncode == 0:
            return python
    pytest.skip(f"no {name} that every user may start and that imports mlsync")


def may_start(python: str) -> bool:
    """Whether a user without rights may start a program."""
    try:
        return subprocess.run([python, "-V"], user=UID, capture_output=True, check=False, cwd="/").returncode == 0
    except OSError:
        return False


@contextmanager
def place_of_his_own() -> Iterator[Path]:
    """A directory that belongs to the user, where he can get to it, unlike what pytest makes for root."""
    place = Path(tempfile.mkdtemp(prefix="mlsync-test-"))
    try:
        os.chown(place, UID, UID)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def proof_python(directory: Path, python: str) -> Path:
    """A Python for the proof that any user may start and that imports torch."""
    file = directory / "python"
    # Without -I, which would not look at PYTHONPATH, and with -P, the part of it that is needed.
    places = environment()["PYTHONPATH"]
    file.write_text(f'#!/bin/sh\n[ "$1" = -I ] && shift\nPYTHONPATH="{places}" exec "{python}" -P "$@"\n')
    file.chmod(0o755)
    return file


@contextmanager
def run_as(uid: int, command: list[str], environ: Mapping[str, str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Give a command that runs as a user; what still runs at the end is killed."""
    with subprocess.Popen(command, user=uid, group=uid, extra_groups=[], env={**environ}, **more) as process:
        try:
            yield process
        finally:
            process.kill()
