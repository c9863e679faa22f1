"""The passes that commands asked the agent for, by number, so that each can learn how its own ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from mlsync.errors import Error
from mlsync.service.watching.trigger import Asked
from mlsync.source.paths import display
from mlsync.upkeep.version_seen import VersionSeen

# Whoever asks for more at a time no longer learns how the first ones ended.
_REMEMBERED_MAX: Final = 256


class AskedPasses:
    """Remembers the last passes that were asked for; any thread may call it."""

    def __init__(self, seen: Callable[[str, int], VersionSeen | None] = lambda _run, _version: None) -> None:
        self._seen = seen
        self._lock = threading.Lock()
        self._passes: dict[int, tuple[str, Asked, int | None]] = {}
        self._last = 0

    def add(self, run: str, asked: Asked, uid: int | None = None) -> int:
        """Return the number of a pass that was just asked for; by the user *uid*, if he may not ask for all."""
        with self._lock:
            self._last += 1
            self._passes[self._last] = (run, asked, uid)
            while len(self._passes) > _REMEMBERED_MAX:
                del self._passes[next(iter(self._passes))]
            return self._last

    def as_json(self, numbers: Iterable[int], uid: int | None = None) -> list[dict[str, Any]]:
        """Return what became of the passes with these numbers; leave those out that are not remembered.

        With *uid* also those that this user did not ask for.
        """
        with self._lock:
            found = [(number, *self._passes[number]) for number in numbers if number in self._passes]
        return [self._as_json(number, run, asked) for number, run, asked, by in found if uid is None or by == uid]

    def _as_json(self, number: int, run: str, asked: Asked) -> dict[str, Any]:
        seen = None if asked.version is None else self._seen(run, asked.version)
        return _as_json(number, run, asked) | {
            "stored_version": asked.version,
            "level": None if seen is None else seen.level,
            "is_pending": None if seen is None else seen.is_pending,
        }


def _as_json(number: int, run: str, asked: Asked) -> dict[str, Any]:
    """Return a pass; without a version nothing had changed, and without *summary* and *error* the agent ended first."""
    has_ended, result = asked.wait(0), asked.result
    troubles = () if result is None else result.troubles
    return {
        "id": number,
        "run": run,
        "has_ended": has_ended,
        "version": None if result is None else result.version,
        "is_proved": result is not None and result.version is not None and result.version == result.proved_version,
        "summary": None if result is None else result.summary,
        "troubles": list(troubles),
        "kept_out": [trouble for trouble in troubles if _is_about(trouble, asked.path)],
        "error": None if asked.error is None else _error_as_json(asked.error),
    }


def _error_as_json(error: Exception) -> dict[str, Any]:
    if not isinstance(error, Error):
        return {"kind": "Error", "what": f"unexpected error: {error}", "where": None, "advice": "the log has more"}
    # A private kind as the public one that it extends.
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == Error.__module__)
    return {"kind": kind.__name__, "what": error.what, "where": error.where, "advice": error.advice}


def _is_about(trouble: str, path: bytes) -> bool:
    """Return whether a trouble, which begins with a file's path, is about the save at *path* or about one below it."""
    return not path or trouble.startswith((f"{display(path)}: ", f"{display(path)}/"))
