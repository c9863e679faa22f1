"""The restore that the first process of a launcher makes for all processes on this machine; the others wait for it.

A file in the state directory, named by the launch, is locked by the first process while it restores, and says in the
end how that went. A lock ends with its holder, whatever becomes of that.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from mlsync.errors import FirstRestoreFailed, StateDamaged

#: The first process has so long to come: the machine may be busy with the start of all of them.
PATIENCE_S: Final = 300.0
_DIRECTORY: Final = "launches"
_POLL_S: Final = 0.2
_OLD_S: Final = 24 * 3600.0
_CONTENT_BYTES_MAX: Final = 64 << 10
_DONE, _RESTORES, _LEFT = "done", "restores", "left"
# So long between the two looks at a lock that nobody has.
_LEFT_S: Final = 5.0
# What tells one start of the processes from another one. torchrun is their parent, and starts them anew by itself.
_TORCH: Final = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
_SLURM: Final = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
_MPI: Final = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of several processes on this machine by a launcher, as each of them sees it."""

    key: str

    @classmethod
    def of(cls, kind: str, environ: Mapping[str, str], parent_pid: int, what: str) -> Launch:
        """Return the launch that started this process; *what* is the same for those that train together."""
        names = {"torchrun": _TORCH, "srun": _SLURM, "mpirun": _MPI}[kind]
        parts = [socket.gethostname(), str(os.getuid()), what, *(environ.get(name, "") for name in names)]
        if kind != "srun":
            # Slurm's own numbers say it, also where a shell is between.
            parts += [str(parent_pid), _began(parent_pid)]
        return cls(blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest())

    def file(self, state_directory: Path) -> Path:
        """Return where the first process says how far it is."""
        return state_directory / _DIRECTORY / f"{self.key}.json"


@contextmanager
def restoring(launch: Launch | None, state_directory: Path) -> Iterator[Callable[[], None]]:
    """Have the others wait while the context is open; they go on once what it gives was called, and end without that.

    With no launch nobody waits.
    """
    if launch is None:
        yield lambda: None
        return
    descriptor = _begun(launch.file(state_directory))
    try:
        ended: list[str] = []

        def end(how: str = _DONE) -> None:
            if not ended:
                ended.append(how)
                _say(descriptor, how)
                fcntl.flock(descriptor, fcntl.LOCK_UN)

        try:
            yield end
        except BaseException as error:
            end(str(error) or type(error).__name__)
            raise
        end("it was stopped")
    finally:
        os.close(descriptor)


def _begun(file: Path) -> int:
    """Return the open file of a launch, locked and empty."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_old(file.parent)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        what = f"the other processes cannot be told of the restore: {error.strerror}"
        raise StateDamaged(what, where=str(file), advice="see that state_directory can be written to") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
    except OSError as error:
        os.close(descriptor)
        raise StateDamaged(f"the restore cannot be announced: {error.strerror}", where=str(file)) from error
    return descriptor


def await_first(
    launch: Launch,
    state_directory: Path,
    *,
    patience_s: float = PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once the first process has restored; raise ``FirstRestoreFailed`` if it did not."""
    file = launch.file(state_directory)
    until_s = clock() + patience_s
    while True:
        said = _heard(file)
        if said == _DONE:
            return
        if said not in (None, _RESTORES, _LEFT):
            raise FirstRestoreFailed(f"the first process did not restore: {said}")
        if said == _RESTORES:
            # It lives, and takes as long as the restore takes.
            until_s = clock() + patience_s
        elif said == _LEFT:
            # Nobody has the lock: it was killed, unless another one begins in this moment.
            until_s = min(until_s, clock() + _LEFT_S)
        if clock() >= until_s:
            what = (
                "the first process was killed while it restored" if said == _LEFT else "the first process does not come"
            )
            raise FirstRestoreFailed(what, where=str(file))
        sleep(_POLL_S)


def _heard(file: Path) -> str | None:
    """Return what the first process said in the end, or how it stands; ``None`` if it is not there."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        said = json.loads(os.pread(descriptor, _CONTENT_BYTES_MAX, 0))
    except BlockingIOError:
        return _RESTORES
    except (OSError, ValueError):
        return _LEFT
    finally:
        os.close(descriptor)
    return said if isinstance(said, str) else _LEFT


def _say(descriptor: int, text: str) -> None:
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(text[:2000]).encode(), 0)


def _remove_old(directory: Path) -> None:
    """Remove what launches left that are long over; nobody waits for them."""
    for file in directory.glob("*.json"):
        with suppress(OSError):
            if not 0 <= time.time() - file.stat().st_mtime < _OLD_S:
                file.unlink()


def _began(pid: int) -> str:
    """Return what tells a process from another one with its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
