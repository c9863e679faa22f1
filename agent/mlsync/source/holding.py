"""Hold files open from the scan on, so that what a trainer deletes meanwhile can still be read.

Trainers delete old checkpoints right after a save. A descriptor keeps what it was opened for, and the disk keeps its
bytes: so only so many are held that deletions never cost more than a part of the free space.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterable
from typing import Final

from mlsync.source.finished import finished_file
from mlsync.source.paths import display
from mlsync.source.root import Root
from mlsync.source.scan import Found

_LOG: Final = logging.getLogger(__name__)
HELD_MAX: Final = 256
# Of the descriptors that this process may have: the store and the proof need some as well.
_PART_OF_DESCRIPTORS: Final = 4
# Of the free space: if all that is held is deleted, the trainer has the rest.
_PART_OF_SPACE: Final = 4


def hold(root: Root, files: Iterable[Found]) -> int:
    """Hold the newest of *files* open until *root* is closed, within the bounds; return how many.

    Only files with names that checkpoints use: of any other, what is gone by the end of the pass was never there.
    """
    count_max = min(HELD_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _PART_OF_DESCRIPTORS)
    left_bytes = _free_bytes(root) // _PART_OF_SPACE
    held = 0
    # The newest first: they are those that a trainer goes on from.
    of_checkpoints = (found for found in files if finished_file(found.path) is not None)
    for found in sorted(of_checkpoints, key=lambda one: one.stat.mtime_ns, reverse=True):
        if held >= count_max or found.stat.size_bytes > left_bytes:
            _LOG.debug("%d files are held open, %s and older ones are not", held, display(found.path))
            break
        if root.hold(found.path):
            held += 1
            left_bytes -= found.stat.size_bytes
    return held


def _free_bytes(root: Root) -> int:
    try:
        free = os.fstatvfs(root.descriptor)
    except OSError:  # a kernel that does not tell it of a descriptor that was opened for its path alone
        return 0
    return free.f_bavail * free.f_frsize
