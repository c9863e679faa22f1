"""One call of ``mlsync``: what the process was started with, and the one JSON value that it prints."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from mlsync.app.privacy import PASSPHRASE_VARIABLE, take_variable
from mlsync.cli.terminal.output import say

_NAME: Final = "mlsync"


@dataclass(slots=True)
class Invocation:
    """What ``main`` takes from the process once and hands on, as the object of click's context.

    *program* is the name or path that was called, *passphrase* the value of ``MLSYNC_PASSPHRASE``.
    """

    program: str
    arguments: tuple[str, ...]
    passphrase: str | None = field(default=None, repr=False)
    #: Variables that this program set for itself and that a program which it starts for the user must not have.
    added_variables: tuple[str, ...] = ()
    #: What in cold storage the command met, as its JSON value says it.
    cold: list[dict[str, object]] = field(default_factory=list)
    #: Returns what came from mirrors, which every JSON object tells.
    mirror_use: Callable[[], Mapping[str, object]] = dict
    _has_emitted: bool = False

    @classmethod
    def take(cls) -> Self:
        """Return the call that started this process, whose environment no longer holds the passphrase."""
        return cls(sys.argv[0], tuple(sys.argv[1:]), take_variable(os.environ, PASSPHRASE_VARIABLE))

    @property
    def typed(self) -> str:
        """What to type to call this program again: ``mlsync`` where the shell finds it, or the path that was typed."""
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
            self._has_emitted = True
            if isinstance(value, dict):
                value = {**value, **self.mirror_use()}
            say(json.dumps(value, ensure_ascii=True))
