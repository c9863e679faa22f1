"""A login shell on a pseudo-terminal of 80 columns: commands are typed into it, and all that it shows is kept."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, TypeVar

Found = TypeVar("Found")
COLUMNS, ROWS = 80, 24
# The shell marks where a command's output begins and ends, with its status, as terminals ask shells to (OSC 133).
MARKS = {"PS0": r"\e]133;C\a", "PROMPT_COMMAND": r'printf "\033]133;D;%s\007" "$?"'}
_BEGINS = "\x1b]133;C\x07"
_ENDS = re.compile(r"\x1b\]133;D;(\d+)\x07")
_PROMPT = re.compile(r"[$#] \Z")
_SECRET = re.compile(r"[Pp]assphrase(?: again)?: (?:\(press TAB for no echo\) )?\Z")
_ESCAPES = re.compile(r"\x1b\][^\x07]*\x07|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")


@dataclass(frozen=True)
class Shown:
    """What a command showed, as rows: without escapes, and each part of a line that replaced another one."""

    command: str
    status: int | None
    text: str
    seconds: float

    @property
    def rows(self) -> list[str]:
        """The lines as the program ended them, however wide."""
        plain = _ESCAPES.sub("", self.text).replace("\r\n", "\n")
        return [row.rstrip() for line in plain.split("\n") for row in line.split("\r")]

    def find(self, pattern: str) -> re.Match[str]:
        """The first match in the rows; it is an error if there is none."""
        found = re.search(pattern, "\n".join(self.rows), re.MULTILINE)
        if found is None:
            raise LookupError(f"{self.command!r} did not show {pattern!r}:\n" + "\n".join(self.rows))
        return found


class Terminal:
    """A shell that a command of *words* starts. *answer* gives the passphrase, whenever one is asked for."""

    windows: ClassVar[list[Terminal]] = []

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], answer: str) -> None:
        self._answer = answer
        self.shown: list[Shown] = []
        self.asked = 0
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._seen = 0
        self._command: tuple[str, float] | None = None
        self._pid, self._screen = pty.fork()
        if self._pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            os.execvpe(words[0], list(words), dict(environment))
        self.windows.append(self)
        self._wait(lambda text: _PROMPT.search(_ESCAPES.sub("", text)), 60)

    def run(self, command: str, limit_s: float = 600) -> Shown:
        """Type a command, wait until it has ended, and return what it showed."""
        self.start(command)
        return self.ended(limit_s)

    def start(self, command: str) -> None:
        """Type a command that may go on for long."""
        self._seen = len(self._text)
        self._command = command, time.monotonic()
        os.write(self._screen, command.encode() + b"\n")
        self._wait(lambda text: _BEGINS in text, 30)

    def until(self, pattern: str, limit_s: float) -> re.Match[str]:
        """Wait until the command that runs shows *pattern*, or fail if it ends without it."""

        def look(_text: str) -> re.Match[str] | None:
            found = re.search(pattern, "\n".join(self.so_far().rows), re.MULTILINE)
            if found is None and _ENDS.search(self._text, self._seen):
                raise LookupError(f"it ended without {pattern!r}:\n" + "\n".join(self.so_far().rows))
            return found

        return self._wait(look, limit_s)

    def so_far(self) -> Shown:
        """What the command that runs has shown."""
        assert self._command is not None
        command, began_s = self._command
        text = self._text[self._seen :].partition(_BEGINS)[2]
        return Shown(command, None, _ENDS.split(text)[0], time.monotonic() - began_s)

    def ended(self, limit_s: float = 600) -> Shown:
        """Wait until the command has ended, and the shell asks for another one."""
        end = self._wait(_ENDS.search, limit_s)
        shown = self.so_far()
        shown = Shown(shown.command, int(end[1]), shown.text, shown.seconds)
        self._wait(lambda text: _PROMPT.search(_ESCAPES.sub("", text[end.end() :])), 30)
        self.shown.append(shown)
        self._command = None
        return shown

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._screen, b"\x03")

    def close(self) -> None:
        """The window is gone; a command that still ran is kept with what it showed."""
        if self._command is not None:
            with suppress(EOFError):
                self._read(0.2)
            self.shown.append(self.so_far())
            self._command = None
        self.windows.remove(self)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGHUP)
        os.close(self._screen)
        os.waitpid(self._pid, 0)

    def _wait(self, look: Callable[[str], Found | None], limit_s: float) -> Found:
        """Read until *look* finds something in what was shown since the last command was typed."""
        deadline = time.monotonic() + limit_s
        while True:
            found = look(self._text[self._seen :])
            if found is not None and found is not False:
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {limit_s:.0f} s in vain; shown:\n{self._text[self._seen :]}")
            # A program in a window that nobody reads stands still once the kernel holds no more of what it shows.
            for other in self.windows:
                if other is not self:
                    with suppress(EOFError):
                        other._read(0)  # noqa: SLF001 - of the same class
            self._read(0.2)

    def _read(self, limit_s: float) -> None:
        """Take in what is shown, and type the passphrase where it is asked for."""
        if not select.select([self._screen], [], [], limit_s)[0]:
            return
        try:
            self._text += self._decoder.decode(os.read(self._screen, 65536))
        except OSError as error:
            raise EOFError(f"the shell is gone; shown:\n{self._text[self._seen :]}") from error
        if self._command is not None and _SECRET.search(_ESCAPES.sub("", self._text)):
            self.asked += 1
            # A person needs a moment, in which the program turns the echo off.
            time.sleep(0.3)
            os.write(self._screen, self._answer.encode() + b"\n")
            self._text += "\n"


def broken_words(rows: Sequence[str], columns: int = COLUMNS) -> list[str]:
    """The rows that the terminal breaks inside a word."""
    return [
        row
        for row in rows
        if any(not row[at - 1].isspace() and not row[at].isspace() for at in range(columns, len(row), columns))
    ]
