"""Ctrl-C and SIGTERM in a command that can stop at a safe point: the first asks it to, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mlsync.cli.terminal.live_line import interruption
from mlsync.courtesy.slowness import SLOWNESS

_TEXT = b"mlsync: stopping at the next safe point; once more to end at once"
_STDERR = 2


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Yield an event that the first signal sets; the second one raises ``KeyboardInterrupt``.

    Use it only around work that checks the event: at a passphrase prompt, and while mlsync waits for a store that is
    away, the first signal has to work.
    """
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # A limit must not keep the work from its next safe point.
        SLOWNESS.lift()
        # Not print: the interrupted code may be inside of it.
        os.write(_STDERR, interruption(_TEXT))

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
