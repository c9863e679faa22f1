"""The training as a child of this process: started as it was asked for, signalled, and waited for.

It gets the environment, streams, working directory and priorities that this process was given, a process group of its
own, and the terminal if there is one. This process also adopts what the training leaves behind, and reaps it: as a
container's first process it is the only one who can.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from mlsync.errors import CommandMissing, CommandNotExecutable
from mlsync.service.training.terminal import Terminal

_PR_SET_CHILD_SUBREAPER: Final = 36
# Python ignores these when it starts; a program expects what everybody starts with.
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_MISSING: Final = (errno.ENOENT, errno.ENOTDIR)
_STOPPED_BY_TERMINAL: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_SIGNAL_BASE: Final = 128


def refuse_missing_command(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raise ``CommandMissing`` or ``CommandNotExecutable`` before anything is done, if it cannot be started."""
    name = argv[0]
    if os.path.dirname(name):
        if not os.path.exists(name):
            raise CommandMissing("there is no such program", where=name)
        if os.path.isdir(name) or not os.access(name, os.X_OK):
            raise CommandNotExecutable("this is no program that can be started", where=name)
    elif shutil.which(name, path=environ.get("PATH", os.defpath)) is None:
        raise CommandMissing("no program of that name on PATH", where=name)


def adopt_orphans() -> None:
    """Have the kernel give this process the orphans below it, as the first process of a container gets them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class TrainerChild:
    """The child; *status* is its exit status as shells count it, 128 and more for a signal, once it has ended."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], terminal: Terminal | None) -> None:
        self.pid = 0
        self.status: int | None = None
        self._argv = [os.fsencode(word) for word in argv]
        self._environ = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
        self._terminal = terminal

    def start(self) -> None:
        """Start it; raise ``CommandMissing`` or ``CommandNotExecutable`` as a shell ends with 127 or 126."""
        failed, told = os.pipe2(os.O_CLOEXEC)
        # Until it is another program, no handler of this one may run in it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if not self.pid:
                self._become(told, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(told)
        # Here too: whoever comes first, the group is there before anybody needs it.
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)
        with os.fdopen(failed, "rb") as stream:
            number = stream.read()
        if number:
            os.waitpid(self.pid, 0)
            self._take_terminal()
            raise self._fault(int(number))

    def _become(self, told: int, mask: set[int]) -> NoReturn:
        """Become the training, in the child; tell why if that does not work."""
        try:
            os.setpgid(0, 0)
            if self._terminal is not None:
                self._terminal.give(os.getpid())
            for number in _IGNORED_BY_PYTHON:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execvpe(self._argv[0], self._argv, self._environ)  # noqa: S606 - the command that was asked for
        except OSError as error:
            os.write(told, str(error.errno).encode())
        finally:
            os._exit(127)

    def _fault(self, number: int) -> CommandMissing | CommandNotExecutable:
        name = os.fsdecode(self._argv[0])
        if number in _MISSING:
            return CommandMissing("there is no such program", where=name)
        return CommandNotExecutable(f"it cannot be started: {os.strerror(number)}", where=name)

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self.pid != 0 and self.status is None

    def signal(self, number: int) -> None:
        """Pass a signal on to it, and to it alone: a launcher tells its workers itself."""
        if self.runs:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def reap(self, others: Callable[[int, int], None]) -> None:
        """Note what became of children; *others* gets the id and status of those that are not the training."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid != self.pid:
                if not os.WIFSTOPPED(status):
                    others(pid, status)
            elif os.WIFSTOPPED(status):
                self._stopped(os.WSTOPSIG(status))
            else:
                self.status = exit_status(status)
                self._take_terminal()

    def resume(self) -> None:
        """Continue it after this process was stopped with it, in the foreground if this process is there."""
        if self._terminal is not None and self._terminal.is_ours:
            self._terminal.give(self.pid)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)

    def _stopped(self, number: int) -> None:
        """Stop with a training that somebody stopped by Ctrl-Z: the shell that waits for this process has to see it."""
        if self._terminal is None or number not in _STOPPED_BY_TERMINAL:
            return
        self._terminal.take_back()
        os.killpg(os.getpgrp(), signal.SIGSTOP)

    def _take_terminal(self) -> None:
        if self._terminal is not None:
            self._terminal.take_back()


def exit_status(status: int) -> int:
    """Return the exit status of a process as shells count it: 128 and the signal's number for one that was killed."""
    return _SIGNAL_BASE + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
