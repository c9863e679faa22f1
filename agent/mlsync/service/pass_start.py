"""The entry of the pass process: its start takes a second of a busy processor, so it lowers its priority first."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

from mlsync.courtesy.priority import follow, stand_back

#: The argument for a process that gives way although the agent does not.
GENTLY: Final = "gently"


def main() -> None:
    """Lower the priority as far as the agent did or asks for, and serve the agent."""
    if GENTLY in sys.argv:
        stand_back()
    else:
        follow()
    import_module("mlsync.service.pass_child").main()


if __name__ == "__main__":
    main()
