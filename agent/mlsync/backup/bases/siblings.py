"""Which file of the last version a new one continues, by their names: a trainer counts steps or epochs in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

# The numbers of parts of one save: they say which tensors a file holds, and stay from save to save.
_PARTS: Final = (
    rb"\d+[-_]of[-_]\d+",
    rb"(?<![A-Za-z])(?:rank|shard|part|stage|layer|expert|node|tp|pp|mp|dp|ep)[-_]?\d+",
    rb"__\d+_\d+(?=\.distcp)",
)
_NUMBER: Final = re.compile(rb"(" + rb"|".join(_PARTS) + rb")|\d+")


def pattern_of(path: bytes) -> bytes:
    """Return *path* with ``#`` for each number that counts saves: all saves of one file have the same pattern."""
    return _NUMBER.sub(lambda found: found[1] or b"#", path)


def newest_of_each(times: Iterable[tuple[bytes, int]]) -> Mapping[bytes, bytes]:
    """Return the path of the newest file of each pattern, of pairs of path and time; of two of one time the last."""
    newest: dict[bytes, tuple[int, bytes]] = {}
    for path, time in times:
        pattern, one = pattern_of(path), (time, path)
        if one >= newest.get(pattern, one):
            newest[pattern] = one
    return {pattern: path for pattern, (_, path) in newest.items()}
