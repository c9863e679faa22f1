"""A person at a terminal with one command."""

from __future__ import annotations

import os
import pty
import select
import time

from machine import MLSYNC


class Terminal:
    """A person at a terminal, who waits for a prompt and types."""

    def __init__(self, machine, *arguments, **environment):
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(machine.base)
            os.execve(MLSYNC, [str(MLSYNC), *map(str, arguments)], machine.environment(**environment))
        self.seen = ""

    def expect(self, words):
        """It was shown."""
        deadline = time.monotonic() + 30
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
        return os.waitstatus_to_exitcode(status), self.seen

    def _read(self):
        ready, _, _ = select.select([self._descriptor], [], [], 30)
        assert ready, self.seen
        try:
            got = os.read(self._descriptor, 65536)
        except OSError:  # how a terminal says that the other side is gone
            got = b""
        self.seen += got.decode().replace("\r\n", "\n")
        return got
