"""One line at the end of a terminal's output that changes while work goes on, and is gone afterwards.

It never wraps, needs no colour and no hidden cursor, and is written in one piece, so that nothing flickers and a
process that is killed leaves at most this line.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, TextIO

from mlsync.app.wrapping import cells

_TICK_S: Final = 0.1
_ERASE: Final = "\r\x1b[K"
_COLUMNS: Final = 80
# A terminal may wrap when its last column is written to, and shows "^C" where the line ends.
_FREE_COLUMNS: Final = 3
_shown: set[int] = set()


def may_draw(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether *stream* is a terminal on which a line can be erased."""
    return stream.isatty() and environ.get("TERM", "dumb") not in ("", "dumb")


def interruption(text: bytes) -> bytes:
    """Return what to write for *text* to be on a line of its own, whether a line is shown now or not.

    For a signal's handler: it takes no lock.
    """
    return (_ERASE.encode() if _shown else b"\n") + text + b"\n"


class LiveLine:
    """Shows what *render* returns for a number of columns, several times a second, between ``show`` and ``hide``."""

    def __init__(self, render: Callable[[int], str], stream: TextIO) -> None:
        self._render = render
        self._stream = stream
        self._lock = threading.RLock()
        self._ended: threading.Event | None = None
        self._drawn_columns = 0
        self._was_drawn = False

    def show(self) -> None:
        """Begin to show the line: after a moment the first time, so that what is done by then shows nothing."""
        with self._lock:
            if self._was_drawn:
                self._draw()
            if self._ended is None:
                self._ended = threading.Event()
                threading.Thread(target=self._tick, args=(self._ended,), daemon=True).start()

    def hide(self) -> None:
        """Erase the line, and stop."""
        with self._lock:
            if self._ended is not None:
                self._ended.set()
                self._ended = None
            if self._drawn_columns:
                self._write(self._erasing(_columns(self._stream)))
                self._drawn_columns = 0
            _shown.discard(id(self))

    def print_above(self, text: str) -> None:
        """Print a line that stays, above the one that changes."""
        with self._lock:
            was_drawn = bool(self._drawn_columns)
            self._write((self._erasing(_columns(self._stream)) if was_drawn else "") + text + "\n")
            self._drawn_columns = 0
            if was_drawn:
                self._draw()

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(_TICK_S):
            with self._lock:
                if not ended.is_set():
                    self._draw()

    def _draw(self) -> None:
        columns = _columns(self._stream)
        text = self._render(columns - _FREE_COLUMNS)
        begin = "\r" if columns > self._drawn_columns else self._erasing(columns)
        self._write(f"{begin}{text}\x1b[K")
        self._drawn_columns = cells(text)
        self._was_drawn = True
        _shown.add(id(self))

    def _erasing(self, columns: int) -> str:
        """Return what erases the line, although a terminal that got narrower may have wrapped it."""
        rows = (self._drawn_columns - 1) // max(columns, 1)
        if rows <= 0 or not _wraps_again(os.environ):
            return _ERASE
        return f"\x1b[{rows}A\r\x1b[J"

    def _write(self, text: str) -> None:
        # A terminal that is gone must not end the work.
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        import shutil  # late: only a terminal has a width

        return shutil.get_terminal_size((_COLUMNS, 24)).columns


def _wraps_again(environ: Mapping[str, str]) -> bool:
    """Return whether the terminal wraps lines again when it gets narrower; xterm and screen cut them off instead."""
    return "XTERM_VERSION" not in environ and "STY" not in environ
