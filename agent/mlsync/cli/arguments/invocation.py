"""One call of ``mlsync``: what the process was started with, and the one JSON value that it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Final, Self

from mlsync.app.privacy import PASSPHRASE_VARIABLE, take_variable
from mlsync.cli.terminal.output import say

_NAME: Final = "mlsync"


# No dataclass, which takes longer to make than the help of mlsync has for all of its own modules.
class Invocation:
    """What ``main`` takes from the process once and hands on, as the object of click's context.

    *program* is the name or path that was called, *passphrase* the value of ``MLSYNC_PASSPHRASE``.
    """

    def __init__(self, program: str, arguments: tuple[str, ...], passphrase: str | None = None) -> None:
        self.program = program
        self.arguments = arguments
        self.passphrase = passphrase
        #: Variables that this program set for itself and that a program which it starts for the user must not have.
        self.added_variables: tuple[str, ...] = ()
        #: What in cold storage the command met, as its JSON value says it.
        self.cold: list[dict[str, object]] = []
        #: Returns what came from mirrors, which every JSON object tells.
        self.mirror_use: Callable[[], Mapping[str, object]] = dict
        self._has_emitted = False

    @classmethod
    def take(cls) -> Self:
        """Return the call that started this process, whose environment no longer holds the passphrase."""
        return cls(sys.argv[0], tuple(sys.argv[1:]), take_variable(os.environ, PASSPHRASE_VARIABLE))

    @property
    def typed(self) -> str:
        """What to type to call this program again: ``mlsync`` where the shell finds it, or the path that was typed."""
        import shlex  # late, as below: few commands name themselves
        import shutil

        # The shell's way is tried by name: the program of a virtual environment is rarely on PATH.
        found = shutil.which(_NAME)
        if os.path.basename(self.program) != _NAME or (
            found and os.path.realpath(found) == os.path.realpath(self.program)
        ):
            return _NAME
        return shlex.quote(self.program)

    @property
    def wants_json(self) -> bool:
        """Whether ``--json`` was given, found in the bare words: click may have refused the arguments."""
        words = self.arguments
        return "--json" in words[: words.index("--") if "--" in words else None]

    def emit(self, value: object) -> None:
        """Print one JSON value; drop a second one, the error that a result with problems ends with."""
        if not self._has_emitted:
            import json  # late: most commands print for people

            self._has_emitted = True
            if isinstance(value, dict):
                value = {**value, **self.mirror_use()}
            say(json.dumps(value, ensure_ascii=True))
