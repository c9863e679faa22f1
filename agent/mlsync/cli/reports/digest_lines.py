"""The digests of a version's files as ``b3sum --check`` reads them: hexadecimal, two blanks, the name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry

_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})


class DigestLines(NamedTuple):
    """The lines, and the files without one: with long holes, and with a name that is no UTF-8."""

    lines: list[str]
    with_long_holes: list[bytes]
    not_utf8: list[bytes]


def digest_lines(entries: Iterable[Entry]) -> DigestLines:
    """Return a line for each file and each further name of one, by path."""
    found, digests = DigestLines([], [], []), {}
    entries = list(entries)
    for entry in entries:
        if entry.kind is EntryKind.FILE:
            digests[entry.path] = entry.blake3
    for entry in entries:
        if entry.kind not in (EntryKind.FILE, EntryKind.HARD_LINK):
            continue
        digest = digests[entry.target or entry.path]
        if digest is None:
            found.with_long_holes.append(entry.path)
        elif not _is_utf8(entry.path):
            # One such line, and b3sum stops reading the list.
            found.not_utf8.append(entry.path)
        else:
            found.lines.append(check_line(digest.hex(), entry.path.decode()))
    return found


def check_line(digest: str, name: str) -> str:
    """Return a line of a list of digests; a backslash in front says that the name has escapes, as with coreutils."""
    escaped = name.translate(_ESCAPES)
    mark = "" if escaped == name else "\\"
    return f"{mark}{digest}  {escaped}"


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True
