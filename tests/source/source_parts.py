"""What the tests of the source share: the watched directory, opened, and closed when the test is over."""

from __future__ import annotations

import os
from pathlib import Path

from mlsync.source.root import Root

OPENED: list[Root] = []


def watched(directory: Path | str) -> Root:
    """The directory as a pass has it."""
    OPENED.append(Root.open_watched(os.fsencode(directory)))
    return OPENED[-1]


def close_all() -> None:
    """Close what was opened."""
    while OPENED:
        OPENED.pop().close()
