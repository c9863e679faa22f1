"""Which packs a version names: those that hold the chunks of its files, and those that hold its list of files.

A prune and a copier ask this of every version, so the entries are not decoded: each list of files has a table of packs
in front. Parts of lists of files that versions share are read once.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from mlsync.errors import ManifestDamaged
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.encoding.validation import table_of_packs
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import StoredVersion


class _PackTable(msgspec.Struct, array_like=True):
    """The first position of a segment; the entries behind it are not decoded."""

    packs: list[bytes]


_PACK_TABLE: Final = msgspec.msgpack.Decoder(_PackTable)


class NamedPacks:
    """Tells which packs versions name, and remembers parts of lists of files that many versions have."""

    def __init__(self) -> None:
        self._segments: dict[bytes, tuple[bytes, ...]] = {}
        self._ids: dict[bytes, bytes] = {}

    def of(self, stored: StoredVersion, reader: ChunkReader) -> set[bytes]:
        """Return the packs that a version names; raise what keeps its list of files from being read."""
        root, where = stored.root, stored.key
        found = {one.pack_id for one in table_of_packs(root.packs, where)}
        refs = iter(segment_refs(root, where))
        for segment in root.segments:
            if segment.inline is not None:
                found |= _packs_in(segment.inline, where)
                continue
            chunks = [next(refs) for _ in segment.chunks]
            digest = hashlib.sha256(b"".join(ref.name for ref in chunks)).digest()[:16]
            known = self._segments.get(digest)
            if known is None:
                body = bytearray()
                for plain in reader.stream(chunks):
                    body += plain
                # One object for each id: a long history has many lists with the same few packs.
                packs = _packs_in(bytes(body), where)
                known = self._segments[digest] = tuple(self._ids.setdefault(pack, pack) for pack in packs)
            found.update(known)
        return found


def _packs_in(segment: bytes, where: str) -> set[bytes]:
    try:
        table = _PACK_TABLE.decode(segment)
    except (msgspec.DecodeError, ValueError) as error:
        raise ManifestDamaged(f"a list of files does not parse: {error}", where=where) from None
    return {one.pack_id for one in table_of_packs(table.packs, where)}
