"""The entry of the pass process, which lowers its priority.

What it loads takes a third of a second of processor. Where the agent did not lower its own priority it is loaded first:
last in line beside a training on all cores, that alone would take many seconds.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

from mlsync.courtesy.priority import follow, stand_back

#: The argument for a process that gives way although the agent does not.
GENTLY: Final = "gently"


def main() -> None:
    """Lower the priority as far as the agent did or asks for, and serve the agent."""
    if GENTLY not in sys.argv:
        follow()
    child = import_module("mlsync.service.pass_child")
    if GENTLY in sys.argv:
        # Before it loads what starts threads, which would keep the priority that they have.
        stand_back()
    child.main()


if __name__ == "__main__":
    main()
