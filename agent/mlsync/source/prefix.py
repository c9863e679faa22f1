"""Accept the part of a growing log that was read, if it is unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlsync.errors import ChangedWhileReading
from mlsync.source.chunker import Digester
from mlsync.source.reading import SourceFile

_WINDOW_BYTES: Final = 1024 * 1024


def prefix_unchanged(
    file: SourceFile,
    length: int,
    digest_of_whole: bytes,
    digester: Digester,
    extents: Sequence[tuple[int, int]] | None = None,
) -> bool:
    """Return whether the first *length* bytes of *file*, which was written to meanwhile, are still those read before.

    *digest_of_whole* is the digest of the first reading, *digester* a new one of the same kind, *extents* the data
    extents that it covered (the whole *length* if not given). False too if the file became shorter, or another file has
    its name now. Only for files that grow: two equal readings do not prove that a checkpoint is complete.
    """
    data = [(0, length)] if extents is None else extents
    try:
        current, named = file.current_stat(), file.named_stat()
        if (current.device, current.inode) != (named.device, named.inode) or current.size_bytes < length:
            return False
        # Data in a former hole counts as a change, whatever the data is.
        return _digest(file, data, digester) == digest_of_whole and (
            extents is None or list(extents) == file.data_extents()
        )
    except ChangedWhileReading:
        return False


def _digest(file: SourceFile, extents: Sequence[tuple[int, int]], digester: Digester) -> bytes:
    window = memoryview(bytearray(_WINDOW_BYTES))
    for offset, length in extents:
        for start in range(offset, offset + length, _WINDOW_BYTES):
            view = window[: min(_WINDOW_BYTES, offset + length - start)]
            file.read_into(start, view)
            digester.update(view)
    return digester.digest()
