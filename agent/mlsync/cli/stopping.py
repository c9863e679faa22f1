"""What Ctrl-C and SIGTERM do to a command that can stop at a safe point: ask first, end at once when said again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_TEXT = b"\nmlsync: stopping at the next safe point; once more to end at once\n"
_STDERR = 2


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Give an event that the first signal sets; the second one is a ``KeyboardInterrupt``.

    Only around work that looks at the event: whoever is asked for a passphrase, or waits for a store that is away,
    is to be heard the first time.
    """
    stop = threading.Event()

    def heard(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Not print: the interrupted code may be inside of it.
        os.write(_STDERR, _TEXT)

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
