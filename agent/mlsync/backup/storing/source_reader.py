"""Read back what was just stored, and take from the source what this node cannot open any more.

A changed checkpoint mostly shares chunks with an older version. A node that writes and cannot read has no key for the
packs that it wrote in an earlier process, and stores nothing twice either. It read these chunks from the source in this
very pass, and they have the name of what was read back and proved when it was stored; that their packs are still there
is looked at before the commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.errors import WriteOnly
from mlsync.repository import names
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.reader import AllocateChunk, ChunkReader, Plain, ReadBase
from mlsync.repository.repository import Repository
from mlsync.source.root import Root
from mlsync.versions.stored_file import parts_of


class SourceReader(ChunkReader):
    """Reads chunks from the store as far as this process can open them, and others from the files that have them now.

    Every byte is compared with the chunk's name; ``WriteOnly`` names the pack of a chunk that the source has no more.
    A difference that this process stored is read back with its base, which *read_base* has to have at hand unless this
    process stored that too.
    """

    def __init__(
        self,
        repository: Repository,
        keys: WriteOnlyKeys,
        entries: Mapping[bytes, Entry],
        root: Root,
        read_base: ReadBase | None = None,
    ) -> None:
        super().__init__(repository.store, keys, read_base=read_base)
        self._repository = repository
        self._own_keys = keys
        self._entries = entries
        self._root = root
        self._places: dict[bytes, tuple[bytes, int]] | None = None

    def one(self, ref: ChunkRef) -> bytes:
        """Return one chunk."""
        return self._from_source(ref) if self._is_closed(ref) else super().one(ref)

    def stream(self, refs: Iterable[ChunkRef], allocate: AllocateChunk | None = None) -> Iterator[Plain]:
        """Yield the chunks of *refs* in order, as ``ChunkReader.stream`` does."""
        count = 0
        for is_closed, group in groupby(refs, key=self._is_closed):
            if not is_closed:
                for plain in super().stream(group, None if allocate is None else _from(allocate, count)):
                    count += 1
                    yield plain
                continue
            for ref in group:
                memory = None if allocate is None else allocate(count)
                count += 1
                plain_bytes = self._from_source(ref)
                if memory is None:
                    yield memoryview(plain_bytes)
                else:
                    memory[:] = plain_bytes
                    yield memory

    def _is_closed(self, ref: ChunkRef) -> bool:
        return self._own_keys.made("pack", ref.pack) is None

    def _from_source(self, ref: ChunkRef) -> bytes:
        if self._places is None:
            self._places = dict(_places_in(self._entries.values()))
        place = self._places.get(ref.name)
        plain = None if place is None else self._read(*place, ref.plain_bytes)
        if plain is None or not self._repository.is_chunk(plain, ref.name):
            what = "this node cannot open what it stored before, and the source has something else by now"
            raise WriteOnly(what, where=names.pack(ref.pack))
        return plain

    def _read(self, path: bytes, offset: int, length: int) -> bytes | None:
        try:
            descriptor = self._root.open_file(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            plain = bytearray()
            while len(plain) < length and (block := os.pread(descriptor, length - len(plain), offset + len(plain))):
                plain += block
            return bytes(plain)
        except OSError:
            return None
        finally:
            os.close(descriptor)


def _from(allocate: AllocateChunk, first: int) -> AllocateChunk:
    return lambda at: allocate(first + at)


def _places_in(entries: Iterable[Entry]) -> Iterator[tuple[bytes, tuple[bytes, int]]]:
    """Yield the name of each chunk with a file that has it, and where in the file."""
    for entry in entries:
        if entry.kind is EntryKind.FILE:
            yield from ((part.ref.name, (entry.path, part.offset)) for part in parts_of(entry) if part.ref is not None)
