"""In which order files are read for a last version, for which there may be no time to read them all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mlsync.source.scan import Found

# They change with each step, and no training goes on from them.
_LOG_ENDINGS: Final = (b".log", b".txt", b".csv", b".tsv", b".jsonl", b".out", b".err")
_LOG_MARK: Final = b"tfevents"


def newest_first(files: Iterable[Found]) -> list[Found]:
    """Return files in the order in which they are worth storing: the newest checkpoint first, logs last.

    Files of one directory stay together, since a checkpoint of several files is worth nothing in part.
    """
    found = list(files)
    newest_ns: dict[bytes, int] = {}
    for one in found:
        if not _is_log(one):
            directory = _directory(one)
            newest_ns[directory] = max(one.stat.mtime_ns, newest_ns.get(directory, one.stat.mtime_ns))
    oldest_ns = min(newest_ns.values(), default=0)

    def order(one: Found) -> tuple[bool, int, bytes, int, bytes]:
        directory = _directory(one)
        return (_is_log(one), -newest_ns.get(directory, oldest_ns), directory, -one.stat.mtime_ns, one.path)

    return sorted(found, key=order)


def _directory(found: Found) -> bytes:
    return found.path.rpartition(b"/")[0]


def _is_log(found: Found) -> bool:
    return found.path.endswith(_LOG_ENDINGS) or _LOG_MARK in found.path.rpartition(b"/")[2]
