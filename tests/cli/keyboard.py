"""A person at a terminal with one command."""

from __future__ import annotations

import codecs
import os
import pty
import select
import signal
import time
from contextlib import suppress
from typing import ClassVar

from machine import MLSYNC, at_once

# A guard against a command that hangs, and no measure of its speed: an agent gives way to whatever else runs.
_WAIT_S = 120


class Terminal:
    """A person at a terminal, who waits for a prompt and types."""

    running: ClassVar[dict[int, Terminal]] = {}

    def __init__(self, machine, *arguments, **environment):
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(machine.base)
            os.execve(MLSYNC, [str(MLSYNC), *map(str, at_once(arguments))], machine.environment(**environment))
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.running[self.pid] = self

    def expect(self, words):
        """It was shown."""
        deadline = time.monotonic() + _WAIT_S
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if not self._read():
                break
        assert words in self.seen, self.seen
        before, _, self.seen = self.seen.partition(words)
        return before

    def type(self, text):
        """The keys were pressed."""
        os.write(self._descriptor, text.encode())

    def end(self):
        """The exit status, and what was shown since the last expectation."""
        while self._read():
            pass
        os.close(self._descriptor)
        _, status = os.waitpid(self.pid, 0)
        self.running.pop(self.pid)
        return os.waitstatus_to_exitcode(status), self.seen

    def _read(self):
        ready, _, _ = select.select([self._descriptor], [], [], _WAIT_S)
        assert ready, self.seen
        try:
            got = os.read(self._descriptor, 65536)
        except OSError:  # how a terminal says that the other side is gone
            got = b""
        # Both may come in two halves: a letter, and the end of a line.
        self.seen = (self.seen + self._decoder.decode(got)).replace("\r\n", "\n")
        return got

    @classmethod
    def leave(cls):
        """Whoever still sits at a terminal goes, and what runs there ends: a test that failed leaves nothing behind."""
        for one in list(cls.running.values()):
            with suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.end()
