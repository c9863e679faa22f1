"""Racy stats: a write right after another may leave the same stat (git calls such files "racily clean").

A file system stamps a file with the time of its last clock tick. Two writes within one tick give the same times, so
a stat taken in the tick of the last write cannot show whether another write followed.
"""

from __future__ import annotations

from typing import Final

from mlsync.source.scan import FileStat

# Linux stamps with the coarse clock: 1-10 ms. Five of the longest, because the threads that read our clock and write
# the file may be delayed.
FINE_NS: Final = 50_000_000
# FAT keeps 2 s, older NFS and SMB servers and some FUSE file systems 1 s.
COARSE_NS: Final = 2_100_000_000
_SECOND_NS: Final = 1_000_000_000


def newest_ns(stat: FileStat) -> int:
    """Return the later of the two times; the kernel sets both on a write, but not every file system keeps a ctime."""
    return max(stat.mtime_ns, stat.ctime_ns)


def window_ns(stat: FileStat) -> int:
    """Return how long after its newest time a file may change without its times changing.

    A time on a whole second is treated as one of a file system without finer times; elsewhere this is a coincidence
    that costs one more reading.
    """
    return COARSE_NS if newest_ns(stat) % _SECOND_NS == 0 else FINE_NS


def is_racy(stat: FileStat, at_ns: int) -> bool:
    """Return whether a change after *at_ns*, when *stat* was taken, could leave the stat as it is.

    True also for times in the future: the clock was set back, and will pass that time again.
    """
    return newest_ns(stat) + window_ns(stat) > at_ns
