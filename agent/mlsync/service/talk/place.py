"""The place of an agent in its state directory: a number in the names of its files, and the lock that says it lives.

Several agents may share a state directory, as a service and ``mlsync run``, or one ``mlsync run`` for each GPU. The
first one alone has number 0, whichever it is: ``status.json``, ``notices.json``, ``agent-0.sock``. A further one has
``status-1.json`` and so on. What an agent with other runs left behind is moved aside, to a number that nobody has, and
is found there again by an agent with its runs.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mlsync.app.run_lock import is_still_named

STATUS_FILE: Final = "status.json"
NOTICES_FILE: Final = "notices.json"
PLACES: Final = 64
_KEPT: Final = (STATUS_FILE, NOTICES_FILE)
_STATUS_BYTES_MAX: Final = 16 << 20


class AgentPlace:
    """A place in *directory* for an agent that keeps *runs* of *repository*; number 0, and no lock, before a claim."""

    def __init__(self, directory: Path, repository: str = "", runs: Collection[str] = ()) -> None:
        self.directory = directory
        self.number = 0
        self._repository = repository
        self._runs = frozenset(runs)
        self._lock: int | None = None
        self._is_new = False

    @property
    def is_held(self) -> bool:
        """Whether the place was claimed, and not released since."""
        return self._lock is not None

    @property
    def socket(self) -> Path:
        """Where the agent's socket is."""
        return self.directory / f"agent-{self.number}.sock"

    def file(self, name: str) -> Path:
        """Return where the agent keeps the file that an agent alone has under *name*."""
        return _file(self.directory, name, self.number)

    def claim(self) -> None:
        """Take the first place that no agent has, with what one with these runs left; raise ``OSError`` if none can."""
        self.release()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(PLACES):
            lock = _locked(_lock_file(self.directory, number))
            if lock is not None:
                self.number, self._lock = number, lock
                # Its files are hints: an agent works without what is lost here.
                with suppress(OSError):
                    self._find_kept()
                self._is_new = not self.file(STATUS_FILE).exists()
                return
        raise OSError(f"{PLACES} agents have places there")

    @property
    def is_lost(self) -> bool:
        """Whether another agent could take it: the directory was deleted or replaced."""
        return self._lock is None or not is_still_named(self._lock, _lock_file(self.directory, self.number))

    def release(self) -> None:
        """Let the next agent have the place; its files stay."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Remove what the agent wrote, if nothing was there before: it kept watch over nothing."""
        if self.is_held and self._is_new:
            _remove(self.directory, self.number)

    def _find_kept(self) -> None:
        """Have the files of the place be those that an agent with these runs left, if there are such."""
        if self._shares(self.number) > 0:
            return
        if self.file(STATUS_FILE).exists():
            self._put_aside()
        by_share = sorted(_numbers(self.directory), key=self._shares, reverse=True)
        for number in by_share:
            if number == self.number or self._shares(number) <= 0:
                continue
            with _locked_for_now(self.directory, number) as is_ours:
                if is_ours:
                    _move(self.directory, number, self.number)
                    return

    def _put_aside(self) -> None:
        """Move what an agent with other runs left here to a free number; without one, the oldest of all makes room."""
        there = set(_numbers(self.directory))
        free = [number for number in range(PLACES) if number not in there]
        oldest = sorted(there - {self.number}, key=lambda number: _written_ns(self.directory, number))
        for number in (*free, *oldest):
            with _locked_for_now(self.directory, number) as is_ours:
                if is_ours:
                    _move(self.directory, self.number, number)
                    return
        _remove(self.directory, self.number)

    def _shares(self, number: int) -> int:
        """Return how many of these runs an agent kept that had the place of that number."""
        try:
            with _file(self.directory, STATUS_FILE, number).open("rb") as stream:
                content = json.loads(stream.read(_STATUS_BYTES_MAX))
            if content["repository"] != self._repository:
                return 0
            return len(self._runs.intersection(str(run["run"]) for run in content["runs"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0


def has_living_agent(directory: Path) -> bool:
    """Return whether an agent has a place in a state *directory* now; also if that cannot be found out."""
    for number in range(PLACES):
        try:
            lock = os.open(_lock_file(directory, number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError:
            return True
        try:
            # Shared, so that two who look at the same time do not see each other.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
    return False


def status_files(directory: Path) -> list[Path]:
    """Return the files in which the agents that have worked in a state *directory* say how their runs are."""
    return [_file(directory, STATUS_FILE, number) for number in _numbers(directory)]


def _numbers(directory: Path) -> list[int]:
    return [number for number in range(PLACES) if _file(directory, STATUS_FILE, number).is_file()]


def _file(directory: Path, name: str, number: int) -> Path:
    stem, _, end = name.rpartition(".")
    return directory / (f"{stem}-{number}.{end}" if number else name)


def _lock_file(directory: Path, number: int) -> Path:
    return directory / f"agent-{number}.lock"


def _written_ns(directory: Path, number: int) -> int:
    try:
        return _file(directory, STATUS_FILE, number).stat().st_mtime_ns
    except OSError:
        return 0


def _move(directory: Path, source: int, target: int) -> None:
    _remove(directory, target)
    # The one by which it is found comes last.
    for name in reversed(_KEPT):
        with suppress(FileNotFoundError):
            os.rename(_file(directory, name, source), _file(directory, name, target))


def _remove(directory: Path, number: int) -> None:
    for name in _KEPT:
        with suppress(FileNotFoundError):
            _file(directory, name, number).unlink()


@contextmanager
def _locked_for_now(directory: Path, number: int) -> Iterator[bool]:
    """Give whether no agent has that place; none takes it while the context is open."""
    lock = _locked(_lock_file(directory, number))
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _locked(path: Path) -> int | None:
    """Return the descriptor of a lock that is ours now; ``None`` if another process has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock
